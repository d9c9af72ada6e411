"""Motion that recurs: finding its period, and an oscillator whose flow has it exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nest_nerfstudio.dynamics.trajectory import Trajectory
from nest_nerfstudio.dynamics.vector_field import linear_fit


def find_period(
    path: Trajectory, samples: int = 257, closeness: float = 0.25, overlap: float = 0.05
) -> float | None:
    """Shortest time after which a path repeats itself, in the unit of its time.

    The recurrence r(τ) = mean_t ‖z(t + τ) − z(t)‖² / 2 var z is 0 where motion repeats and about 1 where it
    does not. The period is its first minimum that is below `closeness` and nearly as low as the lowest, once
    it has been above a half; between samples by a parabola.

    Returns:
        None where there is no such minimum: the motion does not recur, or of the path less than `overlap` was
        seen twice, or what was seen twice is rest rather than motion.
    """
    times = torch.linspace(path.t0, path.t1, samples, dtype=path.values.dtype, device=path.values.device)
    states = path(times)
    r = recurrence(states)[: round((1 - overlap) * samples) + 1]
    minima = _minima(r, closeness)
    minima = minima[[_repeats_motion(states, int(lag)) for lag in minima]]
    if not len(minima):
        return None
    return _first_lag(r, minima) * (path.t1 - path.t0) / (samples - 1)


def _minima(r: Float[Tensor, " l"], closeness: float) -> Int[Tensor, " m"]:
    """Lags at which a recurrence has a minimum below `closeness`, once it has been above a half."""
    lags = torch.arange(len(r), device=r.device)
    is_minimum = (r[1:-1] <= r[:-2]) & (r[1:-1] < r[2:]) & (r[1:-1] < closeness)
    away = (r > 0.5).to(torch.uint8).cummax(0).values.bool()
    return lags[1:-1][is_minimum & away[1:-1]]


def _first_lag(r: Float[Tensor, " l"], minima: Int[Tensor, " m"]) -> float:
    """The first of the minima that is nearly as low as the lowest; between samples by a parabola."""
    lag = int(minima[r[minima] <= r[minima].min() + 0.05][0])
    before, here, after = r[lag - 1 : lag + 2].tolist()
    return lag + 0.5 * (before - after) / (before - 2 * here + after)


def _repeats_motion(states: Float[Tensor, "s d"], lag: int) -> bool:
    """Whether states `lag` samples apart differ by less, root mean square, than they move meanwhile."""
    before, after = states[:-lag], states[lag:]
    moved = sum((part - part.mean(0)).square().sum(1).mean() for part in (before, after)) / 2
    return bool((after - before).square().sum(1).mean() <= moved)


class PictureErrors(NamedTuple):
    """How wrong pictures of a clip are when its scene stands as at other times.

    Attributes:
        errors: mean squared error of each picture, with the scene as at s even times from 0 to 1.
        times: of the pictures, in clips.
    """

    errors: Float[Tensor, "n s"]
    times: Float[Tensor, " n"]


def find_period_in_pictures(seen: PictureErrors, closeness: float = 0.65, fewest: int = 4) -> float | None:
    """Shortest time after which the scene looks as before, in clips.

    Few pictures leave open much of how tokens move, and tracks do not meet where the scene recurs. But the
    scene as it is a period later or earlier, where other pictures have shaped it, then fits a picture better
    than at most times around that. r(τ) is the error at those times beyond that at the picture's own, over
    the mean of that in the part of the clip that is τ or more before or behind its other end.

    Args:
        seen: the errors.
        closeness: r at most. With 15 to 30 pictures it is 0.03 to 0.6 a period apart, and above 0.95
            everywhere where nothing is seen twice (benchmarks/RESULTS.md).
        fewest: pictures that must have been seen twice.

    Returns:
        None where nothing recurs, or what does is rest.
    """
    twice = _seen_twice(seen)
    r = torch.where(twice.usual > _REST, twice.missed / twice.usual, 1.0)
    minima = _minima(r, closeness)
    minima = minima[twice.counts[minima] >= fewest]
    return _first_lag(r, minima) / (len(r) - 1) if len(minima) else None


def rests_in_pictures(seen: PictureErrors, overlap: float = 0.1) -> bool:
    """Whether the scene rests at both ends of the clip, this share of it each, in the same place."""
    twice = _seen_twice(seen)
    lag = round((1 - overlap) * (len(twice.usual) - 1))
    rests = twice.usual[lag] <= _REST and twice.missed[lag] <= _REST and twice.counts[lag] > 0
    return bool(rests and twice.usual.max() > _REST)


_REST = 0.25
"""Of the error at any time: less at all times of a part of the clip is rest."""


class _SeenTwice(NamedTuple):
    """What pictures miss if the scene stands as it does a lag of 0, 1, … steps later or earlier.

    Errors are beyond those at a picture's own time, of the mean over all times; of pictures that the lag does
    not take beyond the clip.

    Attributes:
        missed: error at that time.
        usual: mean error over the part of the clip into which the lag can take a picture.
        counts: pictures.
    """

    missed: Float[Tensor, " s"]
    usual: Float[Tensor, " s"]
    counts: Int[Tensor, " s"]


def _seen_twice(seen: PictureErrors) -> _SeenTwice:
    count = seen.errors.shape[1]
    own = (seen.times * (count - 1))[:, None].to(seen.errors)
    beyond = seen.errors - _at(seen.errors, own)
    lags = torch.arange(count, device=beyond.device)
    of_start, of_end = (part.cumsum(1) / (lags + 1) for part in (beyond, beyond.flip(1)))
    missed, usual, counts = beyond.new_zeros(count), beyond.new_zeros(count), torch.zeros_like(lags)
    for steps, part in ((own + lags, of_end.flip(1)), (own - lags, of_start.flip(1))):
        inside = (steps >= 0) & (steps <= count - 1)
        missed += (_at(beyond, steps) * inside).sum(0)
        usual += (part * inside).sum(0)
        counts += inside.sum(0)
    unit = (counts * beyond.mean()).clamp_min(1e-12)
    return _SeenTwice(missed / unit, usual / unit, counts)


def _at(rows: Float[Tensor, "n s"], steps: Float[Tensor, "n l"]) -> Float[Tensor, "n l"]:
    """Each row at places between its numbers, linearly; beyond its ends on in a straight line."""
    lower = steps.floor().clamp(0, rows.shape[1] - 2).long()
    return rows.gather(1, lower).lerp(rows.gather(1, lower + 1), steps - lower)


def find_closure(path: Trajectory, closeness: float = 0.15) -> float | None:
    """Period of a path that ends where, and as fast as, it began: about as long as the path itself.

    What follows a movement from its state alone must then repeat; the period is where the ends meet on their
    common tangent.

    Returns:
        None where the ends miss each other by more than `closeness` of the path's size (root mean square), or
        where their speeds differ by half, or are small beside the others of the path: see `returns_to_rest`.
    """
    gap, span = path.values[0] - path.values[-1], path.t1 - path.t0
    first, last = path.slopes[0], path.slopes[-1]
    tangent = (first + last) / 2
    late = float(gap @ tangent / (tangent @ tangent).clamp_min(1e-12))
    meets = (gap - late * tangent).norm() < closeness * _size(path) and abs(late) <= 0.05 * span
    as_fast = (first - last).norm() <= 0.5 * tangent.norm() and tangent.norm() >= 0.3 * _typical_speed(path)
    return span + late if meets and as_fast else None


def returns_to_rest(path: Trajectory) -> bool:
    """Whether a path rests at both ends, and at the second about where it rested at the first.

    Ends are seen last and by few pictures, so they may miss each other by half of the path's size.
    """
    gap, slow = path.values[0] - path.values[-1], 0.6 * _typical_speed(path)
    rests = all(_speed_at_start(ways) < slow for ways in (path, path.reversed()))
    return bool(rests and gap.norm() < 0.5 * _size(path))


def _size(path: Trajectory) -> Float[Tensor, ""]:
    """Root-mean-square distance of its nodes from their mean."""
    return (path.values - path.values.mean(0)).square().sum(1).mean().sqrt()


def _typical_speed(path: Trajectory) -> Float[Tensor, ""]:
    return path.slopes.square().sum(1).mean().sqrt()


def _speed_at_start(path: Trajectory) -> Float[Tensor, ""]:
    """That of the parabola through the first fifth of the nodes."""
    seen = path.values[: max(3, len(path.values) // 5 + 1)]
    times = path.step * torch.arange(len(seen), device=seen.device, dtype=seen.dtype)
    return linear_fit(torch.stack([times, times.square()], 1), seen)[0].norm()


def recurrence(states: Float[Tensor, "s d"]) -> Float[Tensor, " l"]:
    """Mean squared distance of states that are 0, 1, 2, … samples apart, over twice their variance."""
    centred = states - states.mean(0)
    sizes = centred.square().sum(1)
    distances = sizes[:, None] + sizes - 2 * centred @ centred.T
    means = torch.stack([distances.diagonal(lag).mean() for lag in range(len(states) - 1)])
    return means.clamp_min(0) / (2 * sizes.mean()).clamp_min(1e-12)


def turn_pairs(state: Float[Tensor, " d"], angles: Float[Tensor, "*b h"]) -> Float[Tensor, "*b d"]:
    """A state's pairs, one of each harmonic, turned by angles in radians."""
    x, y = state.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([cos * x - sin * y, sin * x + cos * y], -1).flatten(-2)


