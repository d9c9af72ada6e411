"""Data sets of rendered figures: splits, seeds, edits, and continuing an interrupted run."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nest_nerfstudio.data.check import check_dataset
from nest_nerfstudio.data.scenes.edits import read_edits
from nest_nerfstudio.states import Edit, SunSky
from nest_nerfstudio.synthesis.datasets import (
    EditedScenesConfig,
    MovingSceneConfig,
    NamedFigure,
    edit_to_json,
    edits_of,
    frames_of,
    make_scenes,
    make_toy_scene,
)
from nest_nerfstudio.synthesis.rendering import Cameras
from nest_nerfstudio.synthesis.toy import random_figure

TINY = MovingSceneConfig(size=24, train=2, val=1, test=1, future=1, samples=4)
TINY_SCENES = EditedScenesConfig(edits=("relight", "recolor", "stretch"), views=8, size=16, samples=1)


def test_split_times_and_seeds() -> None:
    config = MovingSceneConfig()
    times = {
        split: np.array([t for t, _ in frames_of(split, config)]) for split in ("train", "test", "future")
    }
    assert times["train"][0] == 0
    assert times["train"][-1] == 1
    assert ((times["test"] >= 0) & (times["test"] <= 1)).all()
    assert (times["future"] > 1).all()
    assert times["future"][-1] == 2
    cameras = np.stack([camera for split in ("train", "test") for _, camera in frames_of(split, config)])
    assert len(np.unique(cameras.round(6), axis=0)) == len(cameras), "a fresh camera for every frame"
    assert not np.allclose(cameras[0], frames_of("train", MovingSceneConfig(seed=1))[0][1])
    np.testing.assert_array_equal(cameras[0], frames_of("train", config)[0][1])


def test_times_do_not_depend_on_the_cameras() -> None:
    config = MovingSceneConfig(cameras=Cameras("orbit"))
    for split in ("train", "val", "future"):
        usual = [time for time, _ in frames_of(split, MovingSceneConfig())]
        assert [time for time, _ in frames_of(split, config)] == usual
    (first, last), poses = (0, -1), [camera for _, camera in frames_of("train", config)]
    np.testing.assert_allclose(poses[first], poses[last], atol=1e-12)


@pytest.mark.parametrize("bad", [{"size": 0}, {"train": -1}, {"cycles": 0.0}, {"seed": -1}])
def test_bad_settings(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        MovingSceneConfig(**bad)  # pyright: ignore[reportArgumentType]


def test_too_few_views_for_a_test_image_of_every_edit() -> None:
    with pytest.raises(ValueError, match="views must be 8 or more"):
        EditedScenesConfig(views=7)


def test_missing_mitsuba_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mitsuba", None)
    with pytest.raises(ImportError, match=r"nest-nerfstudio\[synth\]"):
        make_toy_scene(tmp_path / "scene", TINY)
    assert not (tmp_path / "scene").exists()


def test_scene_resumes_and_refuses_other_settings(tmp_path: Path) -> None:
    pytest.importorskip("mitsuba")
    scene = make_toy_scene(tmp_path / "scene", TINY)
    first, second = scene / "train" / "r_000.png", scene / "train" / "r_001.png"
    kept, redone = first.stat().st_mtime_ns, second.read_bytes()
    second.unlink()
    make_toy_scene(scene, TINY)
    assert first.stat().st_mtime_ns == kept
    assert second.read_bytes() == redone, "the same seed gives the same image"
    with pytest.raises(ValueError, match="was rendered with other settings"):
        make_toy_scene(scene, MovingSceneConfig(size=32))
    with pytest.raises(ValueError, match="was rendered with other settings"):
        make_toy_scene(scene, replace(TINY, cameras=Cameras("orbit")))
    with pytest.raises(ValueError, match="is not empty and holds no toy data set"):
        make_toy_scene(scene / "train", TINY)

    transforms = json.loads((scene / "transforms_train.json").read_text())
    assert transforms["period"] == pytest.approx(1 / TINY.cycles)
    assert [frame["time"] for frame in transforms["frames"]] == [0.0, 1.0]
    pixels = np.asarray(Image.open(scene / f"{transforms['frames'][0]['file_path']}.png"))
    assert pixels.shape == (24, 24, 4)
    assert pixels[0, 0, 3] == 0
    assert pixels[12, 12, 3] == 255


def test_edits_are_drawn_per_scene_and_kind_and_say_only_what_differs() -> None:
    config = EditedScenesConfig(edits=("relight", "recolor", "turn", "move", "stretch"))
    edits, others = edits_of("fish_000", config), edits_of("fish_001", config)
    assert edits["base"] == Edit()
    assert all(edits[name] != others[name] for name in config.edits)
    alone = edits_of("fish_000", EditedScenesConfig(edits=("move",)))
    assert alone["move"] == edits["move"], "an edit does not depend on which others there are"
    keys = {name: list(edit_to_json(edit)) for name, edit in edits.items()}
    assert keys == {
        "base": [],
        "relight": ["light"],
        "recolor": ["hue"],
        "turn": ["yaw"],
        "move": ["translate"],
        "stretch": ["stretch"],
    }
    light = edits["relight"].light
    assert light.direction[2] < 0, "the sun shines from above"
    assert SunSky(**edit_to_json(edits["relight"])["light"]) == light


def test_scenes_have_all_edits_and_resume(tmp_path: Path) -> None:
    pytest.importorskip("mitsuba")
    figures = [NamedFigure(f"{kind}_0", kind, random_figure(kind, 0)) for kind in ("fish", "stack")]
    folder = make_scenes(figures, tmp_path / "scenes", TINY_SCENES, "toy_scenes")
    listed = json.loads((folder / "scenes.json").read_text())["scenes"]
    assert listed == [{"name": "fish_0", "category": "fish"}, {"name": "stack_0", "category": "stack"}]
    assert check_dataset(folder).problems == []

    splits: dict[str, list[str]] = {}
    for split in ("train", "test"):
        meta = json.loads((folder / "fish_0" / f"transforms_{split}.json").read_text())
        assert read_edits(meta["edits"], split) == edits_of("fish_0", TINY_SCENES)
        assert meta["category"] == "fish"
        for frame in meta["frames"]:
            splits.setdefault(frame["edit"], []).append(split)
            assert frame["time"] == 0 or "motion" in frame["file_path"]
    assert {name: (used.count("train"), used.count("test")) for name, used in splits.items()} == {
        "base": (12, 4),  # with its motion
        **dict.fromkeys(("relight", "recolor", "stretch"), (3, 1)),
    }
    stack = json.loads((folder / "stack_0" / "transforms_train.json").read_text())["frames"]
    assert not any("motion" in frame["file_path"] for frame in stack), "a stack does not move"

    image = folder / "fish_0" / "train" / "recolor_00.png"
    before = image.read_bytes()
    image.unlink()
    make_scenes(figures, folder, TINY_SCENES, "toy_scenes")
    assert image.read_bytes() == before
    with pytest.raises(ValueError, match="was rendered with other settings"):
        make_scenes(figures[:1], folder, TINY_SCENES, "toy_scenes")


def test_scenes_of_one_name_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("mitsuba")
    figure = NamedFigure("fish_0", "fish", random_figure("fish", 0))
    with pytest.raises(ValueError, match="2 scenes are named fish_0"):
        make_scenes([figure, figure], tmp_path / "scenes", TINY_SCENES, "toy_scenes")
    assert not (tmp_path / "scenes").exists()
