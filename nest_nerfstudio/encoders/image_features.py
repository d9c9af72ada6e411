"""Features of a picture: a small convolutional pyramid, read at any place of it."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class ImageFeatures(nn.Module):
    """RGBA to a map at a quarter of its size; coarse levels, which see all of it, are added to fine ones."""

    def __init__(self, width: int, in_channels: int = 4) -> None:
        super().__init__()
        widths = [width // 2, width, width, 2 * width, 2 * width]
        self.downs = nn.ModuleList(
            _Block(before, after) for before, after in zip([in_channels, *widths], widths, strict=False)
        )
        self.laterals = nn.ModuleList(nn.Conv2d(w, width, 1) for w in widths[1:])
        self.last = nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1))

    def forward(self, rgba: Float[Tensor, "v 4 h w"]) -> Float[Tensor, "v c p q"]:
        levels, x = [], rgba
        for down in self.downs:
            x = down(x)
            levels.append(x)
        merged = None
        for level, lateral in zip(reversed(levels[1:]), reversed(self.laterals), strict=True):
            here = lateral(level)
            if merged is not None:
                size = here.shape[-2:]
                here = here + F.interpolate(merged, size, mode="bilinear", align_corners=False)
            merged = here
        assert merged is not None
        return self.last(merged)


class _Block(nn.Module):
    """Half the size, then a residual convolution; group norms, so that one picture is normalised alone."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.halve = nn.Conv2d(before, after, 3, stride=2, padding=1)
        self.residual = nn.Sequential(
            nn.GroupNorm(min(8, after), after), nn.SiLU(), nn.Conv2d(after, after, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.halve(x)
        return x + self.residual(x)
