"""Where tokens may be: voxels inside all silhouettes, of which a network keeps the likely occupied ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from nerfstudio.configs.base_config import InstantiateConfig
from torch import Tensor, nn

from nest_nerfstudio.encoders.hull_depth import depths_in_hull, hull_depth_maps
from nest_nerfstudio.encoders.image_features import ImageFeatures
from nest_nerfstudio.encoders.occupancy import OccupancyNetwork, PredictedOccupancy, select_occupied
from nest_nerfstudio.encoders.views import alpha_maps, from_reference_frame, rgba_maps, to_reference_frame
from nest_nerfstudio.encoders.volume import VolumeFeatures
from nest_nerfstudio.encoders.voxels import carve, in_hull, split_voxels
from nest_nerfstudio.geometry.multiview import project
from nest_nerfstudio.types import Views


@dataclass(frozen=True)
class Proposals:
    """Positions at which tokens may be, and the features of the views that were computed on the way.

    Attributes:
        positions: world frame.
        reference_positions: the same positions in the reference frame (see `encoders.views`).
        front_depths: camera-space z of the front of the visual hull, by patch; 0 where there is none.
        back_depths: of its back.
        rgba: the images, premultiplied.
        maps: feature maps of the images.
        volume: feature volume, reference frame.
        occupancy: predicted occupancy to be trained, if it was asked for.
    """

    positions: Float[Tensor, "n 3"]
    reference_positions: Float[Tensor, "n 3"]
    front_depths: Float[Tensor, "v p q"]
    back_depths: Float[Tensor, "v p q"]
    rgba: Float[Tensor, "v 4 h w"]
    maps: Float[Tensor, "v c y x"]
    volume: Float[Tensor, "1 d i j k"]
    occupancy: PredictedOccupancy | None


@dataclass
class ProposalNetworkConfig(InstantiateConfig):
    """Settings of `ProposalNetwork`."""

    _target: type = field(default_factory=lambda: ProposalNetwork)
    cells: int = 96
    """Finest resolution of the voxel grid in which tokens are placed: voxels along the edge of the cube
    around the scene (2 × radius long), a multiple of 4. Half as many where images have no alpha channel, or
    where the visual hull fills much of the cube."""
    patches: int = 64
    """Resolution of the depth maps of the visual hull: pixels along the longer image side, 2 or more."""
    shell: float = 0.6
    """Tokens are placed at most this deep under the surface of the visual hull, in world units, for two
    views; divided by the number of views minus one for more, no limit for one."""
    feature_dim: int = 48
    """Channels of the image feature maps; a multiple of 16."""
    volume_dim: int = 16
    """Channels of the 3D feature volume; a multiple of 8."""
    volume_cells: int = 16
    """Resolution of the 3D feature volume: voxels along the edge of that cube, a multiple of 8."""
    hidden_dim: int = 32
    """Width of the hidden layers of the network that predicts which voxels are occupied."""


class ProposalNetwork(nn.Module):
    """Carves a ball from coarse to fine: by silhouettes, by predicted occupancy, and by silhouettes again.

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
        self.image_features = ImageFeatures(config.feature_dim)
        self.volume_features = VolumeFeatures(config.feature_dim, config.volume_dim, config.volume_cells)
        self.occupancy_network = OccupancyNetwork(config.feature_dim, config.volume_dim, config.hidden_dim)

    def forward(
        self,
        views: Views,
        centre: Float[Tensor, " 3"],
        gravity: Float[Tensor, " 3"],
        with_occupancy: bool = False,
    ) -> Proposals:
        """Positions in the ball.

        Args:
            views: cameras and images, world frame; voxels lie along the axes of the first camera.
            centre: of the ball, world frame.
            gravity: its direction, world frame; zero where it must not be known.
            with_occupancy: also predict the occupancy of a random sample of voxels, to be trained.

        Raises:
            ValueError: no position in the ball is inside all silhouettes.
        """
        rgba = rgba_maps(views)
        maps = self.image_features(rgba - 0.5)
        reference = to_reference_frame(views, centre, self.radius)
        voxels, edge = self._carve(reference, centre)
        down = ((views.viewmats[0, :3, :3] @ gravity) * 256).round() / 256
        view_sets = [(reference, maps)]
        if with_occupancy and len(views) > 1:
            view_sets.append((reference.select(slice(1)), maps[:1]))
        volumes = self.volume_features(view_sets, down, self.radius)
        volume, occupancy = volumes[:1], None
        if with_occupancy:
            sampled, logits = self._predict_samples(view_sets, volumes, voxels, down)
            sampled = from_reference_frame(views, centre, sampled)
            occupancy = PredictedOccupancy(sampled, logits, edge, centre, self.radius)
        if views.alphas is not None:  # without, there is no surface to find, and the ball stays whole
            voxels = self._refine(reference, maps, volume, voxels, edge, down)
        fronts, backs = hull_depth_maps(reference, voxels, self.config.patches)
        if views.alphas is not None and len(views) > 1:
            depths = depths_in_hull(fronts, backs, *project(reference, voxels)).amin((0, 2))
            voxels = _unless_few(voxels, depths < self.config.shell / (len(views) - 1), voxels)
        positions = from_reference_frame(views, centre, voxels)
        return Proposals(positions, voxels.float(), fronts, backs, rgba, maps, volume, occupancy)

    def _carve(self, reference: Views, centre: Float[Tensor, " 3"]) -> tuple[Float[Tensor, "n 3"], float]:
        """Voxels that all silhouettes leave, and their edge; in the reference frame.

        Args:
            reference: views, reference frame.
            centre: of the ball, world frame; for the error message.
        """
        voxels, edge = carve(reference, torch.zeros_like(centre), self.radius, self.config.cells // 2)
        if len(voxels) < _FEWEST:
            raise ValueError(
                f"no position is inside all silhouettes of the {len(reference)} views, within the ball of "
                f"radius {self.radius:g} around {[round(x, 2) for x in centre.tolist()]}: check the "
                "masks and the poses"
            )
        return voxels, edge

    @torch.no_grad()
    def _refine(
        self,
        reference: Views,
        maps: Float[Tensor, "v c y x"],
        volume: Float[Tensor, "1 d i j k"],
        voxels: Float[Tensor, "n 3"],
        edge: float,
        down: Float[Tensor, " 3"],
    ) -> Float[Tensor, "m 3"]:
        """The likely occupied voxels, split unless they are many; of the parts, those inside all
        silhouettes."""
        logits = self.occupancy_network(reference, maps, volume, voxels, down, self.radius)
        voxels = voxels[select_occupied(logits.sigmoid(), reference, voxels, self.config.patches // 2)]
        is_large = len(voxels) > self.config.cells**3 / _LARGE
        finer = voxels if is_large else split_voxels(voxels, edge)
        return _unless_few(finer, in_hull(reference, alpha_maps(reference), finer), voxels)

    def _predict_samples(
        self,
        view_sets: Sequence[tuple[Views, Tensor]],
        volumes: Float[Tensor, "s d i j k"],
        voxels: Float[Tensor, "n 3"],
        down: Float[Tensor, " 3"],
    ) -> tuple[Float[Tensor, "m 3"], Float[Tensor, " m"]]:
        """Positions and logits of a sample of the voxels, and of a sample of those that the first view
        leaves.

        Prediction from a single view is the hardest, and few training samples have only one; so the first
        view is also taken alone.
        """
        candidates = [voxels]
        for views, _ in view_sets[1:]:
            candidates.append(carve(views, torch.zeros_like(down), self.radius, self.config.cells // 2)[0])
        samples = [_sample(left) for left in candidates]
        logits = [
            self.occupancy_network(views, maps, volume, sample, down, self.radius)
            for (views, maps), volume, sample in zip(view_sets, volumes.split(1), samples, strict=True)
        ]
        return torch.cat(samples), torch.cat(logits)


_FEWEST = 4
"""Voxels that are needed to place tokens on."""
_SAMPLED = 1024
"""Voxels whose occupancy is trained in a step, drawn at random, for each set of views."""
_LARGE = 54
"""A hull of more than 1 / 54 of the cube's voxels is not split: there are enough for the tokens as it is."""


def _sample(voxels: Float[Tensor, "n 3"]) -> Float[Tensor, "k 3"]:
    return voxels[torch.randperm(len(voxels), device=voxels.device)[:_SAMPLED]]


def _unless_few(
    voxels: Float[Tensor, "n 3"], kept: Bool[Tensor, " n"], otherwise: Float[Tensor, "m 3"]
) -> Float[Tensor, "k 3"]:
    """The voxels that are kept, or `otherwise` where those are too few to place tokens on."""
    return voxels[kept] if kept.sum() >= _FEWEST else otherwise
