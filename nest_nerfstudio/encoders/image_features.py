"""Feature maps of images: a small feature pyramid network."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class ImageFeatures(nn.Module):
    """Feature maps at a quarter of the image's resolution, with the context of the whole image.

    A feature pyramid network (Lin et al., arXiv 1612.03144): five convolutions of stride 2, of which the
    coarse maps are upsampled and added to the fine ones. Images do not affect each other.

    Args:
        width: channels of the result; a multiple of 16.
        in_channels: channels of the images.
    """

    def __init__(self, width: int, in_channels: int = 4) -> None:
        super().__init__()
        widths = [width // 2, width, width, 2 * width, 2 * width]
        self.levels = nn.ModuleList(
            _DownBlock(before, after) for before, after in zip([in_channels, *widths], widths, strict=False)
        )
        self.laterals = nn.ModuleList(nn.Conv2d(w, width, 1) for w in widths[1:])
        self.output = nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1))

    def forward(self, images: Float[Tensor, "v i h w"]) -> Float[Tensor, "v c p q"]:
        """Feature maps of images of any size, p = ⌈h / 4⌉ and q = ⌈w / 4⌉."""
        maps, x = [], images
        for level in self.levels:
            x = level(x)
            maps.append(x)
        merged = self.laterals[-1](maps[-1])
        for fine, lateral in zip(reversed(maps[1:-1]), reversed(self.laterals[:-1]), strict=True):
            size = fine.shape[-2:]
            merged = lateral(fine) + F.interpolate(merged, size, mode="bilinear", align_corners=False)
        return self.output(merged)


class _DownBlock(nn.Module):
    """Halves the resolution, then a residual convolution; group norms, which treat each image alone."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.downsample = nn.Conv2d(before, after, 3, stride=2, padding=1)
        self.residual = nn.Sequential(
            nn.GroupNorm(min(8, after), after), nn.SiLU(), nn.Conv2d(after, after, 3, padding=1)
        )

    def forward(self, x: Float[Tensor, "v i h w"]) -> Float[Tensor, "v c p q"]:
        x = self.downsample(x)
        return x + self.residual(x)
