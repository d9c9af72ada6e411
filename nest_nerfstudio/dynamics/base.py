"""The contract of Φ_t: a flow on scene latents."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor, nn

from nest_nerfstudio.types import SceneLatent


class Dynamics(nn.Module, ABC):
    """Carries a latent to another time; commutes with every SE(3) action on the latent's poses."""

    @abstractmethod
    def forward(self, latent: SceneLatent, time: Float[Tensor, ""]) -> SceneLatent:
        """Pose the tokens of `latent` as they stand at `time`.

        Args:
            latent: the scene in its rest pose.
            time: clip time; the observed clip spans [0, 1], other values extrapolate.

        Returns:
            The same scene at `time`. Shape, appearance and light are untouched.
        """


class StaticDynamics(Dynamics):
    """Nothing moves; only the clock of the latent is set."""

    def forward(self, latent: SceneLatent, time: Float[Tensor, ""]) -> SceneLatent:
        return set_time(latent, time)


def set_time(latent: SceneLatent, time: Float[Tensor, ""]) -> SceneLatent:
    """The same latent with its clock at `time`."""
    return replace(latent, motion=replace(latent.motion, time=time))
