"""A neural ODE on a small invariant state that poses the tokens of a scene."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, cast

import torch
from jaxtyping import Float
from nerfstudio.configs.base_config import InstantiateConfig
from torch import Tensor, nn
from torchdiffeq import odeint, odeint_adjoint

from nest_nerfstudio.dynamics.base import Dynamics
from nest_nerfstudio.dynamics.cycle import (
    Orbit,
    Oscillator,
    PictureErrors,
    find_closure,
    find_period,
    find_period_in_pictures,
    rests_in_pictures,
    returns_to_rest,
)
from nest_nerfstudio.dynamics.trajectory import Trajectory, fourier_trajectory, smooth_trajectory
from nest_nerfstudio.dynamics.vector_field import VectorField, linear_fit, with_one
from nest_nerfstudio.geometry.se3 import se3_plus
from nest_nerfstudio.types import MotionCode, SceneLatent


@dataclass
class LatentODEConfig(InstantiateConfig):
    """Settings of `LatentODE`."""

    _target: type = field(default_factory=lambda: LatentODE)
    motion: Literal["auto", "free", "cyclic"] = "auto"
    """Whether motion repeats itself. auto: yes where that predicts what follows the first cycle, held out,
    about as well as a free field does, where pictures recur that are too few to show it in the tracks of
    tokens, and where a clip ends as it began, moving or at rest."""
    period: float = 0.0
    """Length of a cycle of cyclic motion, in clips, which is kept; 0: found where the motion recurs, and
    learned on from the pictures."""
    state_dim: int = 16
    """D, size of the latent state z of the scene."""
    token_code_dim: int = 32
    """Size of the code that tells how a token answers to the state."""
    hidden_dim: int = 128
    """Width of the vector field and of the pose decoder."""
    steps_per_clip: int = 32
    """Fixed rk4 steps over the observed clip, and nodes of the free path."""
    adjoint: bool = False
    """Gradients of roll-outs from the adjoint ODE, solved backwards, in place of those of the solver's own
    steps. They are only as exact as the steps are fine, so these are a third as long then."""
    solve_every: int = 8
    """Training steps that share one roll-out; their gradients go through it together."""
    explain_iterations: int = 2000
    """Optimiser steps of each attempt to fit the vector field to the free path."""
    explain_attempts: int = 2
    """Attempts until one stays as near to the path as a third of `largest_gap`; else the nearest counts."""
    largest_gap: float = 0.3
    """Distance of roll-out and path, as a share of the motion's size, beyond which the ODE does not take
    over yet."""
    speed_share: float = 0.25
    """Weight of the tokens' speeds beside their poses in the state, at equal size of both."""
    tube: float = 0.5
    """Radius around the path in which F is trained, in the units of `VectorField.restart`; a quarter of it at
    each further attempt."""
    attraction: float = 30.0
    """κ, rate at which what strays from the path returns to it, per clip."""


