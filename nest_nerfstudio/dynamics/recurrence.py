"""Periods of motion: recurrence of the tokens' tracks, recurrence in image space, and clips that close."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

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
        None where there is no such minimum: the motion does not recur, or less than `overlap` of the path
        was seen twice, or what was seen twice is rest rather than motion.
    """
    times = torch.linspace(path.t0, path.t1, samples, dtype=path.values.dtype, device=path.values.device)
    states = path(times)
    r = recurrence(states)[: round((1 - overlap) * samples) + 1]
    minima = _minima(r, closeness)
    minima = minima[[_repeats_motion(states, int(lag)) for lag in minima]]
    if not len(minima):
        return None
    return _first_lag(r, minima) * (path.t1 - path.t0) / (samples - 1)


def first_period(r: Float[Tensor, " l"], closeness: float = 0.25) -> float | None:
    """Lag of the first minimum of a recurrence that counts, as `find_period` says; None: it has none."""
    minima = _minima(r, closeness)
    return _first_lag(r, minima) if len(minima) else None


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


class ImageErrors(NamedTuple):
    """Errors of a clip's images against renderings of the scene at other times.

    Attributes:
        errors: mean squared error of each image against the scene at s evenly spaced times from 0 to 1.
        times: clip time of each image.
    """

    errors: Float[Tensor, "n s"]
    times: Float[Tensor, " n"]

    @property
    def own(self) -> Float[Tensor, " n"]:
        """Errors of the images at their own times."""
        steps = self.times * (self.errors.shape[1] - 1)
        return _at(self.errors, steps[:, None].to(self.errors))[:, 0]


def find_period_in_images(seen: ImageErrors, closeness: float = 0.65, fewest: int = 4) -> float | None:
    """Shortest time after which the scene looks the same again, in clips.

    Few images leave much of the tokens' motion open, and tracks then do not meet where the scene recurs. But
    the scene a period later or earlier, which other images have shaped, fits an image better than the scene
    at most other times. r(τ) is the mean error of the images at τ later and earlier, less that at their own
    times, over the mean of the same difference in the part of the clip that a shift by τ reaches.

    Args:
        seen: the errors.
        closeness: largest r of a period (docs/notes/cycles-and-periods.md).
        fewest: smallest number of images that must be comparable at that shift.

    Returns:
        None where nothing recurs, or only rest does.
    """
    twice = _image_recurrence(seen)
    r = torch.where(twice.usual > _REST, twice.missed / twice.usual, 1.0)
    minima = _minima(r, closeness)
    minima = minima[twice.counts[minima] >= fewest]
    return _first_lag(r, minima) / (len(r) - 1) if len(minima) else None


def rests_in_images(seen: ImageErrors, overlap: float = 0.1) -> bool:
    """Whether the scene rests in the same pose over this share of the clip at both of its ends."""
    twice = _image_recurrence(seen)
    lag = round((1 - overlap) * (len(twice.usual) - 1))
    rests = twice.usual[lag] <= _REST and twice.missed[lag] <= _REST and twice.counts[lag] > 0
    return bool(rests and twice.usual.max() > _REST)


_REST = 0.25
"""Largest error within a part of the clip that counts as rest, as a share of the mean error at any time."""


class _ImageRecurrence(NamedTuple):
    """Recurrence in image space: errors of images against the scene 0, 1, … steps later or earlier.

    Errors at an image's own time are subtracted, and the mean over all times is 1. Images whose shifted time
    lies beyond the clip do not count.

    Attributes:
        missed: mean error at the shifted times.
        usual: mean error over the part of the clip that the shift can reach.
        counts: number of images that count.
    """

    missed: Float[Tensor, " s"]
    usual: Float[Tensor, " s"]
    counts: Int[Tensor, " s"]


def _image_recurrence(seen: ImageErrors) -> _ImageRecurrence:
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
    return _ImageRecurrence(missed / unit, usual / unit, counts)


def _at(rows: Float[Tensor, "n s"], steps: Float[Tensor, "n l"]) -> Float[Tensor, "n l"]:
    """Each row at fractional indices, by linear interpolation; extrapolated in a straight line."""
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

    Ends are trained on last and by few images, so they may differ by half of the path's size.
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
