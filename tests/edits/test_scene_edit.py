"""Edits as JSON files: what is written is read again, and what is wrong is named."""

import json
from pathlib import Path

import pytest
import torch

from nest_nerfstudio.edits.scene_edit import EditError, SceneEdit
from nest_nerfstudio.edits.selection import Box, Cluster, Copies, Ids, Nearest, Sphere
from nest_nerfstudio.edits.steps import (
    STEPS,
    Amplify,
    Delete,
    Duplicate,
    Freeze,
    GenerateMotion,
    Interpolate,
    Keep,
    Loop,
    Move,
    Oscillate,
    Recolor,
    Relight,
    Retime,
    Reverse,
    Scale,
    ShiftPhase,
    Swap,
    Travel,
    Traverse,
    Turn,
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
        Traverse("geometry", (0.5, -1.0), tokens=Ids((2,))),
        Relight((0.1, 0.0, 0.0), 0.5, SunSky((0.0, 0.0, -1.0), 2.0, 0.1)),
        Relight(),
        Relight(coefficients=((0.5,) * 9, (0.1,) * 9, (0.2,) * 9)),
        Turn(30.0, (0.0, 1.0, 0.0), about=(0.0, 0.0, 0.0)),
        Turn(matrix=((0.0, -1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)), tokens=Copies((0, 1))),
        Scale(0.5, tokens=Nearest((0.0, 0.0, 0.0))),
        Swap("light", scene="car", run="/runs/other"),
        Interpolate("geometry", 0.3, scene="car", tokens=Ids((2,))),
        Reverse(),
        Freeze(0.25),
        Oscillate(0.5, (0.0, 0.0, 0.1), tokens=Ids((0,))),
        Travel((0.5, 0.0, 0.0), (0.0, 0.0, 0.3), about=(1.0, 0.0, 0.0), tokens=Ids((0,))),
        Retime(-1.0, 1.0),
        Loop(0.0, 0.5, 0.1),
        ShiftPhase(0.25),
        Amplify(1.5),
        GenerateMotion(3, 0.5),
    )
)


def test_every_step_is_written_and_read_again(tmp_path: Path) -> None:
    assert {step.name for step in EVERY_STEP.steps} == set(STEPS)
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
        (
            steps({"action": "relight", "light": {"direction": [0, 0, 0]}}),
            "`direction` of the light must not be",
        ),
        (steps({"action": "relight", "light": {"sun": -1}}), "must not be negative"),
        (steps({"action": "relight", "coefficients": [[1, 2], [1, 2], [1, 2]]}), "9 numbers for each"),
        (steps({"action": ["move"]}), r"unknown action \['move'\]"),
        (steps({"action": "move", "translation": [0, 0, 10**400]}), "a finite number"),
        (steps({"action": "turn"}), r"step 1 \(turn\): give either `degrees`"),
        (steps({"action": "turn", "degrees": 9, "axis": [0, 0, 0]}), "`axis` has no direction"),
        (
            steps({"action": "amplify", "factor": 2}, {"action": "turn", "matrix": [[1, 0, 0], [0, 1, 0]]}),
            r"step 2 \(turn\), `matrix` is a list of 3",
        ),
        (
            steps({"action": "turn", "matrix": [[1, 0, 0], [0, 1, 1], [0, 0, 1]]}),
            r"step 1 \(turn\): `matrix` is no rotation",
        ),
        (steps({"action": "scale", "factor": 0}), "factor must be greater than 0"),
        (steps({"action": "keep", "tokens": {"nearest": {"point": [0, 0, 0], "count": 0}}}), "1 or more"),
        (steps({"action": "swap", "factor": "shape", "scene": "a"}), "is one of geometry, appearance, poses"),
        (steps({"action": "swap", "factor": "light", "scene": 3}), "`scene` is a text, not 3"),
        (steps({"action": "swap", "factor": "light"}), "name a `scene` of this run, or another `run`"),
        (steps({"action": "interpolate", "factor": "light", "scene": "a"}), "needs `amount`"),
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


def test_numbers_too_large_for_the_scene_are_an_error() -> None:
    with pytest.raises(EditError, match="step 1 of the edit: move: its numbers are so large"):
        SceneEdit((Move((1e300, 0.0, 0.0)),)).apply(make_latent(), FIELD)


def test_paths_of_runs_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "edit.json").write_text(
        json.dumps(steps({"action": "swap", "factor": "light", "run": "../other", "scene": "car"}))
    )
    assert SceneEdit.load(tmp_path / "edit.json").steps[0].run == str(tmp_path / "../other")
