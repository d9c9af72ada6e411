"""How far a picture is from what was seen."""

from __future__ import annotations

import torch
from jaxtyping import Float
from pytorch_msssim import ssim
from torch import Tensor

SSIM_WINDOW = 11
"""Pixels; smaller pictures have no D-SSIM term."""


def photometric_loss(
    rgb: Float[Tensor, "h w 3"],
    target: Float[Tensor, "h w 3"],
    ssim_weight: float = 0.2,
    mask: Float[Tensor, "h w 1"] | None = None,
) -> Float[Tensor, ""]:
    """(1 − λ) L1 + λ (1 − SSIM), as 3D Gaussian Splatting (arXiv 2308.04079, Eq. 7).

    Args:
        rgb: rendered picture.
        target: seen picture.
        ssim_weight: λ.
        mask: 1 where the target counts, 0 elsewhere. Masked pixels count as equal.
    """
    if mask is not None:
        rgb = torch.where(mask > 0.5, rgb, target)
    l1 = (rgb - target).abs().mean()
    if ssim_weight == 0 or min(rgb.shape[:2]) < SSIM_WINDOW:
        return l1
    structure = ssim(rgb.permute(2, 0, 1)[None], target.permute(2, 0, 1)[None], data_range=1.0)
    return (1 - ssim_weight) * l1 + ssim_weight * (1 - structure)


def depth_loss(
    depth: Float[Tensor, "h w 1"], target: Float[Tensor, "h w 1"], alpha: Float[Tensor, "h w 1"]
) -> Float[Tensor, ""]:
    """Mean |z − z*| where the target is known (> 0) and something was rendered; zero if nowhere."""
    known = (target > 0) & (alpha > 0.5)
    return torch.where(known, (depth - target).abs(), 0.0).sum() / known.sum().clamp_min(1)
