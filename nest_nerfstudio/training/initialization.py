"""Where the Gaussians and tokens of one scene start."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from nest_nerfstudio.geometry.points import farthest_points
from nest_nerfstudio.training.photo_consistency import most_consistent
from nest_nerfstudio.training.visual_hull import mean_colors, sample_visual_hull
from nest_nerfstudio.types import Gaussians, Points, Views

_CANDIDATES = 20
"""Points of which the most consistent are chosen, for each point of the start."""
_SOLID = 0.3
"""Opacity of Gaussians that tokens are placed on."""


class Start(NamedTuple):
    """Where a training starts.

    Attributes:
        points: coloured points, one for each Gaussian.
        hull_is_empty: images have alpha, but hardly a point lies within all of their silhouettes.
    """

    points: Points
    hull_is_empty: bool = False


def most_gaussians(views: list[Views], pixels: int, device_type: str) -> int:
    """How many Gaussians images are worth: an object before an empty background has fewer than a full frame.

    Args:
        views: some of the training views, with their alphas and masks, where there are any.
        pixels: of a training image at full size.
        device_type: kind of device that trains.
    """
    each, fewest, most = (4, 200_000, 1_000_000) if device_type == "cuda" else (10, 20_000, 60_000)
    share = sum(_share_used(view) for view in views) / max(1, len(views))
    return min(max(int(share * pixels / each), fewest), most)


def _share_used(views: Views) -> float:
    """Share of the pixels that show the scene and are to be used."""
    used = torch.ones(()) if views.alphas is None else views.alphas
    return float((used if views.masks is None else used * views.masks).mean())


def starting_points(
    views: list[Views],
    box: Float[Tensor, "2 3"],
    seed_points: Points | None,
    count: int,
    fewest: int,
    hull_tolerance: float,
) -> Start:
    """Coloured points to start from: seed points; else points of the visual hull; else anywhere in the box.

    Seed points that are fewer than `fewest` are kept, and joined by others.

    Args:
        views: training views from around the canonical time.
        box: smallest and largest corner of the scene box, world units.
        seed_points: points of the data, if it has any.
        count: how many points, at most.
        fewest: how many there have to be, one for each token.
        hull_tolerance: share of the views that may find a point of the visual hull empty.
    """
    seeds = None if seed_points is None else _some(seed_points, count, box)
    if seeds is not None and len(seeds) >= fewest:
        CONSOLE.log(f"Starting from {len(seeds)} seed points.")
        return Start(seeds)
    positions, found, hull_is_empty = _unseeded(views, box, count, fewest, hull_tolerance)
    points = Points(positions, _colors(views, positions))
    if seeds is None or not len(seeds):
        CONSOLE.log(f"Starting from {found}.")
        return Start(points, hull_is_empty)
    points = _some(points, count - len(seeds), box)
    CONSOLE.log(
        f"Starting from all {len(seeds)} seed points and {found}: seed points alone are fewer than tokens "
        f"({fewest}, --pipeline.model.num-tokens)."
    )
    return Start(
        Points(torch.cat([seeds.positions, points.positions]), torch.cat([seeds.rgb, points.rgb])),
        hull_is_empty,
    )


def _unseeded(
    views: list[Views], box: Float[Tensor, "2 3"], count: int, fewest: int, hull_tolerance: float
) -> tuple[Float[Tensor, "n 3"], str, bool]:
    """Positions to start from without seed points, what they are, and whether the visual hull is empty."""
    hull_is_empty = False
    if views and all(view.alphas is not None for view in views):
        positions = sample_visual_hull(views, box, count, tolerance=hull_tolerance)
        if len(positions) >= fewest:
            return positions, f"{len(positions)} points in the visual hull", False
        hull_is_empty = True
        CONSOLE.log(
            "[yellow]The visual hull is empty: hardly a point in the scene box lies within the silhouettes "
            "of all images. Poses, times or alpha may be wrong."
        )
    anywhere = torch.rand(_CANDIDATES * count, 3, device=box.device) * (box[1] - box[0]) + box[0]
    if not views:
        return anywhere[:count], f"{count} points anywhere in the scene box", hull_is_empty
    chosen = most_consistent(views, anywhere[count:], count // 2)
    positions = torch.cat([chosen, anywhere[: count - len(chosen)]])
    found = f"{count} points in the scene box, half of them where the views agree on their colours"
    return positions, found, hull_is_empty


def _some(points: Points, count: int, like: Tensor) -> Points:
    """Points in random order, so many at most, on the device of a tensor."""
    chosen = torch.randperm(len(points))[:count].to(points.positions.device)
    return Points(points.positions[chosen].to(like), points.rgb[chosen].to(like))


def _colors(views: list[Views], positions: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    return mean_colors(views, positions) if views else torch.full_like(positions, 0.5)


def bounds_of(box: Float[Tensor, "2 3"], positions: Float[Tensor, "n 3"]) -> Float[Tensor, "2 3"]:
    """The smallest box that holds a box and points, but for the outermost hundredth along each axis."""
    ordered = positions.sort(dim=0).values
    skipped = len(ordered) // 100
    return torch.stack([box[0].minimum(ordered[skipped]), box[1].maximum(ordered[-1 - skipped])])


def token_positions(gaussians: Gaussians, count: int) -> Float[Tensor, "k 3"]:
    """Evenly spread positions on the Gaussians that can be seen, world units."""
    solid = gaussians.means[gaussians.opacities > _SOLID]
    points = solid if len(solid) >= count else gaussians.means
    return points[farthest_points(points, count)]
