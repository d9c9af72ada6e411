"""Cyclic motion in closed form: the flow of an oscillator."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Orbit:
    """z(t) of an oscillator, ż_h = h ω J z_h for each harmonic h, with J the turn by 90°, ω = 2π / period.

    A linear ODE whose matrix is skew-symmetric: its flow is a rotation of each pair of numbers, so it neither
    grows nor fades nor drifts, and S¹ acts on it by shifts of the phase. What is linear in its state is a
    Fourier series of the time. It holds at any time and needs no integration.

    Attributes:
        period: in clips.
        start: state at phase 0, one pair of numbers for each harmonic.
        phase: phase at time 0, as a fraction of the cycle.
    """

    period: Float[Tensor, ""]
    start: Float[Tensor, " d"]
    phase: Float[Tensor, ""]

    def __call__(self, times: Float[Tensor, "*b"]) -> Float[Tensor, "*b d"]:
        """The state at any times, in clips."""
        turns = times / self.period + self.phase
        return turn_pairs(self.start, 2 * math.pi * turns[..., None] * _harmonics(self.start))


def turn_pairs(state: Float[Tensor, " d"], angles: Float[Tensor, "*b h"]) -> Float[Tensor, "*b d"]:
    """The pairs of a state, one of each harmonic, turned by angles in radians."""
    x, y = state.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([cos * x - sin * y, sin * x + cos * y], -1).flatten(-2)


def oscillator_field(state: Float[Tensor, "*b d"], period: Float[Tensor, ""]) -> Float[Tensor, "*b d"]:
    """ż of the oscillator whose solutions are orbits of this period."""
    x, y = state.unflatten(-1, (-1, 2)).unbind(-1)
    speed = 2 * math.pi / period * _harmonics(state)
    return torch.stack([-speed * y, speed * x], -1).flatten(-2)


def orbit_start(state_dim: int, like: Tensor) -> Float[Tensor, " d"]:
    """A start state in which harmonic h has amplitude 1/h.

    Smooth motion needs little of the high harmonics, and steps of an optimizer then move those less.
    """
    amplitudes = 1 / _harmonics(like.new_zeros(state_dim)).to(like)
    return torch.stack([amplitudes, torch.zeros_like(amplitudes)], 1).flatten()


def _harmonics(state: Tensor) -> Tensor:
    return torch.arange(1, state.shape[-1] // 2 + 1, device=state.device)
