import math

import pytest
import torch
from torchdiffeq import odeint

from nest_nerfstudio.dynamics.orbit import Orbit, orbit_start, oscillator_field, turn_pairs

T = torch.float64


def make_orbit(period: float = 0.4, phase: float = 0.0) -> Orbit:
    start = orbit_start(6, torch.zeros(0, dtype=T)) + 0.1 * torch.randn(6, dtype=T)
    return Orbit(torch.tensor(period, dtype=T), start, torch.tensor(phase, dtype=T))


def begin_at(orbit: Orbit, state: torch.Tensor) -> Orbit:
    return Orbit(orbit.period, state, orbit.phase)


def test_orbit_solves_the_ode_of_the_oscillator() -> None:
    orbit, times = make_orbit(), torch.linspace(0, 1.7, 9, dtype=T)
    solved = odeint(
        lambda _, z: oscillator_field(z, orbit.period),
        orbit.start,
        times,
        method="dopri5",
        rtol=1e-10,
        atol=1e-12,
    )
    torch.testing.assert_close(orbit(times), solved, atol=1e-7, rtol=0)


def test_field_is_the_speed_of_the_orbit() -> None:
    orbit, t, e = make_orbit(phase=0.3), torch.tensor([0.1, 0.9, -2.3], dtype=T), 1e-6
    speeds = (orbit(t + e) - orbit(t - e)) / (2 * e)
    torch.testing.assert_close(oscillator_field(orbit(t), orbit.period), speeds, atol=1e-6, rtol=1e-6)


def test_orbit_repeats_and_is_a_group() -> None:
    orbit, t = make_orbit(), torch.tensor(0.13, dtype=T)
    torch.testing.assert_close(orbit(t + 20 * 0.4), orbit(t))
    torch.testing.assert_close(begin_at(orbit, orbit(t))(2 * t), orbit(3 * t))
    torch.testing.assert_close(begin_at(orbit, orbit(t))(-t), orbit.start)


def test_phase_is_a_fraction_of_the_cycle() -> None:
    orbit, t = make_orbit(), torch.tensor(0.13, dtype=T)
    shifted = Orbit(orbit.period, orbit.start, orbit.phase + 0.3)
    torch.testing.assert_close(shifted(t), orbit(t + 0.3 * 0.4))
    torch.testing.assert_close(Orbit(orbit.period, orbit.start, orbit.phase + 1)(t), orbit(t))


def test_times_of_any_shape_give_states_of_that_shape() -> None:
    orbit, times = make_orbit(), torch.rand(2, 3, dtype=T)
    states = orbit(times)
    assert states.shape == (2, 3, 6)
    torch.testing.assert_close(states[1, 2], orbit(times[1, 2]))


@pytest.mark.parametrize("part", ["period", "start", "phase"])
def test_orbit_has_a_gradient(part: str) -> None:
    orbit, t = make_orbit(phase=0.2), torch.tensor(0.9, dtype=T)
    parts = {"period": orbit.period, "start": orbit.start, "phase": orbit.phase}

    def state(x: torch.Tensor) -> torch.Tensor:
        return Orbit(**{**parts, part: x})(t)

    assert torch.autograd.gradcheck(state, parts[part].clone().requires_grad_())


def test_start_has_amplitude_one_over_h() -> None:
    like = torch.zeros(3, dtype=T)
    start = orbit_start(8, like)
    assert start.dtype == T
    torch.testing.assert_close(start, torch.tensor([1, 0, 1 / 2, 0, 1 / 3, 0, 1 / 4, 0], dtype=T))


def test_pairs_turn_by_their_own_angles() -> None:
    angles = torch.tensor([math.pi / 2, math.pi], dtype=T)
    turned = turn_pairs(torch.tensor([1.0, 2, 3, 4], dtype=T), angles)
    torch.testing.assert_close(turned, torch.tensor([-2.0, 1, -3, -4], dtype=T))
