"""What tokens read of images and points: invariant scalars, vectors that turn, colours that are there."""

import pytest
import torch

from nest_nerfstudio.encoders.proposals import ProposalNetworkConfig, Proposals
from nest_nerfstudio.encoders.sampling import CORNER_FEATURES, PointSampler, ViewSampler
from nest_nerfstudio.geometry.color import srgb_to_linear
from nest_nerfstudio.geometry.quaternion import quat_rotate
from nest_nerfstudio.types import Points, Views
from tests.equivariance import pictures, random_pose, turn_points
from tests.small_capture import blobs

WIDTH, VECTORS, RADIUS = 8, 3, 1.25
CENTRE, NO_GRAVITY = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)


def observe(views: Views, turned: Views | None = None) -> tuple[ViewSampler, Proposals]:
    """A sampler and the features of some images, in double precision."""
    network = ProposalNetworkConfig(cells=32, patches=16).setup(radius=RADIUS).double().eval()
    sampler = ViewSampler(48, 16, WIDTH, VECTORS, RADIUS).double()
    return sampler, network(views, CENTRE, NO_GRAVITY)


def test_views_give_invariant_scalars_and_vectors_that_turn() -> None:
    torch.manual_seed(1)
    views, pose = pictures(3, torch.float64), random_pose(torch.float64, 4, shift=0.0)
    sampler, proposals = observe(views)
    positions = torch.randn(10, 3, dtype=torch.float64) * 0.3
    here = sampler.pool_views(views, proposals, positions, CENTRE)
    there = sampler.pool_views(views.move(pose), proposals, quat_rotate(pose[0], positions), CENTRE)
    torch.testing.assert_close(there.scalars, here.scalars)
    torch.testing.assert_close(there.per_view, here.per_view)
    torch.testing.assert_close(there.vectors, quat_rotate(pose[0], here.vectors))
    torch.testing.assert_close(there.axes, quat_rotate(pose[0], here.axes))
    assert (there.vectors - here.vectors).norm() > 0.1 * here.vectors.norm()


def test_scalars_are_as_many_as_the_sampler_says() -> None:
    views = pictures(2, torch.float64)
    sampler, proposals = observe(views)
    seen = sampler.pool_views(views, proposals, torch.zeros(4, 3, dtype=torch.float64), CENTRE)
    assert seen.scalars.shape == (4, sampler.num_scalars)
    assert seen.vectors.shape == (4, VECTORS, 3)
    assert seen.per_view.shape == (2, 4, WIDTH)


def test_corners_have_the_colours_of_the_images() -> None:
    """At the centres of balls of one colour each."""
    views, balls = pictures(6, torch.float64), blobs(0.1)
    sampler, proposals = observe(views)
    corners = balls.means.double()[:, None]
    per_view = torch.randn(6, 3, WIDTH, dtype=torch.float64)
    colors, features = sampler.sample_corners(
        views, proposals, corners, per_view, torch.randn(3, WIDTH, dtype=torch.float64)
    )
    expected = srgb_to_linear((balls.sh[:, 0] * 0.28209479177387814 + 0.5).clamp(0, 1)).double()
    assert (colors[:, 0] - expected).abs().mean() < 0.1
    assert features.shape == (3, 1, CORNER_FEATURES)
    coverage, least = features[:, 0, :2].unbind(1)
    assert (least <= coverage + 1e-9).all()
    outside = torch.tensor([[[0.0, 0.0, 1.2]]] * 3, dtype=torch.float64)
    empty = sampler.sample_corners(views, proposals, outside, per_view, per_view[0])[1]
    assert (empty[:, 0, 1] < 0.05).all()


def test_points_give_invariant_features_and_a_direction_that_turns() -> None:
    points, sampler = (
        Points(torch.randn(200, 3).double(), torch.rand(200, 3).double()),
        PointSampler(WIDTH).double(),
    )
    positions, spacing = torch.randn(10, 3).double(), torch.rand(10).double() + 0.5
    pose = random_pose(torch.float64, 5)
    here, towards = sampler.pool_points(points, positions, spacing)
    moved = quat_rotate(pose[0], positions) + pose[1]
    there, turned = sampler.pool_points(turn_points(points, pose), moved, spacing)
    torch.testing.assert_close(there, here)
    torch.testing.assert_close(turned, quat_rotate(pose[0], towards))
    assert (turned - towards).norm() > 0.1 * towards.norm()


def test_the_direction_is_that_of_the_points() -> None:
    cloud = torch.tensor([2.0, 0.0, 0.0]) + 0.1 * torch.randn(50, 3)
    _, towards = PointSampler(WIDTH).pool_points(
        Points(cloud, torch.rand(50, 3)), torch.zeros(1, 3), torch.ones(1)
    )
    torch.testing.assert_close(
        torch.nn.functional.normalize(towards), torch.tensor([[1.0, 0, 0]]), atol=0.1, rtol=0
    )


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_a_corner_has_the_colour_of_the_points_beside_it(side: float) -> None:
    """Red points on one side of a token, blue ones on the other."""
    x = torch.tensor([-1.0, -1.0, -1.0, -1.0, 1.0, 1.0, 1.0, 1.0])
    positions = torch.stack([x, 0.05 * torch.randn(8), 0.05 * torch.randn(8)], 1)
    red, blue = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0])
    points = Points(positions, torch.where(x[:, None] < 0, red, blue))
    corner = torch.tensor([[[side, 0.0, 0.0]]])
    color = PointSampler.sample_corners(points, corner, torch.zeros(1, 3), torch.full((1,), 0.5))
    torch.testing.assert_close(color[0, 0], red if side < 0 else blue, atol=0.05, rtol=0)
