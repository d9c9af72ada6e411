"""The `nest-data` command line."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from nest_nerfstudio.scripts.data import entrypoint
from tests.synthesis.small_glb import arm

TINY = ("--size", 16, "--samples", 1)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["nest-data", *map(str, arguments)])
    entrypoint()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return arm().write(tmp_path / "robot_Arm 1.glb")


def test_toy_writes_all_splits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mitsuba")
    scene = tmp_path / "scene"
    counts = {"train": 2, "val": 1, "test": 1, "future": 1}
    options = [word for split, count in counts.items() for word in (f"--{split}", count)]
    run(monkeypatch, "toy", "--output", scene, *TINY, *options)
    assert f"ns-train nest-dynamic --data {scene}" in capsys.readouterr().out
    for split, count in counts.items():
        assert len(json.loads((scene / f"transforms_{split}.json").read_text())["frames"]) == count
        assert len(list((scene / split).glob("*.png"))) == count


def test_toy_writes_scenes_of_every_category_without_problems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mitsuba")
    options = ("--scenes-per-category", 1, "--edits", "move", "--views", 8, "--jobs", 1)
    run(monkeypatch, "toy", "--output", tmp_path / "scenes", *TINY, *options)
    listed = json.loads((tmp_path / "scenes" / "scenes.json").read_text())["scenes"]
    assert [scene["category"] for scene in listed] == ["quadruped", "fish", "snake", "vehicle", "stack"]
    assert f"ns-train nest-prior --data {tmp_path / 'scenes'}" in capsys.readouterr().out
    run(monkeypatch, "check", tmp_path / "scenes")
    assert "No problems in 5 scene(s), 84 frames" in capsys.readouterr().out


def test_glb_writes_a_moving_scene(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mitsuba")
    splits = ("--train", 3, "--val", 1, "--test", 1, "--future", 1)
    options = ("--clip", "bend", "--cycles", 2.0, "--cameras.path", "orbit", "--cameras.radius", 3.0)
    run(monkeypatch, "glb", model, "--output", tmp_path / "scene", *TINY, *splits, *options)
    meta = json.loads((tmp_path / "scene" / "transforms_train.json").read_text())
    assert meta["period"] == 0.5
    position = [row[3] for row in meta["frames"][1]["transform_matrix"][:3]]
    assert sum(x * x for x in position) == pytest.approx(9.0)
    run(monkeypatch, "check", tmp_path / "scene")
    assert "No problems in 1 scene(s), 6 frames" in capsys.readouterr().out
    arm(weights=((1, 0), (1, 0), (0, 1), (0, 1))).write(model)
    with pytest.raises(SystemExit, match="was rendered with other settings"):
        run(monkeypatch, "glb", model, "--output", tmp_path / "scene", *TINY, *splits, *options)


def test_glb_writes_scenes_with_edits(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mitsuba")
    still = arm(animated=False).write(tmp_path / "still.glb")
    scenes = tmp_path / "scenes"
    options = ("--views", 8, "--jobs", 1, "--edits", "turn", "stretch")
    run(monkeypatch, "glb", model, still, "--output", scenes, *TINY, *options)
    listed = json.loads((scenes / "scenes.json").read_text())["scenes"]
    assert listed == [
        {"name": "robot_arm-1", "category": "robot"},
        {"name": "still", "category": "still"},
    ]
    meta = json.loads((scenes / "robot_arm-1" / "transforms_train.json").read_text())
    assert list(meta["edits"]) == ["base", "turn", "stretch"]
    assert max(frame["time"] for frame in meta["frames"]) > 0.8


@pytest.mark.parametrize("command", ["toy", "glb"])
def test_help_describes_every_option(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        run(monkeypatch, command, "--help")
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    described = re.findall(r"--(\w[\w.-]*) [A-Z{\[][^()]*[.] \((?:default|required)", text)
    assert len(described) == len(re.findall(r"\((?:default|required)", text)) - (command == "glb")
    assert {"output", "edits", "views", "train", "cycles", "cameras.heights"} <= set(described)


def test_check_names_the_problems_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "transforms_train.json").write_text("{")
    with pytest.raises(SystemExit, match=r"1 problem\(s\) in 1 scene"):
        run(monkeypatch, "check", tmp_path)
    assert re.search(r"transforms_train\.json: .*not valid JSON", capsys.readouterr().out)


def test_bad_settings_end_in_one_line(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "out"
    for arguments, message in (
        (("toy", "--size", 0), "size must be greater than 0"),
        (("toy", "--scenes-per-category", -1), "scenes_per_category must be 0 or greater"),
        (
            ("toy", "--scenes-per-category", 1, "--train", 5),
            "--train applies to one moving scene",
        ),
        (("video", tmp_path / "none.mp4"), "none.mp4 does not exist"),
        (("video", model), "robot_Arm 1.glb is no video that FFmpeg reads"),
        (("video", model, "--num-frames", 5), "num_frames must be 10 or more"),
        (("video", model, "--jobs", 0), "jobs must be 1 or more"),
        (("glb",), "name one or more .glb files"),
        (("glb", model, model), "several files need --edits"),
        (("glb", model, model, "--edits", "move"), "2 scenes are named robot_arm-1"),
        (("glb", model, "--clip", "walk"), "no animation.*'walk'; choose of: bend"),
        (("glb", tmp_path / "none.glb"), "No such file"),
    ):
        with pytest.raises(SystemExit, match=f"^nest-data: .*{message}"):
            run(monkeypatch, *arguments, "--output", output)
        assert not output.exists()
    with pytest.raises(SystemExit, match="holds no data set"):
        run(monkeypatch, "check", tmp_path)
