"""Playback of clip time."""

import pytest

from nest_nerfstudio.viewer.playback import Playback


def test_a_clip_takes_its_seconds() -> None:
    assert Playback(4.0).advance(0.25, 1.0) == pytest.approx(0.5)


@pytest.mark.parametrize(("time", "expected"), [(0.9, 0.4), (2.6, 0.1), (-0.8, -0.3), (0.5, 0.0)])
def test_it_restarts_at_the_end_of_the_loop(time: float, expected: float) -> None:
    """From 2.6, outside the loop, it comes back into it; from −0.8 it runs into it."""
    assert Playback(1.0).advance(time, 0.5) == pytest.approx(expected)


def test_a_loop_may_lie_beyond_the_clip() -> None:
    assert Playback(2.0, (1.0, 3.0)).advance(2.75, 1.0) == pytest.approx(1.25)


def test_an_empty_loop_holds_its_time() -> None:
    assert Playback(2.0, (0.5, 0.5)).advance(0.5, 1.0) == 0.5


@pytest.mark.parametrize(("seconds", "loop"), [(0.0, (0.0, 1.0)), (-1.0, (0.0, 1.0)), (1.0, (1.0, 0.0))])
def test_bad_settings_are_refused(seconds: float, loop: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        Playback(seconds, loop)