class LatentODE(Dynamics):
    """ż = F_ψ(z) with z ∈ ℝ^D; token k stands at T_k(t) = T_k · exp ξ(e_k, z(t)), ξ ∈ se(3).

    z and the codes e_k are invariant and ξ acts in the body frame, so the flow commutes with SE(3) exactly,
    and its cost depends neither on the number of Gaussians nor, for F, on the number of tokens.

    Training has three strides. *Observe*: z(t) is a free curve and ξ an MLP, fitted to the pictures.
    *Explain*: the principal components of all motion and its speeds become the state, in which motion that
    recurs is a closed curve, ξ becomes linear in it, and F is fitted to that curve (`explain`). *Commit*:
    z(t) is the roll-out of F from one start state, and goes on learning from the pictures.

    Motion that is found to be cyclic gets an `Oscillator` for F instead, and so a Fourier series for ξ.

    e_k are the `token_codes` of a scene for the MLP, and after the commitment its `token_modes`.
    """

    committed: Tensor
    cyclic: Tensor

    ADJOINT_SUBSTEPS = 3
    """Solver steps between two nodes for adjoint gradients: direct ones of as many agree to 1e-4."""

    def __init__(self, config: LatentODEConfig) -> None:
        super().__init__()
        self.config = config
        self.vector_field = VectorField(config.state_dim, config.hidden_dim)
        self.backward_field = VectorField(config.state_dim, config.hidden_dim)
        self.oscillator = Oscillator(config.state_dim)
        self.pose_decoder = PoseDecoder(config.state_dim, config.token_code_dim, config.hidden_dim)
        self.path_values = nn.Parameter(
            fourier_trajectory(config.steps_per_clip + 1, config.state_dim).values
        )
        self.register_buffer("committed", torch.tensor(False))
        self.register_buffer("cyclic", torch.tensor(False))
        self._dense = _DenseRollout()
        self.register_load_state_dict_post_hook(lambda module, _: module._dense.forget())
        self._seen_twists: Tensor | None = None
        self._live: Trajectory | None = None
        self._shared = _SharedRollout()

    def forward(self, latent: SceneLatent, time: Float[Tensor, ""]) -> SceneLatent:
        z = self.trajectory(latent, float(time))(time)
        twists = self.twists(latent.motion, z)
        quats, translations = se3_plus((latent.quats, latent.translations), twists)
        return replace(
            latent, quats=quats, translations=translations, motion=replace(latent.motion, time=time)
        )

    def twists(self, motion: MotionCode, z: Float[Tensor, " d"]) -> Float[Tensor, "k 6"]:
        """ξ(e_k, z), as `se3_plus` takes it: translation (world units), rotation (radians), body frame."""
        if not self.committed:
            return self.pose_decoder(motion.token_codes, z)
        return motion.token_modes @ with_one(z)

    @property
    def period(self) -> float | None:
        """Length of a cycle in clips; None while motion is not known to be cyclic."""
        return self.oscillator.period.item() if self.cyclic else None

    def trajectory(self, latent: SceneLatent, time: float = 0.0) -> Trajectory | Orbit:
        """The scene's path z(t), long enough to be asked for `time`.

        While training, roll-outs of the clip are shared by `solve_every` calls; in evaluation one dense
        roll-out is kept until training goes on.
        """
        if not self.committed:
            return self.path()
        start = latent.motion.start
        if self.cyclic:
            return self.oscillator.orbit(start)
        t0, t1 = min(0, math.floor(time)), max(1, math.ceil(time))
        if not self.training:
            return self._dense.covering(start, t0, t1, self.roll_out)
        self._dense.forget()
        self._live = None
        if not torch.is_grad_enabled() or (t0, t1) != (0, 1):
            return self.roll_out(start, t0, t1)
        path, is_live = self._shared.next(lambda: self.roll_out(start), self.config.solve_every)
        self._live = path if is_live else None
        return path

    def roll_out(self, start: Float[Tensor, " d"], t0: int = 0, t1: int = 1) -> Trajectory:
        """Integrate from z(0) = start to t1 ≥ 1, and back to t0 ≤ 0, with fixed rk4 steps.

        Back in time a field of its own leads: the path attracts along F, so it would repel along −F.
        """
        steps = self.config.steps_per_clip
        values = self._integrate(self.vector_field, start, t1 * steps)
        slopes = self.vector_field(None, values)
        if t0 < 0:
            before = self._integrate(self.backward_field, start, -t0 * steps)[1:].flip(0)
            values = torch.cat([before, values])
            slopes = torch.cat([-self.backward_field(None, before), slopes])
        return Trajectory(float(t0), float(t1), values, slopes)

    def _integrate(
        self, field_: VectorField, start: Float[Tensor, "*b d"], num_steps: int
    ) -> Float[Tensor, "s *b d"]:
        end = num_steps / self.config.steps_per_clip
        solve, substeps = (odeint_adjoint, self.ADJOINT_SUBSTEPS) if self.config.adjoint else (odeint, 1)
        times = torch.linspace(0, end, substeps * num_steps + 1, device=start.device, dtype=start.dtype)
        return cast(Tensor, solve(field_, start, times, method="rk4"))[::substeps]

    def attraction_loss(self) -> Float[Tensor, ""]:
        """How far the fields are from attracting what strays from the latest roll-out in training.

        0 unless this step has solved for it: F learns from this and from the pictures in the same steps.
        Pictures say how the state moves on its path, and nothing about what is beside it, where it comes
        beyond the clip.
        """
        if self._live is None:
            return self.path_values.new_zeros(())
        path, attraction = self._live.detach(), self.config.attraction
        forward = self.vector_field.tube_loss(path, attraction)
        return forward + self.backward_field.tube_loss(path.reversed(), attraction)

    def path(self) -> Trajectory:
        """The free path of the first stride: a smooth curve through free nodes."""
        return smooth_trajectory(self.path_values)

    def roughness(self) -> Float[Tensor, ""]:
        """Mean square of the free path's second differences, over that of its values about their mean.

        0 once the ODE has taken over, whose paths are smooth.
        """
        if self.committed:
            return self.path_values.new_zeros(())
        values = self.path_values
        bends = values[2:] - 2 * values[1:-1] + values[:-2]
        return bends.square().mean() / (values - values.mean(0)).square().mean().clamp_min(1e-12)

    @torch.no_grad()
    def motion_change(self, token_codes: Float[Tensor, "k e"], arm: float = 1.0) -> float:
        """By what share of its size the observed motion changed since this was last asked; at first, inf.

        `arm` is as in `explain`.
        """
        seen, before = self._observed_twists(token_codes, len(self.path_values)), self._seen_twists
        self._seen_twists = seen
        return math.inf if before is None else _share_of_motion(_ways(seen - before, arm), _ways(seen, arm))

    def explain(
        self,
        token_codes: Float[Tensor, "k e"],
        arm: float = 1.0,
        picture_errors: Callable[[], PictureErrors] | None = None,
    ) -> Explanation:
        """Find an ODE for the observed motion, and commit to it if it stays as near as `largest_gap`.

        Args:
            token_codes: of all tokens.
            arm: distance from its token at which a Gaussian lies, world units. A turn counts as the way that
                it moves such a Gaussian: pictures show ways, and leave turns of a small part open.
            picture_errors: asked where the tracks of the tokens do not recur, for whether the pictures do.
                To a cycle that these show it commits however far it is from the tracks.

        Raises:
            RuntimeError: it has taken over already.
        """
        if self.committed:
            raise RuntimeError("the ODE has taken over already; there is no free path left to explain")
        path, modes = self._principal_components(token_codes, arm)
        choice = self._choose_cycle(path, picture_errors)
        if choice.period is None:
            start, gap = path.values[0], self._fit_field(self.vector_field, path)
            if gap <= self.config.largest_gap:
                self._fit_field(self.backward_field, path.reversed())
        else:
            start = self.oscillator.begin(choice.period, fixed=choice.period_is_known)
            modes, gap = self._fit_cycle(token_codes, start, arm)
        self.committed.fill_(gap <= self.config.largest_gap or choice.is_seen)
        self.cyclic.fill_(self.committed & (choice.period is not None))
        self._dense.forget()
        return Explanation(start, modes, gap, choice.reason)

    @torch.no_grad()
    def _principal_components(
        self, token_codes: Tensor, arm: float = 1.0
    ) -> tuple[Trajectory, Float[Tensor, "k 6 m"]]:
        """The motion of all tokens as one curve of D numbers, the first of unit variance, and its modes.

        Components of the motion and its speeds together, as a pendulum passes every place in two
        directions: an autonomous field has to tell them apart.
        """
        dim = self.config.state_dim
        motion = _ways(self._observed_twists(token_codes, len(self.path_values)), arm)
        poses = motion - motion.mean(0)
        speeds = smooth_trajectory(poses).slopes
        share = self.config.speed_share * poses.norm() / speeds.norm().clamp_min(1e-12)
        left, sizes, _ = torch.linalg.svd(torch.cat([poses, share * speeds], 1), full_matrices=False)
        values = (left * sizes / (sizes[0] / len(motion) ** 0.5).clamp_min(1e-12))[:, :dim]
        values = torch.nn.functional.pad(values, (0, dim - values.shape[1]))
        return smooth_trajectory(values), _as_modes(linear_fit(values, motion), arm)

    def _observed_twists(self, token_codes: Tensor, count: int) -> Float[Tensor, "s k 6"]:
        """Twists of all tokens on the free path, at evenly spaced times of the clip."""
        path, times = self.path(), torch.linspace(0, 1, count, device=token_codes.device)
        return torch.stack([self.pose_decoder(token_codes, z) for z in path(times.to(token_codes))])

    def _choose_cycle(self, path: Trajectory, picture_errors: Callable[[], PictureErrors] | None) -> _Choice:
        """Whether motion is to be cyclic, and why."""
        if self.config.motion == "free":
            return _Choice("free, as asked for")
        period, known = self.config.period or find_period(path), self.config.period > 0
        if period is None:
            in_pictures = None if picture_errors is None else _choose_from_pictures(picture_errors())
            return in_pictures or _choose_from_ends(path)
        cycle = f"cyclic, {period:.3f} clips a cycle"
        if self.config.motion == "cyclic" or period >= 1:  # the clip holds nothing to judge it by
            return _Choice(f"{cycle}, as asked for", period, known)
        of_cycle, of_field = self._held_out_errors(path, period)
        compared = f"at the held-out end of the clip it is {of_cycle:.0%} of the motion off"
        compared += f", a free field {of_field:.0%}"
        if of_cycle <= 1.25 * of_field:  # about as good will do: a cycle cannot drift
            return _Choice(f"{cycle}: {compared}", period, known)
        return _Choice(f"free, not {cycle}: {compared}")

    def _held_out_errors(self, path: Trajectory, period: float) -> tuple[float, float]:
        """How far a cycle and a free field, fitted to the clip without its end, are off there.

        What comes after the first cycle is held out, but no more than a third of the clip.
        """
        seen = len(path.values) - math.ceil(min(1 / 3, 1 - period) * (len(path.values) - 1))
        end = (seen - 1) * path.step
        first = Trajectory(0.0, end, path.values[:seen], smooth_trajectory(path.values[:seen]).slopes / end)
        field_, oscillator = deepcopy(self.vector_field), deepcopy(self.oscillator)
        self._fit_once(field_, first, self.config.tube)
        with torch.no_grad():
            rolled = self._integrate(field_, path.values[0], self.config.steps_per_clip)
            times = torch.linspace(0, 1, len(path.values)).to(path.values)
            states = oscillator.orbit(oscillator.begin(period))(times)
            repeated = with_one(states) @ linear_fit(states[:seen], path.values[:seen], _SMOOTHNESS)
            of_cycle, of_field = (
                _share_of_motion((x - path.values)[seen:], path.values) for x in (repeated, rolled)
            )
        return of_cycle, of_field

    @torch.no_grad()
    def _fit_cycle(
        self, token_codes: Tensor, start: Float[Tensor, " d"], arm: float
    ) -> tuple[Float[Tensor, "k 6 m"], float]:
        """Modes of the Fourier series nearest to the observed motion, and its share off that."""
        motion = _ways(self._observed_twists(token_codes, 4 * self.config.steps_per_clip + 1), arm)
        states = self.oscillator.orbit(start)(torch.linspace(0, 1, len(motion)).to(motion))
        fit = linear_fit(states, motion, _SMOOTHNESS)
        gap = _share_of_motion(with_one(states) @ fit - motion, motion)
        return _as_modes(fit, arm), gap

    def _fit_field(self, field_: VectorField, path: Trajectory) -> float:
        """Fit F to a path; returns how far its roll-out is off, as a share of the motion's size."""
        near = self.config.largest_gap / 3
        gap, nearest = math.inf, field_.state_dict()
        for attempt in range(self.config.explain_attempts):
            self._fit_once(field_, path, self.config.tube / 4**attempt)  # a narrow tube fits what swings
            reached = self._gap(field_, path)
            if reached > near:
                self._shoot(field_, path)
                reached = self._gap(field_, path)
            if reached < gap:
                gap, nearest = reached, deepcopy(field_.state_dict())
            if gap <= near:
                break
        field_.load_state_dict(nearest)
        return gap

    def _shoot(self, field_: VectorField, path: Trajectory) -> None:
        """Go on fitting F by multiple shooting: roll-outs from all nodes over an eighth of the clip, then
        over a quarter, a half and all of it.

        Where motion rests, a small error of F is a long delay, of which its `tube_loss` knows nothing.
        """

        def missed(progress: float) -> Tensor:
            window = max(1, self.config.steps_per_clip >> (3 - int(4 * progress)))
            ways = path.values.unfold(0, window + 1, 1).permute(2, 0, 1)
            rolled = self._integrate(field_, ways[0], window)
            return 10 * _squared_share((rolled - ways).flatten(0, 1), path.values)

        tube, iterations = field_.tube.item(), self.config.explain_iterations // 8
        field_.fit(path, tube, self.config.attraction, iterations, lr=1e-3, beside=missed)

    def _fit_once(self, field_: VectorField, path: Trajectory, tube: float) -> None:
        field_.restart(path)
        field_.fit(path, tube, self.config.attraction, self.config.explain_iterations)

    @torch.no_grad()
    def _gap(self, field_: VectorField, path: Trajectory) -> float:
        """How far the roll-out is from a path, as a share of the motion's size."""
        rolled = self._integrate(field_, path.values[0], self.config.steps_per_clip)
        return _share_of_motion(rolled - path.values, path.values)


