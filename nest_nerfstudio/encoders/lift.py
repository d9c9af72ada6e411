"""From pictures to places in space: exact, so that turning cameras by g turns every place by g.

Places are cells of a grid along the axes of the first camera, kept where all silhouettes agree; so those of
many views fill their visual hull, and those of one view the cone of its silhouette.

Which cells are kept is a choice, and noise of floating point must not change it when the world turns. So it
is made with cameras that are settled: along those axes, from the scene's middle, with poses rounded. What is
chosen is moved to the world by the first camera as it is.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nest_nerfstudio.types import Points, Views


def sort_views(views: Views) -> Views:
    """The views in an order of their own, by what their pictures hold: the same however they come.

    Equal pictures stay in the order in which they come.
    """
    assert views.images is not None
    shown = views.images if views.alphas is None else torch.cat([views.images, views.alphas], -1)
    contents = shown.double().flatten(1)
    weights = torch.arange(contents.shape[1], device=contents.device).to(contents).sin()
    return views.select((contents @ weights).argsort())


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
    to_grid = views.Ks * views.Ks.new_tensor([2 / views.width, 2 / views.height, 1.0])[:, None]
    seen = to_grid @ views.viewmats[:, :3]  # [V, 3, 4]; one product for all views, as places are many
    x, y, depths = (
        (seen[..., :3].flatten(0, 1) @ positions.mT).unflatten(0, (-1, 3)).add(seen[..., 3:]).unbind(1)
    )
    return torch.stack([x, y], -1) / depths.clamp_min(1e-6)[..., None] - 1, depths


def sample_maps(maps: Float[Tensor, "v c p q"], grid: Float[Tensor, "v n 2"]) -> Float[Tensor, "v n c"]:
    """Bilinear values of each view's maps at places on its picture; its edge beyond it."""
    values = F.grid_sample(maps, grid[:, None].to(maps), align_corners=False, padding_mode="border")
    return values[:, :, 0].mT


def visible(grid: Float[Tensor, "v n 2"], depths: Float[Tensor, "v n"]) -> Bool[Tensor, "v n"]:
    """Whether places that `project` has found are in front of a camera and in its picture."""
    return (grid.abs() <= 1).all(-1) & (depths > 0)


def pool_views(
    each: Float[Tensor, "v n c"], seen: Bool[Tensor, "v n"]
) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n c"]]:
    """Mean and variance over the views that see a place; 0 where none does."""
    shares = seen.to(each)[..., None]
    shares = shares / shares.sum(0).clamp_min(1)
    mean = (shares * each).sum(0)
    return mean, (shares * (each - mean).square()).sum(0)


def settle(views: Views, centre: Float[Tensor, " 3"], radius: float) -> Views:
    """Cameras in a frame with the axes of the first one and `centre` as its origin, rounded.

    Rotations are rounded to 1/256, and where the centre is seen to radius / 256: less than a cell, however
    far the cameras are.
    """
    rotations, centres = views.viewmats[:, :3, :3].double(), centre.double()
    turns = (rotations @ rotations[0].mT * 256).round() / 256
    seen_at = rotations @ centres + views.viewmats[:, :3, 3].double()
    seen_at = (seen_at * (256 / radius)).round() * (radius / 256)
    viewmats = torch.eye(4).to(turns).repeat(len(views), 1, 1)
    viewmats[:, :3, :3], viewmats[:, :3, 3] = turns, seen_at
    return replace(views, viewmats=viewmats.to(views.viewmats))


