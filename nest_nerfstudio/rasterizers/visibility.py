"""Visibility of Gaussians from cameras."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from nest_nerfstudio.geometry.sh import SH_C0
from nest_nerfstudio.rasterizers.base import Rasterizer
from nest_nerfstudio.rasterizers.constants import ALPHA_MIN
from nest_nerfstudio.rasterizers.dense import Camera, project
from nest_nerfstudio.types import Gaussians, Views


@torch.no_grad()
def visible_shares(
    rasterizer: Rasterizer, gaussians: Gaussians, views: Views, antialiased: bool = False
) -> Float[Tensor, "v n"]:
    """Visible fraction of each Gaussian in each view: its mean transmittance Σ_p α T / Σ_p α over pixels p.

    1 if nothing is in front of it, 0 if it is hidden, masked out or outside the image. Σ α T is the
    derivative of the sum of the pixels to use with respect to the Gaussian's colour. Σ α =
    2π (o − 1/255) √det Σ₂D is that of the whole Gaussian, without α below 1/255, because parts beyond the
    image border are not visible; but at most that of a Gaussian that covers the image. (RadSplat, arXiv
    2403.13806, prunes by the largest α T.)

    Args:
        rasterizer: renders the Gaussians.
        gaussians: Gaussians in the world frame, at one time.
        views: V cameras, with masks where there are any; their images are not used.
        antialiased: as in `Rasterizer`.

    Returns:
        Fractions, about 0 to 1.
    """
    shares = []
    masks = [1.0] * len(views) if views.masks is None else views.masks
    for viewmat, K, mask in zip(views.viewmats, views.Ks, masks, strict=True):
        sh = torch.zeros_like(gaussians.sh[:, :1]).requires_grad_()  # zero coefficients: mid-grey
        with torch.enable_grad():
            rendering = rasterizer(
                replace(gaussians, sh=sh),
                viewmat[None],
                K[None],
                views.width,
                views.height,
                antialiased=antialiased,
            )
            (per_sh,) = torch.autograd.grad((rendering.rgb * mask).sum(), sh)
        splats = project(gaussians, Camera(viewmat, K, views.width, views.height, near=0.0, far=math.inf))
        a, b, c = splats.conics.unbind(-1)
        opacities = gaussians.opacities * splats.compensations if antialiased else gaussians.opacities
        whole = 2 * math.pi * (opacities - ALPHA_MIN).clamp_min(1e-6) / (a * c - b * b).sqrt()
        whole = torch.minimum(whole, opacities * (views.width * views.height))
        shares.append((per_sh[:, 0, 0] / SH_C0 / whole).nan_to_num(0.0, 0.0, 0.0))
    return torch.stack(shares)
