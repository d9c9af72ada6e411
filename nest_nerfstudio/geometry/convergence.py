"""Where the views of a scene converge, from their poses alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

STEPS = 20  # of reweighting; the point moves by less than its error long before
MIN_SPREAD = 1e-6  # least variance of the directions that is more than rounding: 0.06 degrees
MAX_ERROR = 0.25  # of the point, as a share of its distance from the cameras
MAX_MISS = 0.5  # of the middle axis, as a share of that distance
ROUNDING = 1e-12  # spread of cameras that share one position, as a share of its distance from the origin
DEPTH_OF_SPREAD = 4.0  # assumed distance of what cameras see that do not converge, in spreads of the cameras


@dataclass(frozen=True)
class Convergence:
    """What a set of cameras looks at.

    Attributes:
        point: nearest to the optical axes, world frame, float64.
        distance: median distance from the cameras to it, world units, > 0.
        is_certain: whether the axes determine the point. If not (parallel, outward or unrelated directions),
            it lies ahead of the middle of the cameras by an assumed distance, four times their spread, or
            one unit where they share one position.
    """

    point: Float[Tensor, " 3"]
    distance: float
    is_certain: bool


def convergence(poses: Float[Tensor, "n 3 4"]) -> Convergence:
    """Find where cameras look: the point p that minimises Σ_i ‖(I − a_i a_iᵀ)(p − o_i)‖.

    a is the optical axis of a camera and o its centre. Distances count, not their squares, so that a few
    cameras that look elsewhere have little say. Equal poses count once. The result moves, turns and scales
    with the poses, at any offset that float64 resolves.

    Args:
        poses: camera to world, OpenGL axes (the camera looks along −z), n ≥ 1.
    """
    poses = poses.double().unique(dim=0)
    axes, middle = F.normalize(-poses[:, :, 2], dim=1), poses[:, :, 3].median(0).values
    centres = poses[:, :, 3] - middle
    spread = float(centres.norm(dim=1).median())
    across = torch.eye(3).to(axes) - axes[:, :, None] * axes[:, None]
    certainty, _ = torch.linalg.eigh(across.mean(0))
    if certainty[0] > MIN_SPREAD:
        point = _nearest_to_lines(centres, across)
        misses = _misses(point, centres, across)
        ahead = ((point - centres) * axes).sum(1)
        distance = float((point - centres).norm(dim=1).median())
        error = float(misses.median() / (len(poses) * certainty[0]).sqrt())
        converge = error < MAX_ERROR * distance and float(misses.median()) < MAX_MISS * distance
        if converge and float((ahead > 0).double().mean()) >= 0.75:
            return Convergence(middle + point, distance, True)
    is_point = spread <= ROUNDING * float(middle.norm())
    distance = 1.0 if is_point else DEPTH_OF_SPREAD * spread
    return Convergence(middle + distance * axes.mean(0), distance, False)


def _nearest_to_lines(centres: Float[Tensor, "n 3"], across: Float[Tensor, "n 3 3"]) -> Float[Tensor, " 3"]:
    """The point of the least sum of distances to lines, by iteratively reweighted least squares."""
    weights = centres.new_ones(len(centres))
    point = centres.new_zeros(3)
    for _ in range(STEPS):
        weighted = weights[:, None, None] * across
        point = torch.linalg.solve(weighted.sum(0), (weighted @ centres[..., None]).sum(0)[:, 0])
        misses = _misses(point, centres, across)
        floor = 1e-3 * (point - centres).norm(dim=1).median() + torch.finfo(misses.dtype).tiny
        weights = floor / misses.maximum(floor)
    return point


def _misses(
    point: Float[Tensor, " 3"], centres: Float[Tensor, "n 3"], across: Float[Tensor, "n 3 3"]
) -> Float[Tensor, " n"]:
    """Distances from a point to lines."""
    return (across @ (point - centres)[..., None])[..., 0].norm(dim=1)
