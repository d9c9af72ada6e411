"""From pictures to places in space: exact, so that turning cameras by g turns every place by g.

A place is o + s·r on the ray of a patch, kept where all silhouettes agree; so the places of many views fill
their visual hull, and those of one view the cone of its silhouette.

Which places are kept is a choice, and noise of floating point must not change it when the world turns. So it
is made in the frame of the first camera, with poses rounded to 1/256; what is chosen is computed exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from nest_nerfstudio.types import Views


@dataclass(frozen=True)
class Lifted:
    """Places in the visual hull, and where it begins along the rays of a coarse grid of patches.

    Attributes:
        positions: world frame.
        settled: the same places, rounded, in the frame of the first camera: to choose among them.
        fronts: camera-space z of the hull's near side, by patch; 0 where a patch sees nothing.
        backs: of its far side.
    """

    positions: Float[Tensor, "n 3"]
    settled: Float[Tensor, "n 3"]
    fronts: Float[Tensor, "v p q"]
    backs: Float[Tensor, "v p q"]


def sort_views(views: Views) -> Views:
    """The views in an order of their own, by what their pictures hold: the same however they come."""
    assert views.images is not None
    shown = views.images if views.alphas is None else torch.cat([views.images, views.alphas], -1)
    contents = shown.double().flatten(1)
    weights = torch.arange(contents.shape[1], device=contents.device).to(contents).sin()
    order = (contents @ weights).argsort()
    parts = {
        name: value[order]
        for name in ("viewmats", "Ks", "times", "images", "alphas", "depths")
        if (value := getattr(views, name)) is not None
    }
    return replace(views, **parts)


def resize_views(views: Views, longest: int) -> Views:
    """The views with pictures whose longer side has `longest` pixels; premultiplied while they shrink."""
    assert views.images is not None
    factor = longest / max(views.width, views.height)
    if factor == 1:
        return views
    width, height = max(1, round(views.width * factor)), max(1, round(views.height * factor))
    alphas = torch.ones_like(views.images[..., :1]) if views.alphas is None else views.alphas
    rgba = torch.cat([views.images * alphas, alphas], -1).permute(0, 3, 1, 2)
    small = F.interpolate(rgba, (height, width), mode="area").permute(0, 2, 3, 1)
    scale = views.Ks.new_tensor([width / views.width, height / views.height, 1.0])[:, None]
    return replace(
        views,
        Ks=views.Ks * scale,
        width=width,
        height=height,
        images=small[..., :3] / small[..., 3:].clamp_min(1e-6),
        alphas=None if views.alphas is None else small[..., 3:],
        depths=None,
    )


def camera_centres(viewmats: Float[Tensor, "v 4 4"]) -> Float[Tensor, "v 3"]:
    """Where the cameras stand, world frame."""
    return -(viewmats[:, :3, :3].mT @ viewmats[:, :3, 3:])[..., 0]


def looked_at(viewmats: Float[Tensor, "v 4 4"], distance: float, trust: float = 1e-2) -> Float[Tensor, " 3"]:
    """The place nearest to all optical axes, least squares; at `distance` where they leave it open.

    Minimises Σ_v ‖(I − a aᵀ)(c − o)‖² + trust · ‖c − (o + distance · a)‖², with a the axis of view v and o
    its centre: for one view the answer is o + distance · a.
    """
    centres, axes = camera_centres(viewmats).double(), F.normalize(viewmats[:, 2, :3].double(), dim=1)
    middle = centres.mean(0)
    one = torch.eye(3).to(axes)
    across = one - axes[:, :, None] * axes[:, None]
    target = (across @ (centres - middle)[..., None])[..., 0] + trust * (centres - middle + distance * axes)
    return (middle + torch.linalg.solve((across + trust * one).sum(0), target.sum(0))).to(viewmats)


def project(views: Views, positions: Float[Tensor, "n 3"]) -> tuple[Tensor, Tensor]:
    """Where places are seen.

    Returns:
        grid: [V, N, 2] as `grid_sample` reads it with align_corners=False: (-1, -1) is the picture's corner.
        depths: [V, N] camera-space z.
    """
    local = positions @ views.viewmats[:, :3, :3].mT + views.viewmats[:, None, :3, 3]
    depths = local[..., 2]
    pixels = (local / depths.clamp_min(1e-6)[..., None]) @ views.Ks.mT
    size = pixels.new_tensor([views.width, views.height])
    return 2 * pixels[..., :2] / size - 1, depths


def sample_maps(maps: Float[Tensor, "v c p q"], grid: Float[Tensor, "v n 2"]) -> Float[Tensor, "v n c"]:
    """Bilinear values of each view's maps at places on its picture; its edge beyond it."""
    values = F.grid_sample(maps, grid[:, None], align_corners=False, padding_mode="border")
    return values[:, :, 0].mT


