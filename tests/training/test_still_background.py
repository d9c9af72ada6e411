"""Masks of what moves belong to a time and a camera."""

from dataclasses import replace

import torch

from nest_nerfstudio.training.moving_parts import Frame, without_fixed
from nest_nerfstudio.training.still_background import StillBackground
from nest_nerfstudio.types import Views
from tests.small_yard import HEIGHT, WIDTH, draw, floor, view


def rig(time: float) -> list[Views]:
    """Two cameras at the same time."""
    return [replace(view(place, floor()), times=torch.tensor([time])) for place in (0.0, 1.0)]


def frame_of(views: Views, rows: slice) -> Frame:
    mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    mask[rows] = True
    return Frame(views, torch.ones(HEIGHT, WIDTH), mask)


def test_cameras_of_equal_times_keep_their_own_masks() -> None:
    background = StillBackground(0.5)
    (first, second), (third, _) = rig(0.2), rig(0.4)
    background._keep([frame_of(first, slice(0, 20)), frame_of(second, slice(50, 70))])
    rendering, color = draw(floor(), first), torch.zeros(3)
    refined = replace(first, viewmats=first.viewmats + 0.01)
    assert not background.trusted(rendering, first, color)[0, :20].any()
    assert background.trusted(rendering, refined, color)[0, 30:].all()
    assert background.trusted(rendering, second, color)[0, :40].all()
    assert not background.trusted(rendering, second, color)[0, 50:70].any()
    assert background.trusted(draw(floor(), third), third, color).mean() > 0.9  # whose time has no mask


def test_what_stays_is_left_out_of_the_masks_of_its_own_camera() -> None:
    first, second = rig(0.5)
    stays, unknown = frame_of(first, slice(30, 50)), frame_of(second, slice(0, 10))
    unknown = replace(unknown, depth=torch.zeros_like(unknown.depth))  # so that it has no place
    found = without_fixed([stays, unknown], 0.5)
    assert not found[0].mask.any()
    assert torch.equal(found[1].mask, unknown.mask)
