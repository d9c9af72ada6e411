import math

import pytest
import torch

from nest_nerfstudio.dynamics.recurrence import (
    ImageErrors,
    find_closure,
    find_period,
    find_period_in_images,
    recurrence,
    rests_in_images,
    returns_to_rest,
)
from nest_nerfstudio.dynamics.trajectory import Trajectory, smooth_trajectory


def gait(cycles: float, drift: float = 0.0, nodes: int = 65) -> Trajectory:
    """A cycle with harmonics whose first half resembles its second, as in a gait, seen `cycles` times."""
    phase = 2 * math.pi * cycles * torch.linspace(0, 1, nodes, dtype=torch.float64)
    parts = [phase.cos(), phase.sin(), 0.8 * (2 * phase).cos(), 0.3 * (3 * phase).sin(), drift * phase]
    return smooth_trajectory(torch.stack(parts, 1))


@pytest.mark.parametrize("cycles", [1.07, 1.1, 1.2, 1.25, 1.5, 2.0, 3.3])
def test_finds_the_period(cycles: float) -> None:
    assert find_period(gait(cycles)) == pytest.approx(1 / cycles, rel=0.01)


def test_noise_leaves_the_period() -> None:
    torch.manual_seed(0)
    path = gait(1.5)
    noisy = smooth_trajectory(path.values + 0.1 * torch.randn_like(path.values))
    assert find_period(noisy) == pytest.approx(1 / 1.5, rel=0.02)


@pytest.mark.parametrize("cycles", [0.3, 0.8, 1.0])
def test_less_than_a_cycle_and_a_bit_has_no_period(cycles: float) -> None:
    assert find_period(gait(cycles)) is None


def test_what_drifts_or_stands_still_has_no_period() -> None:
    assert find_period(gait(2.0, drift=0.5)) is None
    assert find_period(smooth_trajectory(torch.zeros(33, 4))) is None


def test_rest_before_and_after_a_movement_is_no_period() -> None:
    t = torch.linspace(0, 1, 65, dtype=torch.float64)
    jump = (-((t - 0.5) ** 2) / 0.02).exp()
    sway = 0.1 * (9 * t).sin()
    path = smooth_trajectory(torch.stack([jump, sway], 1))
    assert recurrence(path.values)[55:58].min() < 0.1  # it does return to its start
    assert find_period(path) is None


def images_of(true: Trajectory, count: int, misfit: float = 0.3) -> ImageErrors:
    """Errors of a scene that meets its images, and is up to so much of the motion off between them."""
    torch.manual_seed(0)
    times, states = (torch.linspace(0, 1, n, dtype=torch.float64) for n in (count, 65))
    size = (true.values - true.values.mean(0)).square().sum(1).mean()
    away = misfit * size * torch.rand(65, dtype=torch.float64)
    near = (1 - (times[:, None] - states).abs() * (count - 1)).clamp_min(0)
    errors = (true(times)[:, None] - true(states)).square().sum(-1)
    return ImageErrors(errors + (1 - near) * away, times)


@pytest.mark.parametrize("images", [15, 30])
@pytest.mark.parametrize("cycles", [1.25, 1.5, 2.0])
def test_finds_the_period_in_few_images(cycles: float, images: int) -> None:
    seen = images_of(gait(cycles), images)
    assert find_period_in_images(seen) == pytest.approx(1 / cycles, rel=0.03)


@pytest.mark.parametrize("cycles", [0.3, 0.5, 0.8, 1.0])
def test_images_of_less_than_a_cycle_and_a_bit_have_no_period(cycles: float) -> None:
    assert find_period_in_images(images_of(gait(cycles), 30)) is None


def test_images_of_what_drifts_or_stands_still_have_no_period() -> None:
    assert find_period_in_images(images_of(gait(2.0, drift=0.5), 30)) is None
    still = images_of(smooth_trajectory(torch.zeros(33, 4).double()), 30)
    assert find_period_in_images(still) is None
    assert not rests_in_images(still)


def test_images_of_rest_before_and_after_a_movement_have_no_period() -> None:
    t = torch.linspace(0, 1, 65, dtype=torch.float64)
    jump = (-((t - 0.5) ** 2) / 0.02).exp()
    seen = images_of(smooth_trajectory(jump[:, None]), 30)
    assert find_period_in_images(seen) is None
    assert rests_in_images(seen)


def test_rest_in_two_places_and_motion_at_an_end_are_no_rest_in_images() -> None:
    t = torch.linspace(0, 1, 65, dtype=torch.float64)
    there = ((t - 0.5) * 20).tanh()
    late = (-((t - 0.9) ** 2) / 0.02).exp()
    for motion in (there, late):
        assert not rests_in_images(images_of(smooth_trajectory(motion[:, None]), 30))
    assert not rests_in_images(images_of(gait(1.0), 30))


def test_a_period_that_few_images_were_taken_twice_of_is_none() -> None:
    seen = images_of(gait(1.25), 30)
    assert find_period_in_images(seen, fewest=13) is None
    assert find_period_in_images(seen, fewest=12) is not None


@pytest.mark.parametrize("cycles", [0.98, 1.0, 1.03])
def test_a_path_that_closes_is_a_cycle(cycles: float) -> None:
    assert find_closure(gait(cycles)) == pytest.approx(1 / cycles, abs=0.01)


def test_a_path_that_does_not_close_is_none() -> None:
    assert find_closure(gait(0.8)) is None
    assert find_closure(gait(1.0, drift=0.2)) is None
    assert find_closure(smooth_trajectory(torch.zeros(33, 4))) is None
    t = torch.linspace(0, 1, 65, dtype=torch.float64)
    crossing = torch.stack([(2 * math.pi * t).sin(), (4 * math.pi * t).sin() * (t - 0.5)], 1)
    assert find_closure(smooth_trajectory(crossing)) is None  # same place, another direction


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_a_path_may_return_to_rest(noise: float) -> None:
    t = torch.linspace(0, 1, 33, dtype=torch.float64)
    leap = (-((t - 0.5) ** 2) / 0.02).exp()
    for shape in (leap, (2 * math.pi * t).cos(), leap * (t - 0.4)):
        values = (shape / shape.std())[:, None] + noise * torch.randn(33, 4, dtype=torch.float64)
        assert returns_to_rest(smooth_trajectory(values))
        assert find_closure(smooth_trajectory(values)) is None
    assert not returns_to_rest(smooth_trajectory(((t - 0.5) * 8).tanh()[:, None]))  # rests elsewhere
    assert not returns_to_rest(gait(1.0))


def test_recurrence_is_zero_after_a_period_and_more_between() -> None:
    r = recurrence(gait(2.0).values)
    assert r[0] == 0
    assert r[32] < 1e-12
    assert r[16] > 0.5
