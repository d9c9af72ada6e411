"""D_LSBD of codes whose value is known."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from scipy.special import j0, j1

from nest_nerfstudio.analysis.lsbd import dispersion, fitted_dispersion, shift_dispersion, so2_elements

ANGLES = 2 * np.pi * np.arange(360) / 360
ONE = np.zeros(360, dtype=int)


def circle(angles: np.ndarray) -> np.ndarray:
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def turned_back(codes: np.ndarray, angles: np.ndarray) -> np.ndarray:
    cos, sin = np.cos(angles), np.sin(angles)
    return np.stack([cos * codes[:, 0] + sin * codes[:, 1], cos * codes[:, 1] - sin * codes[:, 0]], 1)


def test_an_equivariant_code_has_none() -> None:
    codes = 3.0 * circle(ANGLES + 0.4)
    assert dispersion(turned_back(codes, ANGLES), ONE) < 1e-12
    found, name = fitted_dispersion(codes, so2_elements(ANGLES, ONE), ONE)
    assert found < 1e-9
    assert name == "ω = 1"


def test_orbits_may_start_anywhere() -> None:
    """Scenes have their own base points: only what varies within an orbit counts."""
    angles, orbits = np.tile(ANGLES[::30], 3), np.repeat([0, 1, 2], 12)
    codes = np.array([1.0, 2.0, 0.5])[orbits, None] * circle(angles + 2.0 * orbits)
    assert dispersion(turned_back(codes, angles), orbits) < 1e-12


@pytest.mark.parametrize("warp", [0.3, 0.8, 1.5])
def test_a_warped_circle_has_its_analytic_value(warp: float) -> None:
    """h(θ) = exp i(θ + ε sin 3θ) = Σ_n J_n(ε) exp i(1 + 3n)θ: under ω = 1 + 3n, D_LSBD is 1 − J_n(ε)²."""
    codes = circle(ANGLES + warp * np.sin(3 * ANGLES))
    assert dispersion(turned_back(codes, ANGLES), ONE) == pytest.approx(1 - j0(warp) ** 2, rel=5e-3)
    best = 1 - max(j0(warp) ** 2, j1(warp) ** 2)
    assert fitted_dispersion(codes, so2_elements(ANGLES, ONE), ONE)[0] == pytest.approx(best, rel=5e-3)


def test_a_torus_of_two_warps_has_one_value_for_each_subgroup() -> None:
    """SO(2) × SO(2), the first circle warped: its own D_LSBD is analytic, and the other has none."""
    first, second = (grid.ravel() for grid in np.meshgrid(ANGLES[::15], ANGLES[::15], indexing="ij"))
    warped, exact = circle(first + 0.8 * np.sin(3 * first)), circle(second)
    fixed_second, fixed_first = (np.unique(angles, return_inverse=True)[1] for angles in (second, first))
    expected = 1 - j0(0.8) ** 2
    assert dispersion(turned_back(warped, first), fixed_second) == pytest.approx(expected * 24 / 23, rel=1e-6)
    assert dispersion(turned_back(exact, second), fixed_first) < 1e-12


def test_the_frequency_of_a_representation_is_found() -> None:
    codes = np.concatenate([circle(4 * ANGLES), 0.01 * circle(ANGLES)], 1)
    found, name = fitted_dispersion(codes, so2_elements(ANGLES, ONE), ONE)
    assert (found < 1e-9, name) == (True, "ω = 4")


def test_a_mirrored_code_is_linear_too() -> None:
    codes = circle(-ANGLES) @ np.diag([1.0, 2.0])
    assert fitted_dispersion(codes, so2_elements(ANGLES, ONE), ONE)[0] < 1e-9


def test_so3_acts_on_vectors_in_any_basis() -> None:
    turns = Rotation.random(200, rng=0).as_matrix()
    basis = np.linalg.qr(np.random.default_rng(1).normal(size=(7, 3)))[0]
    codes = turns @ np.array([0.3, -0.2, 0.9]) @ basis.T
    orbits = np.zeros(200, dtype=int)
    assert fitted_dispersion(codes, {"l = 1": turns}, orbits)[0] < 1e-2
    assert fitted_dispersion(codes**3, {"l = 1": turns}, orbits)[0] > 0.1


@pytest.mark.parametrize("codes", [np.full((360, 2), 0.7), np.zeros((360, 2))])
def test_a_constant_code_is_worst(codes: np.ndarray) -> None:
    assert dispersion(turned_back(codes, ANGLES), ONE) == pytest.approx(1.0)
    assert fitted_dispersion(codes, so2_elements(ANGLES, ONE), ONE)[0] == 1.0
    assert shift_dispersion(codes, ANGLES[:, None], ONE) == 1.0


def test_noise_is_nearly_worst_however_few_points_an_orbit_has() -> None:
    rng = np.random.default_rng(0)
    for count in (2, 5, 50):
        orbits = np.repeat(np.arange(4000 // count), count)
        assert dispersion(rng.normal(size=(len(orbits), 4)), orbits) == pytest.approx(1.0, abs=0.05)


def test_time_shifts_a_line() -> None:
    times, orbits = np.tile(np.linspace(0, 1, 9), 2), np.repeat([0, 1], 9)
    line = np.array([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]])[orbits] + times[:, None] * np.array([1.0, -2.0, 0.0])
    assert shift_dispersion(line, times[:, None], orbits) < 1e-12
    curved = np.stack([times, np.abs(times - 0.5)], 1)
    assert 0.1 < shift_dispersion(curved, times[:, None], orbits) < 1.0


def test_what_cannot_be_scored_is_an_error() -> None:
    codes = circle(ANGLES)
    with pytest.raises(ValueError, match="NaN"):
        dispersion(np.where(ANGLES[:, None] > 6, np.nan, codes), ONE)
    with pytest.raises(ValueError, match="two states or more"):
        dispersion(codes, np.arange(360))
    with pytest.raises(ValueError, match="two places"):
        shift_dispersion(codes, np.zeros((360, 1)), ONE)
    with pytest.raises(ValueError, match="at least one representation"):
        fitted_dispersion(codes, {}, ONE)
