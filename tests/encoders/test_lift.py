"""Places in the visual hull: inside what was seen, and the same however cameras are turned."""

from dataclasses import replace

import pytest
import torch

from nest_nerfstudio.encoders.lift import (
    camera_centres,
    hull_depths,
    in_hull,
    lift,
    looked_at,
    project,
    resize_views,
    sort_views,
)
from nest_nerfstudio.types import Views
from tests.equivariance import pictures, random_pose
from tests.small_capture import blobs

ORIGIN = torch.zeros(3)


def lifted(views: Views, shell: float = 10.0):
    return lift(views, ORIGIN, 1.25, 24, 24, shell)


@pytest.mark.parametrize("num_views", [1, 2, 6])
def test_places_fill_the_hull_and_hold_the_object(num_views: int) -> None:
    views = pictures(num_views)
    found = lifted(views)
    assert views.alphas is not None
    coverage = views.alphas.permute(0, 3, 1, 2)
    # the choice is made with rounded poses, up to a third of a pixel off
    assert in_hull(views, coverage, found.positions).float().mean() > 0.93
    for centre in blobs(0.1).means:
        assert (found.positions - centre).norm(dim=1).min() < 0.12


def test_more_views_leave_less() -> None:
    volumes = [float(lifted(pictures(count)).positions.std(0).prod()) for count in (1, 2, 6)]
    assert volumes[0] > volumes[1] > volumes[2]


def test_shell_leaves_out_what_is_deep_inside() -> None:
    views = pictures(4)
    all_of_it, outer = lifted(views), lifted(views, 0.15)
    assert 0 < len(outer.positions) < len(all_of_it.positions)
    depths = hull_depths(all_of_it.fronts, all_of_it.backs, *project(views, outer.positions))
    assert depths.amin((0, 2)).max() < 0.15


def test_choice_is_the_same_for_turned_cameras() -> None:
    """In single precision too: the very same places, moved."""
    views, pose = sort_views(pictures(4)), random_pose(torch.float32, 1, shift=0.0)
    before, after = lifted(views), lifted(views.move(pose))
    assert len(before.positions) == len(after.positions)
    assert torch.equal(before.settled, after.settled)
    torch.testing.assert_close(after.fronts, before.fronts, atol=1e-5, rtol=0)


def test_looked_at() -> None:
    views = pictures(4, torch.float64)
    torch.testing.assert_close(looked_at(views.viewmats, 9.0), ORIGIN.double(), atol=0.1, rtol=0)
    one = pictures(1, torch.float64)
    axis, centre = one.viewmats[0, 2, :3], camera_centres(one.viewmats)[0]
    torch.testing.assert_close(looked_at(one.viewmats, 2.5), centre + 2.5 * axis)


def test_order_of_views_is_their_own() -> None:
    views = pictures(5)
    order = torch.tensor([3, 1, 4, 0, 2])
    parts = {name: getattr(views, name)[order] for name in ("viewmats", "Ks", "images", "alphas")}
    one, other = sort_views(views), sort_views(replace(views, **parts))
    assert torch.equal(one.viewmats, other.viewmats)


def test_resized_pictures_keep_colour_and_rays() -> None:
    views = pictures(2, size=96)
    small = resize_views(views, 48)
    assert (small.width, small.height) == (48, 48)
    assert small.images is not None
    assert small.alphas is not None
    assert views.images is not None
    assert views.alphas is not None
    torch.testing.assert_close(small.alphas.mean(), views.alphas.mean())
    # over any background, as it would have looked from farther away: colour does not fade at the silhouette
    torch.testing.assert_close((small.images * small.alphas).mean(), (views.images * views.alphas).mean())
    points = torch.randn(20, 3) * 0.3
    torch.testing.assert_close(project(small, points)[0], project(views, points)[0], atol=1e-5, rtol=1e-5)
