"""Points on the visual hull of silhouettes: inside it, on its visible side, also where a part moves."""

import math
from dataclasses import replace

import pytest
import torch

from nest_nerfstudio.training.visual_hull import mean_colors, read_silhouettes, sample_visual_hull
from nest_nerfstudio.types import Views

SIZE = 64


def sphere_views(radius: float = 0.5, distance: float = 4.0) -> list[Views]:
    """A red ball at the origin, seen along three axes by exact pinhole cameras."""
    focal = 100.0
    K = torch.tensor([[[focal, 0, SIZE / 2], [0, focal, SIZE / 2], [0, 0, 1.0]]])
    y, x = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")
    tangent = ((x - SIZE / 2).square() + (y - SIZE / 2).square()).sqrt() / focal
    alpha = (tangent < radius / (distance**2 - radius**2) ** 0.5).float()[None, ..., None]
    image = alpha * torch.tensor([1.0, 0.0, 0.0])
    views = []
    for axis in range(3):
        viewmat = torch.eye(4)[None].clone()
        viewmat[0, :3, :3] = torch.eye(3).roll(axis, 1)
        viewmat[0, 2, 3] = distance
        views.append(Views(viewmat, K, SIZE, SIZE, images=image, alphas=alpha))
    return views


def inside_hull(views: list[Views], points: torch.Tensor, tolerance: float = 0.0) -> torch.Tensor:
    """Whether each point is seen at all, and seen on the object but for a share `tolerance` of the views."""
    share, on_object, _ = read_silhouettes(views, points)
    return on_object.any(0) & (share <= tolerance)


def test_hull_of_a_ball_holds_the_ball_and_little_else() -> None:
    box = torch.tensor([[-1.0] * 3, [1.0] * 3])
    points = sample_visual_hull(sphere_views(), box, 2000)
    assert len(points) == 2000
    assert points.norm(dim=1).max() < 0.5 * 1.3  # three cones bulge past the ball
    inside = torch.nn.functional.normalize(torch.randn(500, 3), dim=1) * 0.47
    assert inside_hull(sphere_views(), inside).float().mean() > 0.98


def test_points_lie_on_the_side_that_is_seen() -> None:
    """Spread over the volume, 34 % would lie deeper than 0.35, and a quarter on each side of two planes."""
    points = sample_visual_hull(sphere_views(), torch.tensor([[-1.0] * 3, [1.0] * 3]), 1000)
    assert (points.norm(dim=1) < 0.35).float().mean() < 0.02
    assert (points < 0.2).any(1).float().mean() > 0.98  # the cameras stand at −4 on each axis


def test_empty_silhouettes_give_an_empty_hull() -> None:
    views = sphere_views(radius=0.0)
    box = torch.tensor([[-1.0] * 3, [1.0] * 3])
    assert len(sample_visual_hull(views, box, 100, candidates=200_000)) == 0


def test_points_that_nobody_sees_are_outside() -> None:
    assert not inside_hull(sphere_views(), torch.tensor([[50.0, 50.0, 50.0]])).any()


def test_a_tolerated_wrong_mask_does_not_cut() -> None:
    views = sphere_views()
    views[0] = Views(
        views[0].viewmats,
        views[0].Ks,
        SIZE,
        SIZE,
        images=views[0].images,
        alphas=torch.zeros(1, SIZE, SIZE, 1),
    )
    origin = torch.zeros(1, 3)
    assert not inside_hull(views, origin).any()
    assert inside_hull(views, origin, tolerance=0.4).all()


def views_of_a_moving_ball(sway: float) -> tuple[list[Views], torch.Tensor]:
    """One ball at rest, one at another height in every image, seen from a circle; pixels of the latter."""
    count, focal, distance = 8, 70.0, 4.0
    y, x = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")
    K = torch.tensor([[[focal, 0, SIZE / 2], [0, focal, SIZE / 2], [0, 0, 1.0]]])
    views, centres = [], []
    for i in range(count):
        turn = 2 * math.pi * i / count
        viewmat = torch.eye(4)[None].clone()
        viewmat[0, 0, :3] = torch.tensor([-math.sin(turn), math.cos(turn), 0.0])
        viewmat[0, 1, :3] = torch.tensor([0.0, 0.0, -1.0])
        viewmat[0, 2, :3] = torch.tensor([-math.cos(turn), -math.sin(turn), 0.0])
        viewmat[0, 2, 3] = distance
        alpha = torch.zeros(SIZE, SIZE)
        for ball in ([0.0, 0.0, 0.0], [0.9, 0.0, sway * (2 * (3 * i % count) / (count - 1) - 1)]):
            at = viewmat[0, :3, :3] @ torch.tensor(ball) + viewmat[0, :3, 3]
            pixel = focal * at[:2] / at[2] + SIZE / 2
            alpha[(x - pixel[0]).square() + (y - pixel[1]).square() < (focal * 0.3 / at[2]) ** 2] = 1.0
        centres.append(pixel)
        views.append(
            Views(
                viewmat,
                K,
                SIZE,
                SIZE,
                images=alpha[None, ..., None].expand(-1, -1, -1, 3),
                alphas=alpha[None, ..., None],
            )
        )
    return views, torch.stack(centres)


