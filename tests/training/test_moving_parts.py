"""What moves is found where a still scene does not explain images, and placed on the ground it stands on."""

from dataclasses import replace

import pytest
import torch

from nest_nerfstudio.training.moving_parts import Frame, find_frames, place_parts
from tests.small_yard import END, RADIUS, START, ball, balls, both, draw, floor, view

FRAMES = 11


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    return find_frames([view(i / (FRAMES - 1)) for i in range(FRAMES)], floor(), draw)


def test_masks_are_where_the_ball_is(frames: list[Frame]) -> None:
    for frame in frames:
        alone = draw(ball(frame.time), frame.view).alpha[0, ..., 0] > 0.5
        assert (frame.mask & alone).sum() > 0.9 * alone.sum()
        assert (frame.mask & alone).sum() > 0.6 * (frame.mask | alone).sum()


def test_the_ball_is_placed_on_the_floor_and_its_way_is_found(frames: list[Frame]) -> None:
    torch.manual_seed(0)
    (part,) = place_parts(frames, 0.5, num_times=9, num_points=200)
    assert len(part.points) == 200
    centre = 0.5 * (START + END)
    assert (part.points.positions.mean(0) - centre).norm() < 0.5 * RADIUS
    assert (part.points.positions - centre).norm(dim=1).quantile(0.9) < 2 * RADIUS
    true = (torch.linspace(0, 1, 9)[:, None] - 0.5) * (END - START)
    assert (part.shifts - true).norm(dim=1).max() < 0.3 * RADIUS
    assert part.points.rgb.mean() < 0.4  # of the ball, hardly of the floor


def test_haze_before_a_scene_does_not_bring_a_part_nearer() -> None:
    """Faint Gaussians, which no image tells from a clean scene, hang between the camera and the floor."""
    torch.manual_seed(0)
    means = torch.randn(40, 3) * torch.tensor([0.8, 0.8, 0.1]) + torch.tensor([0, 0, 0.9])
    haze = replace(
        balls(means, torch.full((40, 3), 0.6), torch.full((3,), 0.3)), opacities=torch.full((40,), 0.15)
    )
    hazy = [view(t, both(haze, both(floor(), ball(t)))) for t in torch.linspace(0, 1, FRAMES).tolist()]
    (part,) = place_parts(find_frames(hazy, both(haze, floor()), draw), 0.5, num_times=9, num_points=200)
    assert (part.points.positions.mean(0) - 0.5 * (START + END)).norm() < 0.5 * RADIUS


def test_a_scene_that_stands_still_has_no_parts() -> None:
    still = find_frames([view(i / 8, floor()) for i in range(9)], floor(), draw)
    assert not any(frame.mask.any() for frame in still)
    assert place_parts(still, 0.5, 9, 100) == []


def test_what_is_drawn_badly_in_all_images_does_not_move() -> None:
    """A patch of the floor of another colour than the still scene has."""
    wrong = floor()
    patch = wrong.means[:, :2].norm(dim=1) < 0.4
    wrong = replace(wrong, sh=torch.where(patch[:, None, None], wrong.sh + 0.8, wrong.sh))
    found = find_frames([view(i / 8, floor()) for i in range(9)], wrong, draw)
    assert torch.stack([frame.mask.float().mean() for frame in found]).mean() < 0.01
