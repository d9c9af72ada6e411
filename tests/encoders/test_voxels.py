"""Voxels of the visual hull: they hold the object, and silhouettes carve away the rest."""

from dataclasses import replace

import pytest
import torch

from nest_nerfstudio.encoders.views import alpha_maps, from_reference_frame, to_reference_frame
from nest_nerfstudio.encoders.voxels import ball_voxels, carve, dilate, in_hull, may_touch_hull, split_voxels
from nest_nerfstudio.geometry.multiview import project, sample_maps
from nest_nerfstudio.types import Views
from tests.equivariance import pictures
from tests.small_capture import blobs

ORIGIN, RADIUS, COUNT = torch.zeros(3), 1.25, 48
EDGE = 2 * RADIUS / COUNT


def hull(views: Views) -> tuple[Views, torch.Tensor]:
    """Cameras and the voxels of the hull, in the reference frame."""
    reference = to_reference_frame(views, ORIGIN, RADIUS)
    voxels = ball_voxels(ORIGIN.to(views.viewmats), RADIUS, COUNT)
    return reference, voxels[may_touch_hull(reference, voxels, EDGE, ORIGIN.to(voxels), RADIUS)]


def taller(views: Views, factor: int) -> Views:
    """The same images with every row repeated."""
    assert views.images is not None
    assert views.alphas is not None
    return replace(
        views,
        height=factor * views.height,
        Ks=views.Ks * torch.tensor([1.0, factor, 1.0])[:, None],
        images=views.images.repeat_interleave(factor, 1),
        alphas=views.alphas.repeat_interleave(factor, 1),
    )


@pytest.mark.parametrize("num_views", [1, 2, 6])
def test_voxels_hold_the_object_and_little_else(num_views: int) -> None:
    views = pictures(num_views)
    found = from_reference_frame(views, ORIGIN, hull(views)[1])
    assert found.norm(dim=1).max() < RADIUS + 0.01
    for centre in blobs(0.1).means:
        assert (found - centre).norm(dim=1).min() < EDGE
    grid, _ = project(views, found)
    assert views.alphas is not None
    near = torch.nn.functional.max_pool2d(views.alphas.permute(0, 3, 1, 2), 9, 1, 4)
    assert (sample_maps(near, grid)[..., 0] > 0.3).float().mean() > 0.99


@pytest.mark.parametrize("reach", [0, 1, 2, 3, 7, 12])
def test_silhouettes_are_widened_by_the_reach(reach: int) -> None:
    maps = torch.rand(2, 1, 20, 31)
    expected = torch.nn.functional.max_pool2d(maps, 2 * reach + 1, 1, reach)
    torch.testing.assert_close(dilate(maps, reach), expected, atol=0, rtol=0)


def test_more_views_leave_less() -> None:
    counts = [len(hull(pictures(count))[1]) for count in (1, 2, 6)]
    assert counts[0] > 1.5 * counts[1]
    assert counts[1] > 1.5 * counts[2]


@pytest.mark.parametrize("rows_per_column", [1, 16])
def test_no_part_of_the_hull_is_lost_between_coarse_and_fine(rows_per_column: int) -> None:
    """Parts whose centre is in the hull come from voxels that may touch it; pixels may be oblong."""
    views = taller(pictures(3), rows_per_column)
    reference = to_reference_frame(views, ORIGIN, RADIUS)
    everything = ball_voxels(ORIGIN, RADIUS, COUNT)
    coverage = alpha_maps(reference)
    parts = split_voxels(everything, EDGE)
    whole = int(in_hull(reference, coverage, parts).sum())
    kept = everything[may_touch_hull(reference, everything, EDGE, ORIGIN, RADIUS)]
    assert whole > 100
    assert int(in_hull(reference, coverage, split_voxels(kept, EDGE)).sum()) == whole
    assert len(kept) < 0.5 * len(everything)


def test_parts_of_a_voxel_fill_it() -> None:
    parts = split_voxels(torch.tensor([[1.0, 2.0, 3.0]]), 0.4)
    assert parts.shape == (8, 3)
    torch.testing.assert_close(parts.mean(0), torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(parts.amax(0) - parts.amin(0), torch.full((3,), 0.2))


def test_one_camera_close_by_does_not_blunt_the_others() -> None:
    """A voxel spans much of its image, and no more of the others than without it."""
    views = pictures(4)
    assert views.alphas is not None
    viewmats, alphas = views.viewmats.clone(), views.alphas.clone()
    viewmats[1, :3, 3], alphas[1] = 0.0, 1.0
    without = views.select(torch.tensor([0, 2, 3]))
    inside = replace(views, viewmats=viewmats, alphas=alphas)
    counts = [
        int(may_touch_hull(v, ball_voxels(ORIGIN, RADIUS, COUNT), EDGE, ORIGIN, RADIUS).sum())
        for v in (without, inside)
    ]
    assert counts[1] == counts[0]


def test_half_transparent_objects_are_carved_like_opaque_ones() -> None:
    views = pictures(3)
    assert views.alphas is not None
    assert torch.equal(hull(replace(views, alphas=0.5 * views.alphas))[1], hull(views)[1])


def test_carving_from_coarse_to_fine_finds_what_the_fine_grid_holds() -> None:
    reference, expected = hull(pictures(3))
    found, edge = carve(reference, ORIGIN, RADIUS, COUNT)
    assert edge == pytest.approx(EDGE)
    # at the ball's edge, coarse voxels inside it have parts outside it, and the other way round
    found, expected = (voxels[voxels.norm(dim=1) < RADIUS - EDGE] for voxels in (found, expected))
    assert len(found) == len(expected) > 100
    assert torch.cdist(expected, found).amin(1).max() < 0.1 * EDGE
