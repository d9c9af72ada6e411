"""Points on whose colour cameras agree."""

from dataclasses import replace

import torch

from nest_nerfstudio.training.photo_consistency import are_fixed, most_consistent
from nest_nerfstudio.types import Views
from tests.equivariance import pictures
from tests.small_capture import blobs


def before_grey(count: int = 6) -> list[Views]:
    """Single opaque pictures of three balls before a colour of its own in each."""
    together = pictures(count)
    views = [together.select(slice(i, i + 1)) for i in range(count)]
    return [
        replace(view, images=view.over(torch.full((3,), i / count)), alphas=None)
        for i, view in enumerate(views)
    ]


def test_points_of_the_surface_come_first() -> None:
    torch.manual_seed(0)
    anywhere = 3 * torch.rand(40_000, 3) - 1.5
    chosen = most_consistent(before_grey(), anywhere, 200)
    distances = torch.cdist(chosen, blobs(0.1).means).amin(1)
    everywhere = torch.cdist(anywhere, blobs(0.1).means).amin(1)
    assert distances.median() < 0.4 * everywhere.median()


def test_points_that_one_camera_sees_come_last() -> None:
    views = before_grey()
    seen = torch.zeros(50, 3)
    beside = torch.full((50, 3), 50.0)
    chosen = most_consistent(views, torch.cat([beside, seen]), 50)
    assert (chosen == seen).all()


def test_images_of_one_camera_count_as_one() -> None:
    view = before_grey()[0]
    points = torch.rand(10, 3) - 0.5
    alone = most_consistent([view, view, view], points, 10)  # nothing tells the points apart
    assert torch.equal(alone.sort(0).values, points.sort(0).values)


def test_a_rig_that_stands_still_is_told_by_its_poses() -> None:
    views = before_grey()
    assert not are_fixed(views)
    assert are_fixed([*views, *views])
    assert not are_fixed([views[0], views[0]])  # a tripod


def at_times(views: list[Views], times: list[float]) -> list[Views]:
    return [replace(view, times=torch.tensor([time])) for view, time in zip(views, times, strict=True)]


def test_a_path_that_crosses_itself_is_no_rig() -> None:
    views = before_grey()
    assert not are_fixed(at_times([*views, views[2]], [i / 6 for i in range(7)]))
    assert are_fixed(at_times([*views, views[2]], [0.0] * 6 + [1.0]))  # six cameras, and one at another time
    assert not are_fixed(at_times(views, [0.0] * 6))  # nothing recurs


def test_no_points_are_no_error() -> None:
    assert len(most_consistent(before_grey(), torch.zeros(0, 3), 10)) == 0
