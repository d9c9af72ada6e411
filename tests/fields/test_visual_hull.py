import torch

from nest_nerfstudio.fields.visual_hull import inside_hull, mean_colors, sample_visual_hull
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


def test_colours_come_from_the_object_or_are_grey() -> None:
    colors = mean_colors(sphere_views(), torch.tensor([[0.0, 0.0, 0.0], [50.0, 50.0, 50.0]]))
    torch.testing.assert_close(colors, torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.5]]))
