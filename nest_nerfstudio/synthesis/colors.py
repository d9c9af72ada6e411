"""`geometry.color` for NumPy arrays."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float

from nest_nerfstudio.geometry import color


def to_srgb(linear: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Clip to [0, 1] and apply the sRGB transfer curve (IEC 61966-2-1)."""
    return color.linear_to_srgb(torch.from_numpy(np.clip(linear, 0.0, 1.0))).numpy()


def from_srgb(encoded: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """The inverse of `to_srgb` on [0, 1]."""
    return color.srgb_to_linear(torch.from_numpy(encoded)).numpy()


def shift_hue(rgb: Float[np.ndarray, "*shape 3"], hue: float) -> Float[np.ndarray, "*shape 3"]:
    """Shift the hue of linear RGB in [0, 1] by a fraction of a turn; saturation and value (HSV) stay."""
    return color.shift_hue(torch.from_numpy(np.clip(rgb, 0.0, 1.0)), hue).numpy()
