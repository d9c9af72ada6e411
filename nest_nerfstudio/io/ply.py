"""Vertices of PLY files, read with the library `plyfile`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from plyfile import PlyData, PlyParseError


def read_vertices(path: Path) -> np.ndarray:
    """Read the vertices of a PLY file, text or binary of either byte order.

    Args:
        path: of the file.

    Returns:
        Structured array with one field per property, in the order and of the type of the file; binary files
        are mapped into memory, not read whole.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a PLY file, one that is cut off, or one without vertices.
    """
    try:
        ply = PlyData.read(str(path))
    except (PlyParseError, ValueError) as error:
        raise ValueError(f"{path} is not a PLY file, or it is cut off ({error})") from error
    if "vertex" not in ply:
        raise ValueError(f"{path} has no vertices")
    return ply["vertex"].data
