"""Places in the visual hull: inside what was seen, and the same however cameras are turned."""

from dataclasses import replace

import pytest
import torch

from nest_nerfstudio.encoders.lift import (
    alpha_maps,
    ball_cells,
    camera_centres,
    dilate,
    hull_depths,
    hull_ends,
    hull_points,
    in_hull,
    looked_at,
    may_hold,
    patch_of,
    project,
    resize_views,
    sample_maps,
    settle,
    sort_views,
    split_cells,
    unsettle,
)
from nest_nerfstudio.geometry.se3 import se3_apply
from nest_nerfstudio.types import Views
from tests.equivariance import pictures, random_pose
from tests.small_capture import blobs

ORIGIN, RADIUS, COUNT = torch.zeros(3), 1.25, 48
EDGE = 2 * RADIUS / COUNT


def hull(views: Views) -> tuple[Views, torch.Tensor]:
    """Settled cameras, and the cells of the hull in their frame."""
    settled = settle(views, ORIGIN, RADIUS)
    cells = ball_cells(ORIGIN.to(views.viewmats), RADIUS, COUNT)
    return settled, cells[may_hold(settled, cells, EDGE, ORIGIN.to(cells), RADIUS)]


def taller(views: Views, factor: int) -> Views:
    """The same pictures with every row repeated."""
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
def test_cells_hold_the_object_and_little_else(num_views: int) -> None:
    views = pictures(num_views)
    found = unsettle(views, ORIGIN, hull(views)[1])
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
    """Halves whose middle is in the hull come from cells that may hold some of it; pixels may be oblong."""
    views = taller(pictures(3), rows_per_column)
    settled = settle(views, ORIGIN, RADIUS)
    everything = ball_cells(ORIGIN, RADIUS, COUNT)
    coverage = alpha_maps(settled)
    halves = split_cells(everything, EDGE)
    whole = int(in_hull(settled, coverage, halves).sum())
    kept = everything[may_hold(settled, everything, EDGE, ORIGIN, RADIUS)]
    assert whole > 100
    assert int(in_hull(settled, coverage, split_cells(kept, EDGE)).sum()) == whole
    assert len(kept) < 0.5 * len(everything)


