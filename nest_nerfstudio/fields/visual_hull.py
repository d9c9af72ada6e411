"""Where a scene can be: points inside every silhouette of a set of views."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

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
    """Random points on the side of the visual hull that a camera sees, as many a pixel everywhere.

    Laurentini's visual hull by rejection, of which the nearest point in every pixel is kept: spread over
    the hull's volume, most points would lie deep inside, and few on thin parts. A view that does not see a
    point says nothing about it.

    What stands alone and moves fast is in another place in every picture, so that the hull has nothing of it.
    Pieces of silhouettes without any of the hull get the points that the fewest views find empty.

    Args:
        views: with alpha; each of its own size.
        box: smallest and largest corner, world units.
        num_points: how many points to return.
        tolerance: share of the views that see a point which may find it empty (for motion, noisy masks).
        candidates: how many points to try.

    Returns:
        Up to `num_points` points; none if all silhouettes are.
    """
    points = _uniform(box, candidates // 4, generator)
    allowed = _needed_tolerance(views, points, tolerance)
    inside = _explaining(views, points, allowed)
    if len(inside):
        margin = (box[1] - box[0]) / 50
        bounds = torch.stack([inside.amin(0) - margin, inside.amax(0) + margin])
        more = _explaining(views, _uniform(bounds, candidates, generator), allowed)
        inside = torch.cat([inside, more])
    pixels_won = _count_pixels_won(views, inside)
    order = torch.rand(len(inside), generator=generator).to(box.device).log() / pixels_won.clamp_min(1e-6)
    return inside[order.argsort(descending=True)[:num_points]]


_PATCHES = 32
"""Along each side of a picture."""
_CHUNK = 100_000
"""Points that are looked at at once."""


def _uniform(
    box: Float[Tensor, "2 3"], count: int, generator: torch.Generator | None
) -> Float[Tensor, "n 3"]:
    return torch.rand(count, 3, generator=generator).to(box.device) * (box[1] - box[0]) + box[0]


def _needed_tolerance(
    views: list[Views], points: Float[Tensor, "n 3"], tolerance: float
) -> Float[Tensor, "v p"]:
    """For each patch of each silhouette, the share of views that may find a point on it empty.

    It is `tolerance`, but where a piece of a silhouette has nothing of the hull: there, the least for which
    the patch or one beside it has a point that three pictures agree on.
    """
    least = points.new_full((sum(map(len, views)), _PATCHES**2), torch.inf)
    for chunk in points.split(_CHUNK):
        share, on_object, patches = read_silhouettes(views, chunk)
        agreed = on_object & (on_object.sum(0) >= 3)
        least.scatter_reduce_(1, patches, torch.where(agreed, share, torch.inf), "amin")
    least = least.unflatten(1, (_PATCHES, _PATCHES))
    shown, reached = least.isfinite(), least <= tolerance
    for _ in range(2 * _PATCHES):  # from patch to patch of a silhouette
        reached = shown & (F.max_pool2d(reached.float(), 3, stride=1, padding=1) > 0)
    least = -F.max_pool2d(-least, 3, stride=1, padding=1)
    return torch.where(shown & ~reached, least, tolerance).flatten(1)


def _explaining(
    views: list[Views], points: Float[Tensor, "n 3"], allowed: Float[Tensor, "v p"]
) -> Float[Tensor, "m 3"]:
    """The points that some silhouette needs: no emptier than is allowed for the patch that they are on."""
    found = []
    for chunk in points.split(_CHUNK):
        share, on_object, patches = read_silhouettes(views, chunk)
        found.append(chunk[(on_object & (share <= allowed.gather(1, patches))).any(0)])
    return torch.cat(found)


def read_silhouettes(
    views: list[Views], points: Float[Tensor, "n 3"]
) -> tuple[Float[Tensor, " n"], Bool[Tensor, "v n"], Int[Tensor, "v n"]]:
    """What the silhouettes of all pictures say of points.

    Returns:
        The share of those that see a point which find it empty; 1 where none sees it.
        Whether each picture shows the object there.
        Through which of its patches.
    """
    pictures = []
    for view in views:
        assert view.alphas is not None
        size = torch.tensor([view.width, view.height], device=points.device)
        for i in range(len(view)):
            pixels, in_image = _project(view, i, points)
            on_object = in_image & (_sample(view.alphas[i], pixels)[..., 0] >= 0.5)
            x, y = (pixels / size * _PATCHES).long().clamp(0, _PATCHES - 1).unbind(1)
            pictures.append((in_image, on_object, y * _PATCHES + x))
    in_image, on_object, patches = (torch.stack(parts) for parts in zip(*pictures, strict=True))
    filled = on_object.sum(0) / in_image.sum(0).clamp_min(1)
    return 1 - filled, on_object, patches


def _count_pixels_won(views: list[Views], points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
    """In how many pixels of all views each point is the nearest."""
    won = torch.zeros(len(points), device=points.device)
    for view in views:
        for i in range(len(view)):
            pixels, in_image = _project(view, i, points)
            depths = points @ view.viewmats[i, 2, :3] + view.viewmats[i, 2, 3]
            x, y = pixels[in_image].long().unbind(1)
            places = y * view.width + x
            nearest = depths.new_full((view.height * view.width,), torch.inf)
            nearest.scatter_reduce_(0, places, depths[in_image], "amin")
            won[in_image] += (depths[in_image] <= nearest[places]).float()
    return won


def mean_colors(views: list[Views], points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Mean colour of the pixels a point falls on, over the views that see it on the object; else grey."""
    total = torch.zeros(len(points), 3, device=points.device)
    weight = torch.zeros(len(points), 1, device=points.device)
    for view in views:
        assert view.images is not None
        for i in range(len(view)):
            pixels, in_image = _project(view, i, points)
            seen = in_image[:, None].float()
            if view.alphas is not None:
                seen = seen * (_sample(view.alphas[i], pixels) > 0.5)
            total += seen * _sample(view.images[i], pixels)
            weight += seen
    return torch.where(weight > 0, total / weight.clamp_min(1), torch.full_like(total, 0.5))


def _project(view: Views, i: int, points: Tensor) -> tuple[Float[Tensor, "n 2"], Bool[Tensor, " n"]]:
    camera = points @ view.viewmats[i, :3, :3].T + view.viewmats[i, :3, 3]
    image = camera @ view.Ks[i].T
    pixels = image[:, :2] / image[:, 2:].clamp_min(1e-6)
    limits = torch.tensor([view.width, view.height], device=points.device)
    return pixels, (camera[:, 2] > 1e-3) & ((pixels >= 0) & (pixels < limits)).all(1)


def _sample(image: Float[Tensor, "h w c"], pixels: Float[Tensor, "n 2"]) -> Float[Tensor, "n c"]:
    size = torch.tensor([image.shape[1], image.shape[0]], device=pixels.device)
    grid = (pixels / size * 2 - 1)[None, None]
    sampled = F.grid_sample(image.permute(2, 0, 1)[None], grid, align_corners=False, padding_mode="border")
    return sampled[0, :, 0].T
