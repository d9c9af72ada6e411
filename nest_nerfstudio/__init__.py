"""Dynamic, generalizable and controllable 3D scenes inside nerfstudio."""

__version__ = "0.1.0"
