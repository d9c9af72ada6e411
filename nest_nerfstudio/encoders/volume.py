"""Feature volumes: image features lifted to voxels, with the context of the whole scene by a U-Net."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nest_nerfstudio.encoders.views import alpha_maps, view_statistics
from nest_nerfstudio.encoders.voxels import cube_voxels
from nest_nerfstudio.geometry.multiview import project, sample_maps, visible
from nest_nerfstudio.types import Views


class VolumeFeatures(nn.Module):
    """Features of the voxels of a cube around the scene, in the reference frame, pooled over views.

    Args:
        features: channels of the image feature maps.
        width: channels of the volume; a multiple of 8.
        resolution: voxels along the edge of the cube; a multiple of 8.
    """

    def __init__(self, features: int, width: int, resolution: int) -> None:
        super().__init__()
        if resolution < 8 or resolution % 8:
            raise ValueError(f"volume_cells must be a multiple of 8, not {resolution}")
        if width < 8 or width % 8:
            raise ValueError(f"volume_dim must be a multiple of 8, not {width}")
        self.resolution = resolution
        widths = [width, 2 * width, 4 * width, 4 * width]
        self.reduce = nn.Conv2d(features, width, 1)
        self.input = nn.Conv3d(2 * (width + _COVERAGE) + _COVERAGE + _POSITION, width, 3, padding=1)
        self.levels = nn.ModuleList(_ResidualBlock(w) for w in widths)
        self.downsamples = nn.ModuleList(
            nn.Conv3d(fine, coarse, 2, stride=2) for fine, coarse in pairwise(widths)
        )
        self.laterals = nn.ModuleList(nn.Conv3d(coarse, fine, 1) for fine, coarse in pairwise(widths))
        self.output = _ResidualBlock(width)

    def forward(
        self,
        view_sets: Sequence[tuple[Views, Float[Tensor, "_ f p q"]]],
        gravity: Float[Tensor, " 3"],
        radius: float,
    ) -> Float[Tensor, "s c x y z"]:
        """One volume for each set of views; `sample_volume` reads it at any position.

        Args:
            view_sets: S sets of views in the reference frame, with the feature maps of their images.
            gravity: its direction in the reference frame, or zero.
            radius: half an edge of the cube, world units.
        """
        voxels = cube_voxels(radius, self.resolution).to(gravity)
        x = torch.stack([self._lift(views, maps, voxels, gravity, radius) for views, maps in view_sets])
        if len(view_sets) == 1:  # torch's CPU convolutions in 3D are several times slower on one than on two
            x = x.expand(2, -1, -1, -1, -1)
        return self._unet(x)[: len(view_sets)]

    def _lift(
        self,
        views: Views,
        maps: Float[Tensor, "v f p q"],
        voxels: Float[Tensor, "n 3"],
        gravity: Float[Tensor, " 3"],
        radius: float,
    ) -> Float[Tensor, "c x y z"]:
        """At each voxel: mean and variance over views of features and coverage, least coverage, position."""
        grid, depths = project(views, voxels)
        seen, coverage = visible(grid, depths), sample_maps(alpha_maps(views), grid)
        pooled = view_statistics(torch.cat([sample_maps(self.reduce(maps), grid), coverage], -1), seen)
        least = torch.where(seen[..., None], coverage, 1.0).amin(0)
        position = torch.cat([voxels, (voxels @ gravity)[:, None]], 1).to(maps) / radius
        return torch.cat([*pooled, least, position], 1).mT.unflatten(1, (self.resolution,) * 3)

    def _unet(self, x: Float[Tensor, "s d x y z"]) -> Float[Tensor, "s c x y z"]:
        x = self.input(x)
        maps = [self.levels[0](x)]
        for downsample, level in zip(self.downsamples, self.levels[1:], strict=True):
            maps.append(level(downsample(maps[-1])))
        x = maps.pop()
        for fine, lateral in zip(reversed(maps), reversed(self.laterals), strict=True):
            x = fine + F.interpolate(lateral(x), fine.shape[-3:], mode="trilinear", align_corners=False)
        return self.output(x)


_COVERAGE = 1
_POSITION = 3 + 1
"""Along the axes of the reference frame, and along gravity."""


class _ResidualBlock(nn.Module):
    """A residual convolution; group norms, which treat each scene alone."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv3d(width, width, 3, padding=1))

    def forward(self, x: Float[Tensor, "s c x y z"]) -> Float[Tensor, "s c x y z"]:
        return x + self.body(x)


def sample_volume(
    volume: Float[Tensor, "1 c x y z"], positions: Float[Tensor, "n 3"], radius: float
) -> Float[Tensor, "n c"]:
    """Trilinear values of a volume at positions; those of its faces outside it.

    Args:
        volume: values of voxels along x, y and z.
        positions: reference frame.
        radius: half an edge of the cube, world units.
    """
    grid = (positions / radius).flip(-1).to(volume)[None, None, None]
    return F.grid_sample(volume, grid, align_corners=False, padding_mode="border")[0, :, 0, 0].mT
