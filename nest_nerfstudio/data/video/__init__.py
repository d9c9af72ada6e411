"""From a video of a moving scene to a data set of it: frames, what moves, cameras, seed points.

Nothing is imported here: the steps are `frames`, `motion_masks`, `sfm` and `report`, and `capture` runs them.
"""
