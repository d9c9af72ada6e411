"""Where tokens may stand: what silhouettes leave open, and of that what the pictures make likely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from nerfstudio.configs.base_config import InstantiateConfig
from torch import Tensor, nn

from nest_nerfstudio.encoders.image_features import ImageFeatures
from nest_nerfstudio.encoders.lift import (
    alpha_maps,
    carve,
    hull_depths,
    hull_ends,
    in_hull,
    premultiplied,
    project,
    settle,
    split_cells,
    unsettle,
)
from nest_nerfstudio.encoders.occupancy import Guess, Occupancy, likely
from nest_nerfstudio.encoders.volume import VolumeFeatures
from nest_nerfstudio.types import Views


@dataclass(frozen=True)
class Proposals:
    """Places where tokens may be, and what is known of the pictures by then.

    Attributes:
        positions: world frame.
        settled: the same places in the settled frame, to choose among them.
        fronts: camera-space z of the hull's near side, by patch; 0 where a patch sees nothing.
        backs: of its far side.
        rgba: the pictures, premultiplied.
        maps: their features.
        volume: features of space, settled frame.
        guess: where the object is thought to be, if that was asked for.
    """

    positions: Float[Tensor, "n 3"]
    settled: Float[Tensor, "n 3"]
    fronts: Float[Tensor, "v p q"]
    backs: Float[Tensor, "v p q"]
    rgba: Float[Tensor, "v 4 h w"]
    maps: Float[Tensor, "v c y x"]
    volume: Float[Tensor, "1 d i j k"]
    guess: Guess | None


@dataclass
class ProposalNetworkConfig(InstantiateConfig):
    """Settings of `ProposalNetwork`."""

    _target: type = field(default_factory=lambda: ProposalNetwork)
    cells: int = 96
    """Finest cells along the edge of the cube around the ball, a multiple of 4; half as many where the hull
    fills much of the cube, or pictures have no alpha."""
    patches: int = 64
    """Of a picture along its longer side, 2 or more, through which is seen where the hull begins and ends."""
    shell: float = 0.6
    """Depth under the hull of two views where tokens may be, world units; less with more views."""
    feature_dim: int = 48
    """Width of the picture's features; a multiple of 16."""
    volume_dim: int = 16
    """Width of the features of space; a multiple of 8."""
    volume_cells: int = 16
    """Cells of these along the edge of the cube around the ball, a multiple of 8; their coarsest level has an
    eighth of them."""
    hidden_dim: int = 32
    """Width of what judges whether a place holds something."""


class ProposalNetwork(nn.Module):
    """Carves a ball from coarse to fine: by silhouettes, by what is learned, and by silhouettes again.

    Args:
        config: its settings.
        radius: of the ball, world units.
    """

    def __init__(self, config: ProposalNetworkConfig, radius: float) -> None:
        super().__init__()
        if config.cells < 4 or config.cells % 4:
            raise ValueError(f"cells must be a multiple of 4, not {config.cells}")
        if config.patches < 2:
            raise ValueError(f"patches must be 2 or more, not {config.patches}")
        if config.feature_dim < 16 or config.feature_dim % 16:
            raise ValueError(f"feature_dim must be a multiple of 16, not {config.feature_dim}")
        self.config, self.radius = config, radius
        self.pictures = ImageFeatures(config.feature_dim)
        self.volume = VolumeFeatures(config.feature_dim, config.volume_dim, config.volume_cells)
        self.occupancy = Occupancy(config.feature_dim, config.volume_dim, config.hidden_dim)

    def forward(
        self,
        views: Views,
        centre: Float[Tensor, " 3"],
        gravity: Float[Tensor, " 3"],
        with_guess: bool = False,
    ) -> Proposals:
        """Places in the ball.

        Args:
            views: cameras and pictures; cells stand along the axes of the first camera.
            centre: of the ball, world frame.
            gravity: its direction, world frame; zero where it is not to be known.
            with_guess: say of some places where the object is thought to be, to be trained.

        Raises:
            ValueError: the silhouettes have no place in common.
        """
        config, rgba = self.config, premultiplied(views)
        maps = self.pictures(rgba - 0.5)
        settled, middle = settle(views, centre, self.radius), torch.zeros_like(centre)
        cells, edge = carve(settled, middle, self.radius, config.cells // 2)
        if len(cells) < 4:
            raise ValueError(
                f"the silhouettes of the {len(views)} views have no place in common inside the ball of "
                f"radius {self.radius:g} around {[round(x, 2) for x in centre.tolist()]}: check the "
                "masks and the poses"
            )
        down = ((views.viewmats[0, :3, :3] @ gravity) * 256).round() / 256
        seen = [(settled, maps)]
        if with_guess and len(views) > 1:
            seen.append((settled.select(slice(1)), maps[:1]))
        volumes = self.volume(seen, down, self.radius)
        volume, guess = volumes[:1], None
        if with_guess:
            places, logits = self._guess(seen, volumes, cells, down)
            guess = Guess(unsettle(views, centre, places), logits, edge, centre, self.radius)
        if views.alphas is not None:  # else there is no surface to be found, and the ball stays as it is
            with torch.no_grad():
                chances = self.occupancy(settled, maps, volume, cells, down, self.radius).sigmoid()
                cells = cells[likely(chances, settled, cells, config.patches // 2)]
                is_large = len(cells) > config.cells**3 / _LARGE
                halves = cells if is_large else split_cells(cells, edge)
                cells = _unless_few(halves, in_hull(settled, alpha_maps(settled), halves), cells)
        fronts, backs = hull_ends(settled, cells, config.patches)
        if views.alphas is not None and len(views) > 1:
            depths = hull_depths(fronts, backs, *project(settled, cells)).amin((0, 2))
            cells = _unless_few(cells, depths < config.shell / (len(views) - 1), cells)
        positions = unsettle(views, centre, cells)
        return Proposals(positions, cells.float(), fronts, backs, rgba, maps, volume, guess)

    def _guess(
        self,
        seen: Sequence[tuple[Views, Tensor]],
        volumes: Float[Tensor, "s d i j k"],
        cells: Float[Tensor, "n 3"],
        down: Tensor,
    ) -> tuple[Float[Tensor, "m 3"], Float[Tensor, " m"]]:
        """Whether some of the cells hold something, and some of those that the first view alone leaves open.

        What one view alone tells of is the hardest, and would else be asked for in few samples only.
        """
        left_open = [cells]
        for views, _ in seen[1:]:
            left_open.append(carve(views, torch.zeros_like(down), self.radius, self.config.cells // 2)[0])
        judged = [_some(places) for places in left_open]
        logits = [
            self.occupancy(views, maps, volume, places, down, self.radius)
            for (views, maps), volume, places in zip(seen, volumes.split(1), judged, strict=True)
        ]
        return torch.cat(judged), torch.cat(logits)


_JUDGED = 1024
"""Cells, drawn anew in each step, whose occupancy is learned, from all views and from one."""
_LARGE = 54
"""A hull that fills more than this part of the cube is not split finely: halves would only be thinned out."""


def _some(cells: Float[Tensor, "n 3"]) -> Float[Tensor, "k 3"]:
    return cells[torch.randperm(len(cells), device=cells.device)[:_JUDGED]]


def _unless_few(
    places: Float[Tensor, "n 3"], kept: Bool[Tensor, " n"], else_all: Float[Tensor, "m 3"]
) -> Float[Tensor, "k 3"]:
    """Those places that are kept, or others where these are too few to stand tokens on."""
    return places[kept] if kept.sum() >= 4 else else_all
