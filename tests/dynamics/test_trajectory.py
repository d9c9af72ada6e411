import math

import pytest
import torch

from nest_nerfstudio.dynamics.trajectory import Trajectory, fourier_trajectory, smooth_trajectory


def test_reproduces_cubics_exactly() -> None:
    t = torch.linspace(0, 1, 5, dtype=torch.float64)[:, None]
    path = Trajectory(0.0, 1.0, t**3 - t, 3 * t**2 - 1)
    queries = torch.rand(7, dtype=torch.float64)
    torch.testing.assert_close(path(queries)[:, 0], queries**3 - queries)


@pytest.mark.parametrize("nodes", [8, 16])
def test_is_fourth_order_between_nodes(nodes: int) -> None:
    def error(n: int) -> float:
        t = torch.linspace(0, 1, n + 1, dtype=torch.float64)[:, None]
        path = Trajectory(0.0, 1.0, (6 * t).sin(), 6 * (6 * t).cos())
        q = torch.linspace(0, 1, 997, dtype=torch.float64)
        return float((path(q)[:, 0] - (6 * q).sin()).abs().max())

    assert math.log2(error(nodes) / error(2 * nodes)) == pytest.approx(4, abs=0.3)


def test_is_held_at_its_ends() -> None:
    path = fourier_trajectory(9, 4)
    torch.testing.assert_close(path(torch.tensor(1.7)), path.values[-1])
    torch.testing.assert_close(path(torch.tensor(-0.3)), path.values[0])


def test_start_path_has_matching_slopes() -> None:
    path = fourier_trajectory(65, 8)
    between = (path.values[2:] - path.values[:-2]) / (2 * path.step)
    torch.testing.assert_close(between, path.slopes[1:-1], atol=0.2, rtol=0)
    assert path.slopes.abs().max() > 10


def test_smooth_trajectory_reproduces_parabolas_exactly() -> None:
    t = torch.linspace(0, 1, 9, dtype=torch.float64)[:, None]
    path = smooth_trajectory(3 * t**2 - t)
    queries = torch.rand(7, dtype=torch.float64)
    torch.testing.assert_close(path(queries)[:, 0], 3 * queries**2 - queries)
    torch.testing.assert_close(path.slope(queries)[:, 0], 6 * queries - 1)


def test_reversed_runs_backwards() -> None:
    path = smooth_trajectory(torch.randn(9, 3))
    times = torch.tensor([0.05, 0.4, 0.97])
    torch.testing.assert_close(path.reversed()(-times), path(times))
    torch.testing.assert_close(path.reversed().slope(-times), -path.slope(times))
