"""Depth maps of the visual hull, and the coloured cloud on its surface."""

import torch

from nest_nerfstudio.encoders.hull_depth import depths_in_hull, hull_depth_maps, hull_points, patch_indices
from nest_nerfstudio.encoders.voxels import carve
from nest_nerfstudio.geometry.multiview import project
from nest_nerfstudio.types import Views
from tests.equivariance import pictures
from tests.small_capture import blobs

ORIGIN, RADIUS, COUNT = torch.zeros(3), 1.25, 48


def test_ends_are_those_of_a_slab() -> None:
    """A slab one unit thick across the axis of a camera four units away."""
    slab = torch.cartesian_prod(*[torch.linspace(-0.5, 0.5, 41)] * 3)
    eye = torch.eye(4)
    eye[2, 3] = 4.0
    K = torch.tensor([[70.0, 0, 24], [0, 70.0, 24], [0, 0, 1]])
    views = Views(viewmats=eye[None], Ks=K[None], width=48, height=48)
    fronts, backs = hull_depth_maps(views, slab, 24)
    torch.testing.assert_close(fronts[0, 11:13, 11:13], torch.full((2, 2), 3.5))
    torch.testing.assert_close(backs[0, 11:13, 11:13], torch.full((2, 2), 4.5))
    assert (fronts[0, 0] == 0).all()
    assert (backs[0, 0] == 0).all()
    depths = depths_in_hull(fronts, backs, *project(views, torch.tensor([[0.0, 0.0, 0.1]])))
    torch.testing.assert_close(depths[0, 0], torch.tensor([0.6, 0.4]))
    # beside the slab they fade to nothing, over a quarter of a patch and no less
    across = torch.linspace(0.3, 1.2, 2001)
    beside = torch.stack([across, torch.zeros_like(across), torch.zeros_like(across)], 1)
    depths = depths_in_hull(fronts, backs, *project(views, beside))[0]
    assert depths.abs().max() < 0.51
    assert (depths[-100:] == 0).all()
    patch = 4 * 2 / 70  # world units at the slab's middle
    assert depths.diff(dim=0).abs().max() / (across[1] - across[0]) < 1.2 * 4 * 0.5 / patch


def test_patches_are_those_of_the_image_and_one_for_what_is_not_in_it() -> None:
    eye = torch.eye(4)
    K = torch.tensor([[10.0, 0, 20], [0, 10.0, 10], [0, 0, 1]])
    views = Views(viewmats=eye[None], Ks=K[None], width=40, height=20)
    pixels = torch.tensor([[0.1, 0.1], [39.9, 0.1], [0.1, 19.9], [39.9, 19.9], [-0.1, 5.0], [5.0, 20.1]])
    positions = torch.cat([(pixels - K[:2, 2]) / 10, torch.ones(6, 1)], 1)
    behind = -positions[:1]
    indices, depths, grid = patch_indices(views, torch.cat([3 * positions, behind]), 8)
    assert grid == (4, 8)
    assert indices[0].tolist() == [0, 7, 24, 31, 32, 32, 32]
    assert depths[0].tolist() == [3, 3, 3, 3, 3, 3, -1]


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
    assert len(cloud) < len(carve(views, ORIGIN, RADIUS, COUNT)[0])
