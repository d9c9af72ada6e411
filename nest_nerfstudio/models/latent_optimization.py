"""A latent fitted to images: min over Z of Σ_j ‖π_j pose(f_θ(Z)) − I_j‖, starting from a given latent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nest_nerfstudio.geometry.quaternion import quat_to_rotmat, rotmat_to_quat
from nest_nerfstudio.geometry.se3 import Pose, se3_exp, se3_inverse
from nest_nerfstudio.models.latent_parameters import Factor, LatentParameters, detached
from nest_nerfstudio.types import SceneLatent, Views

LEARNED: tuple[Factor, ...] = ("poses", "geometry", "appearance", "light")
"""Factors of a latent that are fitted to images."""
Loss = Callable[[SceneLatent, Views], Tensor]
"""Of a latent and one view, both in one frame, whichever it is."""


@dataclass(frozen=True)
class Objective:
    """What a latent is fitted to.

    Attributes:
        images: error of a latent's rendering, in any frame.
        latent: what its plausibility adds, world frame; None: nothing.
    """

    images: Loss
    latent: Callable[[SceneLatent], Tensor] | None = None

    def __call__(self, latent: SceneLatent, views: Views) -> Tensor:
        """Of a latent and views in the world frame."""
        error = self.images(latent, views)
        return error if self.latent is None else error + self.latent(latent)


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


CAMERA_RATE = 2e-2
"""Learning rate of a camera's twist: world units and radians a step."""


class CameraPose(nn.Module):
    """The pose of one camera as parameters: viewmat · exp(ξ), ξ in the world's frame; 0 at the start.

    So rotations are orbits about the origin, which leave the object in the image.

    Args:
        viewmat: world to camera, OpenCV axes.
    """

    viewmat: Tensor

    def __init__(self, viewmat: Float[Tensor, "4 4"]) -> None:
        super().__init__()
        self.register_buffer("viewmat", viewmat.detach().clone())
        self.twist = nn.Parameter(viewmat.new_zeros(6))

    def forward(self, view: Views) -> Views:
        """The view from this camera.

        Args:
            view: a single one.
        """
        quat, translation = se3_exp(self.twist)
        top = torch.cat([quat_to_rotmat(quat), translation[:, None]], 1)
        moved = torch.cat([top, self.viewmat.new_tensor([[0.0, 0.0, 0.0, 1.0]])])
        return replace(view, viewmats=(self.viewmat @ moved)[None])


def optimize_latent(
    latent: SceneLatent,
    views: Views,
    objective: Objective,
    steps: int,
    rates: LatentRates = LatentRates(),
    final_ratio: float = 1.0,
    camera: CameraPose | None = None,
) -> SceneLatent:
    """Fit poses, geometry, appearance and light of a latent to images, one view a step, in turn.

    Steps are taken in the frame of the first view, so that the result turns with the world as its start does.

    Args:
        latent: the start; its appearance is albedo.
        views: images to fit.
        objective: of a latent and one of the views.
        steps: number of steps of Adam.
        rates: its learning rates.
        final_ratio: last learning rate over the first; they decay exponentially.
        camera: pose of the camera of a single view, if it is to be fitted too.
    """
    if steps < 1:
        return latent
    into = _world_to_camera(views)
    back = se3_inverse(into)
    with torch.enable_grad():
        parameters = LatentParameters.from_latent(latent.turn_world(into), LEARNED, albedo=True)
        named = dict(parameters.named_parameters())
        groups = [([named[name]], rate) for name, rate in vars(rates).items()]
        if camera is not None:
            groups.append(([camera.twist], CAMERA_RATE))

        def loss(step: int) -> Tensor:
            view, now = views.select(slice(step % len(views), step % len(views) + 1)), parameters()
            error = objective.images(now, (view if camera is None else camera(view)).move(into))
            return error if objective.latent is None else error + objective.latent(now.turn_world(back))

        take_steps(groups, loss, steps, final_ratio)
    return detached(parameters()).turn_world(back)


def take_steps(
    groups: list[tuple[list[nn.Parameter], float]],
    loss: Callable[[int], Tensor],
    steps: int,
    final_ratio: float = 1.0,
) -> None:
    """Minimise by Adam; no other parameter of the graph gets a gradient.

    Args:
        groups: parameters with their learning rates.
        loss: of a step.
        steps: how many.
        final_ratio: last learning rate over the first.
    """
    parameters = [parameter for group, _ in groups for parameter in group]
    optimizer = torch.optim.Adam([{"params": group, "lr": rate} for group, rate in groups])
    decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, final_ratio ** (1 / max(1, steps - 1)))
    for step in range(steps):
        gradients = torch.autograd.grad(loss(step), parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        decay.step()


def _world_to_camera(views: Views) -> Pose:
    """Of the first view."""
    viewmat = views.viewmats[0]
    return rotmat_to_quat(viewmat[:3, :3]), viewmat[:3, 3]
