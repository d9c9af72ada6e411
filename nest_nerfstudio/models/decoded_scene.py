"""A scene that is ready to be shown at any time."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from nest_nerfstudio.dynamics.base import Dynamics
from nest_nerfstudio.dynamics.orbit import Orbit
from nest_nerfstudio.dynamics.trajectory import Trajectory
from nest_nerfstudio.fields.base import Field
from nest_nerfstudio.fields.rig import pose, resize
from nest_nerfstudio.fields.skinning import blend
from nest_nerfstudio.geometry.se3 import Pose
from nest_nerfstudio.types import WORLD, Gaussians, MotionCode, SceneLatent


class DecodedScene:
    """A latent with its Gaussians and its path: decoded once, solved once, and further where it is asked for.

    Args:
        latent: Z, edits included.
        field: decodes it.
        dynamics: moves it.
        deform: Gaussians at rest to those at a clip time, before they are posed: a baseline of nest-dynamic.
    """

    def __init__(
        self,
        latent: SceneLatent,
        field: Field,
        dynamics: Dynamics,
        deform: Callable[[Gaussians, Tensor], Gaussians] | None = None,
    ) -> None:
        self.latent, self.dynamics, self._deform = latent, dynamics, deform
        self.rigged = field(latent)
        if latent.sizes is not None:
            self.rigged = resize(self.rigged, latent.sizes)
        self._solved: tuple[float, float, Trajectory | Orbit] | None = None

    def moving_as(self, motion: MotionCode) -> DecodedScene:
        """The scene with another motion; what it is decoded into stays."""
        other = copy(self)
        other.latent, other._solved = replace(self.latent, motion=motion), None
        return other

    @property
    def moves(self) -> bool:
        """Whether it differs from one time to another."""
        return self.is_deformed or not self.dynamics.is_still(self.latent.motion)

    @property
    def is_deformed(self) -> bool:
        """Whether Gaussians also move by themselves, not only with their tokens."""
        return self._deform is not None

    @property
    def has_background(self) -> bool:
        """Whether something of it stands still, whatever the time."""
        return bool((self.latent.ids == WORLD).any())

    def moving_shares(self) -> Float[Tensor, "n 1"]:
        """Share of each Gaussian's motion that is not the world's."""
        return blend((self.latent.ids != WORLD).to(self.rigged.weights)[:, None], self.rigged)

    def poses_at(self, time: float | Tensor) -> Pose:
        """Poses of the tokens at a clip time, world frame; outside [0, 1] they are extrapolated."""
        time = self._as_tensor(time)
        return self.dynamics.poses(self.latent, self._path(time), time)

    def gaussians_at(self, time: float | Tensor) -> Gaussians:
        """The scene as Gaussians at a clip time, world frame."""
        rigged = self.rigged
        if self._deform is not None:
            rigged = replace(rigged, rest=self._deform(rigged.rest, self._as_tensor(time)))
        return pose(rigged, self.poses_at(time), self.latent.light)

    def _as_tensor(self, time: float | Tensor) -> Tensor:
        return torch.as_tensor(time).to(self.latent.quats).reshape(())

    def _path(self, time: Tensor) -> Trajectory | Orbit:
        clock = self.latent.motion.time_map
        own = float(clock(time))
        first = own if clock.loop is None or not clock.fade else own - (clock.loop[1] - clock.loop[0])
        solved = self._solved  # once: a viewer asks from several threads
        if solved is None or first < solved[0] or own > solved[1]:
            t0, t1 = (0.0, 1.0) if solved is None else solved[:2]
            t0, t1 = min(t0, first), max(t1, own)
            path = self.dynamics.solve(self.latent.motion, t0, t1)
            solved = (t0, t1, path) if isinstance(path, Orbit) else (path.t0, path.t1, path)
            if isinstance(path, Trajectory) and (t0 < path.t0 or t1 > path.t1):
                solved = t0, t1, path  # a free curve stands still beyond the clip
            self._solved = solved
        return solved[2]
