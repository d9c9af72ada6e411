"""Closed orbits against fields whose cycles and Floquet multipliers are known."""

import math

import pytest
import torch
from torch import Tensor

from nest_nerfstudio.analysis.cycles import cycle_at, divergence, find_cycle, flow
from nest_nerfstudio.dynamics.orbit import Orbit, orbit_start, oscillator_field

MU, TURN = 0.15, 2.0


def hopf(z: Tensor) -> Tensor:
    """Hopf's normal form, and a third state that decays: the cycle is a circle of radius √μ, of period
    2π / ω, with the multipliers 1, exp(−2 μ T) and exp(−T / 2)."""
    x, y, w = z.unbind(-1)
    growth = MU - x * x - y * y
    return torch.stack([growth * x - TURN * y, TURN * x + growth * y, -w / 2], -1)


PERIOD = 2 * math.pi / TURN


def test_floquet_multipliers_of_hopfs_cycle() -> None:
    found = find_cycle(hopf, torch.tensor([0.42, 0.05, 0.01]).double(), longest=10.0, steps_per_unit=20)
    assert found is not None
    assert found.period == pytest.approx(PERIOD, rel=1e-4)
    assert float(found.start[:2].norm()) == pytest.approx(MU**0.5, rel=1e-3)
    expected = [1, math.exp(-2 * MU * PERIOD), math.exp(-PERIOD / 2)]
    assert found.multipliers.abs().tolist() == pytest.approx(expected, rel=2e-3)
    assert found.transverse == pytest.approx(expected[1], rel=2e-3)


def test_van_der_pol() -> None:
    """Multipliers: 1, and by Liouville the exponential of the integral of the divergence; period 6.6633."""

    def field(z: Tensor) -> Tensor:
        x, v = z.unbind(-1)
        return torch.stack([v, (1 - x * x) * v - x], -1)

    found = find_cycle(field, torch.tensor([2.0, 0.0]).double(), longest=10.0, steps_per_unit=40)
    assert found is not None
    assert found.period == pytest.approx(6.6633, abs=1e-3)
    states = flow(field, found.start, found.period, 800)
    integral = float(divergence(field, states[:-1]).mean()) * found.period
    assert found.multipliers.abs().tolist() == pytest.approx([1, math.exp(integral)], abs=2e-4)


def test_the_oscillator_of_cyclic_motion_is_neutral() -> None:
    start, period = orbit_start(6, torch.zeros(()).double()), torch.tensor(0.37).double()
    found = cycle_at(lambda z: oscillator_field(z, period), start, float(period), 100)
    torch.testing.assert_close(found.multipliers.abs(), torch.ones(6).double(), rtol=0, atol=1e-3)
    states = flow(lambda z: oscillator_field(z, period), start, float(period), 100)
    orbit = Orbit(period, start, torch.zeros_like(period))
    torch.testing.assert_close(states, orbit(torch.linspace(0, 0.37, 101).double()), rtol=0, atol=1e-3)
    torch.testing.assert_close(
        divergence(lambda z: oscillator_field(z, period), states), torch.zeros(101).double()
    )


def test_nothing_returns_where_all_decays() -> None:
    assert find_cycle(lambda z: -z, torch.ones(3).double(), longest=5.0, steps_per_unit=20) is None


def test_divergence() -> None:
    states = torch.rand(5, 3).double()
    expected = 2 * MU - 4 * states[:, :2].square().sum(1) - 0.5
    torch.testing.assert_close(divergence(hopf, states), expected)


def test_flow_is_of_fourth_order() -> None:
    def missed(steps: int) -> float:
        return float((flow(lambda z: -z, torch.ones(1).double(), 1.0, steps)[-1] - math.exp(-1)).abs())

    assert math.log2(missed(8) / missed(16)) == pytest.approx(4, abs=0.2)
