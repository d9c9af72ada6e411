"""New motion from learned motion. A motion is a map from clip time to the posed scene; these compose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from nest_nerfstudio.dynamics.base import Dynamics, set_time
from nest_nerfstudio.dynamics.cycle import turn_pairs
from nest_nerfstudio.dynamics.latent_ode import LatentODE
from nest_nerfstudio.geometry.se3 import se3_compose, se3_inverse, se3_log, se3_plus
from nest_nerfstudio.types import SceneLatent

Motion: TypeAlias = Callable[[Float[Tensor, ""]], SceneLatent]


def play(latent: SceneLatent, dynamics: Dynamics) -> Motion:
    """The motion that was learned, at any time."""
    return lambda time: latent.at(time, dynamics)


def retime(motion: Motion, speed: float = 1.0, offset: float = 0.0) -> Motion:
    """Show what `motion` shows at speed · t + offset: faster, slower, backwards (speed < 0), out of phase."""
    return lambda time: set_time(motion(speed * time + offset), time)


def freeze(motion: Motion, time: float) -> Motion:
    """Stand still as at a time."""
    return retime(motion, 0.0, time)


def blend(a: Motion, b: Motion, weight: float | Callable[[Tensor], Tensor]) -> Motion:
    """Go from a (weight 0) to b (weight 1), each token along the geodesic T_a exp(w log(T_a⁻¹ T_b)) of SE(3).

    Args:
        a, b: motions of the same tokens.
        weight: a number, or a function of time.

    Raises:
        ValueError: the two do not have the same number of tokens.
    """

    def blended(time: Tensor) -> SceneLatent:
        first, second = a(time), b(time)
        if len(first.quats) != len(second.quats):
            raise ValueError(f"cannot blend {len(first.quats)} tokens with {len(second.quats)}")
        w = weight(time) if callable(weight) else weight
        pose, other = (first.quats, first.translations), (second.quats, second.translations)
        quats, translations = se3_plus(pose, w * se3_log(se3_compose(se3_inverse(pose), other)))
        return replace(first, quats=quats, translations=translations)

    return blended


def loop(motion: Motion, start: float, end: float, fade: float) -> Motion:
    """Repeat the span [start, end) for ever without a seam.

    Over the last `fade` of the span it goes over, smoothly (3w² − 2w³), into what comes before its start.

    Raises:
        ValueError: end is not after start, or the fade is not within the span.
    """
    length = end - start
    if length <= 0 or not 0 <= fade <= length:
        raise ValueError(f"cannot loop from {start} to {end} with a fade of {fade}")

    def weight(time: Tensor) -> Tensor:
        w = ((time - end) / max(fade, 1e-12) + 1).clamp(0, 1)
        return w * w * (3 - 2 * w)

    span = blend(motion, retime(motion, offset=-length), weight)
    return lambda time: set_time(span(start + (time - start) % length), time)


def amplify(latent: SceneLatent, dynamics: LatentODE, factor: float) -> SceneLatent:
    """Larger or smaller motion about the same mean pose; 0 stands still in it.

    Raises:
        ValueError: the ODE has not taken over from the free path.
    """
    _check_committed(dynamics)
    modes = latent.motion.token_modes
    modes = torch.cat([factor * modes[..., :-1], modes[..., -1:]], -1)
    return replace(latent, motion=replace(latent.motion, token_modes=modes))


def sample(
    latent: SceneLatent, dynamics: LatentODE, spread: float, generator: torch.Generator | None = None
) -> SceneLatent:
    """The scene with another start, so another motion, from around the one that was learned.

    On an oscillator each harmonic gets another size (× exp(spread · n)) and phase (+ spread · n radians), for
    good. A field with an attracting path leads back to it from a start away by `spread` of the path's largest
    standard deviation in each component.

    Args:
        latent: a scene with a committed ODE.
        dynamics: its dynamics.
        spread: 0 for the same motion; about 0.3 for clearly another one.
        generator: of the random numbers n, on the CPU.

    Raises:
        ValueError: the ODE has not taken over from the free path.
    """
    _check_committed(dynamics)
    start = latent.motion.start

    def normal(*shape: int) -> Tensor:
        return spread * torch.randn(*shape, generator=generator).to(start)

    if dynamics.cyclic:
        harmonics = len(start) // 2
        sizes, phases = normal(harmonics).exp(), normal(harmonics)
        start = turn_pairs(sizes.repeat_interleave(2) * start, phases)
    else:
        start = start + 2 * dynamics.vector_field.scale * normal(len(start))
    return replace(latent, motion=replace(latent.motion, start=start))


def _check_committed(dynamics: LatentODE) -> None:
    if not dynamics.committed:
        raise ValueError("there is no ODE yet to make new motion with; train until the log says 'Committed'")
