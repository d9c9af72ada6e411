"""From files to posed, timed pictures: data parser, dataset, data manager.

Nothing is imported here: nerfstudio loads `dataparser` before its own data managers can be imported.
"""
