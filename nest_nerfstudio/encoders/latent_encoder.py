"""h_φ: from posed images and coloured points to posed tokens, with e3nn."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal, cast

import torch
from e3nn import o3
from jaxtyping import Float
from nerfstudio.configs.base_config import InstantiateConfig
from torch import Tensor, nn

from nest_nerfstudio.encoders.base import Encoder
from nest_nerfstudio.encoders.frames import frames_from_vectors
from nest_nerfstudio.encoders.inputs import prepare_inputs
from nest_nerfstudio.encoders.layers import Interaction, mlp, radial_basis
from nest_nerfstudio.encoders.occupancy import PredictedOccupancy
from nest_nerfstudio.encoders.proposals import ProposalNetworkConfig, Proposals
from nest_nerfstudio.encoders.sampling import CORNER_FEATURES, PointSampler, ViewSampler
from nest_nerfstudio.geometry.albedo_cube import NUM_CORNERS, corner_positions
from nest_nerfstudio.geometry.color import linear_to_srgb
from nest_nerfstudio.geometry.multiview import focus_of_attention
from nest_nerfstudio.geometry.points import farthest_points, nearest_distances, smooth_neighbors
from nest_nerfstudio.geometry.quaternion import rotmat_to_quat
from nest_nerfstudio.geometry.sh import sh_from_e3nn
from nest_nerfstudio.types import MotionCode, Points, SceneLatent, Views


@dataclass
class LatentEncoderConfig(InstantiateConfig):
    """Settings of `LatentEncoder`."""

    _target: type = field(default_factory=lambda: LatentEncoder)
    group: Literal["se3", "so3", "azimuth"] = "azimuth"
    """Motions of the world under which the encoder is equivariant: azimuth, rotations about the vertical z
    axis through the origin, so that it knows gravity; so3, all rotations about the origin, where scenes must
    be centred; se3, rotations and translations."""
    num_tokens: int = 1024
    """Largest number of tokens of a scene (fewer where there are fewer positions for them). It may be changed
    after training: no weight depends on it."""
    radius: float = 1.25
    """Radius of the ball around the scene's centre that scenes lie in, world units."""
    viewing_distance: float = 4.0
    """With group se3: assumed distance from a camera to the scene's centre, where a single view leaves it
    open; world units."""
    image_size: int = 128
    """Images are resized to this many pixels along their longer side before they are encoded."""
    proposals: ProposalNetworkConfig = field(default_factory=ProposalNetworkConfig)
    """Network that proposes the positions of tokens."""
    geometry_dim: int = 48
    """Size of a token's geometry code."""
    irreps: str = "64x0e+16x1e+4x2e"
    """Features of a token, in the notation of e3nn: scalars (0e), vectors (1e), second-order tensors (2e)."""
    irreps_sent: str = "16x0e+8x1e+4x2e"
    """Features that a token sends to its neighbours, in the notation of e3nn."""
    num_interactions: int = 2
    """Rounds of message passing between tokens."""
    num_neighbors: int = 8
    """Neighbours that a token receives messages from in each round."""


@dataclass(frozen=True)
class _Scene:
    """What an encoder is given, in double precision, and the positions of K tokens in it; world frame.

    Attributes:
        views: resized and sorted.
        points: a coloured cloud.
        proposals: positions and features from the views; None where there are none.
        centre: of the scene.
        positions: of the tokens.
        spacing: mean distance of each token to its nearest neighbours, world units.
    """

    views: Views | None
    points: Points | None
    proposals: Proposals | None
    centre: Float[Tensor, " 3"]
    positions: Float[Tensor, "k 3"]
    spacing: Float[Tensor, " k"]


