"""On the colour of which points cameras agree: where silhouettes of few cameras leave the surface open."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from nest_nerfstudio.cameras import indices_by_pose
from nest_nerfstudio.geometry.multiview import project, sample_images, visible
from nest_nerfstudio.types import Views

_CHUNK = 100_000
"""Points that are looked up at once, which bounds memory."""
_UNSEEN = 0.1
"""What a camera that does not see a point adds to its spread, so that points which all see come first."""


def are_fixed(views: list[Views]) -> bool:
    """Whether single views are of a rig that stands still.

    Of its poses many recur; or some do, and several cameras show one time. The path of one camera may cross
    itself.
    """
    counts = [len(group) for group in indices_by_pose(views)]
    recurring = sum(count for count in counts if count > 1)
    times = {float(view.times) for view in views if view.times is not None}
    at_once = 0 < len(times) < len(views)
    return len(counts) > 1 and recurring > 0 and (at_once or 2 * recurring >= len(views))


def most_consistent(views: list[Views], points: Float[Tensor, "n 3"], count: int) -> Float[Tensor, "m 3"]:
    """The points on whose colours the cameras agree the most, so many at most.

    Images of one camera count as one, by their mean. A point that only one camera sees comes last.

    Args:
        views: with images, of times at which the scene has hardly moved.
        points: world frame.
        count: how many points to keep.
    """
    cameras = [[views[i] for i in group] for group in indices_by_pose(views)]
    parts = [_spread(cameras, chunk) for chunk in points.split(_CHUNK)]
    return points[torch.cat(parts).argsort()[:count]] if parts else points


def _spread(cameras: list[list[Views]], points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
    """Mean distance of the colours of points from their mean; infinite where fewer than two cameras see."""
    colors, weights = zip(*(_color(views, points) for views in cameras), strict=True)
    color, seen = torch.stack(colors), torch.stack(weights)
    count = seen.sum(0)
    mean = (color * seen).sum(0) / count.clamp_min(1)
    spread = ((color - mean).abs().amax(-1, keepdim=True) * seen).sum(0) / count.clamp_min(1)
    spread = spread + _UNSEEN * (len(cameras) - count)
    return torch.where(count >= 2, spread, torch.inf)[:, 0]


def _color(
    views: list[Views], points: Float[Tensor, "n 3"]
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 1"]]:
    """Mean colour of points in the images of one camera, and 1 for those that it sees, else 0."""
    total, weight = points.new_zeros(len(points), 3), points.new_zeros(len(points), 1)
    for view in views:
        assert view.images is not None
        grid, depths = project(view, points)
        seen = visible(grid, depths, view.masks)[0, :, None].float()
        total += seen * sample_images(view.images, grid)[0]
        weight += seen
    return total / weight.clamp_min(1), (weight > 0.5 * len(views)).float()
