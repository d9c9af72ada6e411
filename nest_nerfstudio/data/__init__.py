"""From files to posed, timed images: data parser, dataset, data manager.

Nothing is imported here: nerfstudio loads `dataparser` before its own data managers can be imported.
"""