class LatentEncoder(Encoder):
    """Tokens at even positions in the visual hull (or on the points), which pool what views and points show
    there.

    The input is invariant under the group (pixel values, positions in a camera's frame, distances) or turns
    as a vector (camera axes, directions, gravity), and all layers are invariant MLPs or equivariant layers of
    e3nn, so h(g·X) = g·h(X) for all weights. Views and points are pooled and tokens interact by messages
    alone, so the order of views, points and tokens does not matter."""

    def __init__(self, config: LatentEncoderConfig) -> None:
        super().__init__()
        if not _IRREPS.fullmatch(config.irreps):
            raise ValueError(
                f"irreps must be scalars, then vectors, then any more, all even (64x0e+16x1e+4x2e), not "
                f"{config.irreps}"
            )
        self.config = config
        texts = (config.irreps, config.irreps_sent, _HARMONICS)
        irreps, irreps_sent, irreps_sh = (cast(o3.Irreps, o3.Irreps(text)) for text in texts)
        self.num_scalars, self.num_vectors = irreps.count("0e"), irreps.count("1e")
        width, proposals = self.num_scalars, config.proposals
        self.proposal_network = proposals.setup(radius=config.radius)
        self.view_sampler = ViewSampler(
            proposals.feature_dim, proposals.volume_dim, width, self.num_vectors, config.radius
        )
        self.point_sampler = PointSampler(width)
        self.token_mlp = mlp(self.view_sampler.num_scalars + width + _POSITION_CUES, width, width)
        self.embed = o3.Linear(f"{width}x0e + {self.num_vectors + _DIRECTIONS}x1e", irreps)
        self.interactions = nn.ModuleList(
            Interaction(irreps, irreps_sent, irreps_sh, _RADIAL, 32) for _ in range(config.num_interactions)
        )
        self.to_vectors = o3.Linear(irreps, "3x1e")
        self.to_light = o3.Linear(irreps, "3x0e + 3x1e + 3x2e")
        self.to_size = nn.Linear(width, 1)
        known = width + NUM_CORNERS * (3 + CORNER_FEATURES)
        self.to_geometry = mlp(known, 2 * width, config.geometry_dim - 1)
        self.to_albedo = mlp(known, width, 3 * NUM_CORNERS)
        for parameter in self.to_albedo[-1].parameters():  # albedo starts as the colours that are seen
            nn.init.zeros_(parameter)
        self.base_light = nn.Parameter(torch.tensor(2.0))

    def forward(
        self, views: Views | None, points: Points | None = None, num_tokens: int | None = None
    ) -> SceneLatent:
        return self.encode(views, points, num_tokens, with_occupancy=False)[0]

    def encode(
        self,
        views: Views | None,
        points: Points | None = None,
        num_tokens: int | None = None,
        with_occupancy: bool = True,
    ) -> tuple[SceneLatent, PredictedOccupancy | None]:
        """The latent of a scene, and in training mode the predicted occupancy of some voxels, for its loss.

        Args:
            views: as in `forward`.
            points: as in `forward`.
            num_tokens: as in `forward`.
            with_occupancy: predict the occupancy of a sample of voxels; there is none without views.

        Raises:
            ValueError: as in `forward`.
        """
        scene = self._place_tokens(views, points, num_tokens, with_occupancy and self.training)
        scalars, vectors, per_view = self._sample_tokens(scene)
        x = self.embed(torch.cat([scalars, vectors.flatten(1)], 1))
        x = self._message_passing(x, scene.positions)
        quats, translations, sizes = self._pose(x, scene, vectors)
        about, colors = self._sample_corners(x, scene, corner_positions(quats, translations, sizes), per_view)
        albedo = (self.to_albedo(about).unflatten(1, (-1, 3)) + colors.clamp(0.02, 0.98).logit()).sigmoid()
        latent = SceneLatent(
            ids=torch.arange(len(x), device=x.device),
            copies=torch.zeros(len(x), dtype=torch.long, device=x.device),
            quats=quats,
            translations=translations.to(x),
            geometry=torch.cat([sizes.log()[:, None], self.to_geometry(about)], 1),
            appearance=albedo.flatten(1),
            light=self._light(x),
            motion=MotionCode.still(len(x), x),
        )
        return latent, None if scene.proposals is None else scene.proposals.occupancy

    # ---------------------------------------------------------------- positions

    def centre(self, views: Views | None, points: Points | None = None) -> Float[Tensor, " 3"]:
        """Centre of the scene, world frame; the origin unless translations are in the group.

        Args:
            views: the point that they look at is the centre, if there are views.
            points: else the mean of the points is.
        """
        some = views.viewmats if views is not None else points.positions  # type: ignore[union-attr]
        if self.config.group != "se3":
            return some.new_zeros(3)
        if views is not None:
            return focus_of_attention(views.viewmats, self.config.viewing_distance)
        assert points is not None
        return points.positions.mean(0)

    def _gravity(self, like: Tensor) -> Float[Tensor, " 3"]:
        """Direction of gravity, world frame; zero where all rotations are in the group."""
        return like.new_tensor([0.0, 0.0, -1.0 if self.config.group == "azimuth" else 0.0])

    def _place_tokens(
        self, views: Views | None, points: Points | None, num_tokens: int | None, with_occupancy: bool
    ) -> _Scene:
        """The prepared input, and where its tokens are."""
        count = self.config.num_tokens if num_tokens is None else num_tokens
        if count < 1:
            raise ValueError(f"num_tokens must be 1 or more, not {count}")
        views, points = prepare_inputs(views, points, self.config.image_size, like=self.base_light)
        centre, proposals = self.centre(views, points), None
        if views is not None:
            proposals = self.proposal_network(views, centre, self._gravity(centre), with_occupancy)
        positions = _spread_positions(proposals, points, count)
        spacing = nearest_distances(positions, 3).mean(1).clamp_min(1e-4 * self.config.radius)
        return _Scene(views, points, proposals, centre, positions, spacing)

    # ---------------------------------------------------------------- features

    def _sample_tokens(
        self, scene: _Scene
    ) -> tuple[Float[Tensor, "k s"], Float[Tensor, "k d 3"], Float[Tensor, "v k w"] | None]:
        """Invariant scalars and equivariant vectors at each token, and features of each view there.

        The vectors are learned ones, then outward, gravity, and the x and y axes of cameras.
        """
        positions, like, per_view = scene.positions, self.base_light, None
        view_scalars = like.new_zeros(len(positions), self.view_sampler.num_scalars)
        point_scalars = like.new_zeros(len(positions), self.num_scalars)
        vectors, axes = (like.new_zeros(len(positions), n, 3) for n in (self.num_vectors, 2))
        if scene.views is not None:
            assert scene.proposals is not None
            seen = self.view_sampler.pool_views(scene.views, scene.proposals, positions, scene.centre)
            view_scalars, vectors, axes, per_view = seen.scalars, seen.vectors, seen.axes, seen.per_view
        if scene.points is not None:
            point_scalars, towards = self.point_sampler.pool_points(scene.points, positions, scene.spacing)
            vectors = vectors + towards[:, None]
        outward = ((positions - scene.centre) / self.config.radius).to(like)
        gravity = self._gravity(outward).expand_as(outward)
        cues = torch.stack([scene.spacing.log().to(like), outward.norm(dim=1), (outward * gravity).sum(1)], 1)
        scalars = self.token_mlp(torch.cat([view_scalars, point_scalars, cues], 1))
        return scalars, torch.cat([vectors, outward[:, None], gravity[:, None], axes], 1), per_view

    def _sample_corners(
        self,
        x: Float[Tensor, "k d"],
        scene: _Scene,
        corners: Float[Tensor, "k c 3"],
        per_view: Float[Tensor, "v k w"] | None,
    ) -> tuple[Float[Tensor, "k f"], Float[Tensor, "k c 3"]]:
        """Features of each token and of all its corners, and the colours (linear RGB) that are seen at
        these."""
        scalars = x[:, : self.num_scalars]
        if per_view is not None:
            assert scene.views is not None
            assert scene.proposals is not None
            colors, features = self.view_sampler.sample_corners(
                scene.views, scene.proposals, corners, per_view, scalars
            )
        else:
            assert scene.points is not None
            colors = self.point_sampler.sample_corners(scene.points, corners, scene.positions, scene.spacing)
            features = x.new_zeros(*corners.shape[:2], CORNER_FEATURES)
        return torch.cat([scalars, linear_to_srgb(colors).flatten(1) - 0.5, features.flatten(1)], 1), colors

    def _message_passing(
        self, x: Float[Tensor, "k d"], positions: Float[Tensor, "k 3"]
    ) -> Float[Tensor, "k d"]:
        """Rounds of messages between neighbouring tokens."""
        neighbors, weights = smooth_neighbors(positions, positions, self.config.num_neighbors + 1)
        neighbors, weights = neighbors[:, 1:], weights[:, 1:]  # the first is the token itself
        offsets = positions[neighbors] - positions[:, None]
        harmonics = o3.spherical_harmonics(_HARMONICS, offsets, normalize=True, normalization="component")
        radial = radial_basis(offsets.norm(dim=-1), _RADIAL, self.config.radius / 2)
        weights, harmonics, radial = weights.to(x), harmonics.to(x), radial.to(x)
        for interaction in self.interactions:
            x = interaction(x, neighbors, weights, harmonics, radial)
        return x

    # ---------------------------------------------------------------- heads

    def _pose(
        self, x: Float[Tensor, "k d"], scene: _Scene, vectors: Float[Tensor, "k n 3"]
    ) -> tuple[Float[Tensor, "k 4"], Float[Tensor, "k 3"], Float[Tensor, " k"]]:
        """Rotation (from camera axes), translation (from the token's position) and size of each token."""
        spacing = scene.spacing.to(x)
        offset, first, second = self.to_vectors(x).unflatten(1, (3, 3)).unbind(1)
        quats = rotmat_to_quat(frames_from_vectors(first + vectors[:, -2], second + vectors[:, -1], vectors))
        sizes = spacing * self.to_size(x[:, : self.num_scalars])[:, 0].tanh().exp()
        return quats, scene.positions + spacing[:, None] * offset, sizes

    def _light(self, x: Float[Tensor, "k d"]) -> Float[Tensor, "3 9"]:
        """Environment light, the mean over tokens; nearly white and uniform before training."""
        bands = self.to_light(x).mean(0).split([3, 9, 15])
        light = sh_from_e3nn(torch.cat([band.unflatten(0, (3, -1)) for band in bands], 1).mT).mT
        return torch.cat([light[:, :1] + self.base_light, light[:, 1:]], 1)


@torch.no_grad()
def _spread_positions(proposals: Proposals | None, points: Points | None, count: int) -> Float[Tensor, "k 3"]:
    """At most `count` evenly spread positions: of the points if there are any, else of the proposals."""
    if points is not None:
        positions = compared = points.positions
    else:
        assert proposals is not None
        step = max(1, len(proposals.positions) // (_CANDIDATES * count))
        positions, compared = proposals.positions[::step], proposals.reference_positions[::step]
    # sorted, as rounding may swap two points in the order in which they are chosen
    return positions[farthest_points(compared, min(count, len(positions))).sort().values]


_IRREPS = re.compile(r"\d+x0e ?\+ ?\d+x1e( ?\+ ?\d+x2e)?")
_HARMONICS = "0e + 1e + 2e"
"""Spherical harmonics of the directions between tokens."""
_POSITION_CUES = 3
"""Spacing, distance from the scene's centre, height."""
_DIRECTIONS = 4
"""Outward, gravity, two camera axes."""
_CANDIDATES = 8
"""Proposed positions for each token to choose from; more are thinned out first."""
_RADIAL = 8
"""Radial functions of the distance between tokens."""
