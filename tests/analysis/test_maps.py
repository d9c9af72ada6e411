"""Iterated maps against known spectra, fixed points and cycles."""

import math

import pytest
import torch
from torch import Tensor

from nest_nerfstudio.analysis import maps
from nest_nerfstudio.analysis.maps import DIVERGED, NOT_SETTLED, compose, distinct, limits


def matrix_of(eigenvalues: Tensor, seed: int = 0) -> Tensor:
    """A real matrix of known real eigenvalues, not symmetric."""
    basis = torch.randn(
        len(eigenvalues), len(eigenvalues), generator=torch.Generator().manual_seed(seed)
    ).double()
    return basis @ torch.diag(eigenvalues.double()) @ basis.inverse()


def test_radius_of_a_linear_map() -> None:
    matrix = matrix_of(torch.tensor([0.2, -0.9, 0.5, 0.1]))
    radii = maps.spectral_radii(lambda x: x @ matrix.T, torch.randn(3, 4).double())
    torch.testing.assert_close(radii, torch.full_like(radii, 0.9))


def random_matrix() -> Tensor:
    return torch.randn(40, 40, generator=torch.Generator().manual_seed(3)).double() / 40**0.5


def complex_pair() -> Tensor:
    """Eigenvalues 0.8 exp(±i), and ten real ones from 0 to 0.7."""
    matrix = torch.diag(torch.linspace(0, 0.7, 12).double())
    turn = torch.tensor([[math.cos(1), -math.sin(1)], [math.sin(1), math.cos(1)]])
    matrix[:2, :2] = 0.8 * turn
    basis = torch.randn(12, 12, generator=torch.Generator().manual_seed(1)).double()
    return basis @ matrix @ basis.inverse()


@pytest.mark.parametrize(
    "matrix",
    [
        matrix_of(torch.linspace(0, 0.9, 30)),
        random_matrix(),
        complex_pair(),
        matrix_of(torch.tensor([0.9, -0.9, *torch.linspace(-0.5, 0.5, 20)])),
        torch.linalg.qr(random_matrix()[:10, :10])[0],
        torch.zeros(5, 5).double(),
        torch.eye(5).double(),
        torch.tensor([[0.0, 1.0], [0.0, 0.0]]).double(),
    ],
    ids=["real", "random", "pair", "plus-minus", "orthogonal", "zero", "identity", "nilpotent"],
)
def test_power_iteration_finds_the_largest_eigenvalue(matrix: Tensor) -> None:
    expected = float(torch.linalg.eigvals(matrix).abs().max())
    start = torch.randn(len(matrix), generator=torch.Generator().manual_seed(2)).double()
    assert maps.spectral_radius(lambda v: matrix @ v, start) == pytest.approx(expected, rel=2e-3, abs=1e-7)


def test_large_maps_agree_with_exact_eigenvalues(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(24, 64), torch.nn.SELU(), torch.nn.Linear(64, 24)).double()
    points = torch.randn(3, 24).double()
    exact = maps.spectral_radii(network, points)
    monkeypatch.setattr(maps, "EXACT_UP_TO", 8)
    torch.testing.assert_close(maps.spectral_radii(network, points), exact, rtol=2e-3, atol=0)


def logistic(x: Tensor) -> Tensor:
    """Has a superstable cycle of 2 at r = 1 + √5, and the repelling fixed point 1 − 1/r."""
    return (1 + 5**0.5) * x * (1 - x)


def test_finds_a_cycle_and_its_multiplier() -> None:
    found = limits(logistic, torch.rand(50, 1, dtype=torch.float64), 1e-9)
    assert (found.periods == 2).all()
    assert [period for period, _ in distinct(logistic, found, 1e-3)] == [2]
    twice = compose(logistic, 2)
    assert float(maps.spectral_radii(twice, torch.tensor([[0.5]]).double())) == pytest.approx(0, abs=1e-12)
    fixed = torch.tensor([[1 - 1 / (1 + 5**0.5)]]).double()
    assert float(maps.spectral_radii(logistic, fixed)) == pytest.approx(5**0.5 - 1)


def test_rotation_by_a_seventh_is_a_cycle_of_seven() -> None:
    c, s = math.cos(2 * math.pi / 7), math.sin(2 * math.pi / 7)
    turn = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
    found = limits(lambda x: x @ turn.T, torch.tensor([[1.0, 0.0], [0.0, 0.0]]).double(), 1e-9)
    assert found.periods.tolist() == [7, 1]


def test_tells_fixed_points_from_what_diverges_or_wanders() -> None:
    def function(x: Tensor) -> Tensor:  # x² diverges beyond 1 and goes to 0 below; negative x wander
        return torch.where(x < 0, -((3.9 * -x * (1 + x)).clamp(0, 1)), x * x)

    found = limits(function, torch.tensor([[0.5], [3.0], [-0.3]]).double(), 1e-9, max_iterations=500)
    assert found.periods.tolist() == [1, DIVERGED, NOT_SETTLED]


def test_counts_distinct_limits() -> None:
    found = limits(torch.sign, torch.tensor([[-2.0], [-1.5], [3.0], [0.0]]), 1e-6)
    assert sorted(distinct(torch.sign, found, 0.1)) == [(1, 1), (1, 1), (1, 2)]