class _Choice(NamedTuple):
    """What kind of motion it is and why; a cycle has a period, in clips, which may be known already.

    `is_seen`: pictures have shown the cycle, so tracks need not.
    """

    reason: str
    period: float | None = None
    period_is_known: bool = False
    is_seen: bool = False


def _choose_from_pictures(seen: PictureErrors) -> _Choice | None:
    """A cycle that pictures show, where tracks do not recur."""
    if (period := find_period_in_pictures(seen)) is not None:
        reason = "the pictures recur, which are too few to show it in the tracks of tokens"
        return _Choice(f"cyclic, {period:.3f} clips a cycle: {reason}", period, is_seen=True)
    return _from_rest_to_rest()._replace(is_seen=True) if rests_in_pictures(seen) else None


def _choose_from_ends(path: Trajectory) -> _Choice:
    """The kind of motion of a clip in which nothing is seen twice: it may be one cycle as it is."""
    if (period := find_closure(path)) is not None:
        return _Choice(f"cyclic, {period:.3f} clips a cycle: the clip ends as it began", period)
    if returns_to_rest(path):
        return _from_rest_to_rest()
    return _Choice("free, as nothing was found to repeat within the clip")


def _from_rest_to_rest() -> _Choice:
    """What rests at both ends might rest on. It is taken to repeat too, and at once, as no picture tells when
    its rest is over.
    """
    reason = "the clip ends as it began, at rest (where it would stay with `motion free`)"
    return _Choice(f"cyclic, 1.000 clips a cycle: {reason}", 1.0, period_is_known=True)


