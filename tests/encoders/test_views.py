"""The reference frame: the same in any world, and rounded by less than a voxel."""

from dataclasses import replace

import pytest
import torch

from nest_nerfstudio.encoders.inputs import sort_views
from nest_nerfstudio.encoders.views import (
    alpha_maps,
    from_reference_frame,
    rgba_maps,
    to_reference_frame,
    view_statistics,
)
from nest_nerfstudio.encoders.voxels import ball_voxels, carve, in_hull
from nest_nerfstudio.geometry.multiview import project
from nest_nerfstudio.geometry.se3 import se3_apply
from tests.equivariance import pictures, random_pose

ORIGIN, RADIUS, COUNT = torch.zeros(3), 1.25, 48


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_choice_is_the_same_for_turned_cameras(dtype: torch.dtype) -> None:
    """The very same positions, moved."""
    views, pose = sort_views(pictures(4, dtype)), random_pose(dtype, 1, shift=0.0)
    origin = ORIGIN.to(dtype)
    frames = [to_reference_frame(v, origin, RADIUS).viewmats for v in (views, views.move(pose))]
    assert torch.equal(*frames)  # to the last bit
    before, after = (
        carve(to_reference_frame(v, origin, RADIUS), origin, RADIUS, COUNT)[0]
        for v in (views, views.move(pose))
    )
    assert torch.equal(before, after)
    here = from_reference_frame(views, origin, before)
    there = from_reference_frame(views.move(pose), origin, after)
    torch.testing.assert_close(there, se3_apply(pose, here), atol=3e-6, rtol=0)


def test_rounding_is_less_than_a_voxel_however_far_the_cameras_are() -> None:
    """Cameras fifty times as far, with lenses as much longer."""
    views = pictures(4)
    viewmats, Ks = views.viewmats.clone(), views.Ks.clone()
    viewmats[:, :3, 3] *= 50
    Ks[:, :2, :2] *= 50
    far = replace(views, viewmats=viewmats, Ks=Ks)
    reference, voxels = to_reference_frame(far, ORIGIN, RADIUS), ball_voxels(ORIGIN, RADIUS, 2 * COUNT)
    exact, rounded = (int(in_hull(v, alpha_maps(v), voxels).sum()) for v in (far, reference))
    assert exact > 1000
    assert abs(rounded / exact - 1) < 0.05
    grids = [project(v, torch.zeros(1, 3))[0] for v in (far, reference)]
    assert ((grids[0] - grids[1]).abs() * 24).max() < 0.5  # pixels


def test_the_reference_frame_is_undone_by_the_first_camera() -> None:
    """But for the rounding, positions are seen at the same pixels in the reference frame and in the world."""
    views, centre = pictures(3, torch.float64), torch.tensor([0.2, -0.1, 0.3], dtype=torch.float64)
    reference = to_reference_frame(views, centre, RADIUS)
    torch.testing.assert_close(reference.viewmats[0, :3, :3], torch.eye(3, dtype=torch.float64))
    positions = 0.3 * torch.randn(20, 3, dtype=torch.float64)
    in_world = from_reference_frame(views, centre, positions)
    seen, expected = project(views, in_world), project(reference, positions)
    torch.testing.assert_close(seen[0], expected[0], atol=0.02, rtol=0)
    torch.testing.assert_close(seen[1], expected[1], atol=0.02, rtol=0)


def test_maps_are_premultiplied_and_opaque_where_there_is_no_alpha() -> None:
    views = pictures(2)
    assert views.images is not None
    assert views.alphas is not None
    maps = rgba_maps(views)
    torch.testing.assert_close(maps[:, :3].permute(0, 2, 3, 1), views.images * views.alphas)
    torch.testing.assert_close(maps[:, 3:].permute(0, 2, 3, 1), views.alphas)
    opaque = rgba_maps(replace(views, alphas=None))
    torch.testing.assert_close(opaque[:, :3].permute(0, 2, 3, 1), views.images)
    assert (opaque[:, 3] == 1).all()


def test_statistics_are_of_the_views_that_see_a_position() -> None:
    values, seen = torch.randn(5, 4, 3), torch.rand(5, 4) > 0.4
    seen[:, 1], seen[:, 2] = False, torch.tensor([False, True, False, False, False])
    mean, variance = view_statistics(values, seen)
    for i in range(4):
        some = values[seen[:, i], i]
        expected = (some.mean(0), some.var(0, unbiased=False)) if len(some) else (torch.zeros(3),) * 2
        torch.testing.assert_close(mean[i], expected[0])
        torch.testing.assert_close(variance[i], expected[1])
