"""Moved to `training.visual_hull`; this name goes when its last importer has changed."""

from nest_nerfstudio.training.visual_hull import mean_colors, read_silhouettes, sample_visual_hull

__all__ = ["mean_colors", "read_silhouettes", "sample_visual_hull"]
