"""A decoded scene as numbers that play without a model: in a web page, for one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nest_nerfstudio.dynamics.orbit import Orbit
from nest_nerfstudio.dynamics.trajectory import Trajectory
from nest_nerfstudio.models.decoded_scene import DecodedScene
from nest_nerfstudio.types import WORLD, RiggedGaussians, SceneLatent, TimeMap


@dataclass(frozen=True)
class Playable:
    """A scene whose tokens move by twists that are linear in a state: T_k · exp(t η_k) · exp(M_k (z(t), 1)).

    t is the own time that is shown; neither moves what stands still.

    Attributes:
        latent: poses of the tokens at rest, light and time map.
        rigged: Gaussians at rest and their rig.
        modes: M.
        drift: η.
        path: z; a table that reaches over the asked times, or an orbit, which holds at any. None: no motion.
    """

    latent: SceneLatent
    rigged: RiggedGaussians
    modes: Float[Tensor, "k 6 m"]
    drift: Float[Tensor, "k 6"]
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
        still = latent.quats.new_zeros(len(latent), 6)
        return Playable(latent, rigged, still[..., None], still, None)
    first, last = own_times(latent.motion.time_map, t0, t1)
    path = scene.dynamics.solve(latent.motion, first, last)
    modes, path = scene.dynamics.linear(latent, path)
    is_world = (latent.ids == WORLD)[:, None]
    drift = latent.motion.drift.masked_fill(is_world, 0.0)
    return Playable(latent, rigged, modes.masked_fill(is_world[..., None], 0.0), drift, path)


def own_times(clock: TimeMap, t0: float, t1: float) -> tuple[float, float]:
    """First and last own time that a scene shows between two clip times, what it fades into included."""
    if clock.loop is not None:
        return clock.loop[0] - clock.fade, clock.loop[1]
    first, last = sorted(clock.speed * time + clock.offset for time in (t0, t1))
    return first, last
