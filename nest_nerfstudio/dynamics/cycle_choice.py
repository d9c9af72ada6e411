"""Whether a motion is cyclic: what tracks, images and the ends of the clip say, in words for the log."""

from __future__ import annotations

from typing import NamedTuple

from nest_nerfstudio.dynamics.recurrence import (
    ImageErrors,
    find_closure,
    find_period_in_images,
    rests_in_images,
    returns_to_rest,
)
from nest_nerfstudio.dynamics.trajectory import Trajectory


class CycleChoice(NamedTuple):
    """Free or cyclic motion, and why.

    Attributes:
        reason: for the log.
        period: of cyclic motion, in clips; None: the motion is free.
        is_known: the period is given, or no image tells it, so it is not learned further.
        is_seen: the images show the cycle, so the tracks of the tokens need not.
    """

    reason: str
    period: float | None = None
    is_known: bool = False
    is_seen: bool = False


def choose_from_images(errors: ImageErrors) -> CycleChoice | None:
    """A cycle that the images show where the tracks of tokens do not recur; None where they show none."""
    if (period := find_period_in_images(errors)) is not None:
        reason = "the images recur, which are too few to show it in the tracks of tokens"
        return CycleChoice(f"cyclic, {period:.3f} clips a cycle: {reason}", period, is_seen=True)
    return _from_rest_to_rest()._replace(is_seen=True) if rests_in_images(errors) else None


def choose_from_ends(path: Trajectory) -> CycleChoice:
    """The kind of motion of a clip in which nothing is seen twice: the whole clip may be one cycle."""
    if (period := find_closure(path)) is not None:
        return CycleChoice(f"cyclic, {period:.3f} clips a cycle: the clip ends as it began", period)
    if returns_to_rest(path):
        return _from_rest_to_rest()
    return CycleChoice("free, as no repetition was found within the clip")


def _from_rest_to_rest() -> CycleChoice:
    """A clip that rests at both ends is taken to repeat at once, as no image tells when its rest is over."""
    reason = "the clip ends as it began, at rest (where it would stay with `motion free`)"
    return CycleChoice(f"cyclic, 1.000 clips a cycle: {reason}", 1.0, is_known=True)
