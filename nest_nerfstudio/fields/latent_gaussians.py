"""f_θ for every scene: each token decodes its Gaussians in its own frame, and light shades them there."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from nerfstudio.configs.base_config import InstantiateConfig
from torch import Tensor, nn

from nest_nerfstudio.fields.base import Field
from nest_nerfstudio.geometry.albedo_cube import NUM_CORNERS, albedo_at
from nest_nerfstudio.geometry.color import linear_to_srgb
from nest_nerfstudio.geometry.quaternion import quat_multiply, quat_normalize, quat_rotate, quat_to_rotmat
from nest_nerfstudio.geometry.sh import rgb_to_sh, rotate_sh, sh_basis
from nest_nerfstudio.types import Gaussians, SceneLatent


@dataclass
class LatentGaussianFieldConfig(InstantiateConfig):
    """Settings of `LatentGaussianField`."""

    _target: type = field(default_factory=lambda: LatentGaussianField)
    gaussians_per_token: int = 8
    """M."""
    hidden_dim: int = 128
    """Width of the MLP."""
    residual_degree: int = 1
    """Highest degree of the colour that changes with the view; 0: none."""


class LatentGaussianField(Field):
    """Token k stands at T_k and has M Gaussians, all decoded from its own codes in its own frame.

    Args:
        config: its settings.
        shape_dim: size of a token's geometry code; its first number is the logarithm of its size in world
            units.

    Geometry (means, quats, scales, opacities, transfer) comes from `shape`. `appearance` is a cube of albedo
    (`albedo_cube`), and a Gaussian has the albedo ρ that this has at its mean. Light is turned into the
    token's frame, where a Gaussian with transfer t shines in ρ (t·L) / π: precomputed radiance transfer
    (Sloan, Kautz, Snyder 2002). t is that of a surface with a normal, all open to the light, and a learned
    rest, for what shades it.
    What is decoded moves to the world by T_k, so f(g·Z) = g·f(Z) for all weights.
    """

    def __init__(self, config: LatentGaussianFieldConfig, shape_dim: int) -> None:
        super().__init__()
        self.config = config
        m, hidden = config.gaussians_per_token, config.hidden_dim
        self.trunk = nn.Sequential(
            *(nn.Linear(shape_dim, hidden), nn.LayerNorm(hidden), nn.SiLU()),
            *(nn.Linear(hidden, hidden), nn.LayerNorm(hidden), nn.SiLU()),
        )
        self.head = nn.Linear(hidden, m * _GEOMETRY)
        rest = (config.residual_degree + 1) ** 2 - 1
        self.residual = nn.Linear(hidden + 3 * NUM_CORNERS, m * rest * 3)
        nn.init.zeros_(self.residual.weight)
        nn.init.zeros_(self.residual.bias)
        with torch.no_grad():
            self.head.weight.mul_(0.3)
            self.head.weight.view(m, _GEOMETRY, -1)[:, -_TRANSFER:] = 0.0  # nothing shades at first
            bias = self.head.bias.view(m, -1)
            bias.zero_()
            bias[:, :3] = torch.randn(m, 3) * 0.5  # spread the Gaussians over the token
            bias[:, 3] = 1.0  # w of the quaternion
            bias[:, 10] = 0.0  # opacity one half
            bias[:, 11:14] = torch.randn(m, 3) * 0.5

    def forward(self, latent: SceneLatent) -> Gaussians:
        m = self.config.gaussians_per_token
        hidden = self.trunk(latent.shape)
        decoded = self.head(hidden).unflatten(1, (m, -1))
        offsets, quats, scales, opacities, normals, shading = decoded.split([3, 4, 3, 1, 3, _TRANSFER], -1)
        offsets = 2 * offsets.tanh()
        size = latent.shape[:, None, :1].clamp(-8, 3).exp()
        albedo = albedo_at(latent.appearance, offsets)
        turns = latent.quats[:, None].expand(-1, m, -1)
        light = rotate_sh(latent.light.mT, quat_to_rotmat(latent.quats).mT)
        transfer = clamped_cosine(F.normalize(normals, dim=-1)) + shading
        rgb = linear_to_srgb(albedo * irradiance(light, transfer) / math.pi)
        return Gaussians(
            means=(quat_rotate(turns, size * offsets) + latent.translations[:, None]).flatten(0, 1),
            quats=quat_multiply(turns, quat_normalize(quats)).flatten(0, 1),
            scales=(size * (scales.clamp(-6, 2) - 1).exp()).flatten(0, 1),
            opacities=opacities.sigmoid().flatten(),
            sh=torch.cat([rgb_to_sh(rgb)[:, :, None], self._view_dependence(latent, hidden)], 2).flatten(
                0, 1
            ),
        )

    def _view_dependence(self, latent: SceneLatent, hidden: Tensor) -> Float[Tensor, "k m r 3"]:
        """Coefficients of degree ≥ 1, decoded in the token's frame and turned to the world."""
        m = self.config.gaussians_per_token
        local = self.residual(torch.cat([hidden, latent.appearance], 1)).unflatten(1, (m, -1, 3))
        padded = F.pad(local, (0, 0, 1, 0)).transpose(1, 2).flatten(2)  # [k, 1 + r, 3 m]
        turned = rotate_sh(padded, quat_to_rotmat(latent.quats))
        return turned[:, 1:].unflatten(2, (m, 3)).transpose(1, 2)


_TRANSFER = 9
_GEOMETRY = 3 + 4 + 3 + 1 + 3 + _TRANSFER
_DARK = 0.01
"""Irradiance."""
_LOBE = (math.pi, 2 * math.pi / 3, math.pi / 4)
"""A_l: the clamped cosine in spherical harmonics."""


def clamped_cosine(normals: Float[Tensor, "k m 3"]) -> Float[Tensor, "k m 9"]:
    """A_l Y_lm(n), l ≤ 2: the transfer of surfaces that nothing shades, in gsplat's order.

    Source: R. Ramamoorthi, P. Hanrahan, An Efficient Representation for Irradiance Environment Maps, 2001.

    Args:
        normals: unit.
    """
    return sh_basis(2, normals) * torch.tensor([_LOBE[0], *[_LOBE[1]] * 3, *[_LOBE[2]] * 5]).to(normals)


def irradiance(light: Float[Tensor, "k 9 3"], transfer: Float[Tensor, "k m 9"]) -> Float[Tensor, "k m 3"]:
    """Σ t_lm L_lm per RGB channel; below a hundredth it only comes nearer to zero.

    Args:
        light: radiance as spherical harmonics, gsplat's order.
        transfer: what of it a surface gathers, in the same frame.
    """
    gathered = transfer @ light
    return torch.where(gathered > _DARK, gathered, _DARK * (gathered / _DARK - 1).clamp_max(0).exp())
