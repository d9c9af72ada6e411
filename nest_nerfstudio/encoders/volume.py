"""Features of space: what the views show of places, seen in context by a 3D U-Net over all of the scene."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nest_nerfstudio.encoders.lift import alpha_maps, cube_cells, pool_views, project, sample_maps, visible
from nest_nerfstudio.types import Views


class VolumeFeatures(nn.Module):
    """Maps of the views, lifted to a grid of cells along the axes of the first camera, which turns with it.

    Args:
        features: channels of the pictures' maps.
        width: of what is found; a multiple of 8.
        cells: along the edge of the cube around the scene; a multiple of 8.
    """

    def __init__(self, features: int, width: int, cells: int) -> None:
        super().__init__()
        if cells < 8 or cells % 8:
            raise ValueError(f"volume_cells must be a multiple of 8, not {cells}")
        if width < 8 or width % 8:
            raise ValueError(f"volume_dim must be a multiple of 8, not {width}")
        self.cells = cells
        widths = [width, 2 * width, 4 * width, 4 * width]
        self.narrow = nn.Conv2d(features, width, 1)
        self.enter = nn.Conv3d(2 * (width + _COVERAGE) + _COVERAGE + _PLACE, width, 3, padding=1)
        self.downs = nn.ModuleList(_Residual(w) for w in widths)
        self.halve = nn.ModuleList(nn.Conv3d(fine, coarse, 2, stride=2) for fine, coarse in pairwise(widths))
        self.laterals = nn.ModuleList(nn.Conv3d(coarse, fine, 1) for fine, coarse in pairwise(widths))
        self.last = _Residual(width)

    def forward(
        self, seen: Sequence[tuple[Views, Tensor]], down: Float[Tensor, " 3"], radius: float
    ) -> Float[Tensor, "s c x y z"]:
        """Features of all cells, once for each set of views, which are pooled; `sample_volume` reads them
        anywhere.

        Args:
            seen: sets of views, settled, with features [V, F, P, Q] of their pictures.
            down: gravity, or zero.
            radius: half an edge of the cube.
        """
        places = cube_cells(radius, self.cells).to(down)
        x = torch.stack([self._lift(views, maps, places, down, radius) for views, maps in seen])
        if len(seen) == 1:  # torch's CPU convolutions in 3D are several times slower on one than on two
            x = x.expand(2, -1, -1, -1, -1)
        return self._in_context(x)[: len(seen)]

    def _lift(
        self, views: Views, maps: Tensor, places: Tensor, down: Tensor, radius: float
    ) -> Float[Tensor, "c x y z"]:
        """What the views show of each cell, and where it is."""
        grid, depths = project(views, places)
        seen, coverage = visible(grid, depths), sample_maps(alpha_maps(views), grid)
        pooled = pool_views(torch.cat([sample_maps(self.narrow(maps), grid), coverage], -1), seen)
        least = torch.where(seen[..., None], coverage, 1.0).amin(0)
        about = torch.cat([places, (places @ down)[:, None]], 1).to(maps) / radius
        return torch.cat([*pooled, least, about], 1).mT.unflatten(1, (self.cells,) * 3)

    def _in_context(self, x: Float[Tensor, "s d x y z"]) -> Float[Tensor, "s c x y z"]:
        x = self.enter(x)
        levels = [self.downs[0](x)]
        for halve, residual in zip(self.halve, self.downs[1:], strict=True):
            levels.append(residual(halve(levels[-1])))
        x = levels.pop()
        for level, lateral in zip(reversed(levels), reversed(self.laterals), strict=True):
            x = level + F.interpolate(lateral(x), level.shape[-3:], mode="trilinear", align_corners=False)
        return self.last(x)


_COVERAGE = 1
_PLACE = 3 + 1
"""Along the first camera's axes, and down."""


class _Residual(nn.Module):
    """A residual convolution; group norms, so that one scene is normalised alone."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv3d(width, width, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def sample_volume(
    volume: Float[Tensor, "1 c x y z"], places: Float[Tensor, "n 3"], radius: float
) -> Float[Tensor, "n c"]:
    """Trilinear values at places of the cube; those of its faces beyond it.

    Args:
        volume: of cells along x, y and z.
        places: in the volume's frame.
        radius: half an edge of the cube.
    """
    grid = (places / radius).flip(-1).to(volume)[None, None, None]
    return F.grid_sample(volume, grid, align_corners=False, padding_mode="border")[0, :, 0, 0].mT
