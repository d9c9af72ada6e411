"""Multi-view geometry: where world points are seen in images, and what images and maps hold there.

Cameras are pinholes: world-to-camera OpenCV matrices (`viewmats`) and intrinsics in pixels (`Ks`); the centre
of the top-left pixel is at (0.5, 0.5), so an image spans [0, width] × [0, height].
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def shrink(
    image: Float[Tensor, "*b h w c"], factor: int, how: Literal["mean", "min", "nearest"]
) -> Float[Tensor, "*b p q c"]:
    """Shrink images by a whole factor; rows and columns left over at the right and bottom are cut off.

    Their camera shrinks with them: Ks / [factor, factor, 1], height // factor, width // factor.

    Args:
        image: any values. Colours that have an alpha must be premultiplied by it before their mean is taken.
        factor: ≥ 1.
        how: of the factor × factor pixels of a block, their mean (colours, coverage), their least (masks of
            what is valid), or the middle one (depths; for an even factor, the one right below the middle).
    """
    if factor == 1:
        return image
    height, width, channels = image.shape[-3] // factor, image.shape[-2] // factor, image.shape[-1]
    if how == "nearest":
        middle = slice(factor // 2, None, factor)
        return image[..., middle, middle, :][..., :height, :width, :]
    flat = image.reshape(-1, *image.shape[-3:]).movedim(-1, 1)
    small = F.avg_pool2d(flat, factor) if how == "mean" else -F.max_pool2d(-flat, factor)
    return small.movedim(1, -1).reshape(*image.shape[:-3], height, width, channels)
