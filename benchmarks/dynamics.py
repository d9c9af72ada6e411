"""Numerics and smoothness of a trained scene's motion.

    python benchmarks/dynamics.py --load-config RUN/config.yml

Measured on what was learned: equivariance; of an ODE that is solved, the order of its solver, adjoint against
direct gradients, and evaluations of F; and how the tokens move in slow motion, before, in and after the clip.
"""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from nerfstudio.utils.eval_utils import eval_setup
from results import record
from torch import Tensor

from nest_nerfstudio.dynamics.fitter import LatentFlowFitter
from nest_nerfstudio.dynamics.flow import LatentFlow
from nest_nerfstudio.dynamics.trajectory import Trajectory
from nest_nerfstudio.geometry.se3 import Pose, se3_compose, se3_exp
from nest_nerfstudio.models.latent_parameters import detached
from nest_nerfstudio.models.nest_dynamic import NestDynamicModel
from nest_nerfstudio.types import MotionCode, SceneLatent


@dataclass
class DynamicsReport:
    """Print what can be measured of a scene's dynamics without images."""

    load_config: Path
    """The run's config.yml."""
    frames: int = 120
    """Frames of the clip."""
    slower: int = 10
    """How many times as many frames slow motion has."""

    def main(self) -> None:
        """Print one line a figure."""
        torch.manual_seed(0)
        config, pipeline, _, step = eval_setup(self.load_config, test_mode="inference")
        model = pipeline.model
        assert isinstance(model, NestDynamicModel)
        if model.config.motion != "ode" or not model.fitter.rolls_out:
            raise SystemExit(
                f"the run of {self.load_config} ended before the ODE took over; train for longer"
            )
        flow = model.flow.requires_grad_(False)
        latents = {dtype: _cast(detached(model.latent()), dtype) for dtype in (torch.float32, torch.float64)}
        motion = latents[torch.float64].motion
        print("motion:", f"cyclic, {motion.period:.5f} clips a cycle" if motion.kind == "cyclic" else "free")
        figures: dict[str, float | str] = {"motion": motion.kind}
        for dtype, latent in latents.items():
            errors = [equivariance_error(deepcopy(flow).to(dtype), latent) for _ in range(10)]
            print(f"equivariance error, {dtype}: {max(errors):.1e} at most over 10 motions of the world")
            figures[f"equivariance_{str(dtype).removeprefix('torch.')}"] = max(errors)
        if motion.kind == "free":
            figures |= print_solver(deepcopy(flow).double(), deepcopy(model.fitter), motion)
        for name, times in {"before": (-1, 0), "in": (0, 1), "after": (1, 2), "throughout": (-1, 2)}.items():
            normal, slow = self._smoothness(flow, latents[torch.float32], *times)
            print(
                f"{name} the clip: largest change of a token's step over the largest step {normal:.3f}, "
                f"{self.slower}x slower {slow:.4f} ({normal / slow:.1f} times less)"
            )
            place = "" if name == "throughout" else f"_{name}"
            figures |= {
                f"change_of_step{place}": normal,
                f"change_of_step{place}_{self.slower}x_slower": slow,
            }
        settings = {"scene": Path(str(config.data)).name, "run": self.load_config, "step": step}
        record("dynamics", figures, settings={**settings, "frames": self.frames})

    def _smoothness(self, flow: LatentFlow, latent: SceneLatent, begin: int, end: int) -> list[float]:
        """Steps of the tokens from frame to frame, at normal speed and slowed down.

        A step changes by O(h) of itself where motion is smooth, so ten times less in slow motion; a jump
        stays as large as it is.
        """
        changes = []
        path = flow.solve(latent.motion, begin, end)
        for count in (self.frames, self.frames * self.slower):
            times = torch.linspace(begin, end, (end - begin) * count + 1).to(latent.quats)
            steps = torch.stack([flow.poses(latent, path, t)[1] for t in times]).diff(dim=0)
            changes.append(float(steps.diff(dim=0).norm(dim=-1).max() / steps.norm(dim=-1).max()))
        return changes


