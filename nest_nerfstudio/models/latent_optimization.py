"""A latent fitted to images: min over Z of Σ_j ‖π_j pose(f_θ(Z)) − I_j‖, starting from an encoded latent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nest_nerfstudio.geometry.quaternion import rotmat_to_quat
from nest_nerfstudio.geometry.se3 import Pose, se3_inverse
from nest_nerfstudio.models.latent_parameters import LatentParameters, detached
from nest_nerfstudio.types import SceneLatent, Views


@dataclass(frozen=True)
class LatentRates:
    """Learning rates of Adam, for each chart of a latent.

    Attributes:
        shifts: of the tokens' translations, world units a step.
        turns: of the tokens' rotations, radians a step.
        geometry: of the geometry codes.
        appearance: of the logits of albedo.
        light: of the spherical harmonics.
    """

    shifts: float = 2e-3
    turns: float = 2e-2
    geometry: float = 2e-2
    appearance: float = 3e-2
    light: float = 5e-3


def optimize_latent(
    latent: SceneLatent,
    views: Views,
    loss: Callable[[SceneLatent, Views], Tensor],
    steps: int,
    rates: LatentRates = LatentRates(),
) -> SceneLatent:
    """Fit poses, geometry, appearance and light of a latent to images, one view a step, in turn.

    Steps are taken in the frame of the first view, so that the result turns with the world as its start does.

    Args:
        latent: the start; its appearance is albedo.
        views: images to fit.
        loss: of a latent and one of the views.
        steps: number of steps of Adam.
        rates: its learning rates.
    """
    if steps < 1:
        return latent
    into = _world_to_camera(views)
    views = views.move(into)
    with torch.enable_grad():
        learn = ("poses", "geometry", "appearance", "light")
        parameters = LatentParameters.from_latent(latent.turn_world(into), learn, albedo=True)
        named = dict(parameters.named_parameters())
        optimizer = torch.optim.Adam(
            [{"params": [named[name]], "lr": rate} for name, rate in vars(rates).items()]
        )
        for step in range(steps):
            view = views.select(slice(step % len(views), step % len(views) + 1))
            gradients = torch.autograd.grad(loss(parameters(), view), list(named.values()))
            for parameter, gradient in zip(named.values(), gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
    return detached(parameters()).turn_world(se3_inverse(into))


def _world_to_camera(views: Views) -> Pose:
    """Of the first view."""
    viewmat = views.viewmats[0]
    return rotmat_to_quat(viewmat[:3, :3]), viewmat[:3, 3]
