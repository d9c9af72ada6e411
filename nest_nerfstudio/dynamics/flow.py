"""Φ: a neural ODE on a small invariant state that poses the tokens of any scene. It holds no scene."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import torch
from jaxtyping import Float
from nerfstudio.configs.base_config import InstantiateConfig
from torch import Tensor, nn
from torchdiffeq import odeint, odeint_adjoint

from nest_nerfstudio.dynamics.base import Dynamics
from nest_nerfstudio.dynamics.orbit import Orbit
from nest_nerfstudio.dynamics.trajectory import Trajectory
from nest_nerfstudio.dynamics.vector_field import VectorField, with_one
from nest_nerfstudio.types import MotionCode, SceneLatent


@dataclass
class LatentFlowConfig(InstantiateConfig):
    """Settings of `LatentFlow`."""

    _target: type = field(default_factory=lambda: LatentFlow)
    state_dim: int = 16
    """Size D of the latent state z of a scene; even, as cyclic motion uses two numbers for a harmonic."""
    hidden_dim: int = 128
    """Width of the vector field's MLP."""
    scene_code_dim: int = 0
    """Size of the code by which scenes that share the vector field differ; 0 for a single scene."""
    steps_per_clip: int = 32
    """Fixed RK4 steps over the observed clip."""
    adjoint: bool = False
    """Compute gradients of roll-outs by the adjoint ODE, solved backwards, instead of backpropagation through
    the solver. They are as exact as the steps are fine, so the steps are a third as long."""


class LatentFlow(Dynamics):
    """ż = F_ψ(z, c) for motion that is free, an oscillator for motion that is cyclic.

    The twist of token k is linear in the state, ξ_k = M_k (z, 1), with M_k from the scene's `MotionCode`. So
    the flow commutes with SE(3) exactly, and its cost depends neither on the number of Gaussians nor, for F,
    on the number of tokens.
    """

    ADJOINT_SUBSTEPS = 3
    """Solver steps between two nodes for adjoint gradients: direct ones of as many agree to 1e-4."""

    def __init__(self, config: LatentFlowConfig) -> None:
        super().__init__()
        if config.state_dim % 2:
            raise ValueError(f"state_dim must be even, two numbers for a harmonic, not {config.state_dim}")
        self.config = config
        sizes = config.state_dim, config.hidden_dim, config.scene_code_dim
        self.vector_field = VectorField(*sizes)
        self.backward_field = VectorField(*sizes)

    def solve(self, motion: MotionCode, t0: float = 0.0, t1: float = 1.0) -> Trajectory | Orbit:
        if motion.kind == "cyclic":
            return Orbit(motion.period, motion.start, motion.phase)
        if motion.kind == "still":
            nodes = motion.start.expand(2, -1)
            return Trajectory(t0, max(t1, t0 + 1), nodes, torch.zeros_like(nodes))
        return self.roll_out(motion.start, math.floor(t0), math.ceil(t1), motion.scene_code)

    def twists(self, latent: SceneLatent, z: Float[Tensor, " d"]) -> Float[Tensor, "k 6"]:
        return latent.motion.modes @ with_one(z)

    def linear(
        self, latent: SceneLatent, path: Trajectory | Orbit
    ) -> tuple[Float[Tensor, "k 6 m"], Trajectory | Orbit]:
        return latent.motion.modes, path

    def roll_out(
        self, start: Float[Tensor, " d"], t0: int = 0, t1: int = 1, scene_code: Tensor | None = None
    ) -> Trajectory:
        """Integrate from z(0) = start to t1 ≥ 1, and back to t0 ≤ 0, with fixed RK4 steps.

        Back in time a second field leads: the path attracts along F, so it would repel along −F.
        """
        t0, t1 = min(0, t0), max(1, t1)
        forward, backward = (field.given(scene_code) for field in (self.vector_field, self.backward_field))
        steps = self.config.steps_per_clip
        values = self.integrate(forward, start, t1 * steps)
        slopes = forward(None, values)
        if t0 < 0:
            before = self.integrate(backward, start, -t0 * steps)[1:].flip(0)
            values = torch.cat([before, values])
            slopes = torch.cat([-backward(None, before), slopes])
        return Trajectory(float(t0), float(t1), values, slopes)

    def integrate(
        self, vector_field: nn.Module, start: Float[Tensor, "*b d"], num_steps: int
    ) -> Float[Tensor, "s *b d"]:
        """States at 0, 1, …, `num_steps` solver steps from `start` along a vector field."""
        end, substeps = num_steps / self.config.steps_per_clip, 1
        solve = odeint
        if self.config.adjoint:
            parameters = (*vector_field.parameters(), *getattr(vector_field, "given_tensors", ()))
            solve, substeps = partial(odeint_adjoint, adjoint_params=parameters), self.ADJOINT_SUBSTEPS
        times = torch.linspace(0, end, substeps * num_steps + 1, device=start.device, dtype=start.dtype)
        return cast(Tensor, solve(vector_field, start, times, method="rk4"))[::substeps]

    def attraction_loss(
        self, path: Trajectory, attraction: float, scene_code: Tensor | None = None
    ) -> Float[Tensor, ""]:
        """Distance of both fields from attracting to a path at rate κ, by `VectorField.tube_loss`.

        Args:
            path: of the scene of the code; taken as a constant.
            attraction: κ, per clip.
            scene_code: of that scene; None is the zero code.
        """
        path, code = path.detach(), scene_code if self.config.scene_code_dim else None
        forward = self.vector_field.tube_loss(path, attraction, code)
        return forward + self.backward_field.tube_loss(path.reversed(), attraction, code)
