"""Fits a latent flow and the motion code of one scene to images: free fit → ODE fit → roll-out."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from nerfstudio.configs.base_config import InstantiateConfig
from torch import Tensor, nn

from nest_nerfstudio.dynamics.base import Dynamics
from nest_nerfstudio.dynamics.cycle_choice import CycleChoice, choose_from_ends, choose_from_images
from nest_nerfstudio.dynamics.flow import LatentFlow, LatentFlowConfig
from nest_nerfstudio.dynamics.free_motion import FreeMotion
from nest_nerfstudio.dynamics.orbit import Orbit, orbit_start
from nest_nerfstudio.dynamics.recurrence import ImageErrors, find_period
from nest_nerfstudio.dynamics.shared_rollout import SharedRollout
from nest_nerfstudio.dynamics.trajectory import Trajectory, smooth_trajectory
from nest_nerfstudio.dynamics.travel import find_drift, without_drift
from nest_nerfstudio.dynamics.vector_field import VectorField, linear_fit, with_one
from nest_nerfstudio.geometry.se3 import Pose
from nest_nerfstudio.types import MotionCode


@dataclass
class LatentFlowFitterConfig(InstantiateConfig):
    """Settings of `LatentFlowFitter`; docs/notes/hand-over.md says how their values were found."""

    _target: type = field(default_factory=lambda: LatentFlowFitter)
    motion: Literal["auto", "free", "cyclic"] = "auto"
    """Whether the motion repeats. auto: cyclic if a periodic fit predicts the held-out end of the clip about
    as well as a vector field, if the images recur, or if the clip ends as it began; else free."""
    period: float = 0.0
    """Length of a cycle, in clips, where it is known: the motion then repeats so; 0: found where the motion
    recurs, and learned further from the images."""
    token_code_dim: int = 32
    """Size of a token's code in the free fit."""
    hidden_dim: int = 128
    """Width of the MLP that poses tokens in the free fit."""
    solve_every: int = 8
    """Training steps that share one roll-out; their gradients go through it together."""
    fit_iterations: int = 2000
    """Optimizer steps of each attempt to fit the vector field to the free path."""
    fit_attempts: int = 2
    """Attempts until one stays within a third of `max_gap`; else the nearest counts."""
    max_gap: float = 0.3
    """Distance of roll-out and free path, as a share of the motion's size, beyond which the ODE does not take
    over yet."""
    speed_share: float = 0.25
    """Weight of the tokens' speeds against their poses in the state, where both have the same size."""
    tube: float = 0.5
    """Radius around the path in which the vector field is fitted, in the units of `VectorField.restart`; a
    quarter of it at each further attempt."""
    attraction: float = 30.0
    """Rate at which states beside the path return to it, per clip."""
    settled_change: float = 0.2
    """The ODE takes over once the free fit has converged: when the motion changes by less than this share of
    its size in a fortieth of the training."""
    latest: float = 0.7
    """Fraction of the training at which the ODE takes over even if the motion still changes."""


@dataclass(frozen=True)
class FlowFit:
    """Result of `LatentFlowFitter.fit`.

    Attributes:
        motion: code of the scene that the ODE fit found.
        learn_period: whether images may refine its period.
        gap: root-mean-square distance to the observed motion, as a share of that motion's size.
        reason: what kind of motion it is and why.
        accepted: whether the ODE takes over.
    """

    motion: MotionCode
    learn_period: bool
    gap: float
    reason: str
    accepted: bool


