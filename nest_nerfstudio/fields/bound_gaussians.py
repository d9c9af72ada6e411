"""f_θ of one scene: free Gaussians, bound to its tokens by skinning weights."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from nest_nerfstudio.fields.base import Field
from nest_nerfstudio.fields.skinning import blend, skin, skinning_weights
from nest_nerfstudio.geometry.color import shift_hue
from nest_nerfstudio.geometry.points import nearest, nearest_distances
from nest_nerfstudio.geometry.quaternion import (
    quat_conjugate,
    quat_exp,
    quat_multiply,
    quat_normalize,
    quat_rotate,
    quat_to_rotmat,
)
from nest_nerfstudio.geometry.se3 import Pose
from nest_nerfstudio.geometry.sh import rgb_to_sh, rotate_sh, sh_to_rgb
from nest_nerfstudio.types import Gaussians, Material, RiggedGaussians, SceneLatent

_GEOMETRY = ("means", "scales", "quats", "opacities")
PARAMETERS = (*_GEOMETRY, "features_dc", "features_rest")
"""Names of the free parameters, as in splatfacto; scales are stored as logarithms, opacities as logits.
Scenes with a world token also have "gates", as `BoundGaussians.gates` reads them."""
MATERIAL_PARAMETERS = (*_GEOMETRY, "albedo", "transfer", "features_rest")
"""Of Gaussians with a material, in which light gives the colour of degree 0; albedo is stored as logits."""
_SHUT, OPEN = -4.0, 2.39
"""Logits of a gate that is well shut, and of one that is just open, and may shut."""
COLOR_DIM = 4
"""Numbers of a token's colour code: shift of the hue in turns, then the log gain of red, green and blue."""


