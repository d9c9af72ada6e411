"""Clicks and boxes on the image, against positions whose projection is known."""

from types import SimpleNamespace

import numpy as np

from nest_nerfstudio.viewer.picking import boxed, clicked

POSITIONS = np.array([[0.0, 0, 5], [0.1, 0, 6], [1.0, 0, 5], [-1.0, 1.0, 5], [0.0, 0, -5]])
EYE, AHEAD = np.zeros(3), np.array([0.0, 0.0, 2.0])
CAMERA = SimpleNamespace(wxyz=(1.0, 0.0, 0.0, 0.0), position=(0.0, 0.0, 0.0), fov=np.pi / 2, aspect=2.0)


def test_a_click_means_the_first_token_and_those_around_it() -> None:
    assert clicked(POSITIONS, EYE, AHEAD, reach=0.0).tolist() == [True, False, False, False, False]
    assert clicked(POSITIONS, EYE, AHEAD, reach=1.03).tolist() == [True, True, True, False, False]
    assert clicked(POSITIONS, EYE, -AHEAD, reach=0.0).tolist() == [False, False, False, False, True]


def test_a_click_beside_everything_means_nothing() -> None:
    assert not clicked(POSITIONS, EYE, np.array([1.0, 1.0, 0.5]), reach=1.0).any()


def test_a_box_means_what_is_seen_in_it() -> None:
    """At depth 5 the image is 20 wide and 10 high."""
    whole = boxed(POSITIONS, CAMERA, ((0.0, 0.0), (1.0, 1.0)))
    assert whole.tolist() == [True, True, True, True, False]  # but what is behind the camera
    right = boxed(POSITIONS, CAMERA, ((0.54, 0.51), (0.56, 0.49)))
    assert right.tolist() == [False, False, True, False, False]
    below = boxed(POSITIONS, CAMERA, ((0.44, 0.55), (0.46, 0.65)))
    assert below.tolist() == [False, False, False, True, False]


def test_a_box_of_a_turned_camera() -> None:
    """Turned by 90° about its y axis, it looks along x."""
    half = np.sqrt(0.5)
    camera = SimpleNamespace(**{**vars(CAMERA), "wxyz": (half, 0.0, half, 0.0), "position": (-5.0, 0.0, 5.0)})
    seen = boxed(POSITIONS, camera, ((0.499, 0.499), (0.501, 0.501)))
    assert seen.tolist() == [True, False, True, False, False]
