"""The visual hull of a set of silhouettes: random points on it, to start the Gaussians of a scene from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nest_nerfstudio.geometry.multiview import pixel_indices, project, sample_images, visible
from nest_nerfstudio.training.photo_consistency import are_fixed, most_consistent
from nest_nerfstudio.types import Views


def sample_visual_hull(
    views: list[Views],
    box: Float[Tensor, "2 3"],
    num_points: int,
    *,
    tolerance: float = 0.0,
    candidates: int = 2_000_000,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "n 3"]:
    """Random points on the visible side of the visual hull, with equal density per pixel in all images.

    Rejection sampling of Laurentini's visual hull from uniform candidates in the box, of which those are
    taken first that are the nearest to the camera in the most pixels, at random with that number as weight
    (Efraimidis and Spirakis 2006). Points that are uniform in the hull's volume would mostly lie deep inside,
    and few on thin parts. A view in whose image, or mask, a point does not fall has no say about it.

    The hull of few cameras reaches far towards them. Where a rig stands still, only the points count on whose
    colours its cameras agree the most.

    A part that moves fast is at another position in every image, so the hull has nothing of it. Patches of
    silhouettes that contain no point of the hull therefore get the points that the fewest views find empty.

    Args:
        views: with alphas; each of its own image size.
        box: smallest and largest corner, world frame.
        num_points: how many points to return.
        tolerance: share of the views that see a point which may find it empty (for motion, noisy masks).
        candidates: how many points to try.
        generator: random generator on the CPU; None takes torch's own.

    Returns:
        Up to `num_points` points, world frame; none if all silhouettes are empty.
    """
    points = _uniform(box, candidates // 4, generator)
    allowed = _allowed_empty_shares(views, points, tolerance)
    inside = _points_in_hull(views, points, allowed)
    if len(inside):
        margin = (box[1] - box[0]) / 50
        bounds = torch.stack([inside.amin(0) - margin, inside.amax(0) + margin])
        more = _points_in_hull(views, _uniform(bounds, candidates, generator), allowed)
        inside = torch.cat([inside, more])
    alone = list(_one_by_one(views))
    if are_fixed(alone):
        inside = most_consistent(alone, inside, max(num_points, int(_CONSISTENT * len(inside))))
    pixels = _count_pixels_in_front(views, inside)
    keys = torch.rand(len(inside), generator=generator).to(box.device).log() / pixels.clamp_min(1e-6)
    return inside[keys.argsort(descending=True)[:num_points]]


def read_silhouettes(
    views: list[Views], points: Float[Tensor, "n 3"]
) -> tuple[Float[Tensor, " n"], Bool[Tensor, "v n"], Int[Tensor, "v n"]]:
    """Compare points with the silhouettes of all images.

    Args:
        views: with alphas; V images in total.
        points: world frame.

    Returns:
        Share of the images which find a point empty, of those in which it falls on a pixel to use; 1 where it
            does in none.
        Whether a point falls on the object (alpha ≥ 0.5) in each image.
        Patch of each image in which it falls: index in a raster of `_PATCHES` × `_PATCHES`.
    """
    parts = []
    for view in views:
        assert view.alphas is not None
        grid, depths = project(view, points)
        in_image = visible(grid, depths, view.masks)
        on_object = in_image & (sample_images(view.alphas, grid)[..., 0] >= 0.5)
        parts.append((in_image, on_object, pixel_indices(grid, _PATCHES, _PATCHES)))
    in_image, on_object, patches = (torch.cat(part) for part in zip(*parts, strict=True))
    filled = on_object.sum(0) / in_image.sum(0).clamp_min(1)
    return 1 - filled, on_object, patches


def mean_colors(views: Iterable[Views], points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Mean colour of the pixels in which a point falls, over the views that show the object there; else grey.

    Args:
        views: with images; where they have alphas, pixels with alpha > 0.5 count, of those in their masks.
        points: world frame.

    Returns:
        RGB in [0, 1]; 0.5 for points that no view shows.
    """
    total = torch.zeros(len(points), 3, device=points.device)
    weight = torch.zeros(len(points), 1, device=points.device)
    for view in _one_by_one(views):
        assert view.images is not None
        grid, depths = project(view, points)
        seen = visible(grid, depths, view.masks)[..., None].float()
        if view.alphas is not None:
            seen = seen * (sample_images(view.alphas, grid) > 0.5)
        total += (seen * sample_images(view.images, grid))[0]
        weight += seen[0]
    return torch.where(weight > 0, total / weight.clamp_min(1), torch.full_like(total, 0.5))