class BoundGaussians(Field):
    """N Gaussians at rest that follow K tokens by linear blend skinning.

    The weights are w_k ∝ exp(−‖x − b_k‖² / 2r_k²) over the nearest tokens, b_k the position in which token k
    was bound (as the control points of SC-GS, arXiv 2312.14937). A row of Z stands for the token of its id,
    and Gaussians are cut and copied with the token that they follow most. `appearance` [K, 4] shifts the hue
    and scales the channels of the colours, zero for colours as they are. Colours are baked, so light has no
    say in them, unless the Gaussians have a material, as those of a decoded scene have that was baked.

    In a scene with a background that stands still, the last token is the world token, and each Gaussian has a
    gate: the share of the nearest other tokens in its motion, exactly 0 or 1 at the ends. The rest is the
    world's.

    Args:
        num_gaussians: N.
        num_tokens: K.
        sh_degree: of view-dependent colour.
        num_neighbors: tokens that each Gaussian follows.
        has_material: albedo and radiance transfer in place of colours of degree 0.
    """

    bind_quats: Tensor
    bind_translations: Tensor

    def __init__(
        self,
        num_gaussians: int,
        num_tokens: int,
        sh_degree: int,
        num_neighbors: int = 4,
        has_material: bool = False,
    ) -> None:
        super().__init__()
        self.knows_light, self.num_neighbors = has_material, num_neighbors
        n, k = num_gaussians, num_tokens
        shapes = {
            "means": (n, 3),
            "scales": (n, 3),
            "quats": (n, 4),
            "opacities": (n,),
            "features_dc": (n, 3),
            "albedo": (n, 3),
            "transfer": (n, 9),
            "features_rest": (n, (sh_degree + 1) ** 2 - 1, 3),
        }
        names = MATERIAL_PARAMETERS if has_material else PARAMETERS
        self.params = nn.ParameterDict({name: nn.Parameter(torch.zeros(shapes[name])) for name in names})
        self.token_log_radii = nn.Parameter(torch.zeros(k))
        self.register_buffer("bind_quats", torch.tensor([1.0, 0, 0, 0]).repeat(k, 1))
        self.register_buffer("bind_translations", torch.zeros(k, 3))
        self._neighbors: Int[Tensor, "n j"] | None = None
        self._kept: Any = None

    def __len__(self) -> int:
        return self.params["means"].shape[0]

    @torch.no_grad()
    def initialize(
        self,
        points: Float[Tensor, "n 3"],
        rgb: Float[Tensor, "n 3"],
        opacity: float,
        scale_factor: float = 1.0,
    ) -> None:
        """Start from coloured points: round Gaussians as large as the spacing of the points."""
        spacing = nearest_distances(points, 3).mean(1).clamp_min(1e-6) * scale_factor
        quats = points.new_zeros(len(points), 4)
        quats[:, 0] = 1.0
        start = {
            "means": points,
            "scales": spacing.log()[:, None].expand(-1, 3),
            "quats": quats,
            "opacities": torch.full_like(spacing, opacity).logit(),
            "features_dc": rgb_to_sh(rgb),
            "features_rest": points.new_zeros(len(points), self.params["features_rest"].shape[1], 3),
        }
        self._start_as(start)

    @torch.no_grad()
    def take(self, gaussians: Gaussians) -> None:
        """Start from Gaussians, world frame, whose colours are of this degree after zeros are filled in."""
        rest = self.params["features_rest"].shape[1]
        extra = gaussians.sh[:, 1 : rest + 1]
        start = {
            "means": gaussians.means,
            "scales": gaussians.log_scales,
            "quats": gaussians.quats,
            "opacities": gaussians.opacity_logits,
            "features_dc": gaussians.sh[:, 0],
            "features_rest": nn.functional.pad(extra, (0, 0, 0, rest - extra.shape[1])),
        }
        self._start_as(start)

    def _start_as(self, values: dict[str, Tensor]) -> None:
        """Give parameters other values, of any number of Gaussians."""
        for name, value in values.items():
            self.params[name] = nn.Parameter(value.clone())
        self.forget_neighbors()

    @torch.no_grad()
    def stand_still(self) -> None:
        """Bind all Gaussians to the world token, and none to the others."""
        self.params["gates"] = nn.Parameter(torch.full_like(self.params["opacities"], _SHUT))
        self.forget_neighbors()

    def gates(self) -> Float[Tensor, " n"] | None:
        """Share of each Gaussian's motion that is not the world's; None where there is no world token.

        1.2 σ(x) − 0.1, clamped to [0, 1]: a stretched sigmoid (hard concrete, Louizos et al. 2018, arXiv
        1712.01312, without its noise). A gate that is shut stays so; one that is open can learn to shut.
        """
        if "gates" not in self.params:
            return None
        return (1.2 * self.params["gates"].sigmoid() - 0.1).clamp(0, 1)

    @torch.no_grad()
    def make_solid(self) -> None:
        """Give Gaussians that became transparent an opacity of a half."""
        self.params["opacities"].clamp_(min=0.0)

    @torch.no_grad()
    def bring_back(
        self, bounds: Float[Tensor, "2 3"], positions: Callable[[int], Float[Tensor, "m 3"]]
    ) -> None:
        """Put Gaussians that have left bounds, and what is not finite, at positions that a function gives."""
        means = self.params["means"]
        strays = ~((means >= bounds[0]) & (means <= bounds[1])).all(1)
        means[strays] = positions(int(strays.sum()))

    @torch.no_grad()
    def bind(self, poses: Pose) -> None:
        """Bind the Gaussians, where they now are, to tokens at these poses; radii follow the spacing."""
        self.bind_quats.copy_(poses[0])
        self.bind_translations.copy_(poses[1])
        moving = poses[1][: self.num_moving()]
        radii = nearest_distances(moving, 3).mean(1).clamp_min(1e-6).log()
        self.token_log_radii[: len(radii)] = radii
        self.forget_neighbors()

    @torch.no_grad()
    def bake(self, scene: RiggedGaussians, poses: Pose) -> None:
        """Take over a decoded scene, with its material, and bind it to its tokens where they are at rest.

        The parameters stay those that optimizers hold, with as many rows as the scene has Gaussians.

        Args:
            scene: decoded, with the material and the degree of colours that this field has.
            poses: of its tokens at rest.
        """
        for name, value in baked(scene, poses).items():
            self.params[name].data = value.clone()
        count = len(poses[0])
        self.bind_quats, self.bind_translations = poses[0].new_empty(count, 4), poses[1].new_empty(count, 3)
        self.token_log_radii.data = poses[1].new_empty(count)
        self.bind(poses)

    def deviation(self, decoded: dict[str, Tensor]) -> Float[Tensor, ""]:
        """How far the parameters are from others: squared distance, mean over the Gaussians.

        Args:
            decoded: as `baked` gives them; means count in units of each Gaussian's largest scale there.
        """
        total = torch.zeros_like(decoded["means"][0, 0])
        for name, value in decoded.items():
            difference = self.params[name] - value
            if name == "means":
                difference = difference * (-decoded["scales"]).amin(1, keepdim=True).exp()
            total = total + difference.square().sum() / len(self)
        return total

    def rest(self) -> Gaussians:
        """The Gaussians as bound, before any motion."""
        gaussians = self._activated()
        return replace(gaussians, quats=quat_normalize(gaussians.quats))

    def _activated(self) -> Gaussians:
        """As `rest`, but with quaternions of any length, which skinning normalises."""
        p = self.params
        # of Gaussians with a material, light gives the colour of degree 0
        first = p["features_rest"].new_zeros(len(self), 3) if self.knows_light else p["features_dc"]
        return Gaussians(
            means=p["means"],
            quats=p["quats"],
            scales=p["scales"].exp(),
            opacities=p["opacities"].sigmoid(),
            sh=torch.cat([first[:, None], p["features_rest"]], 1),
        )

    def forward(self, latent: SceneLatent) -> RiggedGaussians:
        rest = self._activated()
        neighbors, weights = self._bound()
        material = None
        if self.knows_light:
            material = Material(self.params["albedo"].sigmoid(), self.params["transfer"])
        rigged = RiggedGaussians(rest, self.bind_quats, self.bind_translations, neighbors, weights, material)
        if not self._is_whole(latent):
            rigged = _with_tokens(rigged, latent)
        if latent.appearance.any():
            codes, material = blend(latent.appearance, rigged), rigged.material
            rigged = replace(rigged, rest=replace(rigged.rest, sh=recolored(rigged.rest.sh, codes)))
            if material is not None:
                albedo = shift_hue(material.albedo, codes[:, :1]) * codes[:, 1:].exp()
                rigged = replace(rigged, material=replace(material, albedo=albedo))
        return rigged

    def recolor(
        self, latent: SceneLatent, tokens: Bool[Tensor, " k"], hue: float, gain: tuple[float, float, float]
    ) -> SceneLatent:
        """Adds to the tokens' hue shifts and log gains: a commutative group that shifts hues, then scales."""
        change = latent.appearance.new_tensor([hue, *map(math.log, gain)])
        return replace(latent, appearance=latent.appearance + change * tokens[:, None])

    def _is_whole(self, latent: SceneLatent) -> bool:
        """Whether Z holds every token of the field once, in order, and all in one copy."""
        count = len(self.bind_quats)
        if len(latent) != count or (latent.copies != latent.copies[0]).any():
            return False
        return torch.equal(latent.ids % count, torch.arange(count, device=latent.ids.device))

    def num_moving(self) -> int:
        """Number of tokens that may move: all, or all but the last."""
        return len(self.bind_quats) - ("gates" in self.params)

    def _bound(self) -> tuple[Int[Tensor, "n j"], Float[Tensor, "n j"]]:
        """Tokens that each Gaussian follows, and their shares; kept in evaluation while nothing changes.

        So an edit costs no search: it changes none of what they depend on.
        """
        inputs = self.params["means"], self.bind_translations, self.token_log_radii
        if "gates" in self.params:
            inputs = *inputs, self.params["gates"]
        versions = [tensor._version for tensor in inputs]
        may_keep = not self.training and not torch.is_grad_enabled()
        kept = self._kept if may_keep else None
        if kept and kept[1] == versions and all(map(operator.is_, kept[0], inputs)):
            return kept[2]
        neighbors = self._nearest_tokens(inputs[0])
        bound = self._gated(neighbors, skinning_weights(*inputs[:3], neighbors))
        self._kept = (inputs, versions, bound) if may_keep else None
        return bound

    def _gated(
        self, neighbors: Int[Tensor, "n j"], weights: Float[Tensor, "n j"]
    ) -> tuple[Int[Tensor, "n i"], Float[Tensor, "n i"]]:
        """Moving tokens by what the gates leave them, and the world token."""
        gates = self.gates()
        if gates is None:
            return neighbors, weights
        gates, world = gates[:, None], neighbors.new_full((len(neighbors), 1), len(self.bind_quats) - 1)
        return torch.cat([neighbors, world], 1), torch.cat([weights * gates, 1 - gates], 1)

    def _nearest_tokens(self, means: Float[Tensor, "n 3"]) -> Int[Tensor, "n j"]:
        """Nearest tokens of each Gaussian; in training they are kept until `forget_neighbors`.

        In evaluation they are looked up each time, as a checkpoint that is loaded would do.
        """
        if self.training and self._neighbors is not None and len(self._neighbors) == len(means):
            return self._neighbors
        with torch.no_grad():
            moving = self.bind_translations[: self.num_moving()]
            found = nearest(means, moving, min(self.num_neighbors, len(moving)))[1]
        if self.training:
            self._neighbors = found
        return found

    def forget_neighbors(self) -> None:
        """Look the nearest tokens up again at the next use: after Gaussians moved, came or went."""
        self._neighbors = self._kept = None

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Take over as many Gaussians as the checkpoint holds, in the parameters that optimizers hold.

        And as many tokens, if the Gaussians are those of a decoded scene.
        """
        if f"{prefix}params.gates" in state_dict and "gates" not in self.params:
            self.stand_still()
        resized = {f"params.{name}": parameter for name, parameter in self.params.items()}
        if self.knows_light:
            resized |= {name: getattr(self, name) for name in ("bind_quats", "bind_translations")}
            resized["token_log_radii"] = self.token_log_radii
        for name, held in resized.items():
            stored = state_dict.get(f"{prefix}{name}")
            if stored is not None and stored.shape != held.shape:
                held.data = held.data.new_empty(stored.shape)
        self.forget_neighbors()
        super()._load_from_state_dict(state_dict, prefix, *args)


def _with_tokens(rigged: RiggedGaussians, latent: SceneLatent) -> RiggedGaussians:
    """The Gaussians that the tokens of Z bring, for each copy of tokens in Z, bound to the rows of Z.

    A Gaussian comes with the token that it follows most; its other tokens count as far as they are in the
    same copy, so that cuts and copies of neighbours do not pull at each other.
    """
    count = len(rigged.bind_quats)
    parts = []
    for copy in latent.copies.unique():
        rows = torch.full((count,), -1, device=latent.ids.device)
        here = (latent.copies == copy).nonzero()[:, 0]
        rows[latent.ids[here]] = here
        tokens = rows[rigged.tokens]
        kept = tokens.gather(1, rigged.weights.argmax(1, keepdim=True))[:, 0] >= 0
        weights = torch.where(tokens >= 0, rigged.weights, 0.0)[kept]
        parts.append((kept, tokens[kept].clamp_min(0), weights / weights.sum(1, keepdim=True)))
    kept = torch.cat([part[0].nonzero()[:, 0] for part in parts])
    material = rigged.material
    return RiggedGaussians(
        rest=rigged.rest.select(kept),
        bind_quats=rigged.bind_quats[latent.ids],
        bind_translations=rigged.bind_translations[latent.ids],
        tokens=torch.cat([part[1] for part in parts]),
        weights=torch.cat([part[2] for part in parts]),
        material=material and Material(material.albedo[kept], material.transfer[kept]),
    )


def baked(scene: RiggedGaussians, poses: Pose) -> dict[str, Tensor]:
    """Parameters of `BoundGaussians` that are the Gaussians of a decoded scene at rest, in the world frame.

    Args:
        scene: has a material.
        poses: of its tokens at rest.
    """
    assert scene.material is not None
    rest, turns = skin(scene, poses), quat_multiply(poses[0], quat_conjugate(scene.bind_quats))
    turned = quat_to_rotmat(quat_normalize(blend(turns, scene)))
    return {
        "means": rest.means,
        "scales": rest.log_scales,
        "quats": rest.quats,
        "opacities": rest.opacity_logits,
        "albedo": scene.material.albedo.logit(eps=1e-3),
        "transfer": rotate_sh(scene.material.transfer[..., None], turned)[..., 0],
        "features_rest": rest.sh[:, 1:],
    }


def without_codes(latent: SceneLatent) -> SceneLatent:
    """Z of a scene that was baked: the same tokens and light, no geometry codes, and colours as they are."""
    appearance = latent.appearance.new_zeros(len(latent), COLOR_DIM)
    return replace(latent, geometry=latent.geometry[:, :0], appearance=appearance)


def recolored(sh: Float[Tensor, "n k 3"], codes: Float[Tensor, "n 4"]) -> Float[Tensor, "n k 3"]:
    """Colours with their hue shifted and then scaled.

    The mean colour shifts by the hue of HSV, which keeps value and saturation; the view-dependent rest, which
    has no hue, turns by the same angle about the grey axis of RGB.

    Args:
        sh: coefficients per channel, gsplat's order.
        codes: shift of the hue in turns, then log gains of red, green and blue.
    """
    hue, gain = codes[:, :1], codes[:, 1:].exp()
    rgb = shift_hue(sh_to_rgb(sh[:, 0]), hue) * gain
    grey_axis = torch.full_like(sh[:, 0], 2 * math.pi / 3**0.5)
    turns = quat_exp(hue * grey_axis)[:, None].expand(-1, sh.shape[1] - 1, -1)
    return torch.cat([rgb_to_sh(rgb)[:, None], quat_rotate(turns, sh[:, 1:]) * gain[:, None]], 1)
