"""Depth maps of the visual hull: where along each camera ray its voxels begin and end."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nest_nerfstudio.encoders.views import rgba_maps, without_masks
from nest_nerfstudio.encoders.voxels import carve
from nest_nerfstudio.geometry.multiview import pixel_indices, project, sample_maps, visible
from nest_nerfstudio.types import Points, Views


def patch_indices(
    views: Views, positions: Float[Tensor, "n 3"], patches: int
) -> tuple[Int[Tensor, "v n"], Float[Tensor, "v n"], tuple[int, int]]:
    """Patch of each image in which positions fall.

    Args:
        views: V cameras.
        positions: frame of the views.
        patches: patches along the longer side of an image.

    Returns:
        Index of the patch, row by row; the number of all patches where a position is not visible.
        Camera-space z of the positions, world units.
        Rows and columns of patches in an image.
    """
    longest = max(views.width, views.height)
    height, width = (max(1, round(patches * side / longest)) for side in (views.height, views.width))
    grid, depths = project(views, positions)
    indices = torch.where(visible(grid, depths), pixel_indices(grid, height, width), height * width)
    return indices, depths, (height, width)


def hull_depth_maps(
    views: Views, positions: Float[Tensor, "n 3"], patches: int
) -> tuple[Float[Tensor, "v p q"], Float[Tensor, "v p q"]]:
    """Smallest and largest camera-space z of positions, by patch of each image; 0 in patches that show none.

    Args:
        views: V cameras.
        positions: centres of the hull's voxels, frame of the views.
        patches: patches along the longer side of an image.

    Returns:
        Depths of the front and of the back, world units.
    """
    indices, depths, (height, width) = patch_indices(views, positions, patches)
    maps = []
    for reduce, start in (("amin", torch.inf), ("amax", -torch.inf)):
        found = depths.new_full((len(views), height * width + 1), start)
        found = found.scatter_reduce(1, indices, depths, reduce)[:, :-1]
        maps.append(torch.where(found.isfinite(), found, 0.0).unflatten(1, (height, width)))
    return maps[0], maps[1]


def depths_in_hull(
    fronts: Float[Tensor, "v p q"],
    backs: Float[Tensor, "v p q"],
    grid: Float[Tensor, "v n 2"],
    depths: Float[Tensor, "v n"],
) -> Float[Tensor, "v n 2"]:
    """Distances of positions behind the front and before the back of the hull, along z of each camera.

    They fade to 0 beside the hull: dividing by less than a quarter of a patch would amplify rounding errors.

    Args:
        fronts: depths from `hull_depth_maps`, world units.
        backs: of the far side.
        grid: grid coordinates of the positions, from `project`.
        depths: their camera-space z.
    """
    maps = torch.stack([fronts, backs, (fronts > 0).to(fronts)], 1)
    ends, coverage = sample_maps(maps, grid).split([2, 1], -1)
    behind = (depths[..., None] * coverage - ends) / coverage.clamp_min(0.25)
    return behind * behind.new_tensor([1.0, -1.0])


def hull_points(views: Views, centre: Float[Tensor, " 3"], radius: float, count: int) -> Points:
    """A coloured point cloud on the surface of the visual hull, as a scanner would give it.

    A point has the mean colour of the views, weighted by how near it is to the hull's front there.

    Args:
        views: with images, of which at least one shows something in the ball.
        centre: of the ball, frame of the views.
        radius: of the ball, world units.
        count: voxels along the edge of the cube around the ball; even.
    """
    views = without_masks(views)
    voxels, edge = carve(views, centre, radius, count)
    grid, depths = project(views, voxels)
    behind_front = depths_in_hull(*hull_depth_maps(views, voxels, count), grid, depths)[..., 0]
    rgba = sample_maps(rgba_maps(views), grid)
    seen = visible(grid, depths)
    weights = (torch.exp(-(behind_front / edge).clamp_min(0)) * seen).to(rgba)[..., None]
    alphas = (weights * rgba[..., 3:]).sum(0)
    is_surface = ((behind_front < 1.5 * edge) & seen).any(0) & (alphas[:, 0] > 0.05)
    rgb = (weights * rgba[..., :3]).sum(0) / alphas.clamp_min(1e-3)
    return Points(voxels[is_surface], rgb[is_surface].clamp(0, 1))


def part_of_hull(context: Views, centre: Float[Tensor, " 3"], radius: float, cells: int) -> Points | None:
    """A part of `hull_points`, of random size; None where views are too few or show too little."""
    if len(context) < 3 or context.alphas is None:
        return None
    points = hull_points(context, centre, radius, cells)
    kept = torch.rand(len(points), device=points.rgb.device) < 0.1 + 0.9 * torch.rand(()).item()
    return Points(points.positions[kept], points.rgb[kept]) if kept.sum() >= _FEWEST else None


_FEWEST = 64
"""Points that are enough to encode."""
