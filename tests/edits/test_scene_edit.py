"""Edits as JSON files: what is written is read again, and what is wrong is named."""

import json
from pathlib import Path

import pytest
import torch

from nest_nerfstudio.edits.scene_edit import EditError, SceneEdit
from nest_nerfstudio.edits.selection import Box, Cluster, Copies, Ids, Nearest, Sphere
from nest_nerfstudio.edits.steps import (
    Amplify,
    Delete,
    Duplicate,
    Keep,
    Loop,
    Move,
    Oscillate,
    Recolor,
    Relight,
    Retime,
    ShiftPhase,
)
from nest_nerfstudio.states import SunSky
from tests.edits.test_steps import FIELD, make_latent
from tests.equivariance import latent_distance

EVERY_STEP = SceneEdit(
    (
        Move((0.0, 0.5, 0.0), (0.0, 0.0, 1.0), about=(1.0, 0.0, 0.0), tokens=Sphere((0.0, 0.0, 0.0), 2.5)),
        Duplicate((0.0, 0.0, 1.0), tokens=Ids((0, 1), copies=(0,))),
        Recolor(0.1, tokens=Copies((1,))),
        Keep(Box((-9.0, -9.0, -9.0), (9.0, 9.0, 9.0))),
        Delete(Nearest((8.0, 0.0, 0.0), 2)),
        Recolor(0.2, (1.0, 2.0, 1.0), tokens=Cluster((0.0, 0.0, 0.0), 1.5)),
        Relight((0.1, 0.0, 0.0), 0.5, SunSky((0.0, 0.0, -1.0), 2.0, 0.1)),
        Relight(),
        Oscillate(0.5, (0.0, 0.0, 0.1), tokens=Ids((0,))),
        Retime(-1.0, 1.0),
        Loop(0.0, 0.5, 0.1),
        ShiftPhase(0.25),
        Amplify(1.5),
    )
)


def test_every_step_is_written_and_read_again(tmp_path: Path) -> None:
    EVERY_STEP.save(tmp_path / "edit.json")
    assert SceneEdit.load(tmp_path / "edit.json") == EVERY_STEP


def test_steps_act_in_order() -> None:
    latent = make_latent()
    edit = SceneEdit((Move((1.0, 0.0, 0.0)), Move(rotation=(0.0, 0.0, 3.14159265), about=(0.0, 0.0, 0.0))))
    edited = edit.apply(latent, FIELD)
    torch.testing.assert_close(edited.translations[2], torch.tensor([-1.0, 0.0, 0.0]), atol=1e-5, rtol=0)
    assert latent_distance(SceneEdit().apply(latent, FIELD), latent) == 0
    halves = SceneEdit(edit.steps[:1]).then(SceneEdit(edit.steps[1:]))
    assert latent_distance(halves.apply(latent, FIELD), edited) == 0


def test_a_step_that_fails_is_named_by_its_number() -> None:
    edit = SceneEdit((Move((1.0, 0.0, 0.0)), Keep(Sphere((99.0, 0.0, 0.0), 1.0))))
    with pytest.raises(EditError, match=r"step 2 of the edit: keep: .* selects none"):
        edit.apply(make_latent(), FIELD)


def steps(*listed) -> dict:
    return {"version": 1, "steps": list(listed)}


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ([], "an edit is a table"),
        ({"version": 2, "steps": []}, "version 2 is not known"),
        ({"version": 1, "steps": {}}, "`steps` is a list"),
        (steps({"move": [0, 0, 1]}), "step 1 is a table with an `action`"),
        (steps({"action": "explode"}), "step 1: unknown action 'explode'; there are move, "),
        (
            steps({"action": "move", "shift": [0, 0, 1]}),
            r"step 1 \(move\) has no `shift`; it has translation",
        ),
        (steps({"action": "keep"}), r"step 1 \(keep\) needs `tokens`"),
        (steps({"action": "move", "translation": [0, 1]}), "a list of 3 numbers"),
        (steps({"action": "move", "translation": [0, 1, "2"]}), "a finite number, not '2'"),
        (steps({"action": "amplify", "factor": True}), "a finite number, not True"),
        (steps({"action": "amplify", "factor": float("nan")}), "a finite number, not nan"),
        (steps({"action": "recolor", "gain": [0, 1, 1]}), "gain must be greater than 0"),
        (steps({"action": "relight", "gain": -1}), "gain must not be negative"),
        (steps({"action": "loop", "start": 1, "end": 0}), "cannot loop from 1"),
        (steps({"action": "move", "tokens": {"ball": {}}}), '"all", or a table of one of box, sphere'),
        (steps({"action": "move", "tokens": {"sphere": {"centre": [0, 0, 0]}}}), "needs `radius`"),
        (
            steps({"action": "keep", "tokens": {"nearest": {"point": [0, 0, 0], "count": 1.5}}}),
            "whole number",
        ),
        (steps({"action": "relight", "light": {"sunny": 3}}), "has no `sunny`"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path: Path, stored, message: str) -> None:
    path = tmp_path / "edit.json"
    path.write_text(json.dumps(stored))
    with pytest.raises(EditError, match=message) as error:
        SceneEdit.load(path)
    assert str(path) in str(error.value)


def test_files_that_are_not_there_or_not_json(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no edit at"):
        SceneEdit.load(tmp_path / "edit.json")
    (tmp_path / "edit.json").write_text("{")
    with pytest.raises(EditError, match="not valid JSON"):
        SceneEdit.load(tmp_path / "edit.json")
