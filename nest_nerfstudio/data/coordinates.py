"""Parsed coordinates of what a transforms file stores, as nerfstudio defines them.

All is in float64 until cameras and points are mapped: georeferenced captures lie millions of units from their
origin, where float32 resolves half a unit.

This module must stay importable without nerfstudio's data managers, as `dataparser` must.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from nerfstudio.cameras import camera_utils
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from nest_nerfstudio.geometry.convergence import ROUNDING, convergence

MOST_OFFSET = 150.0  # in distances of cameras from what they see; float32 then resolves 1e-5 of these


@dataclass(frozen=True)
class Coordinates:
    """The map from stored to parsed coordinates: x' = scale · (A x + b), with a rotation A.

    Attributes:
        transform: [A | b], float64.
        scale: after the transform.
    """

    transform: Float[Tensor, "3 4"]
    scale: float = 1.0

    def poses(self, poses: Float[Tensor, "n r 4"]) -> Float[Tensor, "n 3 4"]:
        """Map camera to world matrices; float64."""
        turned = self.transform[:, :3] @ poses[:, :3].double()
        return torch.cat([turned[..., :3], self._placed(turned[..., 3])[..., None]], -1)

    def points(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Map points; float64."""
        return self._placed(points.double() @ self.transform[:, :3].mT)

    def _placed(self, turned: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        return (turned + self.transform[:, 3]) * self.scale


def fit_poses(
    poses: Float[Tensor, "n 4 4"],
    orientation: Literal["pca", "up", "vertical", "none"],
    center: Literal["poses", "focus", "none"],
    auto_scale: bool,
    scale: float,
) -> Coordinates:
    """Orient, centre and scale poses as nerfstudio's own parser does, at any offset.

    Args:
        poses: camera to world, OpenGL axes, float64.
        orientation: how they are turned.
        center: how they are centred; where float32 could not resolve their coordinates without it, they are
            centred on the cameras, with a line in the log.
        auto_scale: scale positions into [-1, 1], before the given scale.
        scale: factor on positions.
    """
    middle = poses[:, :3, 3].mean(0)
    if center == "none" and is_far(poses):
        CONSOLE.log(f"Poses are centred on the cameras, which are {float(middle.norm()):g} from the origin")
        center = "poses"
    near = poses.clone()
    near[:, :3, 3] -= middle
    _, found = camera_utils.auto_orient_and_center_poses(near.float(), orientation, center)
    rotation, shift = found.double().split([3, 1], dim=1)
    u, _, vh = torch.linalg.svd(rotation)
    rotation = u @ vh  # was one to float32 only, which far from the origin moves everything
    if center != "none":
        shift = shift - rotation @ middle[:, None]
    fitted = Coordinates(torch.cat([rotation, shift], 1), scale)
    extent = float(fitted.poses(poses)[..., 3].abs().max()) / scale
    is_one_place = extent <= ROUNDING * float(middle.norm())  # a tripod
    return fitted if is_one_place or not auto_scale else replace(fitted, scale=scale / extent)


def keep_poses(poses: Float[Tensor, "n 4 4"], scale: float) -> Coordinates:
    """Leave poses where they are, unless float32 could not resolve their coordinates there.

    Then the point that the cameras look at becomes the origin, with a line in the log.

    Args:
        poses: camera to world, OpenGL axes, float64.
        scale: factor on positions.
    """
    unmoved = torch.eye(4, dtype=torch.float64)[:3]
    if not is_far(poses):
        return Coordinates(unmoved, scale)
    unmoved[:, 3] = -convergence(poses[:, :3]).point
    x, y, z = unmoved[:, 3].tolist()
    CONSOLE.log(f"Poses are moved by ({x:.10g}, {y:.10g}, {z:.10g}), to where float32 resolves them")
    return Coordinates(unmoved, scale)


def is_far(poses: Float[Tensor, "n r 4"]) -> bool:
    """Whether cameras are too far from the origin for float32 to resolve what they see."""
    seen = convergence(poses[:, :3])
    return float(poses[:, :3, 3].median(0).values.norm()) > MOST_OFFSET * seen.distance