class LatentFlowFitter(nn.Module):
    """What the training of one scene's motion needs besides the flow and the motion code themselves.

    *Free fit*: z(t) is a free curve, read by an MLP (`FreeMotion`), and fitted to the images. *ODE fit*: the
    principal components of all tokens' twists and speeds become the state, in which motion that recurs is a
    closed curve; twists become linear in it, and a vector field, or an oscillator where the motion is cyclic,
    is fitted to that curve. *Roll-out*: z(t) is the solution of the ODE from one start, and goes on learning
    from the images.

    All that decides when the ODE takes over is in the state dict.

    Args:
        config: its settings.
        flow: settings of the flow that is fitted.
        num_tokens: K, tokens of the scene.
    """

    rolls_out: Tensor
    next_check: Tensor
    seen_twists: Tensor
    has_seen_twists: Tensor

    def __init__(self, config: LatentFlowFitterConfig, flow: LatentFlowConfig, num_tokens: int) -> None:
        super().__init__()
        self.config, nodes = config, flow.steps_per_clip + 1
        self.free = FreeMotion(num_tokens, flow.state_dim, config.token_code_dim, config.hidden_dim, nodes)
        self.register_buffer("rolls_out", torch.tensor(False))
        self.register_buffer("next_check", torch.zeros((), dtype=torch.float64))
        self.register_buffer("seen_twists", torch.zeros(nodes, num_tokens, 6))
        self.register_buffer("has_seen_twists", torch.tensor(False))
        self._shared = SharedRollout()
        self._live: tuple[Trajectory, Tensor] | None = None

    def get_extra_state(self) -> dict[str, Any]:
        """The block of training steps that share a roll-out."""
        return self._shared.state()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self._shared.load(state, self.next_check.device)

    def dynamics(self, flow: LatentFlow) -> Dynamics:
        """What moves the scene at this stage."""
        return flow if self.rolls_out else self.free

    # ---------------------------------------------------------------- in every training step

    def path(self, flow: LatentFlow, motion: MotionCode) -> Trajectory | Orbit:
        """z(t) over the clip for a training step; roll-outs are shared by `solve_every` calls."""
        self._live = None
        if not self.rolls_out:
            return self.free.solve()
        if motion.kind != "free" or not torch.is_grad_enabled():
            return flow.solve(motion)
        code = motion.scene_code
        solve = partial(flow.roll_out, motion.start, scene_code=code)
        path, is_live = self._shared.next(solve, self.config.solve_every)
        self._live = (path, code) if is_live else None
        return path

    def attraction_loss(self, flow: LatentFlow) -> Float[Tensor, ""]:
        """`LatentFlow.attraction_loss` at the path of this step if it was solved in it, else 0.

        Images tell how the state moves on its path, and nothing of its surroundings, which it enters beyond
        the clip.
        """
        if self._live is None:
            return self.free.path_values.new_zeros(())
        path, code = self._live
        return flow.attraction_loss(path, self.config.attraction, code)

    def roughness(self) -> Float[Tensor, ""]:
        """Roughness of the free path; 0 once the ODE has taken over, whose paths are smooth."""
        return self.free.path_values.new_zeros(()) if self.rolls_out else self.free.roughness()

    # ---------------------------------------------------------------- when to fit the ODE

    @torch.no_grad()
    def is_due(self, progress: float, is_full_size: bool, arm: float) -> tuple[bool, float]:
        """Whether to fit the ODE now, and by what share of its size the motion changed since the last check.

        Args:
            progress: fraction of the training.
            is_full_size: all times and full-size images are in use.
            arm: as for `fit`.
        """
        is_late = progress >= self.config.latest
        if self.rolls_out or progress < self.next_check or not (is_full_size or is_late):
            return False, math.inf
        self.next_check.fill_(progress + 1 / 40)
        change = self._change(arm)
        return change <= self.config.settled_change or is_late, change

    def _change(self, arm: float) -> float:
        seen = self.free.observed_twists(len(self.seen_twists))
        new, all_of_it = _ways(seen - self.seen_twists, arm), _ways(seen, arm)
        change = _share_of_motion(new, all_of_it) if self.has_seen_twists else math.inf
        self.seen_twists.copy_(seen)
        self.has_seen_twists.fill_(True)
        return change

    def take_back(self, progress: float, stand_still: bool = False) -> None:
        """Return from the ODE to the free fit as it was, or to no motion; the next check comes later."""
        self.rolls_out.fill_(False)
        self.next_check.fill_(progress + (1 / 10 if stand_still else 1 / 40))
        if stand_still:
            self.free.stand_still()

    # ---------------------------------------------------------------- the ODE fit

    def fit(
        self,
        flow: LatentFlow,
        arm: float = 1.0,
        image_errors: Callable[[], ImageErrors] | None = None,
        poses: Pose | None = None,
    ) -> FlowFit:
        """Find an ODE for the observed motion; it takes over if it stays within `max_gap`.

        Args:
            flow: whose fields are fitted, in place.
            arm: distance of Gaussians from their token, world units. A rotation counts by how far it moves
                such a one: images show that, and leave rotations of small parts open.
            image_errors: asked where the tracks of the tokens do not recur, for whether the images do. A
                cycle that the images show is accepted however far it is from the tracks.
            poses: of the tokens that may move, at rest; None: what travels is not sought.

        Raises:
            RuntimeError: the ODE has taken over already.
        """
        if self.rolls_out:
            raise RuntimeError("the ODE has taken over already; there is no free path left to fit")
        twists = self.free.observed_twists(4 * (len(self.seen_twists) - 1) + 1)
        path, modes = self._principal_components(twists[::4], flow.config.state_dim, arm)
        drift = None
        if poses is not None and self.config.motion != "free" and find_period(path) is None:
            drift = find_drift(twists[::4], poses)
        if drift is not None:
            twists = without_drift(twists, drift)
            path, modes = self._principal_components(twists[::4], flow.config.state_dim, arm)
        choice = self._choose_cycle(flow, path, image_errors)
        if choice.period is None:
            start, gap = path.values[0], self._fit_field(flow, flow.vector_field, path)
            if gap <= self.config.max_gap:
                self._fit_field(flow, flow.backward_field, path.reversed())
        else:
            start = orbit_start(flow.config.state_dim, path.values)
            modes, gap = self._fit_cycle(twists, choice.period, start, arm)
        accepted = gap <= self.config.max_gap or choice.is_seen
        self.rolls_out.fill_(accepted)
        self.next_check.add_(0.0 if accepted else 1 / 40)
        motion = MotionCode(
            start,
            modes,
            torch.zeros_like(twists[0]) if drift is None else drift,
            scene_code=start.new_zeros(flow.config.scene_code_dim),
            period=start.new_tensor(choice.period or 1.0),
            phase=start.new_zeros(()),
            kind="free" if choice.period is None else "cyclic",
        )
        reason = choice.reason + ("" if drift is None else ", while it travels")
        return FlowFit(motion, not choice.is_known, gap, reason, accepted)

    @torch.no_grad()
    def _principal_components(
        self, twists: Float[Tensor, "s k 6"], state_dim: int, arm: float = 1.0
    ) -> tuple[Trajectory, Float[Tensor, "k 6 m"]]:
        """The motion of all tokens as one curve of D numbers, the first of unit variance, and its modes.

        Components of the motion and its speeds together, as a pendulum passes every position in two
        directions: an autonomous field has to tell them apart.
        """
        motion = _ways(twists, arm)
        poses = motion - motion.mean(0)
        speeds = smooth_trajectory(poses).slopes
        share = self.config.speed_share * poses.norm() / speeds.norm().clamp_min(1e-12)
        left, sizes, _ = torch.linalg.svd(torch.cat([poses, share * speeds], 1), full_matrices=False)
        values = (left * sizes / (sizes[0] / len(motion) ** 0.5).clamp_min(1e-12))[:, :state_dim]
        values = torch.nn.functional.pad(values, (0, state_dim - values.shape[1]))
        return smooth_trajectory(values), _as_modes(linear_fit(values, motion), arm)

    def _choose_cycle(
        self, flow: LatentFlow, path: Trajectory, image_errors: Callable[[], ImageErrors] | None
    ) -> CycleChoice:
        """Whether motion is to be cyclic, and why."""
        if self.config.motion == "free":
            return CycleChoice("free, as asked for")
        if (given := self.config.period) > 0:
            return CycleChoice(f"cyclic, {given:.3f} clips a cycle, as given", given, is_known=True)
        period = find_period(path)
        if period is None:
            in_images = None if image_errors is None else choose_from_images(image_errors())
            choice = in_images or choose_from_ends(path)
            if choice.period is None and self.config.motion == "cyclic":
                option = "--pipeline.model.flow-fit.period"
                return CycleChoice(f"free: no cycle was found, although one was asked for; {option} tells it")
            return choice
        cycle = f"cyclic, {period:.3f} clips a cycle"
        if self.config.motion == "cyclic" or period >= 1:  # the clip holds nothing to judge it by
            return CycleChoice(f"{cycle}, as asked for", period)
        of_cycle, of_field = self._held_out_errors(flow, path, period)
        compared = f"its error at the held-out end of the clip is {of_cycle:.0%} of the motion"
        compared += f", that of a vector field {of_field:.0%}"
        if of_cycle <= 1.25 * of_field:  # about as good will do: a cycle cannot drift
            return CycleChoice(f"{cycle}: {compared}", period)
        return CycleChoice(f"free, not {cycle}: {compared}")

    def _held_out_errors(self, flow: LatentFlow, path: Trajectory, period: float) -> tuple[float, float]:
        """Errors of a cycle and of a vector field, fitted to the clip without its end, at that end.

        What comes after the first cycle is held out, but no more than a third of the clip.
        """
        seen = len(path.values) - math.ceil(min(1 / 3, 1 - period) * (len(path.values) - 1))
        end = (seen - 1) * path.step
        first = Trajectory(0.0, end, path.values[:seen], smooth_trajectory(path.values[:seen]).slopes / end)
        vector_field = deepcopy(flow.vector_field)
        self._fit_once(vector_field, first, self.config.tube)
        with torch.no_grad():
            rolled = flow.integrate(vector_field, path.values[0], flow.config.steps_per_clip)
            times = torch.linspace(0, 1, len(path.values)).to(path.values)
            states = _orbit(period, orbit_start(flow.config.state_dim, path.values))(times)
            repeated = with_one(states) @ linear_fit(states[:seen], path.values[:seen], _SMOOTHNESS)
            of_cycle, of_field = (
                _share_of_motion((x - path.values)[seen:], path.values) for x in (repeated, rolled)
            )
        return of_cycle, of_field

    @torch.no_grad()
    def _fit_cycle(
        self, twists: Float[Tensor, "s k 6"], period: float, start: Float[Tensor, " d"], arm: float
    ) -> tuple[Float[Tensor, "k 6 m"], float]:
        """Modes of the Fourier series nearest to the observed motion, and its distance from that."""
        motion = _ways(twists, arm)
        states = _orbit(period, start)(torch.linspace(0, 1, len(motion)).to(motion))
        fit = linear_fit(states, motion, _SMOOTHNESS)
        return _as_modes(fit, arm), _share_of_motion(with_one(states) @ fit - motion, motion)

    def _fit_field(self, flow: LatentFlow, vector_field: VectorField, path: Trajectory) -> float:
        """Fit F to a path; returns the distance of its roll-out, as a share of the motion's size."""
        near = self.config.max_gap / 3
        gap, nearest = math.inf, vector_field.state_dict()
        for attempt in range(self.config.fit_attempts):
            # a narrow tube fits motion that oscillates fast
            self._fit_once(vector_field, path, self.config.tube / 4**attempt)
            reached = _gap(flow, vector_field, path)
            if reached > near:
                self._shoot(flow, vector_field, path)
                reached = _gap(flow, vector_field, path)
            if reached < gap:
                gap, nearest = reached, deepcopy(vector_field.state_dict())
            if gap <= near:
                break
        vector_field.load_state_dict(nearest)
        return gap

    def _fit_once(self, vector_field: VectorField, path: Trajectory, tube: float) -> None:
        vector_field.restart(path)
        vector_field.fit(path, tube, self.config.attraction, self.config.fit_iterations)

    def _shoot(self, flow: LatentFlow, vector_field: VectorField, path: Trajectory) -> None:
        """Go on fitting F by multiple shooting: roll-outs from all nodes over an eighth of the clip, then
        over a quarter, a half and all of it.

        Where motion rests, a small error of F is a long delay, which its `tube_loss` does not see.
        """

        def missed(progress: float) -> Tensor:
            window = max(1, flow.config.steps_per_clip >> (3 - int(4 * progress)))
            ways = path.values.unfold(0, window + 1, 1).permute(2, 0, 1)
            rolled = flow.integrate(vector_field, ways[0], window)
            return 10 * _squared_share((rolled - ways).flatten(0, 1), path.values)

        tube, iterations = vector_field.tube.item(), self.config.fit_iterations // 8
        vector_field.fit(path, tube, self.config.attraction, iterations, lr=1e-3, beside=missed)


