"""What controls change becomes an edit; undo takes back a whole drag, and resetting can be undone."""

import math

import pytest

from nest_nerfstudio.edits.scene_edit import SceneEdit
from nest_nerfstudio.edits.selection import ALL, Ids
from nest_nerfstudio.edits.steps import (
    GenerateMotion,
    Interpolate,
    Move,
    Recolor,
    Relight,
    Retime,
    ShiftPhase,
)
from nest_nerfstudio.viewer.edit_session import EditSession

SOME = Ids((1, 2), (0,))
CENTRE = (1.0, 0.0, 0.0)


def test_nothing_is_done_at_first_and_what_was_there_stays() -> None:
    base = SceneEdit((Move((1.0, 0.0, 0.0)),))
    session = EditSession(base)
    assert session.edit() == base
    session.change_tokens(hue=0.2)
    assert session.edit().steps == (*base.steps, Recolor(0.2, tokens=ALL))


def test_selections_are_changed_one_after_the_other() -> None:
    session = EditSession()
    session.select(SOME, CENTRE)
    session.change_tokens(translation=(0.0, 0.0, 1.0), rotation=(0.0, 0.0, 0.5))
    session.select(Ids((3,)), (0.0, 0.0, 0.0))  # and nothing is done to it
    session.select(ALL, (0.0, 0.0, 0.0))
    session.change_tokens(gain=2.0)
    assert session.edit().steps == (
        Move((0.0, 0.0, 1.0), (0.0, 0.0, 0.5), CENTRE, SOME),
        Recolor(gain=(2.0, 2.0, 2.0)),
    )


def test_light_and_time() -> None:
    session = EditSession()
    session.change_scene(azimuth=90.0, light_gain=0.5, speed=-1.0)
    session.change_scene(phase=0.25)
    session.change_scene(scene="cow", amount=0.5)
    take, light, phase, speed = session.edit().steps
    assert take == Interpolate("appearance", 0.5, "cow")
    assert isinstance(light, Relight)
    assert light.rotation == pytest.approx((0.0, 0.0, math.pi / 2), abs=1e-6)
    assert (light.gain, phase, speed) == (0.5, ShiftPhase(0.25), Retime(-1.0))


def test_a_new_motion_comes_before_what_is_done_to_motion() -> None:
    session = EditSession()
    session.change_scene(speed=2.0, new_motion=3)
    assert session.edit().steps == (GenerateMotion(seed=3), Retime(2.0))


def test_undo_takes_back_a_drag_at_once() -> None:
    session = EditSession()
    for hue in (0.1, 0.2, 0.3):
        session.change_tokens(hue=hue)
    session.change_tokens(gain=2.0)
    assert session.undo()
    assert session.edit().steps == (Recolor(0.3),)
    session.reset()
    assert session.edit().steps == ()
    assert session.undo()
    assert session.edit().steps == (Recolor(0.3),)
    assert session.undo()
    assert session.edit().steps == ()
    assert not session.undo()
