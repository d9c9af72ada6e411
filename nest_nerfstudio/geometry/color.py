"""Colours: the sRGB curve and turns of the hue."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def srgb_to_linear(rgb: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """Inverse of `linear_to_srgb` for values in [0, 1] (IEC 61966-2-1)."""
    return torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(rgb: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """The sRGB curve; above 1 it goes on straight, so that what is too bright still has a gradient."""
    curve = 1.055 * rgb.clamp(0.0031308, 1) ** (1 / 2.4) - 0.055
    return torch.where(rgb <= 0.0031308, 12.92 * rgb, curve) + (rgb - 1).clamp_min(0) * (1.055 / 2.4)


def shift_hue(rgb: Float[Tensor, "*b 3"], turn: Float[Tensor, ""] | float) -> Float[Tensor, "*b 3"]:
    """Turn the hue of HSV by a fraction of a turn; value and saturation stay. An action of the circle.

    f(n) = v − v s max(0, min(k, 4 − k, 1)), k = (n + 6 h) mod 6, for n = 5, 3, 1 (red, green, blue).
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
