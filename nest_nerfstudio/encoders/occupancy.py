"""Which of the places that silhouettes leave open hold something: learned from other views' silhouettes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nest_nerfstudio.encoders.lift import may_hold, patch_of, pool_views, project, sample_maps, visible
from nest_nerfstudio.encoders.volume import sample_volume
from nest_nerfstudio.types import Views


@dataclass(frozen=True)
class Guess:
    """How likely cells that some or all views leave open hold something.

    Attributes:
        positions: world frame.
        logits: of the chance.
        edge: of a cell, world units.
        centre: of the ball that all cells are in, world frame.
        radius: of the ball.
    """

    positions: Float[Tensor, "n 3"]
    logits: Float[Tensor, " n"]
    edge: float
    centre: Float[Tensor, " 3"]
    radius: float

    def loss(self, known: Iterable[Views]) -> Tensor:
        """Cross entropy against what the silhouettes in all pictures of the object in this place leave.

        Cells that fewer than two pictures show are left out: one has made them candidates.
        """
        labels, times_seen = torch.ones_like(self.logits), torch.zeros_like(self.logits)
        for views in known:
            cells, centre = self.positions.to(views.viewmats), self.centre.to(views.viewmats)
            labels = labels * may_hold(views, cells, self.edge, centre, self.radius)
            times_seen = times_seen + visible(*project(views, cells)).sum(0)
        counted = (times_seen >= 2).to(self.logits)
        losses = F.binary_cross_entropy_with_logits(self.logits, labels, counted, reduction="sum")
        return losses / counted.sum().clamp_min(1)


class Occupancy(nn.Module):
    """Chance that a place holds something, from what all views show there and around; the views are pooled.

    Args:
        features: channels of the pictures' maps.
        volume: channels of the features of space.
        width: of the hidden layers.
    """

    def __init__(self, features: int, volume: int, width: int) -> None:
        super().__init__()
        self.look = nn.Sequential(nn.Linear(features + 3, width), nn.LayerNorm(width), nn.SiLU())
        self.judge = nn.Sequential(
            *(nn.Linear(2 * width + volume + 2, width), nn.LayerNorm(width), nn.SiLU()), nn.Linear(width, 1)
        )

    def forward(
        self,
        views: Views,
        maps: Float[Tensor, "v f p q"],
        volume: Float[Tensor, "1 c x y z"],
        places: Float[Tensor, "n 3"],
        down: Float[Tensor, " 3"],
        radius: float,
    ) -> Float[Tensor, " n"]:
        """Logits.

        Args:
            views: cameras, in a frame with the scene's middle as its origin.
            maps: features of their pictures.
            volume: features of space, in that frame.
            places: in that frame.
            down: gravity, or zero.
            radius: unit of length.
        """
        grid, depths = project(views, places)
        outward = places / radius
        local = (outward @ views.viewmats[:, :3, :3].mT).to(maps)
        each = self.look(torch.cat([sample_maps(maps, grid), local], -1))
        about = torch.stack([outward.norm(dim=1), outward @ down.to(outward)], 1).to(maps)
        around = sample_volume(volume, places, radius)
        return self.judge(torch.cat([*pool_views(each, visible(grid, depths)), around, about], 1))[:, 0]


def likely(
    chances: Float[Tensor, " n"], views: Views, places: Float[Tensor, "n 3"], patches: int
) -> Bool[Tensor, " n"]:
    """Places of chance 0.5, and on every ray of a grid of patches those that come near its likeliest."""
    at, _, (height, width) = patch_of(views, places, patches)
    spread = chances.expand(len(views), -1)
    most = spread.new_zeros(len(views), height * width + 1).scatter_reduce(1, at, spread, "amax")
    most[:, -1] = 1.0  # a view has no say in what it does not see
    return chances >= (0.7 * most.gather(1, at).amin(0)).clamp_max(0.5)
