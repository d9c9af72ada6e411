"""Point clouds on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from nest_nerfstudio.types import Points


def read_cloud(path: Path, grey: bool = False) -> Points:
    """A point cloud with colours, of any format that Open3D reads (PLY, PCD, PTS, XYZRGB).

    Args:
        path: of the file.
        grey: take points without colours for grey ones.

    Returns:
        float32, the frame of the file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no points, or no colours.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no point cloud at {path}")
    import open3d  # slow to import, so only where it is needed

    cloud = open3d.io.read_point_cloud(str(path))  # pyright: ignore[reportArgumentType]
    positions = torch.from_numpy(np.asarray(cloud.points, dtype=np.float32))
    if not len(positions):
        raise ValueError(f"no points could be read from {path}")
    if cloud.has_colors():
        return Points(positions, torch.from_numpy(np.asarray(cloud.colors, dtype=np.float32)))
    if not grey:
        raise ValueError(f"the points of {path} have no colours (red, green, blue)")
    return Points(positions, torch.full_like(positions, 0.5))
