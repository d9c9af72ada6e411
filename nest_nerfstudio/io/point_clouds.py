"""Point clouds on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from plyfile import PlyData, PlyElement

from nest_nerfstudio.io.ply import read_vertices
from nest_nerfstudio.types import Points


def read_cloud(path: Path, grey: bool = False, dtype: torch.dtype = torch.float32) -> Points:
    """Read a coloured point cloud: PLY, or another format that Open3D reads (PCD, PTS, XYZ, XYZRGB).

    Args:
        path: of the file.
        grey: give points without colours the colour grey.
        dtype: of the positions; float64 keeps those of georeferenced files apart.

    Returns:
        Points in the frame of the file; colours in [0, 1], float32.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no points, or no colours.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no point cloud at {path}")
    read = _read_ply if path.suffix.lower() == ".ply" else _read_with_open3d
    positions, colors = read(path)
    if not len(positions):
        raise ValueError(f"no points could be read from {path}")
    if colors is None and not grey:
        raise ValueError(f"the points of {path} have no colours (red, green, blue)")
    if colors is None:
        colors = np.full(positions.shape, 0.5, np.float32)
    return Points(torch.from_numpy(positions).to(dtype), torch.from_numpy(colors))


def write_cloud(path: Path, points: Points) -> None:
    """Write a coloured point cloud as binary PLY of single precision, with colours of 8 bits."""
    names = [(axis, "<f4") for axis in "xyz"] + [(channel, "u1") for channel in ("red", "green", "blue")]
    columns = [*points.positions.T.numpy(), *(255 * points.rgb).round().byte().T.numpy()]
    rows = np.empty(len(points), dtype=names)
    for (name, _), values in zip(names, columns, strict=True):
        rows[name] = values
    PlyData([PlyElement.describe(rows, "vertex")], byte_order="<").write(str(path))


def _read_ply(path: Path) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n 3"] | None]:
    """Positions in float64, and colours; integer colours are fractions of the largest value of their type."""
    vertices = read_vertices(path)
    names = set(vertices.dtype.names or ())
    if not {"x", "y", "z"} <= names:
        raise ValueError(f"{path} is no point cloud: its vertices have no x, y, z")
    positions = np.stack([vertices[axis] for axis in "xyz"], axis=-1).astype(np.float64)
    if not {"red", "green", "blue"} <= names:
        return positions, None
    colors = np.stack([vertices[channel] for channel in ("red", "green", "blue")], axis=-1)
    largest = np.iinfo(colors.dtype).max if colors.dtype.kind in "iu" else 1
    return positions, colors.astype(np.float32) / np.float32(largest)


def _read_with_open3d(path: Path) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n 3"] | None]:
    import open3d  # slow to import, so only where it is needed

    cloud = open3d.io.read_point_cloud(str(path))  # pyright: ignore[reportArgumentType]
    colors = np.asarray(cloud.colors, dtype=np.float32) if cloud.has_colors() else None
    return np.array(cloud.points, dtype=np.float64), colors