def shares_near(views: list[Views], points: torch.Tensor, pixels: torch.Tensor) -> list[float]:
    """For each view, how many of the points it sees within six pixels of a position, as a share."""
    shares = []
    for view, pixel in zip(views, pixels, strict=True):
        seen = (points @ view.viewmats[0, :3, :3].T + view.viewmats[0, :3, 3]) @ view.Ks[0].T
        shares.append(float(((seen[:, :2] / seen[:, 2:] - pixel).norm(dim=1) < 6).float().mean()))
    return shares


def test_what_moves_too_far_for_its_silhouettes_to_meet_is_not_lost() -> None:
    box = torch.tensor([[-1.5] * 3, [1.5] * 3])
    views, pixels = views_of_a_moving_ball(sway=0.8)
    points = sample_visual_hull(views, box, 2000, tolerance=0.2, candidates=400_000)
    everywhere = torch.rand(200_000, 3) * 3 - 1.5
    common = everywhere[inside_hull(views, everywhere, tolerance=0.2)]
    away = [i for i in range(len(views)) if (pixels[i] - SIZE / 2).norm() > 12]  # the other ball is not there
    assert len(away) >= 4
    for i in away:
        assert shares_near(views, common, pixels)[i] == 0
        assert shares_near(views, points, pixels)[i] > 0.01


def test_where_silhouettes_agree_the_hull_is_as_it_was() -> None:
    box = torch.tensor([[-1.5] * 3, [1.5] * 3])
    views, _ = views_of_a_moving_ball(sway=0.0)
    points = sample_visual_hull(views, box, 2000, tolerance=0.2, candidates=400_000)
    assert inside_hull(views, points, tolerance=0.2).float().mean() > 0.99


def test_a_mask_that_is_all_object_adds_nothing() -> None:
    box = torch.tensor([[-1.5] * 3, [1.5] * 3])
    views, _ = views_of_a_moving_ball(sway=0.0)
    views[3] = replace(views[3], alphas=torch.ones(1, SIZE, SIZE, 1))
    points = sample_visual_hull(views, box, 2000, tolerance=0.2, candidates=400_000)
    assert inside_hull(views, points, tolerance=0.2).float().mean() > 0.99


def test_colours_come_from_the_object_or_are_grey() -> None:
    colors = mean_colors(sphere_views(), torch.tensor([[0.0, 0.0, 0.0], [50.0, 50.0, 50.0]]))
    torch.testing.assert_close(colors, torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.5]]))


def masked(view: Views, square: tuple[slice, slice], alpha: float) -> Views:
    """A view whose image is blue, and whose silhouette is wrong, in a square that is masked out."""
    masks = torch.ones(1, SIZE, SIZE, 1)
    masks[:, square[0], square[1]] = 0
    assert view.alphas is not None
    assert view.images is not None
    blue = torch.tensor([0.0, 0.0, 1.0])
    return replace(
        view,
        masks=masks,
        alphas=torch.where(masks > 0, view.alphas, alpha),
        images=torch.where(masks > 0, view.images, blue),
    )


MIDDLE = (slice(20, 44), slice(26, 38))


@pytest.mark.parametrize("alpha", [0.0, 1.0], ids=["empty", "filled"])
def test_pixels_that_are_masked_out_neither_carve_nor_fill(alpha: float) -> None:
    views = sphere_views()
    hidden = [masked(view, MIDDLE, alpha) for view in views]
    origin = torch.zeros(1, 3)
    share, on_object, _ = read_silhouettes(hidden[:1], origin)
    assert (share.item(), on_object.any().item()) == (1.0, False)  # no view sees it, as if outside its image
    ball = torch.nn.functional.normalize(torch.randn(500, 3), dim=1) * 0.47
    mixed = [hidden[0], *views[1:]]
    assert inside_hull(mixed, ball).float().mean() > 0.98
    points = sample_visual_hull(mixed, torch.tensor([[-1.0] * 3, [1.0] * 3]), 2000)
    assert points.norm(dim=1).max() < 0.5 * 1.5
    corner = (slice(2, 20), slice(2, 20))
    outside = [masked(view, corner, alpha) for view in views]
    points = sample_visual_hull(outside, torch.tensor([[-1.0] * 3, [1.0] * 3]), 2000)
    assert points.norm(dim=1).max() < 0.5 * 1.35


def test_colours_do_not_come_from_pixels_that_are_masked_out() -> None:
    views = sphere_views()
    mixed = [masked(views[0], MIDDLE, 1.0), *views[1:]]
    torch.testing.assert_close(mean_colors(mixed, torch.zeros(1, 3)), torch.tensor([[1.0, 0.0, 0.0]]))
    hidden = [masked(view, MIDDLE, 1.0) for view in views]
    torch.testing.assert_close(mean_colors(hidden, torch.zeros(1, 3)), torch.full((1, 3), 0.5))
