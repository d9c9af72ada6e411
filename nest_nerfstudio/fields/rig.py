"""The one way from a decoded scene to the Gaussians of a moment: skin by the tokens' poses, then shade."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from nest_nerfstudio.fields.skinning import blend, skin
from nest_nerfstudio.geometry.color import linear_to_srgb
from nest_nerfstudio.geometry.quaternion import quat_conjugate, quat_multiply, quat_to_rotmat
from nest_nerfstudio.geometry.se3 import Pose
from nest_nerfstudio.geometry.sh import rgb_to_sh, rotate_sh
from nest_nerfstudio.types import Gaussians, Material, RiggedGaussians


def pose(rigged: RiggedGaussians, poses: Pose, light: Float[Tensor, "3 9"]) -> Gaussians:
    """A scene as its tokens stand, under a light.

    Args:
        rigged: the decoded scene.
        poses: of its tokens, world frame: (unit quats [K, 4] wxyz, translations [K, 3]).
        light: real SH of the environment light, gsplat's order, world axes; it shades scenes that have a
            material, and is not used by others.

    Returns:
        Gaussians in the world frame.

    Raises:
        ValueError: as `skin`.
    """
    gaussians = skin(rigged, poses)
    if rigged.material is None:
        return gaussians
    rgb = shade(rigged, rigged.material, poses[0], light)
    return replace(gaussians, sh=torch.cat([rgb_to_sh(rgb)[:, None], gaussians.sh[:, 1:]], 1))


def resize(rigged: RiggedGaussians, sizes: Float[Tensor, " k"]) -> RiggedGaussians:
    """A scene in which each token's Gaussians are scaled about the token.

    A Gaussian has the size of the token that it follows most; its other tokens count as far as they are of
    the same size. If all tokens are, and stand as a whole scene scaled, so do the Gaussians, exactly.

    Args:
        rigged: the decoded scene.
        sizes: scale of what each token carries, > 0.
    """
    most = rigged.tokens.gather(1, rigged.weights.argmax(1, keepdim=True))
    size = sizes[most]
    weights = torch.where(sizes[rigged.tokens] == size, rigged.weights, 0.0)
    rest = replace(rigged.rest, means=rigged.rest.means * size, scales=rigged.rest.scales * size)
    return replace(
        rigged,
        rest=rest,
        bind_translations=rigged.bind_translations * sizes[:, None],
        weights=weights / weights.sum(1, keepdim=True),
    )


def shade(
    rigged: RiggedGaussians, material: Material, quats: Float[Tensor, "k 4"], light: Float[Tensor, "3 9"]
) -> Float[Tensor, "n 3"]:
    """sRGB of Gaussians with albedo ρ and transfer t under a light L: ρ (t · L) / π.

    Precomputed radiance transfer (Sloan, Kautz, Snyder 2002). The transfer stays in the frame at rest; the
    light is turned into it by what each token turned since it was bound, and blended as the skinning does.

    Args:
        rigged: gives the rig.
        material: of its Gaussians.
        quats: rotations of the tokens now.
        light: real SH, gsplat's order, world axes.
    """
    back = quat_to_rotmat(quat_multiply(quats, quat_conjugate(rigged.bind_quats))).mT
    lights = blend(rotate_sh(light.mT, back).flatten(1), rigged).unflatten(1, (9, 3))
    gathered = irradiance(lights, material.transfer[:, None])[:, 0]
    return linear_to_srgb(material.albedo * gathered / math.pi)


_DARK = 0.01
"""Irradiance."""


def irradiance(light: Float[Tensor, "k 9 3"], transfer: Float[Tensor, "k m 9"]) -> Float[Tensor, "k m 3"]:
    """Σ t_lm L_lm per RGB channel; below a hundredth it approaches zero smoothly, and stays positive.

    Args:
        light: radiance as spherical harmonics, gsplat's order.
        transfer: radiance transfer of M surfaces, in the same frame.
    """
    gathered = transfer @ light
    return torch.where(gathered > _DARK, gathered, _DARK * (gathered / _DARK - 1).clamp_max(0).exp())
