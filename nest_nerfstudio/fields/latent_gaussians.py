"""f_θ of many scenes: each token decodes its Gaussians and their material in its own frame."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from nerfstudio.configs.base_config import InstantiateConfig
from torch import Tensor, nn

from nest_nerfstudio.fields.base import Codes, Field
from nest_nerfstudio.geometry.albedo_cube import NUM_CORNERS, albedo_at, albedo_logits
from nest_nerfstudio.geometry.color import shift_hue
from nest_nerfstudio.geometry.quaternion import quat_normalize
from nest_nerfstudio.geometry.sh import sh_basis
from nest_nerfstudio.moments import gaussian_of, no_moments, take_in
from nest_nerfstudio.types import Gaussians, Material, RiggedGaussians, SceneLatent


@dataclass
class LatentGaussianFieldConfig(InstantiateConfig):
    """Settings of `LatentGaussianField`."""

    _target: type = field(default_factory=lambda: LatentGaussianField)
    gaussians_per_token: int = 8
    """Number M of Gaussians that each token decodes."""
    hidden_dim: int = 128
    """Width of the MLP."""
    residual_degree: int = 1
    """Highest spherical harmonics degree of view-dependent colour; 0: colours do not depend on the view."""


class LatentGaussianField(Field):
    """Token k has M Gaussians, all decoded from its own codes in its own frame.

    Geometry (means, quats, scales, opacities, transfer) comes from `geometry`. `appearance` is a cube of
    albedo (`geometry.albedo_cube`), and a Gaussian has the albedo that this has at its mean. Its transfer is
    that of an unoccluded surface with a normal, plus a learned residual for occlusion and interreflection.
    Every Gaussian follows its token rigidly from the bind pose "identity", so what is decoded does not depend
    on poses, and f commutes with SE(3) for all weights.

    Args:
        config: its settings.
        geometry_dim: size of a token's geometry code; its first number is the logarithm of its size in world
            units.
    """

    knows_light = True
    moments: Tensor

    def __init__(self, config: LatentGaussianFieldConfig, geometry_dim: int) -> None:
        super().__init__()
        self.config = config
        m, hidden = config.gaussians_per_token, config.hidden_dim
        self.trunk = nn.Sequential(
            *(nn.Linear(geometry_dim, hidden), nn.LayerNorm(hidden), nn.SiLU()),
            *(nn.Linear(hidden, hidden), nn.LayerNorm(hidden), nn.SiLU()),
        )
        self.geometry_dim = geometry_dim
        self.register_buffer("moments", no_moments(geometry_dim + 3 * NUM_CORNERS))
        self.head = nn.Linear(hidden, m * _GEOMETRY)
        rest = (config.residual_degree + 1) ** 2 - 1
        self.residual = nn.Linear(hidden + 3 * NUM_CORNERS, m * rest * 3)
        nn.init.zeros_(self.residual.weight)
        nn.init.zeros_(self.residual.bias)
        with torch.no_grad():
            self.head.weight.mul_(0.3)
            self.head.weight.view(m, _GEOMETRY, -1)[:, -_TRANSFER:] = 0.0  # nothing is occluded at first
            bias = self.head.bias.view(m, -1)
            bias.zero_()
            bias[:, :3] = torch.randn(m, 3) * 0.5  # spread the Gaussians over the token
            bias[:, 3] = 1.0  # w of the quaternion
            bias[:, 10] = 0.0  # opacity one half
            bias[:, 11:14] = torch.randn(m, 3) * 0.5

    def forward(self, latent: SceneLatent) -> RiggedGaussians:
        m, count = self.config.gaussians_per_token, len(latent)
        hidden = self.trunk(latent.geometry)
        decoded = self.head(hidden).unflatten(1, (m, -1))
        offsets, quats, scales, opacities, normals, residual = decoded.split([3, 4, 3, 1, 3, _TRANSFER], -1)
        offsets = 2 * offsets.tanh()
        size = latent.geometry[:, None, :1].clamp(-8, 3).exp()
        transfer = clamped_cosine(F.normalize(normals, dim=-1)) + residual
        sh = self.residual(torch.cat([hidden, latent.appearance], 1)).unflatten(1, (m, -1, 3))
        rest = Gaussians(
            means=(size * offsets).flatten(0, 1),
            quats=quat_normalize(quats).flatten(0, 1),
            scales=(size * (scales.clamp(-6, 2) - 1).exp()).flatten(0, 1),
            opacities=opacities.sigmoid().flatten(),
            sh=F.pad(sh, (0, 0, 1, 0)).flatten(0, 1),
        )
        material = Material(
            albedo=albedo_at(latent.appearance, offsets).flatten(0, 1), transfer=transfer.flatten(0, 1)
        )
        identity = latent.quats.new_tensor([1.0, 0, 0, 0]).expand(count, -1)
        tokens = torch.arange(count, device=hidden.device).repeat_interleave(m)[:, None]
        return RiggedGaussians(
            rest=rest,
            bind_quats=identity,
            bind_translations=torch.zeros_like(latent.translations),
            tokens=tokens,
            weights=torch.ones_like(tokens, dtype=hidden.dtype),
            material=material,
        )

    def recolor(
        self, latent: SceneLatent, tokens: Bool[Tensor, " k"], hue: float, gain: tuple[float, float, float]
    ) -> SceneLatent:
        """S¹ turns the hue of every albedo, and the gain scales it; `appearance` holds linear RGB."""
        albedo = latent.appearance.unflatten(1, (-1, 3))
        changed = (shift_hue(albedo, hue) if hue else albedo) * albedo.new_tensor(gain)
        return replace(latent, appearance=torch.where(tokens[:, None, None], changed, albedo).flatten(1))

    def observe(self, latent: SceneLatent) -> None:
        """Take the codes of a training scene into their running moments, from which `directions` come."""
        codes = torch.cat([latent.geometry, albedo_logits(latent.appearance)], 1)
        take_in(self.moments, codes)

    @torch.no_grad()
    def directions(self, factor: Codes) -> Float[Tensor, "d c"]:
        part = slice(self.geometry_dim) if factor == "geometry" else slice(self.geometry_dim, -1)
        known = gaussian_of(self.moments, part)
        if known is None:
            return self.moments.new_zeros(0, 0)
        _, axes = known
        axes = axes * axes.gather(0, axes.abs().argmax(0)[None]).sign()  # else either sign would do
        return axes.mT.flip(0).to(self.moments)

    def traverse(
        self, latent: SceneLatent, tokens: Bool[Tensor, " k"], factor: Codes, change: Float[Tensor, " c"]
    ) -> SceneLatent:
        """Albedo changes in logits, so that it stays in (0, 1); what is outside, by a gain, is kept."""
        if factor == "geometry":
            return super().traverse(latent, tokens, factor, change)
        albedo = latent.appearance
        changed = (albedo.logit() + change).sigmoid()
        chosen = tokens[:, None] & (albedo > 0) & (albedo < 1)
        return replace(latent, appearance=torch.where(chosen, changed, albedo))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """A checkpoint without moments, from before there were any, leaves those of this field."""
        state_dict.setdefault(f"{prefix}moments", self.moments)
        super()._load_from_state_dict(state_dict, prefix, *args)


_TRANSFER = 9
_GEOMETRY = 3 + 4 + 3 + 1 + 3 + _TRANSFER
_LOBE = (math.pi, 2 * math.pi / 3, math.pi / 4)
"""A_l: the clamped cosine in spherical harmonics."""


def clamped_cosine(normals: Float[Tensor, "k m 3"]) -> Float[Tensor, "k m 9"]:
    """A_l Y_lm(n), l ≤ 2: the transfer of unoccluded surfaces, in gsplat's order.

    Source: R. Ramamoorthi, P. Hanrahan, An Efficient Representation for Irradiance Environment Maps, 2001.

    Args:
        normals: unit.
    """
    return sh_basis(2, normals) * torch.tensor([_LOBE[0], *[_LOBE[1]] * 3, *[_LOBE[2]] * 5]).to(normals)