def equivariance_error(flow: LatentFlow, latent: SceneLatent) -> float:
    """‖Φ_t(gZ) − gΦ_t(Z)‖ / ‖Φ_t(Z)‖ of the tokens' positions, at a random g ∈ SE(3) and t ∈ [−1, 2]."""
    quat, translation = se3_exp(torch.randn(6).to(latent.quats))
    time = 3 * torch.rand(()).to(latent.quats) - 1

    def posed(scene: SceneLatent) -> Pose:
        return flow.poses(scene, flow.solve(scene.motion, -1.0, 2.0), time)

    first = se3_compose((quat, translation), posed(latent))[1]
    second = posed(latent.turn_world((quat, translation)))[1]
    return float((first - second).norm() / first.norm())


def print_solver(flow: LatentFlow, fitter: LatentFlowFitter, motion: MotionCode) -> dict[str, float]:
    """Order, gradients and evaluations of the solver on the learned field."""
    steps = flow.config.steps_per_clip
    coarse, fine, finest = (_clip(_with(flow, steps_per_clip=n * steps), motion)[-1] for n in (1, 2, 4))
    error = float((coarse - fine).norm() / fine.norm())
    order = math.log2(float((coarse - fine).norm() / (fine - finest).norm()))
    print(f"state after the clip, {steps} rk4 steps against twice as many: {error:.1e} off, relative")
    print(f"order of convergence, from {steps} to {4 * steps} steps: {order:.2f}")

    as_fine = _with(flow, steps_per_clip=flow.ADJOINT_SUBSTEPS * steps)
    gap = _gradient_gap(_with(flow, adjoint=True), as_fine, motion)
    print(f"adjoint against direct gradient of steps as fine, relative: {gap:.1e}")

    calls: list[int] = []
    flow.vector_field.register_forward_hook(lambda *_: calls.append(1))
    count = 10 * fitter.config.solve_every
    for _ in range(count):
        fitter.path(flow, motion)
    calls_a_step = len(calls) / count
    print(f"evaluations of F for a training step: {calls_a_step:.1f}")
    return {"state_error": error, "order": order, "adjoint_gap": gap, "evaluations_a_step": calls_a_step}


def _clip(flow: LatentFlow, motion: MotionCode) -> Tensor:
    """States at the nodes of the clip."""
    path = flow.solve(motion)
    assert isinstance(path, Trajectory)
    return path.values


def _gradient_gap(flow: LatentFlow, other: LatentFlow, motion: MotionCode) -> float:
    """Of the mean squared state at the nodes of the clip, with respect to the start and to F, relative."""
    gradients, count = [], min(flow.config.steps_per_clip, other.config.steps_per_clip)
    for solver in (flow, other):
        begin, solver = motion.start.clone().requires_grad_(), solver.requires_grad_(True)
        values = _clip(solver, replace(motion, start=begin))
        loss = values[:: (len(values) - 1) // count].square().mean()
        grads = torch.autograd.grad(loss, [begin, *solver.vector_field.parameters()])
        gradients.append(torch.cat([g.flatten() for g in grads]))
    found, expected = gradients
    return float((found - expected).norm() / expected.norm())


def _with(flow: LatentFlow, **settings) -> LatentFlow:
    changed = deepcopy(flow)
    changed.config = replace(flow.config, **settings)
    return changed


def _cast(latent: SceneLatent, dtype: torch.dtype) -> SceneLatent:
    def cast(part):
        found = {k: v for k, v in vars(part).items() if isinstance(v, Tensor) and v.is_floating_point()}
        return replace(part, **{name: value.to(dtype) for name, value in found.items()})

    return replace(cast(latent), motion=cast(latent.motion))


if __name__ == "__main__":
    tyro.cli(DynamicsReport).main()
