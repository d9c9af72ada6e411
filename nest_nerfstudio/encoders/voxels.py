"""Voxels of the visual hull: a grid over the scene's ball, carved by silhouettes from coarse to fine.

With several views the voxels that are left fill the visual hull; with one view, the cone of its silhouette.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from nest_nerfstudio.encoders.views import alpha_maps
from nest_nerfstudio.geometry.multiview import project, sample_maps, visible
from nest_nerfstudio.types import Views


def cube_voxels(radius: float, count: int) -> Float[Tensor, "n 3"]:
    """Centres of the voxels of the cube [−radius, radius]³, z fastest; in double precision, on the CPU.

    Args:
        radius: half an edge of the cube, world units.
        count: voxels along an edge.
    """
    steps = ((torch.arange(count, dtype=torch.float64) + 0.5) * (2 / count) - 1) * radius
    return torch.cartesian_prod(steps, steps, steps)


def ball_voxels(centre: Float[Tensor, " 3"], radius: float, count: int) -> Float[Tensor, "n 3"]:
    """Centres of the voxels in a ball, of a grid with `count` voxels along the edge of the cube around it."""
    cube = cube_voxels(radius, count).to(centre)
    return cube[cube.square().sum(1) <= radius**2] + centre


def split_voxels(voxels: Float[Tensor, "n 3"], edge: float) -> Float[Tensor, "m 3"]:
    """Centres of the eight parts of each voxel.

    Args:
        voxels: centres of the whole voxels.
        edge: of the whole voxels, world units.
    """
    offsets = torch.cartesian_prod(*[voxels.new_tensor([-0.25, 0.25])] * 3) * edge
    return (voxels[:, None] + offsets).flatten(0, 1)


def carve(
    views: Views, centre: Float[Tensor, " 3"], radius: float, count: int
) -> tuple[Float[Tensor, "n 3"], float]:
    """Voxels of a ball that may intersect the visual hull, found from coarse to fine.

    Args:
        views: cameras and silhouettes; in the reference frame where the result must not depend on the
            world's.
        centre: of the ball, frame of the views.
        radius: of the ball, world units.
        count: voxels along the edge of the cube around the ball; even.

    Returns:
        Centres of the voxels, frame of the views.
        Their edge, world units.
    """
    edge = 2 * radius / count
    voxels = ball_voxels(centre, radius, count // 2)
    voxels = split_voxels(voxels[may_touch_hull(views, voxels, 2 * edge, centre, radius)], 2 * edge)
    return voxels[may_touch_hull(views, voxels, edge, centre, radius)], edge


def may_touch_hull(
    views: Views, voxels: Float[Tensor, "n 3"], edge: float, centre: Float[Tensor, " 3"], radius: float
) -> Bool[Tensor, " n"]:
    """Whether a voxel may intersect the visual hull: no view finds all of the voxel and its surroundings
    empty.

    Conservative: silhouettes are dilated by what half the diagonal of a voxel spans in each image.

    Args:
        views: cameras and silhouettes.
        voxels: centres, frame of the views.
        edge: of the voxels, world units.
        centre: of the ball that they are in, frame of the views.
        radius: of that ball, world units.
    """
    nearest = (centre @ views.viewmats[:, :3, :3].mT + views.viewmats[:, :3, 3])[:, 2] - radius
    pixels = 0.5 * 3**0.5 * edge * views.Ks[:, [0, 1], [0, 1]].amax(1) / nearest.clamp_min(0.25 * radius)
    most = min(views.width, views.height) // 2
    silhouettes = [
        dilate(alphas, min(int(reach), most))
        for alphas, reach in zip(alpha_maps(views).split(1), pixels.ceil().tolist(), strict=True)
    ]
    return in_hull(views, torch.cat(silhouettes), voxels)


def in_hull(
    views: Views, silhouettes: Float[Tensor, "v 1 h w"], positions: Float[Tensor, "n 3"]
) -> Bool[Tensor, " n"]:
    """Whether, in every view whose image a position falls in, the silhouette there exceeds half of its
    maximum.

    Args:
        views: cameras.
        silhouettes: alpha of each view; relative to its maximum, so that translucent objects count.
        positions: frame of the views.
    """
    grid, depths = project(views, positions)
    alphas = sample_maps(silhouettes, grid)[..., 0]
    most = silhouettes.amax((2, 3)).clamp_min(1e-3)
    return torch.where(visible(grid, depths), alphas / most, 1.0).amin(0) > 0.5


def dilate(maps: Float[Tensor, "v 1 h w"], reach: int) -> Float[Tensor, "v 1 h w"]:
    """Maximum over a square of (2 · reach + 1)² pixels around each pixel.

    By windows along each axis that double in width: log(reach) passes, where max pooling takes reach².
    """
    for dim in (-2, -1):
        pad = (reach, reach) if dim == -1 else (0, 0, reach, reach)
        maps, width = F.pad(maps, pad, value=-torch.inf), 1
        while width <= 2 * reach:
            step = min(width, 2 * reach + 1 - width)
            rest = maps.shape[dim] - step
            maps, width = maps.narrow(dim, 0, rest).maximum(maps.narrow(dim, step, rest)), width + step
    return maps
