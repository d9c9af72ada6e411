"""Where the Gaussians and tokens of one scene start."""

from __future__ import annotations

import torch
from jaxtyping import Float
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from nest_nerfstudio.geometry.points import farthest_points
from nest_nerfstudio.training.visual_hull import mean_colors, sample_visual_hull
from nest_nerfstudio.types import Gaussians, Points, Views

_SOLID = 0.3
"""Opacity of Gaussians that tokens are placed on."""


def starting_points(
    views: list[Views],
    box: Float[Tensor, "2 3"],
    seed_points: Points | None,
    count: int,
    fewest: int,
    hull_tolerance: float,
) -> Points:
    """Coloured points to start from: seed points; else points of the visual hull; else anywhere in the box.

    Args:
        views: training views from around the canonical time.
        box: smallest and largest corner of the scene box, world units.
        seed_points: points of the data, if it has any.
        count: how many points, at most.
        fewest: how many there have to be; seed points and hulls with fewer are not used.
        hull_tolerance: share of the views that may find a point of the visual hull empty.
    """
    if seed_points is not None and len(seed_points) >= fewest:
        chosen = torch.randperm(len(seed_points))[:count]
        points = Points(seed_points.positions[chosen].to(box), seed_points.rgb[chosen].to(box))
        CONSOLE.log(f"Starting from {len(points)} seed points.")
        return points
    positions = None
    if views and all(view.alphas is not None for view in views):
        positions = sample_visual_hull(views, box, count, tolerance=hull_tolerance)
        if len(positions) < fewest:
            CONSOLE.log("[yellow]The visual hull is empty; starting anywhere in the scene box.")
            positions = None
        else:
            CONSOLE.log(f"Starting from {len(positions)} points in the visual hull.")
    if positions is None:
        positions = torch.rand(count, 3, device=box.device) * (box[1] - box[0]) + box[0]
    grey = torch.full_like(positions, 0.5)
    return Points(positions, mean_colors(views, positions) if views else grey)


def token_positions(gaussians: Gaussians, count: int) -> Float[Tensor, "k 3"]:
    """Evenly spread positions on the Gaussians that can be seen, world units."""
    solid = gaussians.means[gaussians.opacities > _SOLID]
    points = solid if len(solid) >= count else gaussians.means
    return points[farthest_points(points, count)]
