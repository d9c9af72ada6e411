"""Known edits of a scene as actions on its latent."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from nest_nerfstudio.geometry.color import shift_hue
from nest_nerfstudio.geometry.quaternion import quat_exp
from nest_nerfstudio.geometry.se3 import Pose, se3_compose, se3_inverse
from nest_nerfstudio.geometry.sh import SH_C0, sh_basis
from nest_nerfstudio.types import Edit, SceneLatent, SunSky


def apply_edit(latent: SceneLatent, edit: Edit, seen_as: Edit = Edit()) -> SceneLatent:  # noqa: B008
    """The scene in another state: g(edit) g(seen_as)⁻¹ · Z.

    The object turns and moves, the hue of its albedo shifts, and the light becomes that of the edit where it
    is another one that is known.

    Args:
        latent: of the scene in the state `seen_as`.
        edit: the state that is asked for.
        seen_as: the state that the latent is of.

    Raises:
        ValueError: the two differ in `stretch`, which no group of the latent carries out.
    """
    if edit.stretch != seen_as.stretch:
        raise ValueError("stretching is no action on a latent: encode the stretched scene")
    there, back = _placement(edit, latent.translations), se3_inverse(_placement(seen_as, latent.translations))
    latent = latent.move(se3_compose(there, back))
    if edit.hue != seen_as.hue:
        latent = recolor(latent, edit.hue - seen_as.hue)
    if edit.light is not None and edit.light != seen_as.light:
        latent = replace(latent, light=sun_sky_light(edit.light, latent.light))
    return latent


def recolor(latent: SceneLatent, turn: float) -> SceneLatent:
    """Shift the hue of every albedo by a fraction of a turn: S¹ on `appearance`, which holds linear RGB."""
    palette = latent.appearance.unflatten(1, (-1, 3))
    return replace(latent, appearance=shift_hue(palette, turn).flatten(1))


def sun_sky_light(light: SunSky, like: Float[Tensor, "3 9"]) -> Float[Tensor, "3 9"]:
    """Radiance of a sun and an even sky in spherical harmonics up to degree 2, gsplat's order.

    A sun of irradiance E from direction ω is E δ(ω), so L_lm = E Y_lm(ω); a sky of radiance a has
    L_00 = a / Y_00.

    Args:
        light: sun and sky, white.
        like: a light, for its dtype and device.
    """
    towards = F.normalize(-torch.tensor(light.direction).to(like), dim=0)
    coefficients = light.sun * sh_basis(2, towards)
    coefficients[0] += light.ambient / SH_C0
    return coefficients.expand(3, -1)


def _placement(edit: Edit, like: Tensor) -> Pose:
    """Where an edit puts the object: turned about z, then moved."""
    turn = torch.tensor([0.0, 0.0, edit.yaw]).to(like)
    return quat_exp(turn), torch.tensor(edit.translate).to(like)
