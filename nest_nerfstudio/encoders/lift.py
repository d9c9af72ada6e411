"""Moved to `encoders.hull_depth` and `encoders.inputs`; this name goes when its last importer has changed."""

from nest_nerfstudio.encoders.hull_depth import hull_points
from nest_nerfstudio.encoders.inputs import sort_views

__all__ = ["hull_points", "sort_views"]