def test_halves_of_a_cell_fill_it() -> None:
    halves = split_cells(torch.tensor([[1.0, 2.0, 3.0]]), 0.4)
    assert halves.shape == (8, 3)
    torch.testing.assert_close(halves.mean(0), torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(halves.amax(0) - halves.amin(0), torch.full((3,), 0.2))


def test_ends_are_those_of_a_slab() -> None:
    """A slab one unit thick across the axis of a camera four units away."""
    slab = torch.cartesian_prod(*[torch.linspace(-0.5, 0.5, 41)] * 3)
    eye = torch.eye(4)
    eye[2, 3] = 4.0
    K = torch.tensor([[70.0, 0, 24], [0, 70.0, 24], [0, 0, 1]])
    views = Views(viewmats=eye[None], Ks=K[None], width=48, height=48)
    fronts, backs = hull_ends(views, slab, 24)
    torch.testing.assert_close(fronts[0, 11:13, 11:13], torch.full((2, 2), 3.5))
    torch.testing.assert_close(backs[0, 11:13, 11:13], torch.full((2, 2), 4.5))
    assert (fronts[0, 0] == 0).all()
    assert (backs[0, 0] == 0).all()
    depths = hull_depths(fronts, backs, *project(views, torch.tensor([[0.0, 0.0, 0.1]])))
    torch.testing.assert_close(depths[0, 0], torch.tensor([0.6, 0.4]))
    # beside the slab they fade to nothing, over a quarter of a patch and no less
    across = torch.linspace(0.3, 1.2, 2001)
    beside = torch.stack([across, torch.zeros_like(across), torch.zeros_like(across)], 1)
    depths = hull_depths(fronts, backs, *project(views, beside))[0]
    assert depths.abs().max() < 0.51
    assert (depths[-100:] == 0).all()
    patch = 4 * 2 / 70  # world units at the slab's middle
    assert depths.diff(dim=0).abs().max() / (across[1] - across[0]) < 1.2 * 4 * 0.5 / patch


def test_patches_are_those_of_the_picture_and_one_for_what_is_not_in_it() -> None:
    eye = torch.eye(4)
    K = torch.tensor([[10.0, 0, 20], [0, 10.0, 10], [0, 0, 1]])
    views = Views(viewmats=eye[None], Ks=K[None], width=40, height=20)
    pixels = torch.tensor([[0.1, 0.1], [39.9, 0.1], [0.1, 19.9], [39.9, 19.9], [-0.1, 5.0], [5.0, 20.1]])
    places = torch.cat([(pixels - K[:2, 2]) / 10, torch.ones(6, 1)], 1)
    behind = -places[:1]
    at, depths, grid = patch_of(views, torch.cat([3 * places, behind]), 8)
    assert grid == (4, 8)
    assert at[0].tolist() == [0, 7, 24, 31, 32, 32, 32]
    assert depths[0].tolist() == [3, 3, 3, 3, 3, 3, -1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_choice_is_the_same_for_turned_cameras(dtype: torch.dtype) -> None:
    """The very same places, moved."""
    views, pose = sort_views(pictures(4, dtype)), random_pose(dtype, 1, shift=0.0)
    before, after = hull(views)[1], hull(views.move(pose))[1]
    assert torch.equal(before, after)
    origin = ORIGIN.to(before)
    here, there = unsettle(views, origin, before), unsettle(views.move(pose), origin, after)
    torch.testing.assert_close(there, se3_apply(pose, here), atol=3e-6, rtol=0)


def test_rounding_is_less_than_a_cell_however_far_the_cameras_are() -> None:
    """Cameras fifty times as far, with lenses as much longer."""
    views = pictures(4)
    viewmats, Ks = views.viewmats.clone(), views.Ks.clone()
    viewmats[:, :3, 3] *= 50
    Ks[:, :2, :2] *= 50
    far = replace(views, viewmats=viewmats, Ks=Ks)
    settled, cells = settle(far, ORIGIN, RADIUS), ball_cells(ORIGIN, RADIUS, 2 * COUNT)
    exact, rounded = (int(in_hull(v, alpha_maps(v), cells).sum()) for v in (far, settled))
    assert exact > 1000
    assert abs(rounded / exact - 1) < 0.05
    grids = [project(v, torch.zeros(1, 3))[0] for v in (far, settled)]
    assert ((grids[0] - grids[1]).abs() * 24).max() < 0.5  # pixels


def test_one_camera_close_by_does_not_blunt_the_others() -> None:
    """What a cell spans in its picture is much; in those of the others it is as little as before."""
    views = pictures(4)
    assert views.alphas is not None
    viewmats, alphas = views.viewmats.clone(), views.alphas.clone()
    viewmats[1, :3, 3], alphas[1] = 0.0, 1.0
    without = views.select(torch.tensor([0, 2, 3]))
    inside = replace(views, viewmats=viewmats, alphas=alphas)
    counts = [
        int(may_hold(v, ball_cells(ORIGIN, RADIUS, COUNT), EDGE, ORIGIN, RADIUS).sum())
        for v in (without, inside)
    ]
    assert counts[1] == counts[0]


def test_half_transparent_objects_are_carved_like_opaque_ones() -> None:
    views = pictures(3)
    assert views.alphas is not None
    assert torch.equal(hull(replace(views, alphas=0.5 * views.alphas))[1], hull(views)[1])


def test_cloud_lies_on_the_balls_and_has_their_colours() -> None:
    views, balls = pictures(6), blobs(0.1)
    cloud = hull_points(views, ORIGIN, RADIUS, COUNT)
    assert len(cloud) > 100
    away = torch.cdist(cloud.positions, balls.means)
    assert (away.amin(1) < 0.45).float().mean() > 0.9
    colors = balls.sh[:, 0] * 0.28209479177387814 + 0.5
    near = away.amin(1) < 0.2
    expected = colors[away.argmin(1)]
    assert (cloud.rgb - expected)[near].abs().mean() < 0.1
    inner = hull(views)[1]
    assert len(cloud) < len(inner)


def test_looked_at() -> None:
    views = pictures(4, torch.float64)
    torch.testing.assert_close(looked_at(views.viewmats, 9.0), ORIGIN.double(), atol=0.1, rtol=0)
    one = pictures(1, torch.float64)
    axis, centre = one.viewmats[0, 2, :3], camera_centres(one.viewmats)[0]
    torch.testing.assert_close(looked_at(one.viewmats, 2.5), centre + 2.5 * axis)


def test_order_of_views_is_their_own() -> None:
    views = pictures(5)
    order = torch.tensor([3, 1, 4, 0, 2])
    one, other = sort_views(views), sort_views(views.select(order))
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
