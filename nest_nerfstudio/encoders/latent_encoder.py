"""h_φ: posed pictures and coloured points to posed tokens, with e3nn."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal, cast

import torch
import torch.nn.functional as F
from e3nn import o3
from jaxtyping import Float
from nerfstudio.configs.base_config import InstantiateConfig
from torch import Tensor, nn

from nest_nerfstudio.encoders.base import Encoder
from nest_nerfstudio.encoders.image_features import ImageFeatures
from nest_nerfstudio.encoders.layers import Interaction, radial_basis
from nest_nerfstudio.encoders.lift import (
    Lifted,
    camera_centres,
    hull_depths,
    lift,
    looked_at,
    project,
    resize_views,
    sample_maps,
    sort_views,
)
from nest_nerfstudio.geometry.color import srgb_to_linear
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
    num_tokens: int = 768
    """K at most, where a call does not say; no weight depends on it."""
    radius: float = 1.25
    """Of the ball that scenes lie in, world units."""
    viewing_distance: float = 4.0
    """From a camera to what it looks at, for a single picture where the group is se3; world units."""
    image_size: int = 128
    """Longer side of the pictures that are looked at, pixels."""
    patches: int = 32
    """Rays along the longer side of a picture."""
    depths: int = 24
    """Places along each ray."""
    shell: float = 0.6
    """Depth under the hull of two views where tokens may be, world units; less with more views."""
    shape_dim: int = 48
    """Size of a token's geometry code."""
    palette: int = 4
    """Albedo colours of a token."""
    feature_dim: int = 48
    """Width of the picture's features."""
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
        self.pictures = ImageFeatures(config.feature_dim)
        self.look = _mlp(config.feature_dim + _CUES, width, width)
        self.weigh = _mlp(3 * width, width, _HEADS + config.palette)
        self.aim = nn.Linear(width, 4 * self.num_vectors)
        self.near = _mlp(4, width, width)
        self.pool = _mlp(_HEADS * width + 2 * width + _GLOBALS, width, width)
        self.embed = o3.Linear(f"{width}x0e + {self.num_vectors + _DIRECTIONS}x1e", irreps)
        self.interactions = nn.ModuleList(
            Interaction(irreps, irreps_sent, irreps_sh, _RADIAL, 32) for _ in range(config.num_interactions)
        )
        self.to_vectors = o3.Linear(irreps, "3x1e")
        self.to_light = o3.Linear(irreps, "3x0e + 3x1e + 3x2e")
        self.to_shape = _mlp(width, width, config.shape_dim)
        self.to_palette = nn.Linear(width, 3 * config.palette)
        nn.init.zeros_(self.to_palette.weight)
        nn.init.zeros_(self.to_palette.bias)
        self.base_light = nn.Parameter(torch.tensor(2.0))

    def forward(
        self, views: Views | None, points: Points | None = None, num_tokens: int | None = None
    ) -> SceneLatent:
        count = self.config.num_tokens if num_tokens is None else num_tokens
        _check(views, points, count)
        if views is not None and views.images is not None:
            views = sort_views(resize_views(views, self.config.image_size))
        elif points is None:
            raise ValueError("nothing to encode: give views with images, points, or both")
        else:
            views = None
        centre = self._centre(views, points)
        lifted = None if views is None else self._lift(views, centre)
        positions = self._places(lifted, points, count)
        spacing = nearest_distances(positions, 3).mean(1).clamp_min(1e-4 * self.config.radius)
        scalars, vectors, colors = self._gather(views, lifted, points, positions, spacing, centre)
        x = self.embed(torch.cat([scalars, vectors.flatten(1)], 1))
        return self._read(self._converse(x, positions), positions, spacing, vectors, colors)

    # ---------------------------------------------------------------- where

    def _centre(self, views: Views | None, points: Points | None) -> Float[Tensor, " 3"]:
        """The middle of the scene; the world's origin unless translations are in the group."""
        some = views.viewmats if views is not None else points.positions  # type: ignore[union-attr]
        if self.config.group != "se3":
            return some.new_zeros(3)
        if points is not None:
            return points.positions.mean(0)
        assert views is not None
        return looked_at(views.viewmats, self.config.viewing_distance)

    def _lift(self, views: Views, centre: Tensor) -> Lifted:
        lifted = lift(
            views, centre, self.config.radius, self.config.patches, self.config.depths, self.config.shell
        )
        if len(lifted.positions) < 4:
            raise ValueError(
                f"the silhouettes of the {len(views)} views have no place in common inside the ball of "
                f"radius {self.config.radius:g} around {[round(x, 2) for x in centre.tolist()]}: check the "
                "masks, the poses, and that cameras stand outside of the object"
            )
        return lifted

    @torch.no_grad()
    def _places(self, lifted: Lifted | None, points: Points | None, count: int) -> Float[Tensor, "k 3"]:
        """Evenly spread places for tokens: on the points where there are some, else in the hull."""
        if points is not None:
            places = settled = points.positions
        else:
            assert lifted is not None
            sparser = max(1, len(lifted.positions) // (_CHOICE * count))
            places, settled = lifted.positions[::sparser], lifted.settled[::sparser]
        # in the order of the candidates, as rounding may swap two far ones in that of the choice
        return places[farthest_points(settled, min(count, len(places))).sort().values]

    # ---------------------------------------------------------------- what is seen there

    def _gather(
        self,
        views: Views | None,
        lifted: Lifted | None,
        points: Points | None,
        positions: Tensor,
        spacing: Tensor,
        centre: Tensor,
    ) -> tuple[Float[Tensor, "k s"], Float[Tensor, "k d 3"], Float[Tensor, "k p 3"]]:
        """Invariants, vectors, and colours (linear RGB) at each token."""
        width, palette = self.num_scalars, self.config.palette
        seen = positions.new_zeros(len(positions), (_HEADS + 1) * width)
        aimed = positions.new_zeros(len(positions), self.num_vectors, 3)
        axes = positions.new_zeros(len(positions), 2, 3)
        colors = positions.new_full((len(positions), palette, 3), 0.5)
        close = positions.new_zeros(len(positions), width)
        if views is not None:
            assert lifted is not None
            seen, aimed, axes, colors = self._look(views, lifted, positions, centre)
        if points is not None:
            close, pull, near_colors = self._listen(points, positions, spacing)
            aimed = aimed + pull[:, None]
            colors = colors if views is not None else near_colors[:, None].expand(-1, palette, -1)
        outward = (positions - centre) / self.config.radius
        down = torch.zeros_like(outward)
        if self.config.group == "azimuth":
            down = down + outward.new_tensor([0.0, 0.0, -1.0])
        about = [spacing.log(), outward.norm(dim=1), (outward * down).sum(1)]
        scalars = self.pool(torch.cat([seen, close, torch.stack(about, 1)], 1))
        vectors = torch.cat([aimed, outward[:, None], down[:, None], axes], 1)
        return scalars, vectors, colors

    def _look(
        self, views: Views, lifted: Lifted, positions: Tensor, centre: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What all views show at the tokens, pooled by learned weights of several heads."""
        assert views.images is not None
        alphas = torch.ones_like(views.images[..., :1]) if views.alphas is None else views.alphas
        rgba = torch.cat([views.images * alphas, alphas], -1).permute(0, 3, 1, 2)
        maps = self.pictures(rgba - 0.5)
        grid, z = project(views, positions)
        radius = self.config.radius
        behind = hull_depths(lifted.fronts, lifted.backs, grid, z) / radius
        rotations = views.viewmats[:, :3, :3]
        local = ((positions - centre) @ rotations.mT) / radius
        pixel = sample_maps(rgba, grid)
        cues = [pixel, local, behind, grid.abs().amax(-1, keepdim=True).clamp_max(2)]
        each = self.look(torch.cat([sample_maps(maps, grid), *cues], -1))  # [v, k, s]
        mean = each.mean(0)
        spread = (each - mean).square().mean(0)
        logits = self.weigh(torch.cat([each, mean.expand_as(each), spread.expand_as(each)], -1))
        heads, picks = logits[..., :_HEADS].softmax(0), logits[..., _HEADS:].softmax(0)
        seen = torch.einsum("vkh,vks->khs", heads, each).flatten(1)
        towards = F.normalize(camera_centres(views.viewmats)[:, None] - positions, dim=-1)
        frames = torch.cat([rotations[:, None].expand(-1, len(positions), -1, -1), towards[:, :, None]], 2)
        aims = self.aim(each).unflatten(-1, (self.num_vectors, 4)) * heads[..., :1, None]
        aimed = torch.einsum("vkca,vkai->kci", aims, frames)
        axes = torch.einsum("vk,vkai->kai", heads[..., 0], frames[:, :, 1:3])
        linear = srgb_to_linear((pixel[..., :3] / pixel[..., 3:].clamp_min(1e-2)).clamp(0, 1))
        picks = picks * pixel[..., 3:].clamp_min(1e-4)
        colors = torch.einsum("vkp,vkc->kpc", picks / picks.sum(0), linear)
        return torch.cat([seen, spread], 1), aimed, axes, colors

    def _listen(self, points: Points, positions: Tensor, spacing: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the nearest points tell a token: an invariant code, their direction, their mean colour."""
        nearest, weights = smooth_neighbors(positions, points.positions, 8)
        offsets = (points.positions[nearest] - positions[:, None]) / spacing[:, None, None]
        rgb, weights = points.rgb[nearest], weights[..., None]
        close = self.near(torch.cat([rgb, offsets.norm(dim=-1, keepdim=True)], -1))
        return (
            (weights * close).sum(1),
            (weights * offsets).sum(1),
            (weights * srgb_to_linear(rgb)).sum(1) / weights.sum(1),
        )

    # ---------------------------------------------------------------- messages and heads

    def _converse(self, x: Tensor, positions: Tensor) -> Tensor:
        """Rounds of messages between neighbouring tokens."""
        neighbors, weights = smooth_neighbors(positions, positions, self.config.num_neighbors + 1)
        neighbors, weights = neighbors[:, 1:], weights[:, 1:]  # the first is the token itself
        offsets = positions[neighbors] - positions[:, None]
        harmonics = o3.spherical_harmonics(_HARMONICS, offsets, normalize=True, normalization="component")
        radial = radial_basis(offsets.norm(dim=-1), _RADIAL, self.config.radius / 2)
        for interaction in self.interactions:
            x = interaction(x, neighbors, weights, harmonics, radial)
        return x

    def _read(
        self, x: Tensor, positions: Tensor, spacing: Tensor, vectors: Tensor, colors: Tensor
    ) -> SceneLatent:
        scalars = x[:, : self.num_scalars]
        offset, first, second = self.to_vectors(x).unflatten(1, (3, 3)).unbind(1)
        code = self.to_shape(scalars)
        log_size = spacing.log() + code[:, 0].tanh()
        odds = self.to_palette(scalars).unflatten(1, (-1, 3)) + colors.clamp(0.02, 0.98).logit()
        empty = positions.new_zeros(0)
        return SceneLatent(
            quats=rotmat_to_quat(frames_of(first + vectors[:, -2], second + vectors[:, -1], vectors)),
            translations=positions + spacing[:, None] * offset,
            shape=torch.cat([log_size[:, None], code[:, 1:]], 1),
            appearance=odds.sigmoid().flatten(1),
            light=self._light(x),
            motion=MotionCode(empty, positions.new_zeros(len(positions), 0), empty, positions.new_zeros(())),
        )

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
    if views is not None and not views.viewmats.isfinite().all():
        bad = (~views.viewmats.isfinite().flatten(1).all(1)).nonzero().flatten().tolist()
        raise ValueError(f"the poses of the views {bad[:8]} are not finite; leave these views out")
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
