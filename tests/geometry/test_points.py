"""Spacing and evenly spread subsets of point sets."""

import pytest
import torch

from nest_nerfstudio.geometry.points import farthest_points, nearest_distances


def test_farthest_points_cover_and_are_distinct() -> None:
    points = torch.rand(500, 3)
    chosen = farthest_points(points, 50)
    assert len(set(chosen.tolist())) == 50
    covered = torch.cdist(points, points[chosen]).min(1).values.max()
    scattered = torch.cdist(points, points[torch.randperm(500)[:50]]).min(1).values.max()
    assert covered < scattered


def test_farthest_points_need_enough_points() -> None:
    with pytest.raises(ValueError, match="there are 3"):
        farthest_points(torch.rand(3, 3), 5)


def test_nearest_distances_agree_with_brute_force() -> None:
    points = torch.rand(50, 3)
    brute = torch.cdist(points, points).sort(1).values[:, 1:4]
    torch.testing.assert_close(nearest_distances(points, 3, chunk=7), brute, atol=1e-4, rtol=0)