@dataclass(frozen=True)
class Orbit:
    """z(t) of an `Oscillator`, at any time and without integration.

    Attributes:
        period: in clips.
        start: z(0), one pair of numbers for each harmonic.
    """

    period: Float[Tensor, ""]
    start: Float[Tensor, " d"]

    def __call__(self, times: Float[Tensor, "*b"]) -> Float[Tensor, "*b d"]:
        """The state at any times."""
        harmonics = torch.arange(1, len(self.start) // 2 + 1, device=self.start.device)
        return turn_pairs(self.start, 2 * math.pi * (times / self.period)[..., None] * harmonics)


class Oscillator(nn.Module):
    """ż_h = h ω J z_h for each harmonic h, with J the turn by 90° and ω = 2π / period.

    A linear ODE whose matrix is skew-symmetric: its flow is a rotation of each pair, so it neither grows nor
    fades nor drifts, and S¹ acts on it by shifts of time. What is linear in its state is a Fourier series.
    """

    fixed: Tensor

    def __init__(self, state_dim: int) -> None:
        super().__init__()
        if state_dim % 2:
            raise ValueError(f"cycles need an even state_dim, two numbers for a harmonic, not {state_dim}")
        self.state_dim = state_dim
        self.log_period = nn.Parameter(torch.zeros(()))
        self.register_buffer("fixed", torch.tensor(False))

    @property
    def period(self) -> Float[Tensor, ""]:
        """Time after which everything repeats, in clips."""
        return self.log_period.detach().exp() if self.fixed else self.log_period.exp()

    @torch.no_grad()
    def begin(self, period: float, fixed: bool = False) -> Float[Tensor, " d"]:
        """Take a period; returns a start state, in which harmonic h has amplitude 1/h.

        What is smooth needs little of the high ones, and steps of an optimiser move them less.

        Args:
            period: in clips.
            fixed: it is known, and not learned on.
        """
        self.log_period.fill_(math.log(period))
        self.fixed.fill_(fixed)
        harmonics = torch.arange(1, self.state_dim // 2 + 1, device=self.log_period.device)
        amplitudes = 1 / harmonics.to(self.log_period.dtype)
        return torch.stack([amplitudes, torch.zeros_like(amplitudes)], 1).flatten()

    def forward(self, time: Tensor | None, z: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        x, y = z.unflatten(-1, (-1, 2)).unbind(-1)
        speed = 2 * math.pi / self.period * torch.arange(1, x.shape[-1] + 1, device=z.device)
        return torch.stack([-speed * y, speed * x], -1).flatten(-2)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Checkpoints from before periods could be fixed have none that is."""
        state_dict.setdefault(f"{prefix}fixed", torch.zeros_like(self.fixed))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def orbit(self, start: Float[Tensor, " d"]) -> Orbit:
        """The flow from z(0) = start."""
        return Orbit(self.period, start)
