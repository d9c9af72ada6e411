"""Which voxels of the visual hull are occupied: predicted from the context, learned from other views."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nest_nerfstudio.encoders.hull_depth import patch_indices
from nest_nerfstudio.encoders.views import view_statistics, without_masks
from nest_nerfstudio.encoders.volume import sample_volume
from nest_nerfstudio.encoders.voxels import may_touch_hull
from nest_nerfstudio.geometry.multiview import project, sample_maps, visible
from nest_nerfstudio.types import Views


@dataclass(frozen=True)
class PredictedOccupancy:
    """Occupancy that is predicted for a sample of voxels, to be trained.

    Attributes:
        positions: centres of the voxels, world frame.
        logits: of the probability that a voxel is occupied.
        edge: of a voxel, world units.
        centre: of the ball that all voxels are in, world frame.
        radius: of the ball, world units.
    """

    positions: Float[Tensor, "n 3"]
    logits: Float[Tensor, " n"]
    edge: float
    centre: Float[Tensor, " 3"]
    radius: float

    def loss(self, views: Iterable[Views]) -> Float[Tensor, ""]:
        """Binary cross entropy, where the voxels in the visual hull of the given views count as occupied.

        Voxels that fewer than two of the images show are left out: being in the silhouette of a single one
        is what made them candidates.

        Args:
            views: all images of the object at this position, with alphas, world frame.
        """
        labels, times_seen = torch.ones_like(self.logits), torch.zeros_like(self.logits)
        for some in map(without_masks, views):
            voxels, centre = self.positions.to(some.viewmats), self.centre.to(some.viewmats)
            labels = labels * may_touch_hull(some, voxels, self.edge, centre, self.radius)
            times_seen = times_seen + visible(*project(some, voxels)).sum(0)
        counted = (times_seen >= 2).to(self.logits)
        losses = F.binary_cross_entropy_with_logits(self.logits, labels, counted, reduction="sum")
        return losses / counted.sum().clamp_min(1)


class OccupancyNetwork(nn.Module):
    """Probability that a position is occupied, from image features there, pooled over views, and the volume.

    Args:
        features: channels of the image feature maps.
        volume: channels of the feature volume.
        width: of the hidden layers.
    """

    def __init__(self, features: int, volume: int, width: int) -> None:
        super().__init__()
        self.view_mlp = nn.Sequential(nn.Linear(features + 3, width), nn.LayerNorm(width), nn.SiLU())
        self.classifier = nn.Sequential(
            *(nn.Linear(2 * width + volume + 2, width), nn.LayerNorm(width), nn.SiLU()), nn.Linear(width, 1)
        )

    def forward(
        self,
        views: Views,
        maps: Float[Tensor, "v f p q"],
        volume: Float[Tensor, "1 c x y z"],
        positions: Float[Tensor, "n 3"],
        gravity: Float[Tensor, " 3"],
        radius: float,
    ) -> Float[Tensor, " n"]:
        """Logits of the probability.

        Args:
            views: cameras, reference frame.
            maps: feature maps of their images.
            volume: feature volume, reference frame.
            positions: reference frame.
            gravity: its direction in the reference frame, or zero.
            radius: of the scene, world units.
        """
        grid, depths = project(views, positions)
        outward = positions / radius
        in_camera = (outward @ views.viewmats[:, :3, :3].mT).to(maps)
        per_view = self.view_mlp(torch.cat([sample_maps(maps, grid), in_camera], -1))
        where = torch.stack([outward.norm(dim=1), outward @ gravity.to(outward)], 1).to(maps)
        context = sample_volume(volume, positions, radius)
        pooled = view_statistics(per_view, visible(grid, depths))
        return self.classifier(torch.cat([*pooled, context, where], 1))[:, 0]


def select_occupied(
    probabilities: Float[Tensor, " n"], views: Views, positions: Float[Tensor, "n 3"], patches: int
) -> Bool[Tensor, " n"]:
    """Which positions to keep: those of probability ≥ 0.5, and enough to explain every silhouette.

    Something must be on each ray of a silhouette. So where all probabilities on a ray are low, positions with
    at least 0.7 times the largest of them are kept too; with several views, if that holds in any of them.

    Args:
        probabilities: of being occupied.
        views: V cameras.
        positions: frame of the views.
        patches: rays along the longer side of an image.
    """
    rays, _, (height, width) = patch_indices(views, positions, patches)
    spread = probabilities.expand(len(views), -1)
    largest = spread.new_zeros(len(views), height * width + 1).scatter_reduce(1, rays, spread, "amax")
    largest[:, -1] = 1.0  # a view has no say about what it does not see
    return probabilities >= (_NEAR_LARGEST * largest.gather(1, rays).amin(0)).clamp_max(0.5)


_NEAR_LARGEST = 0.7
"""Share of a ray's largest probability from which on a position is kept."""
