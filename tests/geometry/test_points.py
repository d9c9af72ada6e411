"""Nearest neighbours and evenly spread subsets of point sets."""

import pytest
import torch

from nest_nerfstudio.geometry.points import farthest_points, nearest, nearest_distances, smooth_neighbors


@pytest.mark.parametrize("chunk", [1, 7, 4096])
def test_nearest_agrees_with_brute_force(chunk: int) -> None:
    queries, points = torch.rand(50, 3, dtype=torch.float64), torch.rand(80, 3, dtype=torch.float64)
    brute = (queries[:, None] - points).norm(dim=-1).sort(1)
    distances, indices = nearest(queries, points, 3, chunk)
    torch.testing.assert_close(distances, brute.values[:, :3])
    assert torch.equal(indices, brute.indices[:, :3])


def test_nearest_gives_all_points_where_there_are_fewer() -> None:
    distances, indices = nearest(torch.zeros(2, 3), torch.tensor([[3.0, 0, 0], [0.0, 1, 0]]), 5)
    assert distances.tolist() == [[1.0, 3.0]] * 2
    assert indices.tolist() == [[1, 0]] * 2


def test_short_distances_far_from_the_origin_keep_their_digits() -> None:
    """cdist by a matrix product would give 0 or 0.03 here in float32."""
    points = torch.tensor([[100.0, 0, 0]]) + torch.rand(100, 3)
    exact = (points.double()[:, None] - points.double()).norm(dim=-1).sort(1).values[:, 1:2]
    torch.testing.assert_close(nearest_distances(points, 1).double(), exact, rtol=1e-5, atol=0)


def test_nearest_distances_leave_out_the_point_itself() -> None:
    points = torch.rand(50, 3)
    brute = (points[:, None] - points).norm(dim=-1).sort(1).values[:, 1:4]
    torch.testing.assert_close(nearest_distances(points, 3, chunk=7), brute)


def test_nearest_distances_of_a_single_point_are_one() -> None:
    assert nearest_distances(torch.rand(1, 3), 3).tolist() == [[1.0]]


def test_smooth_neighbors_weigh_near_points_more_and_sum_to_less_than_one() -> None:
    queries, points = torch.rand(20, 3), torch.rand(60, 3)
    indices, weights = smooth_neighbors(queries, points, 5)
    assert torch.equal(indices, nearest(queries, points, 5)[1])
    assert (weights.diff(dim=1) <= 0).all()
    assert (weights[:, 0] > 0).all()
    assert (weights.sum(1) < 1).all()


def test_smooth_neighbors_do_not_jump_where_neighbours_are_exchanged() -> None:
    """A query moves along a line of points, one of which has the value 1 and the others 0."""
    points = torch.zeros(9, 3, dtype=torch.float64)
    points[:, 0] = torch.arange(9) + 0.1 * torch.arange(9) ** 1.5
    queries = torch.zeros(4001, 3, dtype=torch.float64)
    queries[:, 0] = torch.linspace(0, 10, 4001)
    indices, weights = smooth_neighbors(queries, points, 3)
    assert len(indices.unique(dim=0)) > 5  # neighbours are exchanged on the way
    values = torch.where(indices == 4, weights, 0.0).sum(1)
    assert values.max() > 0.3
    assert values.diff().abs().max() < 0.01


def test_farthest_points_cover_and_are_distinct() -> None:
    points = torch.rand(500, 3)
    chosen = farthest_points(points, 50)
    assert len(set(chosen.tolist())) == 50
    covered = torch.cdist(points, points[chosen]).min(1).values.max()
    at_random = torch.cdist(points, points[torch.randperm(500)[:50]]).min(1).values.max()
    assert covered < 0.75 * at_random


def test_farthest_points_agree_with_the_definition() -> None:
    """Start nearest the mean, then always the point that is farthest from all that are selected."""
    points = torch.rand(40, 3, dtype=torch.float64)
    chosen = [int((points - points.mean(0)).norm(dim=1).argmin())]
    while len(chosen) < 12:
        chosen.append(int((points[:, None] - points[chosen]).norm(dim=-1).amin(1).argmax()))
    assert farthest_points(points, 12).tolist() == chosen


def test_farthest_points_need_enough_points() -> None:
    with pytest.raises(ValueError, match="there are only 3"):
        farthest_points(torch.rand(3, 3), 5)
