"""Lights as spherical harmonics."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from nest_nerfstudio.geometry.sh import SH_C0, sh_basis
from nest_nerfstudio.states import SunSky


def sun_sky_light(light: SunSky, like: Float[Tensor, "3 9"]) -> Float[Tensor, "3 9"]:
    """Radiance of a sun and a uniform sky in spherical harmonics up to degree 2, gsplat's order.

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
