"""How far a picture is from what was seen."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
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
    return (1 - ssim_weight) * l1 + ssim_weight * dissimilarity(rgb, target)


def dissimilarity(rgb: Float[Tensor, "h w 3"], target: Float[Tensor, "h w 3"]) -> Float[Tensor, ""]:
    """1 − SSIM with a Gaussian window of 11 pixels (Wang et al. 2004), mean over all full windows.

    Windows in which both pictures are equal add nothing, so only those that hold a difference are looked at:
    the same value and gradient for a fraction of the work where an object stands before a plain background.
    """
    height, width = rgb.shape[0] - SSIM_WINDOW + 1, rgb.shape[1] - SSIM_WINDOW + 1
    differs = (rgb.detach() != target).any(-1)
    rows, columns = _windows(differs.any(1), height), _windows(differs.any(0), width)
    if rows is None or columns is None:
        return (rgb - target).sum() * 0
    crop = slice(*rows), slice(*columns)
    inside = 1 - ssim_map(rgb[crop].permute(2, 0, 1), target[crop].permute(2, 0, 1))
    return inside.mean() * (inside[0].numel() / (height * width))


def ssim_map(a: Float[Tensor, "3 h w"], b: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 p q"]:
    """SSIM of every full window; all five local moments in one pair of separable convolutions.

    Equal to pytorch_msssim's `ssim`, at half the time on a CPU.
    """
    moments = torch.cat([a, b, a * a, b * b, a * b])[None]
    row = _window(a.dtype, a.device).expand(15, 1, 1, -1)
    blurred = F.conv2d(F.conv2d(moments, row.mT, groups=15), row, groups=15)
    mean_a, mean_b, aa, bb, ab = blurred[0].unflatten(0, (5, 3))
    c1, c2 = 0.01**2, 0.03**2
    covariance, variances = ab - mean_a * mean_b, aa + bb - mean_a**2 - mean_b**2
    return ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / (
        (mean_a**2 + mean_b**2 + c1) * (variances + c2)
    )


@cache
def _window(dtype: torch.dtype, device: torch.device) -> Float[Tensor, "1 1 1 w"]:
    """The Gaussian of 11 pixels and σ = 1.5 of the SSIM paper."""
    offsets = torch.arange(SSIM_WINDOW, dtype=dtype, device=device) - SSIM_WINDOW // 2
    weights = (-(offsets**2) / (2 * 1.5**2)).exp()
    return (weights / weights.sum())[None, None, None]


def _windows(differs: Tensor, count: int) -> tuple[int, int] | None:
    """First and last pixel (exclusive) of all windows along one axis that hold a difference."""
    found = differs.nonzero()
    if len(found) == 0:
        return None
    first, last = int(found[0]), int(found[-1])
    begin = max(0, min(first - SSIM_WINDOW + 1, count - 1))
    end = min(last, count - 1) + SSIM_WINDOW
    return begin, end


def depth_loss(
    depth: Float[Tensor, "h w 1"], target: Float[Tensor, "h w 1"], alpha: Float[Tensor, "h w 1"]
) -> Float[Tensor, ""]:
    """Mean |z − z*| where the target is known (> 0) and something was rendered; zero if nowhere."""
    known = (target > 0) & (alpha > 0.5)
    return torch.where(known, (depth - target).abs(), 0.0).sum() / known.sum().clamp_min(1)
