"""Photometric losses, in plain torch and as compiled kernels on the CPU; and the loss on depth."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from nest_nerfstudio.compiled import as_array, fits_kernels
from nest_nerfstudio.thread_pool import SHARED, even_ranges

SSIM_WINDOW = 11
"""Side of the SSIM window, pixels; smaller images have no SSIM term."""


def photometric_loss(
    rgb: Float[Tensor, "h w 3"],
    target: Float[Tensor, "h w 3"],
    ssim_lambda: float = 0.2,
    mask: Float[Tensor, "h w 1"] | None = None,
) -> Float[Tensor, ""]:
    """Photometric loss (1 − λ) L1 + λ (1 − SSIM) of 3D Gaussian Splatting (arXiv 2308.04079, Eq. 7).

    Args:
        rgb: rendered image, sRGB in [0, 1].
        target: ground-truth image, sRGB in [0, 1].
        ssim_lambda: λ, the weight of the SSIM term.
        mask: 1 for pixels that count, 0 for pixels that are ignored: black in both images.

    Returns:
        The loss, averaged over all pixels. L1 alone if the image is smaller than the SSIM window.
    """
    has_ssim = ssim_lambda > 0 and min(rgb.shape[:2]) >= SSIM_WINDOW
    if has_ssim and fits_kernels(rgb) and rgb.dtype == target.dtype and not target.requires_grad:
        return _Photometric.apply(rgb, target, ssim_lambda, mask)
    return photometric_loss_reference(rgb, target, ssim_lambda, mask)


def photometric_loss_reference(
    rgb: Float[Tensor, "h w 3"],
    target: Float[Tensor, "h w 3"],
    ssim_lambda: float = 0.2,
    mask: Float[Tensor, "h w 1"] | None = None,
) -> Float[Tensor, ""]:
    """`photometric_loss` in plain torch, on any device and in any dtype."""
    if mask is not None:
        rgb, target = (torch.where(mask > 0.5, image, 0.0) for image in (rgb, target))
    l1 = (rgb - target).abs().mean()
    if ssim_lambda == 0 or min(rgb.shape[:2]) < SSIM_WINDOW:
        return l1
    return (1 - ssim_lambda) * l1 + ssim_lambda * ssim_loss(rgb, target)


class _Photometric(torch.autograd.Function):
    """Image, target, λ and mask to the loss; the forward pass makes its gradient, of the same windows."""

    @staticmethod
    def forward(ctx: Any, rgb: Tensor, target: Tensor, ssim_lambda: float, mask: Tensor | None) -> Tensor:
        # numba is slow to import, and nobody else needs it
        from nest_nerfstudio.losses import photometric_kernels as kernels

        height, width, _ = rgb.shape
        images = as_array(rgb), as_array(target)
        dtype = images[0].dtype
        used = np.empty((0, 0), dtype) if mask is None else as_array(mask[..., 0].to(rgb))
        a, b = np.empty((2, height, 3 * width), dtype)
        distances, spans = np.empty(height), np.empty((height, 2), np.int64)
        _in_rows(kernels.compare_rows, 0, height, *images, used, a, b, distances, spans)
        rows = np.flatnonzero(spans[:, 1] >= 0)
        if not len(rows):
            ctx.save_for_backward(torch.zeros_like(rgb))
            return rgb.new_zeros(())
        num_rows, num_columns = height - SSIM_WINDOW + 1, width - SSIM_WINDOW + 1
        top, bottom = _windows_of(int(rows[0]), int(rows[-1]), num_rows)
        begin, end = _windows_of(int(spans[:, 0].min()), int(spans[:, 1].max()), num_columns)
        weights = as_array(_gaussian_window(rgb.dtype, rgb.device).flatten())
        errors = np.zeros(num_rows)
        slopes = np.empty((kernels.SLOPES, num_rows, 3 * (end - begin)), dtype)
        l1_share = dtype.type((1 - ssim_lambda) / rgb.numel())
        share = dtype.type(ssim_lambda / (3 * num_rows * num_columns))
        _in_rows(kernels.compare_windows, top, bottom, begin, end, weights, share, a, b, errors, slopes)
        if ctx.needs_input_grad[0]:
            gradient = torch.empty_like(rgb, memory_format=torch.contiguous_format)
            windows = top, bottom, begin, end
            arrays = a, b, used, slopes, as_array(gradient).reshape(height, -1)
            _in_rows(kernels.gradient_rows, 0, height, windows, weights, l1_share, *arrays)
            ctx.save_for_backward(gradient)
        return rgb.new_tensor(l1_share * distances.sum() + share * errors.sum())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_loss: Tensor) -> tuple[Tensor | None, ...]:
        return v_loss * ctx.saved_tensors[0], None, None, None


def _in_rows(kernel: Any, first: int, last: int, *args: Any) -> None:
    """Run a kernel on rows of an image, in turns on all threads."""
    ranges = even_ranges(last - first, 4 * SHARED.threads if SHARED.threads > 1 else 1)
    SHARED.run(kernel, [(first + i, first + j) for i, j in ranges], *args)


def _windows_of(first: int, last: int, count: int) -> tuple[int, int]:
    """First and last (exclusive), along one axis, of all `count` windows that contain pixels of a range."""
    return max(0, min(first - SSIM_WINDOW + 1, count - 1)), min(last, count - 1) + 1


def ssim_loss(rgb: Float[Tensor, "h w 3"], target: Float[Tensor, "h w 3"]) -> Float[Tensor, ""]:
    """1 − SSIM with a Gaussian window of 11 pixels (Wang et al. 2004), averaged over all full windows.

    Windows in which both images are equal contribute zero, so only the bounding box of the differences is
    evaluated: the same value and gradient at a fraction of the cost for an object before a plain background.

    Args:
        rgb: rendered image, values in [0, 1], at least 11 pixels wide and high.
        target: ground-truth image, values in [0, 1].
    """
    height, width = rgb.shape[0] - SSIM_WINDOW + 1, rgb.shape[1] - SSIM_WINDOW + 1
    differs = (rgb.detach() != target).any(-1)
    rows, columns = _window_range(differs.any(1), height), _window_range(differs.any(0), width)
    if rows is None or columns is None:
        return (rgb - target).sum() * 0
    crop = slice(*rows), slice(*columns)
    inside = 1 - ssim_map(rgb[crop].permute(2, 0, 1), target[crop].permute(2, 0, 1))
    return inside.mean() * (inside[0].numel() / (height * width))


def ssim_map(a: Float[Tensor, "3 h w"], b: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 p q"]:
    """SSIM of every full window (Wang et al. 2004, Eq. 13), for values in [0, 1].

    All five local moments are computed in one pair of separable convolutions. The mean is pytorch_msssim's
    `ssim`, in half the time on a CPU.

    Args:
        a: image.
        b: image to compare with.

    Returns:
        One value per channel and window, with p = h − 10 and q = w − 10.
    """
    moments = torch.cat([a, b, a * a, b * b, a * b])[None]
    row = _gaussian_window(a.dtype, a.device).expand(15, 1, 1, -1)
    blurred = F.conv2d(F.conv2d(moments, row.mT, groups=15), row, groups=15)
    mean_a, mean_b, aa, bb, ab = blurred[0].unflatten(0, (5, 3))
    c1, c2 = 0.01**2, 0.03**2
    covariance, variances = ab - mean_a * mean_b, aa + bb - mean_a**2 - mean_b**2
    return ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / (
        (mean_a**2 + mean_b**2 + c1) * (variances + c2)
    )


@cache
def _gaussian_window(dtype: torch.dtype, device: torch.device) -> Float[Tensor, "1 1 1 w"]:
    """Normalised Gaussian of 11 pixels and σ = 1.5 pixels, as in the SSIM paper."""
    offsets = torch.arange(SSIM_WINDOW, dtype=dtype, device=device) - SSIM_WINDOW // 2
    weights = (-(offsets**2) / (2 * 1.5**2)).exp()
    return (weights / weights.sum())[None, None, None]


def _window_range(differs: Tensor, count: int) -> tuple[int, int] | None:
    """First and last pixel (exclusive), along one axis, of all `count` windows that contain a difference."""
    found = differs.nonzero()
    if len(found) == 0:
        return None
    first, last = _windows_of(int(found[0]), int(found[-1]), count)
    return first, last + SSIM_WINDOW - 1


def depth_loss(
    depth: Float[Tensor, "h w 1"], target: Float[Tensor, "h w 1"], alpha: Float[Tensor, "h w 1"]
) -> Float[Tensor, ""]:
    """Mean |z − z*| over the pixels with a known target depth (z* > 0) and rendered alpha above 0.5.

    Args:
        depth: rendered depth, camera-space z, world units.
        target: ground-truth depth, world units; 0 where unknown.
        alpha: rendered alpha.

    Returns:
        The loss in world units; zero if no pixel qualifies.
    """
    known = (target > 0) & (alpha > 0.5)
    return torch.where(known, (depth - target).abs(), 0.0).sum() / known.sum().clamp_min(1)