_SMOOTHNESS = 1e-4
"""Ridge of Fourier series; on an oscillator's states, of amplitude 1/h, it penalises the speed."""


def _orbit(period: float, start: Float[Tensor, " d"]) -> Orbit:
    return Orbit(start.new_tensor(period), start, start.new_zeros(()))


@torch.no_grad()
def _gap(flow: LatentFlow, vector_field: VectorField, path: Trajectory) -> float:
    """Distance of the roll-out from a path, as a share of the motion's size."""
    rolled = flow.integrate(vector_field, path.values[0], flow.config.steps_per_clip)
    return _share_of_motion(rolled - path.values, path.values)


def _ways(twists: Float[Tensor, "s k 6"], arm: float) -> Float[Tensor, "s c"]:
    """Twists as displacements of points at this distance from their tokens."""
    return (twists * _lever(arm, twists)).flatten(1)


def _as_modes(fit: Float[Tensor, "m c"], arm: float) -> Float[Tensor, "k 6 m"]:
    """Modes of each token, from a linear map of (z, 1) to the `_ways` of all."""
    return (fit.unflatten(1, (-1, 6)) / _lever(arm, fit)).permute(1, 2, 0)


def _lever(arm: float, like: Tensor) -> Float[Tensor, " 6"]:
    return like.new_tensor([1.0, 1.0, 1.0, arm, arm, arm])


def _share_of_motion(errors: Float[Tensor, "e c"], motion: Float[Tensor, "s c"]) -> float:
    """Root-mean-square length of errors over that of a motion about its mean; infinite where not finite."""
    share = float(_squared_share(errors, motion).sqrt())
    return share if math.isfinite(share) else math.inf


def _squared_share(errors: Float[Tensor, "e c"], motion: Float[Tensor, "s c"]) -> Float[Tensor, ""]:
    size = (motion - motion.mean(0)).square().sum(1).mean().clamp_min(1e-12)
    return errors.square().sum(1).mean() / size
