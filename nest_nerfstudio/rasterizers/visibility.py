"""How much of each Gaussian a camera sees."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from nest_nerfstudio.geometry.sh import SH_C0
from nest_nerfstudio.rasterizers.base import Rasterizer
from nest_nerfstudio.rasterizers.dense import ALPHA_MIN, Camera, project
from nest_nerfstudio.types import Gaussians, Views


@torch.no_grad()
def visible_shares(
    rasterizer: Rasterizer, gaussians: Gaussians, views: Views, antialiased: bool = False
) -> Float[Tensor, "v n"]:
    """Mean transmittance before each Gaussian, Σ_p α T / Σ_p α over the pixels p that it covers.

    1 where nothing is before it, 0 where it is hidden or outside the picture. Σ α T is the derivative of the
    summed picture by the Gaussian's colour, and Σ α = 2π (o − 1/255) √det Σ₂D of the whole Gaussian, without
    α below 1/255: what lies beyond the border of the picture counts as not seen, but no more is asked of a
    Gaussian than to cover the picture. (RadSplat, arXiv 2403.13806, prunes by the largest α T.)

    Args:
        rasterizer: draws the Gaussians.
        gaussians: world frame, at one time.
        views: their pictures are not asked for.
        antialiased: as in `Rasterizer`.
    """
    shares = []
    for viewmat, K in zip(views.viewmats, views.Ks, strict=True):
        sh = torch.zeros_like(gaussians.sh[:, :1]).requires_grad_()  # grey
        with torch.enable_grad():
            rendering = rasterizer(
                replace(gaussians, sh=sh),
                viewmat[None],
                K[None],
                views.width,
                views.height,
                antialiased=antialiased,
            )
            (per_sh,) = torch.autograd.grad(rendering.rgb.sum(), sh)
        splats = project(gaussians, Camera(viewmat, K, views.width, views.height, near=0.0, far=math.inf))
        a, b, c = splats.conics.unbind(-1)
        opacities = gaussians.opacities * splats.compensations if antialiased else gaussians.opacities
        whole = 2 * math.pi * (opacities - ALPHA_MIN).clamp_min(1e-6) / (a * c - b * b).sqrt()
        whole = torch.minimum(whole, opacities * (views.width * views.height))
        shares.append((per_sh[:, 0, 0] / SH_C0 / whole).nan_to_num(0.0, 0.0, 0.0))
    return torch.stack(shares)
