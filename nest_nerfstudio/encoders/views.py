"""Views as the networks of an encoder read them: image maps, statistics over views, and a frame of reference.

Which voxels are kept is a discrete choice, and rounding errors must not change it when the world turns. So it
is made in the *reference frame*: axes of the first camera, origin at the scene's centre, camera poses
rounded. What is chosen is mapped back to the world by the first camera's exact pose."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nest_nerfstudio.types import Views


def to_reference_frame(views: Views, centre: Float[Tensor, " 3"], radius: float) -> Views:
    """The cameras in the reference frame, rounded.

    Rotations are rounded to 1/256, and the centre's position in each camera's frame to radius / 256: less
    than a voxel, however far the cameras are.

    Args:
        views: world frame.
        centre: origin of the reference frame, world frame.
        radius: of the scene, world units.
    """
    rotations, centres = views.viewmats[:, :3, :3].double(), centre.double()
    turns = (rotations @ rotations[0].mT * 256).round() / 256
    offsets = rotations @ centres + views.viewmats[:, :3, 3].double()
    offsets = (offsets * (256 / radius)).round() * (radius / 256)
    viewmats = torch.eye(4).to(turns).repeat(len(views), 1, 1)
    viewmats[:, :3, :3], viewmats[:, :3, 3] = turns, offsets
    return replace(views, viewmats=viewmats.to(views.viewmats))


def from_reference_frame(
    views: Views, centre: Float[Tensor, " 3"], positions: Float[Tensor, "n 3"]
) -> Float[Tensor, "n 3"]:
    """Positions in the reference frame to the world frame.

    Args:
        views: the views in the world frame, whose first camera gives the axes; not rounded.
        centre: origin of the reference frame, world frame.
        positions: reference frame.
    """
    return positions @ views.viewmats[0, :3, :3] + centre


def without_masks(views: Views) -> Views:
    """The views with all pixels to be used: those that were masked out are grey, and opaque where there is
    alpha, so that no silhouette ends there."""
    if views.masks is None:
        return views
    used = views.masks > 0.5
    return replace(
        views,
        masks=None,
        images=None if views.images is None else torch.where(used, views.images, 0.5),
        alphas=None if views.alphas is None else torch.where(used, views.alphas, 1.0),
    )


def rgba_maps(views: Views) -> Float[Tensor, "v 4 h w"]:
    """Images premultiplied by their alpha, and the alpha; opaque where there is none."""
    assert views.images is not None
    alphas = alpha_maps(views)
    return torch.cat([views.images.permute(0, 3, 1, 2) * alphas, alphas], 1)


def alpha_maps(views: Views) -> Float[Tensor, "v 1 h w"]:
    """Alphas of the images; 1 where there are none."""
    assert views.images is not None
    if views.alphas is None:
        return views.images.new_ones(len(views), 1, views.height, views.width)
    return views.alphas.permute(0, 3, 1, 2)


def view_statistics(
    values: Float[Tensor, "v n c"], seen: Bool[Tensor, "v n"]
) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n c"]]:
    """Mean and variance over the views that see a position; 0 where none does."""
    shares = seen.to(values)[..., None]
    shares = shares / shares.sum(0).clamp_min(1)
    mean = (shares * values).sum(0)
    return mean, (shares * (values - mean).square()).sum(0)
