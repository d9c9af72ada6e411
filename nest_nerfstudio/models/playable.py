"""A decoded scene as numbers that play without a model: in a web page, for one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nest_nerfstudio.dynamics.orbit import Orbit
from nest_nerfstudio.dynamics.trajectory import Trajectory
from nest_nerfstudio.models.decoded_scene import DecodedScene
from nest_nerfstudio.types import RiggedGaussians, SceneLatent, TimeMap


@dataclass(frozen=True)
class Playable:
    """A scene whose tokens' twists are linear in a state, ξ_k(t) = M_k (z(own time of t), 1).

    Attributes:
        latent: poses of the tokens at rest, light and time map.
        rigged: Gaussians at rest and their rig.
        modes: M.
        path: z; a table that reaches over the asked times, or an orbit, which holds at any. None: no motion.
    """

    latent: SceneLatent
    rigged: RiggedGaussians
    modes: Float[Tensor, "k 6 m"]
    path: Trajectory | Orbit | None

    @property
    def is_endless(self) -> bool:
        """Whether it goes on at any time: in a cycle, or in a loop."""
        return isinstance(self.path, Orbit) or self.latent.motion.time_map.loop is not None


@torch.no_grad()
def playable(scene: DecodedScene, t0: float, t1: float) -> Playable:
    """A scene ready to be played from clip time `t0` to `t1`.

    Raises:
        ValueError: Gaussians are deformed one by one, not by tokens.
    """
    if scene.is_deformed:
        raise ValueError(
            "this run moves Gaussians by an MLP (--pipeline.model.motion mlp), which only its model can "
            "play; nest-export splat writes it at any times"
        )
    latent, rigged = scene.latent, scene.rigged
    if not scene.moves:
        return Playable(latent, rigged, latent.quats.new_zeros(len(latent), 6, 1), None)
    first, last = own_times(latent.motion.time_map, t0, t1)
    path = scene.dynamics.solve(latent.motion, first, last)
    return Playable(latent, rigged, *scene.dynamics.linear(latent, path))


def own_times(clock: TimeMap, t0: float, t1: float) -> tuple[float, float]:
    """First and last own time that a scene shows between two clip times, what it fades into included."""
    if clock.loop is not None:
        return clock.loop[0] - clock.fade, clock.loop[1]
    first, last = sorted(clock.speed * time + clock.offset for time in (t0, t1))
    return first, last