_CONSISTENT = 0.2
"""Share of the hull's points that are kept where cameras stand still."""
_PATCHES = 32
"""Patches along each side of an image."""
_CHUNK = 100_000
"""Points that are projected into all images at once, which bounds memory."""
_MIN_AGREEING = 3
"""Images in whose silhouettes a point must fall before it can stand for a patch that the hull leaves out."""


def _uniform(
    box: Float[Tensor, "2 3"], count: int, generator: torch.Generator | None
) -> Float[Tensor, "n 3"]:
    return torch.rand(count, 3, generator=generator).to(box.device) * (box[1] - box[0]) + box[0]


def _allowed_empty_shares(
    views: list[Views], points: Float[Tensor, "n 3"], tolerance: float
) -> Float[Tensor, "v p"]:
    """For each patch of each image, the share of the views that may find a point in it empty.

    It is `tolerance`, except in a connected part of a silhouette that contains no point of the hull: there,
    it is the smallest share with which the patch or one beside it contains a point that `_MIN_AGREEING`
    images agree on.
    """
    smallest = points.new_full((sum(map(len, views)), _PATCHES**2), torch.inf)
    for chunk in points.split(_CHUNK):
        share, on_object, patches = read_silhouettes(views, chunk)
        agreed = on_object & (on_object.sum(0) >= _MIN_AGREEING)
        smallest.scatter_reduce_(1, patches, torch.where(agreed, share, torch.inf), "amin")
    smallest = smallest.unflatten(1, (_PATCHES, _PATCHES))
    covered, reached = smallest.isfinite(), smallest <= tolerance
    for _ in range(2 * _PATCHES):  # flood fill from the hull's patches through the silhouette
        reached = covered & (F.max_pool2d(reached.float(), 3, stride=1, padding=1) > 0)
    smallest = -F.max_pool2d(-smallest, 3, stride=1, padding=1)
    return torch.where(covered & ~reached, smallest, tolerance).flatten(1)


def _points_in_hull(
    views: list[Views], points: Float[Tensor, "n 3"], allowed: Float[Tensor, "v p"]
) -> Float[Tensor, "m 3"]:
    """The points that fall on the object in some image and are no emptier than their patch there allows."""
    found = []
    for chunk in points.split(_CHUNK):
        share, on_object, patches = read_silhouettes(views, chunk)
        found.append(chunk[(on_object & (share <= allowed.gather(1, patches))).any(0)])
    return torch.cat(found)


def _count_pixels_in_front(views: list[Views], points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
    """In how many pixels of all images each point is the nearest to the camera."""
    count = torch.zeros(len(points), device=points.device)
    for view in _one_by_one(views):
        grid, depths = project(view, points)
        seen = visible(grid, depths, view.masks)[0]
        pixels, depths = pixel_indices(grid, view.height, view.width)[0, seen], depths[0, seen]
        nearest = depths.new_full((view.height * view.width,), torch.inf)
        nearest.scatter_reduce_(0, pixels, depths, "amin")
        count[seen] += (depths <= nearest[pixels]).float()
    return count


def _one_by_one(views: Iterable[Views]) -> Iterator[Views]:
    """Each view alone, so that memory does not grow with their number."""
    return (view.select(slice(i, i + 1)) for view in views for i in range(len(view)))
