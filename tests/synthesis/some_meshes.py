"""A material and a mesh for tests."""

from __future__ import annotations

import numpy as np

from nest_nerfstudio.synthesis.meshes import Bsdf, Mesh

RED: Bsdf = {"type": "diffuse", "reflectance": {"type": "rgb", "value": [0.8, 0.1, 0.1]}}


def floor(bsdf: Bsdf, **attributes: np.ndarray) -> Mesh:
    """A square on z = 0 from −1 to 1, flat, with uv (0, 0) at its far left corner seen from −y."""
    corners = np.array([[-1.0, 1.0, 0.0], [-1.0, -1.0, 0.0], [1.0, -1.0, 0.0], [1.0, 1.0, 0.0]])
    return Mesh(corners, None, np.array([[0, 1, 2], [0, 2, 3]]), bsdf, **attributes)
