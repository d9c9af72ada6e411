"""h_φ: posed pictures and coloured points to posed tokens, with e3nn."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Literal, cast

import torch
import torch.nn.functional as F
from e3nn import o3
from jaxtyping import Float
from nerfstudio.configs.base_config import InstantiateConfig
from torch import Tensor, nn

from nest_nerfstudio.encoders.base import Encoder
from nest_nerfstudio.encoders.layers import Interaction, radial_basis
from nest_nerfstudio.encoders.lift import (
    camera_centres,
    hull_depths,
    looked_at,
    project,
    resize_views,
    sample_maps,
    sort_views,
)
from nest_nerfstudio.encoders.occupancy import Guess
from nest_nerfstudio.encoders.proposals import ProposalNetworkConfig, Proposals
from nest_nerfstudio.encoders.volume import sample_volume
from nest_nerfstudio.geometry.albedo_cube import NUM_CORNERS, corner_positions
from nest_nerfstudio.geometry.color import linear_to_srgb, srgb_to_linear
from nest_nerfstudio.geometry.points import farthest_points, nearest_distances, smooth_neighbors
from nest_nerfstudio.geometry.quaternion import rotmat_to_quat
from nest_nerfstudio.geometry.sh import sh_from_e3nn
from nest_nerfstudio.types import MotionCode, Points, SceneLatent, Views


@dataclass
class LatentEncoderConfig(InstantiateConfig):
    """Settings of `LatentEncoder`."""

    _target: type = field(default_factory=lambda: LatentEncoder)
    group: Literal["se3", "so3", "azimuth"] = "azimuth"
    """What it commutes with. se3: rotations and translations of the world; so3: rotations about its origin,
    where scenes are centred; azimuth: those about the z axis, against gravity."""
    num_tokens: int = 1024
    """K at most, where a call does not say; no weight depends on it."""
    radius: float = 1.25
    """Of the ball that scenes lie in, world units."""
    viewing_distance: float = 4.0
    """From a camera to what it looks at, for a single picture where the group is se3; world units."""
    image_size: int = 128
    """Longer side of the pictures that are looked at, pixels."""
    proposals: ProposalNetworkConfig = field(default_factory=ProposalNetworkConfig)
    """Where tokens may stand."""
    shape_dim: int = 48
    """Size of a token's geometry code."""
    irreps: str = "64x0e+16x1e+4x2e"
    """Features of a token."""
    irreps_sent: str = "16x0e+8x1e+4x2e"
    """What tokens tell each other."""
    num_interactions: int = 2
    """Rounds of messages between tokens."""
    num_neighbors: int = 8
    """Tokens that one listens to."""


