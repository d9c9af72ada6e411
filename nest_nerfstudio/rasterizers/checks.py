"""Checks of a rasterizer's inputs, with errors that name the tensor."""

from __future__ import annotations

import torch
from torch import Tensor

from nest_nerfstudio.geometry.sh import MAX_BASIS_DEGREE
from nest_nerfstudio.types import Gaussians


def check_inputs(
    gaussians: Gaussians,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    backgrounds: Tensor | None,
    *,
    device: str | None = None,
) -> None:
    """Check that shapes, float types and devices fit together.

    Args:
        gaussians: Gaussians to render.
        viewmats: [C, 4, 4].
        Ks: [C, 3, 3].
        width: image width, pixels.
        height: image height, pixels.
        backgrounds: [C, 3] or None.
        device: required type of device; None allows any, but the same for all tensors.

    Raises:
        ValueError: names the tensor and says what is wrong with it.
    """
    n, c = len(gaussians.means), len(viewmats)
    k = gaussians.sh.shape[1] if gaussians.sh.ndim == 3 else 0
    wanted = {
        "means": (gaussians.means, (n, 3)),
        "quats": (gaussians.quats, (n, 4)),
        "scales": (gaussians.scales, (n, 3)),
        "opacities": (gaussians.opacities, (n,)),
        "sh": (gaussians.sh, (n, k, 3)),
        "viewmats": (viewmats, (c, 4, 4)),
        "Ks": (Ks, (c, 3, 3)),
    }
    if backgrounds is not None:
        wanted["backgrounds"] = backgrounds, (c, 3)
    first = gaussians.means
    if device is not None and first.device.type != device:
        raise ValueError(f"this rasterizer needs tensors on {device}, but means are on {first.device}")
    if first.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"means must be float32 or float64, got {first.dtype}")
    for name, (tensor, shape) in wanted.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must be {list(shape)}, got {list(tensor.shape)}")
        if tensor.dtype != first.dtype:
            raise ValueError(
                f"{name} must have the floating type of means, {first.dtype}, got {tensor.dtype}"
            )
        if tensor.device != first.device:
            raise ValueError(f"{name} must be on the device of means, {first.device}, got {tensor.device}")
    if width < 1 or height < 1:
        raise ValueError(f"an image needs at least one pixel, got {width} x {height}")


def resolve_sh_degree(gaussians: Gaussians, sh_degree: int | None) -> int:
    """Degree of spherical harmonics to render.

    Args:
        gaussians: their coefficients limit the degree.
        sh_degree: requested degree; None uses all coefficients.

    Returns:
        A degree from 0 to 4.

    Raises:
        ValueError: the number of coefficients is not 1, 4, 9, 16 or 25, or too small for `sh_degree`.
    """
    stored = gaussians.sh_degree
    if stored < 0 or (stored + 1) ** 2 != gaussians.sh.shape[1]:
        raise ValueError(f"sh must hold 1, 4, 9, 16 or 25 coefficients, got {gaussians.sh.shape[1]}")
    degree = stored if sh_degree is None else sh_degree
    if not 0 <= degree <= min(stored, MAX_BASIS_DEGREE):
        raise ValueError(f"sh_degree must be from 0 to {min(stored, MAX_BASIS_DEGREE)}, got {degree}")
    return degree
