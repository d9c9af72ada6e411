"""Motion that repeats while it travels, as a walk does: a relative periodic orbit.

All tokens drift by one common motion of the world, exp(tη), and what is left of their motion repeats.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from nest_nerfstudio.dynamics.recurrence import first_period
from nest_nerfstudio.dynamics.trajectory import smooth_trajectory
from nest_nerfstudio.geometry.se3 import (
    Pose,
    se3_align,
    se3_apply,
    se3_compose,
    se3_exp,
    se3_in_frames,
    se3_inverse,
    se3_log,
)

_SAMPLES = 129
"""Times of a clip that are compared."""
_OVERLAP = 0.2
"""Share of the clip that has to be seen twice."""
_POINTS = 256
"""Tokens that are compared, at most."""


@torch.no_grad()
def find_drift(twists: Float[Tensor, "s k 6"], poses: Pose) -> Float[Tensor, "k 6"] | None:
    """How tokens drift whose motion repeats but for a common motion of the world, exp(tη).

    For each lag τ the rigid motion G_τ is found that carries the tokens nearest to where they are τ later, at
    all times alike. r(τ), what is left between them in the mean, is their recurrence modulo SE(3). Where it
    first recurs, G = exp(τη).

    Args:
        twists: of all tokens at even times from 0 to 1, in their own frames.
        poses: of the tokens at rest; only of the first, if the others stand still.

    Returns:
        η in the tokens' own frames, per clip, 0 for those that stand still; None where nothing recurs.
    """
    count = len(poses[0])
    every = -(-count // _POINTS)
    positions = se3_compose(poses, se3_exp(twists[:, :count]))[1][:, ::every]
    way = smooth_trajectory(positions.flatten(1))
    points = way(torch.linspace(0, 1, _SAMPLES).to(positions)).unflatten(1, (-1, 3))
    carried, missed = [], [points.new_zeros(())]
    for lag in range(1, round((1 - _OVERLAP) * _SAMPLES)):
        before, after = points[:-lag].flatten(0, 1), points[lag:].flatten(0, 1)
        carried.append(se3_align(before, after))
        missed.append((se3_apply(carried[-1], before) - after).square().sum(1).mean())
    r = torch.stack(missed)
    lag = first_period(r / r.mean().clamp_min(1e-12))
    if lag is None:
        return None
    steps = round(lag)
    twist = se3_log(carried[steps - 1]) * (_SAMPLES - 1) / steps
    still = twists.new_zeros(twists.shape[1] - count, 6)
    return torch.cat([se3_in_frames(twist, poses), still])


@torch.no_grad()
def without_drift(twists: Float[Tensor, "s k 6"], drift: Float[Tensor, "k 6"]) -> Float[Tensor, "s k 6"]:
    """What is left of a motion at even times t from 0 to 1: exp ξ' = exp(−t η) exp ξ."""
    times = torch.linspace(0, 1, len(twists)).to(twists)[:, None, None]
    return se3_log(se3_compose(se3_inverse(se3_exp(times * drift)), se3_exp(twists)))