class LatentEncoder(Encoder):
    """Tokens at even places of the visual hull (or of the points); what views show there; messages; heads.

    Everything that enters is invariant under its group (values of pictures, places in a camera's frame,
    distances) or turns as a vector (camera axes, directions, gravity), and everything in between is an
    equivariant map of e3nn, so h(g·X) = g·h(X) for all weights. Views and points are pooled, tokens only
    meet through messages, so the order of views, points and tokens does not matter.
    """

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
        width = self.num_scalars
        self.propose = config.proposals.setup(radius=config.radius)
        self.look = _mlp(config.proposals.feature_dim + _CUES, width, width)
        self.weigh = _mlp(3 * width, width, _HEADS)
        self.recall = nn.Linear(2 * width, _CORNER_HIDDEN)
        self.weigh_corner = _mlp(_CORNER_HIDDEN + _CORNER_CUES, _CORNER_HIDDEN, 1)
        self.aim = nn.Linear(width, 4 * self.num_vectors)
        self.near = _mlp(4, width, width)
        self.pool = _mlp(_HEADS * width + 2 * width + config.proposals.volume_dim + _GLOBALS, width, width)
        self.embed = o3.Linear(f"{width}x0e + {self.num_vectors + _DIRECTIONS}x1e", irreps)
        self.interactions = nn.ModuleList(
            Interaction(irreps, irreps_sent, irreps_sh, _RADIAL, 32) for _ in range(config.num_interactions)
        )
        self.to_vectors = o3.Linear(irreps, "3x1e")
        self.to_light = o3.Linear(irreps, "3x0e + 3x1e + 3x2e")
        self.to_size = nn.Linear(width, 1)
        self.to_shape = _mlp(width + NUM_CORNERS * (3 + _FOUND), 2 * width, config.shape_dim - 1)
        self.to_albedo = _mlp(width + NUM_CORNERS * (3 + _FOUND), width, 3 * NUM_CORNERS)
        for start in self.to_albedo[-1].parameters():
            nn.init.zeros_(start)
        self.base_light = nn.Parameter(torch.tensor(2.0))

    def forward(
        self, views: Views | None, points: Points | None = None, num_tokens: int | None = None
    ) -> SceneLatent:
        return self.encode(views, points, num_tokens, with_guess=False)[0]

    def encode(
        self,
        views: Views | None,
        points: Points | None = None,
        num_tokens: int | None = None,
        with_guess: bool = True,
    ) -> tuple[SceneLatent, Guess | None]:
        """The latent, and in training where the object is thought to be, if that is asked for.

        Other arguments and the errors are those of `forward`.
        """
        count = self.config.num_tokens if num_tokens is None else num_tokens
        _check(views, points, count)
        if views is not None and views.images is not None:
            views = sort_views(resize_views(views, self.config.image_size))
            assert views.images is not None
            views = replace(
                views,
                viewmats=views.viewmats.double(),
                Ks=views.Ks.double(),
                images=views.images.to(self.base_light),
                alphas=None if views.alphas is None else views.alphas.to(self.base_light),
            )
        elif points is None:
            raise ValueError("nothing to encode: give views with images, points, or both")
        else:
            views = None
        if points is not None:
            points = Points(points.positions.double(), points.rgb.to(self.base_light))
        centre = self.centre(views, points)
        proposals = (
            None
            if views is None
            else self.propose(views, centre, self._down(centre), with_guess and self.training)
        )
        positions = self._places(proposals, points, count)
        spacing = nearest_distances(positions, 3).mean(1).clamp_min(1e-4 * self.config.radius)
        scalars, vectors, each = self._gather(views, proposals, points, positions, spacing, centre)
        x = self.embed(torch.cat([scalars, vectors.flatten(1)], 1))
        x = self._converse(x, positions)
        scalars = x[:, : self.num_scalars]
        quats, translations, sizes = self._pose(x, positions, spacing.to(x), vectors)
        corners = corner_positions(quats, translations, sizes)
        if each is None:
            assert points is not None
            colors = self._nearest_colors(points, corners, positions, spacing)
            found = x.new_zeros(*corners.shape[:2], _FOUND)
        else:
            assert views is not None
            assert proposals is not None
            colors, found = self._inspect(views, proposals, corners, each, scalars)
        about = torch.cat([scalars, linear_to_srgb(colors).flatten(1) - 0.5, found.flatten(1)], 1)
        albedo = (self.to_albedo(about).unflatten(1, (-1, 3)) + colors.clamp(0.02, 0.98).logit()).sigmoid()
        empty = x.new_zeros(0)
        latent = SceneLatent(
            quats=quats,
            translations=translations.to(x),
            shape=torch.cat([sizes.log()[:, None], self.to_shape(about)], 1),
            appearance=albedo.flatten(1),
            light=self._light(x),
            motion=MotionCode(
                empty, x.new_zeros(len(x), 0), x.new_zeros(len(x), 6, 1), empty, x.new_zeros(())
            ),
        )
        return latent, None if proposals is None else proposals.guess

    # ---------------------------------------------------------------- where

    def centre(self, views: Views | None, points: Points | None = None) -> Float[Tensor, " 3"]:
        """The middle of the scene; the world's origin unless translations are in the group."""
        some = views.viewmats if views is not None else points.positions  # type: ignore[union-attr]
        if self.config.group != "se3":
            return some.new_zeros(3)
        if views is not None:
            return looked_at(views.viewmats, self.config.viewing_distance)
        assert points is not None
        return points.positions.mean(0)

    def _down(self, like: Tensor) -> Float[Tensor, " 3"]:
        """Gravity, where the group knows it."""
        return like.new_tensor([0.0, 0.0, -1.0 if self.config.group == "azimuth" else 0.0])

    @torch.no_grad()
    def _places(self, proposals: Proposals | None, points: Points | None, count: int) -> Float[Tensor, "k 3"]:
        """Evenly spread places for tokens: on the points where there are some, else in the hull."""
        if points is not None:
            places = settled = points.positions
        else:
            assert proposals is not None
            sparser = max(1, len(proposals.positions) // (_CHOICE * count))
            places, settled = proposals.positions[::sparser], proposals.settled[::sparser]
        # in the order of the candidates, as rounding may swap two far ones in that of the choice
        return places[farthest_points(settled, min(count, len(places))).sort().values]

    # ---------------------------------------------------------------- what is seen there

    def _gather(
        self,
        views: Views | None,
        proposals: Proposals | None,
        points: Points | None,
        positions: Tensor,
        spacing: Tensor,
        centre: Tensor,
    ) -> tuple[Float[Tensor, "k s"], Float[Tensor, "k d 3"], Float[Tensor, "v k w"] | None]:
        """Invariants and vectors at each token, and what each view says of it."""
        width, weights = self.num_scalars, self.base_light
        seen = weights.new_zeros(len(positions), (_HEADS + 1) * width + self.config.proposals.volume_dim)
        aimed = weights.new_zeros(len(positions), self.num_vectors, 3)
        axes = weights.new_zeros(len(positions), 2, 3)
        close = weights.new_zeros(len(positions), width)
        each = None
        if views is not None:
            assert proposals is not None
            seen, aimed, axes, each = self._look(views, proposals, positions, centre)
        if points is not None:
            close, pull = self._listen(points, positions, spacing)
            aimed = aimed + pull[:, None]
        outward = ((positions - centre) / self.config.radius).to(weights)
        down = self._down(outward).expand_as(outward)
        about = [spacing.log().to(weights), outward.norm(dim=1), (outward * down).sum(1)]
        scalars = self.pool(torch.cat([seen, close, torch.stack(about, 1)], 1))
        vectors = torch.cat([aimed, outward[:, None], down[:, None], axes], 1)
        return scalars, vectors, each

    def _look(
        self, views: Views, proposals: Proposals, positions: Tensor, centre: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What all views show at the tokens, pooled by learned weights of several heads."""
        rgba = proposals.rgba
        grid, z = project(views, positions)
        radius = self.config.radius
        behind = hull_depths(proposals.fronts, proposals.backs, grid, z) / radius
        rotations = views.viewmats[:, :3, :3]
        local = ((positions - centre) @ rotations.mT) / radius
        cues = [local, behind, grid.abs().amax(-1, keepdim=True).clamp_max(2)]
        shown = [sample_maps(proposals.maps, grid), sample_maps(rgba, grid), *(cue.to(rgba) for cue in cues)]
        each = self.look(torch.cat(shown, -1))  # [v, k, s]
        mean = each.mean(0)
        spread = (each - mean).square().mean(0)
        heads = self.weigh(torch.cat([each, mean.expand_as(each), spread.expand_as(each)], -1)).softmax(0)
        seen = torch.einsum("vkh,vks->khs", heads, each).flatten(1)
        towards = F.normalize(camera_centres(views.viewmats)[:, None] - positions, dim=-1)
        frames = torch.cat([rotations[:, None].expand(-1, len(positions), -1, -1), towards[:, :, None]], 2)
        frames = frames.to(each)
        aims = self.aim(each).unflatten(-1, (self.num_vectors, 4)) * heads[..., :1, None]
        aimed = torch.einsum("vkca,vkai->kci", aims, frames)
        axes = torch.einsum("vk,vkai->kai", heads[..., 0], frames[:, :, 1:3])
        settled = (positions - centre) @ rotations[0].mT
        around = sample_volume(proposals.volume, settled, radius)
        return torch.cat([seen, spread, around], 1), aimed, axes, each

    def _inspect(
        self,
        views: Views,
        proposals: Proposals,
        corners: Float[Tensor, "k c 3"],
        each: Float[Tensor, "v k w"],
        scalars: Float[Tensor, "k s"],
    ) -> tuple[Float[Tensor, "k c 3"], Float[Tensor, "k c f"]]:
        """A second look, at the corners of the tokens: their colour (linear RGB) and whether they are inside.

        The views that a corner is seen in are weighed by what they show there and by what is known of its
        token.
        """
        grid, z = project(views, corners.flatten(0, 1))
        pixel = sample_maps(proposals.rgba, grid).unflatten(1, corners.shape[:2])  # [v, k, c, 4]
        behind = hull_depths(proposals.fronts, proposals.backs, grid, z).unflatten(1, corners.shape[:2])
        behind = (behind / (0.1 * self.config.radius)).clamp(-3, 3).to(pixel)
        known = self.recall(torch.cat([each, scalars.expand_as(each)], -1))
        known = known[:, :, None].expand(-1, -1, corners.shape[1], -1)
        weights = self.weigh_corner(torch.cat([known, pixel, behind], -1)).softmax(0)
        alphas, shares = pixel[..., 3:], weights * pixel[..., 3:].clamp_min(1e-4)
        srgb = (pixel[..., :3] / alphas.clamp_min(1e-2)).clamp(0, 1)
        shares = shares / shares.sum(0)
        colors = (shares * srgb_to_linear(srgb)).sum(0)
        spread = (shares * (srgb - (shares * srgb).sum(0)).square()).sum(0).mean(-1, keepdim=True)
        inside = [(weights * alphas).sum(0), alphas.amin(0), behind.amin((0, -1))[..., None]]
        return colors, torch.cat([*inside, 10 * spread], -1)

    def _listen(self, points: Points, positions: Tensor, spacing: Tensor) -> tuple[Tensor, Tensor]:
        """What the nearest points tell a token: an invariant code, and their direction."""
        nearest, weights = smooth_neighbors(positions, points.positions, 8)
        offsets = ((points.positions[nearest] - positions[:, None]) / spacing[:, None, None]).to(points.rgb)
        weights = weights.to(offsets)
        close = self.near(torch.cat([points.rgb[nearest], offsets.norm(dim=-1, keepdim=True)], -1))
        return (weights[..., None] * close).sum(1), (weights[..., None] * offsets).sum(1)

    def _nearest_colors(
        self, points: Points, corners: Float[Tensor, "k c 3"], positions: Tensor, spacing: Tensor
    ) -> Float[Tensor, "k c 3"]:
        """Colours (linear RGB) of the token's nearest points, of those near a corner above all."""
        nearest, weights = smooth_neighbors(positions, points.positions, 8)
        away = (corners[:, :, None] - points.positions[nearest][:, None]) / spacing[:, None, None, None]
        away, weights = away.to(points.rgb), weights.to(points.rgb)
        shares = weights[:, None] * torch.exp(-2 * away.square().sum(-1)) + 1e-4 * weights[:, None]
        return (shares / shares.sum(-1, keepdim=True)) @ srgb_to_linear(points.rgb)[nearest]

    # ---------------------------------------------------------------- messages and heads

    def _converse(self, x: Tensor, positions: Tensor) -> Tensor:
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

    def _pose(
        self, x: Tensor, positions: Tensor, spacing: Tensor, vectors: Tensor
    ) -> tuple[Float[Tensor, "k 4"], Float[Tensor, "k 3"], Float[Tensor, " k"]]:
        """Frame, place and size of each token: offset from where it was put, turned from a camera's axes."""
        offset, first, second = self.to_vectors(x).unflatten(1, (3, 3)).unbind(1)
        quats = rotmat_to_quat(frames_of(first + vectors[:, -2], second + vectors[:, -1], vectors))
        sizes = spacing * self.to_size(x[:, : self.num_scalars])[:, 0].tanh().exp()
        return quats, positions + spacing[:, None] * offset, sizes

    def _light(self, x: Tensor) -> Float[Tensor, "3 9"]:
        """The mean over tokens, as spherical harmonics; white and even at first."""
        bands = self.to_light(x).mean(0).split([3, 9, 15])
        light = sh_from_e3nn(torch.cat([band.unflatten(0, (3, -1)) for band in bands], 1).mT).mT
        return torch.cat([light[:, :1] + self.base_light, light[:, 1:]], 1)


_IRREPS = re.compile(r"\d+x0e ?\+ ?\d+x1e( ?\+ ?\d+x2e)?")
_HARMONICS = "0e + 1e + 2e"
"""Of the directions between tokens."""
_HEADS = 4
"""Weightings of the views."""
_CUES = 4 + 3 + 2 + 1
"""RGBA at the place, the place in the camera's frame, behind which hull, and whether inside the picture."""
_GLOBALS = 3
"""Spacing, distance from the middle, height."""
_CORNER_HIDDEN = 24
"""Width of what weighs the views of a corner."""
_CORNER_CUES = 4 + 2
"""RGBA at the corner, and behind which hull."""
_FOUND = 4
"""Coverage at a corner, the least of it, how deep in the hull, and how the views differ in its colour."""
_DIRECTIONS = 4
"""Outward, down, two camera axes."""
_CHOICE = 8
"""Places in the hull to choose from for each token; more are thinned out first."""
_RADIAL = 8
"""Radial functions."""


def frames_of(
    first: Float[Tensor, "k 3"], second: Float[Tensor, "k 3"], others: Float[Tensor, "k d 3"]
) -> Float[Tensor, "k 3 3"]:
    """Rotations whose x axis is along `first` and whose y axis lies in its plane with `second`.

    Gram–Schmidt. Where the two are collinear, the first of `others`, and then of the world's axes, that is
    not serves for the second; equivariant unless all of `others` are collinear too.
    """
    world = torch.eye(3).to(first).expand(len(first), 3, 3)
    x = first
    for other in (*others.unbind(1), *world.unbind(1)):
        x = torch.where(x.norm(dim=1, keepdim=True) > _TOO_SHORT, x, other)
    x = F.normalize(x, dim=1)
    y = _across(second, x)
    for other in (*others.unbind(1), *world.unbind(1)):
        y = torch.where(y.norm(dim=1, keepdim=True) > _TOO_SHORT, y, _across(other, x))
    y = F.normalize(y, dim=1)
    return torch.stack([x, y, torch.linalg.cross(x, y)], -1)


_TOO_SHORT = 1e-3


def _check(views: Views | None, points: Points | None, count: int) -> None:
    """Raise where there is nothing that could be encoded."""
    if count < 1:
        raise ValueError(f"num_tokens must be 1 or more, not {count}")
    for name, what in (
        ("viewmats", "poses"),
        ("Ks", "intrinsics"),
        ("images", "pictures"),
        ("alphas", "alphas"),
    ):
        values = None if views is None else getattr(views, name)
        if values is not None and not values.isfinite().all():
            bad = (~values.isfinite().flatten(1).all(1)).nonzero().flatten().tolist()
            raise ValueError(f"the {what} of the views {bad[:8]} are not finite; leave these views out")
    if points is not None and not (points.positions.isfinite().all() and points.rgb.isfinite().all()):
        raise ValueError("the point cloud has values that are not finite; leave these points out")
    if points is not None and len(points.positions.unique(dim=0)) < 4:
        raise ValueError(
            f"a point cloud needs 4 places or more that differ; this one has {len(points)} points"
        )


def _across(vectors: Tensor, axes: Tensor) -> Tensor:
    """What of the vectors is perpendicular to unit axes."""
    return vectors - (vectors * axes).sum(1, keepdim=True) * axes


def _mlp(before: int, hidden: int, after: int) -> nn.Sequential:
    """Two layers; normalised, as signals would else fade from stage to stage."""
    return nn.Sequential(nn.Linear(before, hidden), nn.LayerNorm(hidden), nn.SiLU(), nn.Linear(hidden, after))