def unsettle(views: Views, centre: Float[Tensor, " 3"], places: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """From the settled frame to the world."""
    return places @ views.viewmats[0, :3, :3] + centre


def ball_cells(centre: Float[Tensor, " 3"], radius: float, count: int) -> Float[Tensor, "n 3"]:
    """Middles of the cells in a ball, of a grid with `count` cells along the edge of the cube around it."""
    cube = cube_cells(radius, count).to(centre)
    return cube[cube.square().sum(1) <= radius**2] + centre


def cube_cells(radius: float, count: int) -> Float[Tensor, "n 3"]:
    """Middles of the cells of a cube around the origin, `count` along its edge of 2 · radius; z runs fastest.

    In double, on the CPU.
    """
    steps = ((torch.arange(count, dtype=torch.float64) + 0.5) * (2 / count) - 1) * radius
    return torch.cartesian_prod(steps, steps, steps)


def split_cells(cells: Float[Tensor, "n 3"], edge: float) -> Float[Tensor, "m 3"]:
    """Middles of the eight halves of each cell; `edge` is that of the whole ones."""
    corners = torch.cartesian_prod(*[cells.new_tensor([-0.25, 0.25])] * 3) * edge
    return (cells[:, None] + corners).flatten(0, 1)


def may_hold(
    views: Views, cells: Float[Tensor, "n 3"], edge: float, centre: Float[Tensor, " 3"], radius: float
) -> Bool[Tensor, " n"]:
    """Whether some of a cell may be in the visual hull: no view finds all of it, and what is near, empty."""
    nearest = (centre @ views.viewmats[:, :3, :3].mT + views.viewmats[:, :3, 3])[:, 2] - radius
    pixels = 0.5 * 3**0.5 * edge * views.Ks[:, [0, 1], [0, 1]].amax(1) / nearest.clamp_min(0.25 * radius)
    most = min(views.width, views.height) // 2
    coverage = [
        dilate(alphas, min(int(reach.ceil()), most))
        for alphas, reach in zip(alpha_maps(views).split(1), pixels, strict=True)
    ]
    return in_hull(views, torch.cat(coverage), cells)


def dilate(maps: Float[Tensor, "v 1 h w"], reach: int) -> Float[Tensor, "v 1 h w"]:
    """The greatest value in a square around each pixel, by windows along each axis that double in width."""
    for dim in (-2, -1):
        pad = (reach, reach) if dim == -1 else (0, 0, reach, reach)
        maps, width = F.pad(maps, pad, value=-torch.inf), 1
        while width <= 2 * reach:
            step = min(width, 2 * reach + 1 - width)
            rest = maps.shape[dim] - step
            maps, width = maps.narrow(dim, 0, rest).maximum(maps.narrow(dim, step, rest)), width + step
    return maps


def carve(
    views: Views, centre: Float[Tensor, " 3"], radius: float, count: int
) -> tuple[Float[Tensor, "n 3"], float]:
    """Cells of a ball that may hold some of the visual hull, found from coarse to fine.

    Args:
        views: cameras and silhouettes; settled ones, where the choice is to be the same in any world.
        centre: of the ball, in the frame of the views.
        radius: of the ball.
        count: of cells along the edge of the cube around it; even.

    Returns:
        Their middles, and their edge.
    """
    edge = 2 * radius / count
    cells = ball_cells(centre, radius, count // 2)
    cells = split_cells(cells[may_hold(views, cells, 2 * edge, centre, radius)], 2 * edge)
    return cells[may_hold(views, cells, edge, centre, radius)], edge


def hull_points(views: Views, centre: Float[Tensor, " 3"], radius: float, count: int) -> Points:
    """A coloured cloud on the surface of the visual hull, as a scanner would give it.

    A cell has the mean colour of the views that it is near the front of.

    Args:
        views: with images, of which at least one shows something in the ball.
        centre: of the ball.
        radius: of the ball.
        count: of cells along the edge of the cube around it; even.
    """
    cells, edge = carve(views, centre, radius, count)
    grid, z = project(views, cells)
    front = hull_depths(*hull_ends(views, cells, count), grid, z)[..., 0]
    rgba = sample_maps(premultiplied(views), grid)
    seen = visible(grid, z)
    weights = (torch.exp(-(front / edge).clamp_min(0)) * seen).to(rgba)[..., None]
    outer = ((front < 1.5 * edge) & seen).any(0) & ((weights * rgba[..., 3:]).sum(0)[:, 0] > 0.05)
    rgb = (weights * rgba[..., :3]).sum(0) / (weights * rgba[..., 3:]).sum(0).clamp_min(1e-3)
    return Points(cells[outer], rgb[outer].clamp(0, 1))


def patch_of(
    views: Views, places: Float[Tensor, "n 3"], patches: int
) -> tuple[Int[Tensor, "v n"], Float[Tensor, "v n"], tuple[int, int]]:
    """Through which patch of each picture places are seen.

    Args:
        views: cameras.
        places: in their world.
        patches: along the longer side of a picture.

    Returns:
        The patch, counted row by row; for places that a view does not see, the number of all patches.
        Camera-space z of the places.
        How many patches a picture has down and across.
    """
    longest = max(views.width, views.height)
    height, width = (max(1, round(patches * side / longest)) for side in (views.height, views.width))
    grid, z = project(views, places)
    size = grid.new_tensor([width, height])
    at = ((grid + 1) * 0.5 * size).long().minimum((size - 1).long())
    at = torch.where(visible(grid, z), at[..., 1] * width + at[..., 0], height * width)
    return at, z, (height, width)


def hull_ends(
    views: Views, places: Float[Tensor, "n 3"], patches: int
) -> tuple[Float[Tensor, "v p q"], Float[Tensor, "v p q"]]:
    """Camera-space z where places begin and end, seen through a grid of patches; 0 where there are none."""
    at, z, (height, width) = patch_of(views, places, patches)
    ends = []
    for reduce, least in (("amin", torch.inf), ("amax", -torch.inf)):
        found = z.new_full((len(views), height * width + 1), least).scatter_reduce(1, at, z, reduce)[:, :-1]
        ends.append(torch.where(found.isfinite(), found, 0.0).unflatten(1, (height, width)))
    return ends[0], ends[1]


def hull_depths(
    fronts: Float[Tensor, "v p q"],
    backs: Float[Tensor, "v p q"],
    grid: Float[Tensor, "v n 2"],
    depths: Float[Tensor, "v n"],
) -> Float[Tensor, "v n 2"]:
    """How far places are behind the front and before the back of the hull, in each view; world units.

    Fades to 0 beside the hull: to divide by less than a quarter of a patch would magnify rounding.
    """
    maps = torch.stack([fronts, backs, (fronts > 0).to(fronts)], 1)
    ends, seen = sample_maps(maps, grid).split([2, 1], -1)
    behind = (depths[..., None] * seen - ends) / seen.clamp_min(0.25)
    return behind * behind.new_tensor([1.0, -1.0])


def in_hull(
    views: Views, coverage: Float[Tensor, "v 1 h w"], positions: Float[Tensor, "n 3"]
) -> Bool[Tensor, " n"]:
    """Whether no view that has a place in its picture finds less than half of its greatest coverage there."""
    grid, depths = project(views, positions)
    alphas = sample_maps(coverage, grid)[..., 0]
    most = coverage.amax((2, 3)).clamp_min(1e-3)
    return torch.where(visible(grid, depths), alphas / most, 1.0).amin(0) > 0.5


def premultiplied(views: Views) -> Float[Tensor, "v 4 h w"]:
    """Pictures times their alpha, and that; opaque where there is none."""
    assert views.images is not None
    alphas = alpha_maps(views)
    return torch.cat([views.images.permute(0, 3, 1, 2) * alphas, alphas], 1)


def alpha_maps(views: Views) -> Float[Tensor, "v 1 h w"]:
    """Coverage; all of it where pictures have no alpha."""
    assert views.images is not None
    if views.alphas is None:
        return views.images.new_ones(len(views), 1, views.height, views.width)
    return views.alphas.permute(0, 3, 1, 2)
