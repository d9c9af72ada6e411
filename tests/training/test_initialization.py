"""Where Gaussians and tokens start: seed points, visual hull, scene box."""

from dataclasses import replace

import pytest
import torch

from nest_nerfstudio.training.initialization import most_gaussians, starting_points, token_positions
from nest_nerfstudio.types import Gaussians, Points, Views
from tests.equivariance import pictures
from tests.small_capture import blobs

BOX = torch.tensor([[-1.5, -1.5, -1.5], [1.5, 1.5, 1.5]])


@pytest.fixture(scope="module")
def views() -> list[Views]:
    """Six images of three balls that stand still."""
    together = pictures(6)
    return [together.select(slice(i, i + 1)) for i in range(6)]


def test_the_largest_number_of_gaussians_follows_device_and_content(views: list[Views]) -> None:
    opaque = [replace(view, alphas=None) for view in views]
    assert most_gaussians(opaque, 200 * 200, "cpu") == 20_000  # as on images of any small size
    assert most_gaussians(opaque, 960 * 540, "cpu") == 51_840
    assert most_gaussians(opaque, 1920 * 1080, "cpu") == 60_000
    assert most_gaussians(opaque, 200 * 200, "cuda") == 200_000
    assert most_gaussians(opaque, 1920 * 1080, "cuda") == 518_400
    assert most_gaussians([], 0, "cpu") == 20_000
    half = [replace(view, masks=torch.ones(1, view.height, view.width, 1)) for view in opaque]
    for view in half:
        assert view.masks is not None
        view.masks[:, ::2] = 0
    assert most_gaussians(half, 960 * 540, "cpu") == 25_920
    shown = torch.cat([view.alphas for view in views if view.alphas is not None]).mean()
    assert most_gaussians(views, 10**6, "cuda") == max(int(shown * 250_000), 200_000)
    assert most_gaussians(views, 960 * 540, "cpu") < 51_840


def points_of(count: int) -> Points:
    return Points(torch.randn(count, 3), torch.rand(count, 3))


def test_seed_points_are_used() -> None:
    seeds = points_of(90)
    points, _ = starting_points([], BOX, seeds, count=150, fewest=12, hull_tolerance=0.2)
    order = points.positions[:, 0].argsort(), seeds.positions[:, 0].argsort()
    assert torch.equal(points.positions[order[0]], seeds.positions[order[1]])
    assert torch.equal(points.rgb[order[0]], seeds.rgb[order[1]])


def test_of_many_seed_points_some_are_used() -> None:
    seeds = points_of(400)
    points, _ = starting_points([], BOX, seeds, count=150, fewest=12, hull_tolerance=0.2)
    rows = (points.positions[:, None] == seeds.positions).all(-1).float().argmax(1)
    assert len(rows.unique()) == 150
    assert torch.equal(points.positions, seeds.positions[rows])
    assert torch.equal(points.rgb, seeds.rgb[rows])


def test_seed_points_fewer_than_tokens_are_joined_by_others(views, capsys) -> None:
    seeds = points_of(11)
    points, _ = starting_points(views, BOX, seeds, count=150, fewest=12, hull_tolerance=0.2)
    assert len(points) == 150
    assert (points.positions[:, None] == seeds.positions).all(-1).any(0).all()
    printed = capsys.readouterr().out
    assert "all 11 seed points" in printed
    assert "points in the visual hull" in printed


def test_points_of_the_visual_hull_lie_in_the_balls_and_have_their_colours(views) -> None:
    points, _ = starting_points(views, BOX, None, count=300, fewest=12, hull_tolerance=0.0)
    assert len(points) == 300
    balls = blobs(0.1)
    distances, nearest = torch.cdist(points.positions, balls.means).min(1)
    assert distances.quantile(0.95) < 0.5
    seen = torch.stack([points.rgb[nearest == i].mean(0) for i in range(3)])
    assert torch.equal(seen.argmax(1), torch.tensor([0, 1, 2]))  # red, green and blue


def test_an_empty_hull_starts_in_the_box(views, capsys) -> None:
    empty = [replace(view, alphas=torch.zeros_like(view.alphas)) for view in views]
    points, _ = starting_points(empty, BOX, None, count=150, fewest=12, hull_tolerance=0.2)
    assert "visual hull is empty" in capsys.readouterr().out
    assert_all_over_the_box(points, 150)


def test_images_without_alpha_start_in_the_box_without_a_word(views, capsys) -> None:
    opaque = [views[0], *(replace(view, alphas=None) for view in views[1:])]
    points, _ = starting_points(opaque, BOX, None, count=150, fewest=12, hull_tolerance=0.2)
    assert "visual hull" not in capsys.readouterr().out
    assert_all_over_the_box(points, 150)
    assert points.rgb.std() > 0.01  # from the images


def test_without_images_points_are_grey() -> None:
    points, _ = starting_points([], BOX, None, count=150, fewest=12, hull_tolerance=0.2)
    assert_all_over_the_box(points, 150)
    assert (points.rgb == 0.5).all()


def assert_all_over_the_box(points: Points, count: int) -> None:
    assert len(points) == count
    assert ((points.positions >= BOX[0]) & (points.positions <= BOX[1])).all()
    assert (points.positions.amax(0) - points.positions.amin(0) > 0.8 * (BOX[1] - BOX[0])).all()


def gaussians_of(means: torch.Tensor, opacities: torch.Tensor) -> Gaussians:
    count = len(means)
    quats = torch.tensor([1.0, 0, 0, 0]).repeat(count, 1)
    return Gaussians(means, quats, torch.full((count, 3), 0.1), opacities, torch.zeros(count, 1, 3))


def test_tokens_stand_on_gaussians_that_can_be_seen_evenly_spread() -> None:
    means = torch.rand(400, 3)
    opacities = torch.where(means[:, 0] > 0.5, 0.9, 0.1)
    tokens = token_positions(gaussians_of(means, opacities), 20)
    assert tokens.shape == (20, 3)
    assert (torch.cdist(tokens, means).min(1).values < 1e-6).all()
    assert (tokens[:, 0] > 0.5).all()
    gaps = torch.cdist(tokens, tokens) + torch.eye(20)
    random = torch.cdist(means[opacities > 0.5][:20], means[opacities > 0.5][:20]) + torch.eye(20)
    assert gaps.min() > 1.5 * random.min(1).values.median()


def test_where_too_few_can_be_seen_tokens_stand_on_any() -> None:
    means = torch.rand(40, 3)
    opacities = torch.full((40,), 0.1)
    opacities[:5] = 0.9
    assert len(token_positions(gaussians_of(means, opacities), 20).unique(dim=0)) == 20
