"""Colours: the sRGB transfer curve, hue shifts and exposure."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def srgb_to_linear(rgb: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """Convert sRGB values in [0, 1] to linear light (IEC 61966-2-1): the inverse of `linear_to_srgb`.

    Args:
        rgb: sRGB values.
    """
    return torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(rgb: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """Convert linear light to sRGB (IEC 61966-2-1).

    Above 1 the curve is continued by its tangent, so that overexposed values still have a gradient.

    Args:
        rgb: linear values ≥ 0.
    """
    curve = 1.055 * rgb.clamp(0.0031308, 1) ** (1 / 2.4) - 0.055
    return torch.where(rgb <= 0.0031308, 12.92 * rgb, curve) + (rgb - 1).clamp_min(0) * (1.055 / 2.4)


def shift_hue(rgb: Float[Tensor, "*b 3"], turn: Float[Tensor, "*#b 1"] | float) -> Float[Tensor, "*b 3"]:
    """Shift the HSV hue and keep saturation and value; shifts add up, and a shift by 1 is the identity.

    f(n) = v − v s max(0, min(k, 4 − k, 1)), k = (n + 6 h) mod 6, for n = 5, 3, 1 (red, green, blue).

    Args:
        rgb: values in [0, 1].
        turn: shift as a fraction of the colour circle, one or one for each colour: 1/3 takes red to green.
    """
    high, low = rgb.amax(-1, keepdim=True), rgb.amin(-1, keepdim=True)
    chroma = high - low
    red, green, blue = rgb.split(1, -1)
    safe = chroma.clamp_min(1e-9)
    sixths = torch.where(
        high == red,
        (green - blue) / safe,
        torch.where(high == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    k = (rgb.new_tensor([5.0, 3.0, 1.0]) + sixths + 6 * turn) % 6
    return high - chroma * torch.minimum(k, 4 - k).clamp(0, 1)


def expose(
    rgb: Float[Tensor, "v h w 3"],
    alpha: Float[Tensor, "v h w 1"],
    background: Float[Tensor, " 3"],
    exposures: Float[Tensor, "v 3 4"],
) -> Float[Tensor, "v h w 3"]:
    """Images under another exposure: c → A c + b for what stands before the background, which stays.

    Args:
        rgb: over the background.
        alpha: coverage.
        background: behind the images.
        exposures: (A, b) of each image.
    """
    behind = (1 - alpha) * background
    gains, offsets = exposures[:, None, :, :3], exposures[:, None, None, :, 3]
    return (rgb - behind) @ gains.mT + alpha * offsets + behind
