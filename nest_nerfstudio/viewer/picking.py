"""Which tokens a click or a box on the image means."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial import KDTree

_NEAR = 0.08
"""Largest distance of a click's ray from a token, as a fraction of the extent of all tokens; where tokens are
sparse it is their spacing."""


def clicked(
    positions: Float[np.ndarray, "k 3"],
    origin: Float[np.ndarray, " 3"],
    direction: Float[np.ndarray, " 3"],
    reach: float,
) -> Bool[np.ndarray, " k"]:
    """The token that a ray meets first, and those around it; none where it passes all of them by.

    Args:
        positions: of the tokens.
        origin: of the ray.
        direction: of the ray, of any length.
        reach: distance from the first token up to which others are chosen.
    """
    along = (positions - origin) @ direction / (direction @ direction)
    off = np.linalg.norm(positions - origin - along[:, None] * direction, axis=1)
    extent = float(np.ptp(positions, axis=0).max())
    near = (along > 0) & (off <= max(_NEAR * extent, _spacing(positions)))
    if not near.any():
        return near
    first = np.flatnonzero(near)[np.argmin(along[near])]
    return np.linalg.norm(positions - positions[first], axis=1) <= reach


def _spacing(positions: Float[np.ndarray, "k 3"]) -> float:
    """Median distance of a token from the nearest other one."""
    if len(positions) < 2:
        return 0.0
    return float(np.median(KDTree(positions).query(positions, k=2)[0][:, 1]))


def boxed(
    positions: Float[np.ndarray, "k 3"], camera: Any, corners: tuple[tuple[float, float], ...]
) -> Bool[np.ndarray, " k"]:
    """The tokens that are seen in a box of the image.

    Args:
        positions: of the tokens, viser's units.
        camera: viser's: `wxyz` (camera to world, OpenCV axes), `position`, `fov` (vertical), `aspect`.
        corners: of the box, fractions of the image from its upper left corner.
    """
    w, *u = np.asarray(camera.wxyz, dtype=float) * (1, -1, -1, -1)  # world to camera
    seen = positions - np.asarray(camera.position)
    turned = seen + 2 * np.cross(u, np.cross(u, seen) + w * seen)
    depth = np.where(turned[:, 2] > 1e-6, turned[:, 2], np.inf)
    half = math.tan(camera.fov / 2)
    x = 0.5 + turned[:, 0] / depth / (2 * half * camera.aspect)
    y = 0.5 + turned[:, 1] / depth / (2 * half)
    (x0, y0), (x1, y1) = np.min(corners, axis=0), np.max(corners, axis=0)
    return (depth < np.inf) & (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)
