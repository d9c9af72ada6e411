"""A latent fitted to pictures: min over Z of Σ_j ‖π_j f_θ(Z) − I_j‖, from where an encoder has put it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nest_nerfstudio.geometry.quaternion import quat_normalize, rotmat_to_quat
from nest_nerfstudio.geometry.se3 import Pose, se3_inverse
from nest_nerfstudio.types import SceneLatent, Views


@dataclass(frozen=True)
class LatentRates:
    """Learning rates of Adam, for each part of a latent.

    Attributes:
        translations: world units a step.
        quats: of the quaternions' entries.
        shape: of the geometry codes.
        appearance: of the logits of albedo.
        light: of the spherical harmonics.
    """

    translations: float = 2e-3
    quats: float = 1e-2
    shape: float = 2e-2
    appearance: float = 3e-2
    light: float = 5e-3


def optimize_latent(
    latent: SceneLatent,
    views: Views,
    loss: Callable[[SceneLatent, Views], Tensor],
    steps: int,
    rates: LatentRates = LatentRates(),
) -> SceneLatent:
    """Fit all factors of a latent to pictures, with the decoder as it is; one view a step, in turn.

    Steps are taken in the frame of the first view, so that the result turns with the world as its start does.

    Args:
        latent: the start.
        views: pictures to fit.
        loss: of a latent, from one of the views.
        steps: of Adam.
        rates: its learning rates.
    """
    if steps < 1:
        return latent
    into = _pose(views)
    views, start = views.move(into), latent.turn_world(into)
    with torch.enable_grad():
        parts = {name: getattr(start, name).detach().clone() for name in vars(rates)}
        parts["appearance"] = parts["appearance"].clamp(0.01, 0.99).logit()
        for part in parts.values():
            part.requires_grad_(True)
        optimizer = torch.optim.Adam(
            [{"params": [parts[name]], "lr": rate} for name, rate in vars(rates).items()]
        )
        for step in range(steps):
            view = views.select(slice(step % len(views), step % len(views) + 1))
            gradients = torch.autograd.grad(loss(_latent(start, parts), view), list(parts.values()))
            for part, gradient in zip(parts.values(), gradients, strict=True):
                part.grad = gradient
            optimizer.step()
    fitted = _latent(start, {name: part.detach() for name, part in parts.items()})
    return fitted.turn_world(se3_inverse(into))


def _latent(start: SceneLatent, parts: dict[str, Tensor]) -> SceneLatent:
    albedo, quats = parts["appearance"].sigmoid(), quat_normalize(parts["quats"])
    return replace(start, **{**parts, "appearance": albedo, "quats": quats})


def _pose(views: Views) -> Pose:
    """World to the first camera."""
    viewmat = views.viewmats[0]
    return rotmat_to_quat(viewmat[:3, :3]), viewmat[:3, 3]