@dataclass(frozen=True)
class Explanation:
    """What `LatentODE.explain` found.

    Attributes:
        start: z(0).
        modes: of each token, the linear map from (z, 1) to its twist.
        gap: root-mean-square distance to the observed motion, as a share of that motion's size.
        reason: what kind of motion it is and why.
    """

    start: Float[Tensor, " d"]
    modes: Float[Tensor, "k 6 m"]
    gap: float
    reason: str


_SMOOTHNESS = 1e-4
"""Ridge of Fourier series, in which an oscillator's states make it one on the speed of the motion."""


def _ways(twists: Float[Tensor, "s k 6"], arm: float) -> Float[Tensor, "s c"]:
    """Twists as the ways that they move points at this distance from their tokens."""
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


class PoseDecoder(nn.Module):
    """ξ(e_k, z): an MLP from a token's code and the state to a body-frame twist; zero at the start."""

    def __init__(self, state_dim: int, token_code_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.from_token = nn.Linear(token_code_dim, hidden_dim)
        self.from_state = nn.Linear(state_dim, hidden_dim)
        self.head = nn.Sequential(
            nn.SiLU(), nn.Linear(hidden_dim, hidden_dim), nn.SiLU(), nn.Linear(hidden_dim, 6)
        )
        nn.init.zeros_(self.head[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.head[-1].bias)  # type: ignore[arg-type]

    def forward(self, token_codes: Float[Tensor, "k e"], z: Float[Tensor, " d"]) -> Float[Tensor, "k 6"]:
        return self.head(self.from_token(token_codes) + self.from_state(z))


class _DenseRollout:
    """The latest roll-out for evaluation: solved anew for another start, or to reach further."""

    def __init__(self) -> None:
        self.start: Tensor | None = None
        self.path: Trajectory | None = None

    @torch.no_grad()
    def covering(
        self, start: Tensor, t0: int, t1: int, solve: Callable[[Tensor, int, int], Trajectory]
    ) -> Trajectory:
        """The roll-out from this start over [t0, t1] at least."""
        if self.path is None or self.start is None or not torch.equal(self.start, start):
            self.start, self.path = start.clone(), solve(start, t0, t1)
        elif t0 < self.path.t0 or t1 > self.path.t1:
            self.path = solve(start, min(t0, int(self.path.t0)), max(t1, int(self.path.t1)))
        return self.path

    def forget(self) -> None:
        """Solve anew at the next use: the field has changed."""
        self.path = None


class _SharedRollout:
    """One roll-out for a block of training steps.

    The steps of a block read a leaf copy of the nodes, where their gradients add up; the last one solves
    again, reads the live nodes and carries the sum back through the solver.
    """

    def __init__(self) -> None:
        self.uses = 0
        self.leaf: Trajectory | None = None

    def next(self, solve: Callable[[], Trajectory], block: int) -> tuple[Trajectory, bool]:
        """The path for this step, and whether it is the live one."""
        if self.leaf is None or self.uses >= block:
            self.leaf, self.uses = None, 0
        self.uses += 1
        if self.uses == block:
            live, leaf, self.leaf = solve(), self.leaf, None
            return live if leaf is None else _with_gradient_of(live, leaf), True
        if self.leaf is None:
            with torch.no_grad():
                nodes = solve()
            self.leaf = Trajectory(
                nodes.t0, nodes.t1, nodes.values.requires_grad_(), nodes.slopes.requires_grad_()
            )
        return self.leaf, False


class _AddGradient(torch.autograd.Function):
    """Identity whose backward adds a gradient that was collected before."""

    @staticmethod
    def forward(ctx, x: Tensor, collected: Tensor) -> Tensor:
        ctx.save_for_backward(collected)
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        (collected,) = ctx.saved_tensors
        return grad + collected, None


def _with_gradient_of(live: Trajectory, leaf: Trajectory) -> Trajectory:
    def add(x: Tensor, collected: Tensor | None) -> Tensor:
        return x if collected is None else _AddGradient.apply(x, collected)

    return replace(live, values=add(live.values, leaf.values.grad), slopes=add(live.slopes, leaf.slopes.grad))