def lift(
    views: Views, centre: Float[Tensor, " 3"], radius: float, patches: int, depths: int, shell: float
) -> Lifted:
    """Places in the visual hull, inside a ball.

    The more views, the nearer to its hull the object's surface is: places deeper in it than shell / (V − 1),
    along the rays of all views, are left out.

    Args:
        views: with images.
        centre: of the ball, world frame.
        radius: of the ball, world units.
        patches: along the longer side of a picture; a ray goes through the middle of what each shows.
        depths: places along the chord of each ray in the ball.
        shell: depth that is kept with two views, world units.
    """
    size = _grid_size(views, patches)
    rough_views, rough_centre = _settle(views, centre)
    rough, lengths, rough_z = _places_on_rays(rough_views, rough_centre, radius, size, depths)
    coverage = _alphas(views)
    inside = (F.adaptive_avg_pool2d(coverage, size)[:, 0] > 0.1)[..., None] & (lengths > 0)
    kept = torch.zeros_like(inside)
    kept[inside] = in_hull(rough_views, coverage, rough[inside])
    outer = kept
    if len(views) > 1:
        ends = _ends(rough_z, kept)
        depth = hull_depths(*ends, *project(rough_views, rough[kept])).amin((0, 2))
        outer = kept.clone()
        outer[kept] = depth < shell / (len(views) - 1)
    places, _, z = _places_on_rays(views, centre, radius, size, depths)
    return Lifted(places[outer], rough[outer], *_ends(z, kept))


def hull_depths(
    fronts: Float[Tensor, "v p q"],
    backs: Float[Tensor, "v p q"],
    grid: Float[Tensor, "v n 2"],
    depths: Float[Tensor, "v n"],
) -> Float[Tensor, "v n 2"]:
    """How far places are behind the front and before the back of the hull, in each view; world units."""
    maps = torch.stack([fronts, backs, (fronts > 0).to(fronts)], 1)
    ends, seen = sample_maps(maps, grid).split([2, 1], -1)
    front, back = (ends / seen.clamp_min(1e-3)).unbind(-1)
    return torch.stack([depths - front, back - depths], -1)


def _ends(z: Float[Tensor, "v p q s"], kept: Bool[Tensor, "v p q s"]) -> tuple[Tensor, Tensor]:
    """The first and the last kept depth of each ray; 0 where there is none."""
    seen = kept.any(-1)
    fronts, backs = z.where(kept, torch.inf).amin(-1), z.where(kept, -torch.inf).amax(-1)
    return fronts.where(seen, 0.0), backs.where(seen, 0.0)


def _settle(views: Views, centre: Tensor) -> tuple[Views, Tensor]:
    """Cameras and a place in the frame of the first camera, rounded."""
    viewmats = views.viewmats.double()
    relative = viewmats @ torch.linalg.inv(viewmats[0])
    local = viewmats[0, :3, :3] @ centre.double() + viewmats[0, :3, 3]
    relative, local = ((x * 256).round() / 256 for x in (relative, local))
    return replace(views, viewmats=relative.to(views.viewmats)), local.to(centre)


def _places_on_rays(
    views: Views, centre: Tensor, radius: float, size: tuple[int, int], depths: int
) -> tuple[Float[Tensor, "v p q s 3"], Float[Tensor, "v p q s"], Float[Tensor, "v p q s"]]:
    """Places at even steps of each chord in the ball, their distances from the camera (0: off it), z."""
    rays, z_per_length = _rays(views, size)
    origins = camera_centres(views.viewmats)[:, None, None]
    middle = ((centre - origins) * rays).sum(-1)
    off_axis = centre - origins - middle[..., None] * rays
    half = (radius**2 - off_axis.square().sum(-1)).clamp_min(0).sqrt()
    steps = (torch.arange(depths).to(rays) + 0.5) * (2 / depths) - 1
    lengths = (middle[..., None] + half[..., None] * steps) * (half > 0)[..., None]
    places = origins[..., None, :] + lengths[..., None] * rays[..., None, :]
    return places, lengths, lengths * z_per_length[..., None]


def in_hull(
    views: Views, coverage: Float[Tensor, "v 1 h w"], positions: Float[Tensor, "n 3"]
) -> Bool[Tensor, " n"]:
    """Whether no view that has a place in its picture finds it empty."""
    grid, depths = project(views, positions)
    alphas = sample_maps(coverage, grid)[..., 0]
    visible = (grid.abs() <= 1).all(-1) & (depths > 0)
    return torch.where(visible, alphas, 1.0).amin(0) > 0.5


def _alphas(views: Views) -> Float[Tensor, "v 1 h w"]:
    if views.alphas is None:
        return views.Ks.new_ones(len(views), 1, views.height, views.width)
    return views.alphas.permute(0, 3, 1, 2)


def _grid_size(views: Views, patches: int) -> tuple[int, int]:
    longest = max(views.width, views.height)
    return max(1, round(patches * views.height / longest)), max(1, round(patches * views.width / longest))


def _rays(views: Views, size: tuple[int, int]) -> tuple[Float[Tensor, "v p q 3"], Float[Tensor, "v p q"]]:
    """Unit rays, world frame, and camera-space z per unit of length, of a grid of patches.

    Each goes through the middle of what a patch shows, so that thin parts are not missed.
    """
    v = torch.arange(views.height).to(views.Ks) + 0.5
    u = torch.arange(views.width).to(views.Ks) + 0.5
    places = torch.stack([*torch.meshgrid(u, v, indexing="xy"), torch.ones(views.height, views.width).to(u)])
    weights = _alphas(views) + 1e-3
    pixels = F.adaptive_avg_pool2d(weights * places, size) / F.adaptive_avg_pool2d(weights, size)
    local = F.normalize(pixels.flatten(2).mT @ torch.linalg.inv(views.Ks).mT, dim=-1)
    rays = local @ views.viewmats[:, :3, :3]
    return rays.unflatten(1, size), local[..., 2].unflatten(1, size)
