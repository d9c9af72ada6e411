import math

import pytest
import torch

from nest_nerfstudio.dynamics.cycle_choice import choose_from_ends, choose_from_images
from nest_nerfstudio.dynamics.recurrence import ImageErrors
from nest_nerfstudio.dynamics.trajectory import Trajectory, smooth_trajectory
from tests.dynamics.moving_scenes import circle

TIMES = torch.linspace(0, 1, 65)


def leap() -> Trajectory:
    return smooth_trajectory((-(((TIMES - 0.5) / 0.15) ** 2)).exp()[:, None])


def images_of(path: Trajectory) -> ImageErrors:
    """Of every fourth time, of a scene that is fitted without an error."""
    states = path(TIMES)
    return ImageErrors(torch.cdist(states[::4], states).square(), TIMES[::4])


def test_a_clip_that_ends_as_it_began_is_a_cycle() -> None:
    choice = choose_from_ends(smooth_trajectory(circle(1.0)))
    assert choice.period == pytest.approx(1, abs=0.01)
    assert choice.reason == f"cyclic, {choice.period:.3f} clips a cycle: the clip ends as it began"
    assert not choice.is_known  # images refine it
    assert not choice.is_seen


def test_a_clip_from_rest_to_rest_is_a_cycle_of_one_clip() -> None:
    choice = choose_from_ends(leap())
    assert choice.period == 1.0
    assert choice.is_known  # as no image tells when the rest is over
    assert not choice.is_seen
    assert "the clip ends as it began, at rest" in choice.reason
    assert "motion free" in choice.reason


def test_a_clip_that_ends_elsewhere_is_free() -> None:
    for path in (smooth_trajectory(circle(0.7)), smooth_trajectory(TIMES[:, None])):
        choice = choose_from_ends(path)
        assert choice.period is None
        assert choice.reason == "free, as no repetition was found within the clip"


def test_images_that_recur_show_a_cycle() -> None:
    choice = choose_from_images(images_of(smooth_trajectory(circle(1.6, 65))))
    assert choice is not None
    assert choice.period == pytest.approx(1 / 1.6, rel=0.02)
    assert choice.reason.startswith(f"cyclic, {choice.period:.3f} clips a cycle: the images recur")
    assert choice.is_seen
    assert not choice.is_known


def test_images_of_rest_show_a_cycle_of_one_clip() -> None:
    choice = choose_from_images(images_of(leap()))
    assert choice is not None
    assert choice.period == 1.0
    assert choice.is_seen
    assert choice.is_known
    assert "at rest" in choice.reason


def test_images_that_do_not_recur_show_nothing() -> None:
    assert choose_from_images(images_of(smooth_trajectory(circle(0.5, 65)))) is None
    drift = torch.stack([TIMES, (2 * math.pi * TIMES).sin()], 1)
    assert choose_from_images(images_of(smooth_trajectory(drift))) is None
