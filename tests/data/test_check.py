"""Every fault that `nest-data check` knows, one at a time in a data set that is fine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nest_nerfstudio.data.check import check_dataset
from nest_nerfstudio.data.scenes.index import read_index
from nest_nerfstudio.data.scenes.reader import read_scene
from tests.data.small_scenes import edit_json, parse, write_image

Change = Callable[[dict[str, Any]], object]


def faults(folder: Path) -> list[str]:
    """The problems found, with paths from `folder` on."""
    return [problem.replace(f"{folder}/", "") for problem in check_dataset(folder).problems]


@pytest.fixture
def scenes(dnerf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes with edits, of which `a_1` is broken by the tests."""
    folder = tmp_path_factory.mktemp("scenes")
    for name in ("a_1", "b_1"):
        for split in ("train", "test"):
            meta = json.loads((dnerf / f"transforms_{split}.json").read_text())
            edits = {"base": {}, "turn": {"yaw": 1.0}, "relight": {"light": {"direction": [0, 0, -1]}}}
            meta |= {"category": name[0], "edits": edits}
            for i, frame in enumerate(meta["frames"]):
                frame |= {"edit": list(edits)[i % 3], "time": 0.0}
                write_image(folder / name / f"{frame['file_path']}.png")
            (folder / name / f"transforms_{split}.json").write_text(json.dumps(meta))
    listed = [{"name": name, "category": name[0]} for name in ("a_1", "b_1")]
    (folder / "scenes.json").write_text(json.dumps({"scenes": listed}))
    return folder


def test_what_is_fine(dnerf: Path, scenes: Path) -> None:
    report = check_dataset(dnerf)
    assert (report.problems, report.num_scenes, report.num_frames) == ([], 1, 20)
    report = check_dataset(scenes)
    assert (report.problems, report.num_scenes, report.num_frames) == ([], 2, 28)


def test_a_video_needs_no_alpha_and_no_times(video: Path) -> None:
    assert faults(video) == []


def test_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no data set"):
        check_dataset(tmp_path)


def first(key: str, value: object) -> Change:
    """Set a key of the first frame."""
    return lambda meta: meta["frames"][0].update({key: value})


def pose(row: int, column: int, value: float) -> Change:
    def spoil(meta: dict[str, Any]) -> None:
        meta["frames"][0]["transform_matrix"][row][column] = value

    return spoil


def inside(meta: dict[str, Any]) -> None:
    for row, place in zip(meta["frames"][0]["transform_matrix"], (0.1, 0.2, 0.0), strict=False):
        row[3] = place


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (pose(0, 3, float("nan")), "frame ./train/r_0: transform_matrix is not a finite 4×4 matrix"),
        (pose(0, 0, 2.0), "frame ./train/r_0: transform_matrix holds no rotation"),
        (first("transform_matrix", [[1, 2], [3]]), "frame ./train/r_0: transform_matrix is not a finite"),
        (inside, "frame ./train/r_0: the camera is inside the object: 0.547 from its middle"),
        (first("time", [1]), "frame ./train/r_0: time is [1], not a finite number"),
        (lambda meta: meta["frames"][0].pop("file_path"), "frame 0: no `file_path`"),
        (first("time", None), "1 of 12 frames have no `time` (first: ./train/r_0)"),
        (lambda meta: [f.update(time=0.5) for f in meta["frames"]], "all 12 train frames have time 0.5"),
        (lambda meta: meta.pop("camera_angle_x"), "frame ./train/r_0 and 11 more: no focal length"),
        (
            lambda meta: meta.update(camera_angle_x="wide"),
            "frame ./train/r_0 and 11 more: impossible intrinsics: camera_angle_x must be in (0, π) radians",
        ),
        (first("w", 13), "frame ./train/r_0: its image r_0.png is 12×8 pixels, but its camera is 13×8"),
        (lambda meta: meta.update(frames=meta["frames"][:1]), "only one train frame"),
        (lambda meta: meta.update(frames=[]), "no list `frames`"),
    ],
)
def test_a_broken_transforms_file(dnerf: Path, spoil: Change, problem: str) -> None:
    edit_json(dnerf / "transforms_train.json", spoil)
    (found,) = faults(dnerf)
    assert found.startswith(f"transforms_train.json: {problem}")


@pytest.mark.parametrize(
    "change",
    [
        first("transform_matrix", [[1, 2], [3]]),
        first("time", "noon"),
        first("time", None),
        first("fl_x", -1),
        first("w", 13),
        first("k1", "strong"),
        first("camera_model", "PINHOLEY"),
        lambda meta: meta["frames"][0].pop("file_path"),
        lambda meta: meta["frames"].__setitem__(0, "r_0"),
        lambda meta: meta.update(frames=[]),
        lambda meta: meta.update(frames=meta["frames"][:1]),
        lambda meta: [frame.update(time=0.5) for frame in meta["frames"]],
    ],
)
def test_training_stops_with_the_words_of_the_check(dnerf: Path, change: Change) -> None:
    edit_json(dnerf / "transforms_train.json", change)
    with pytest.raises(ValueError, match=r"transforms_train\.json: ") as raised:
        parse(dnerf)
    assert str(raised.value) in check_dataset(dnerf).problems


def test_a_scene_stops_with_the_words_of_the_check(scenes: Path) -> None:
    edit_json(scenes / "a_1" / "transforms_train.json", lambda meta: meta["edits"].update(turn={"yaww": 1}))
    with pytest.raises(ValueError, match="scene a_1: ") as raised:
        read_scene(read_index(scenes), 0)
    assert str(raised.value).removeprefix("scene a_1: ") in check_dataset(scenes).problems


def test_splits_listed_in_a_transforms_file(video: Path) -> None:
    edit_json(video / "transforms.json", lambda meta: meta.update(val_filenames=["images/gone.png"]))
    assert faults(video) == [
        "transforms.json: lists val, but has no `train_filenames`",
        "transforms.json: lists images/gone.png in the split val, but no frame has that file_path",
    ]


def test_times_of_some_frames_of_a_video(video: Path) -> None:
    edit_json(video / "transforms.json", first("time", 0.5))
    (found,) = faults(video)
    assert found.startswith("transforms.json: 19 of 20 frames have no `time`")


def test_missing_seed_points_and_depths(dnerf: Path) -> None:
    edit_json(
        dnerf / "transforms_train.json",
        lambda meta: meta.update(
            ply_file_path="gone.ply", frames=[{**f, "depth_file_path": "d.png"} for f in meta["frames"]]
        ),
    )
    missing, seed = faults(dnerf)
    assert missing == "d.png: is missing"
    assert "seed points: there is no point cloud at gone.ply" in seed


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_size_of_the_world_is_no_problem(dnerf: Path, scale: float) -> None:
    def resize(meta: dict[str, Any]) -> None:
        for frame in meta["frames"]:
            for row in frame["transform_matrix"][:3]:
                row[3] = scale * row[3] + 5e5

    for path in dnerf.glob("transforms_*.json"):
        edit_json(path, resize)
    assert faults(dnerf) == []


def test_a_camera_inside_one_of_many_objects(scenes: Path) -> None:
    edit_json(scenes / "a_1" / "transforms_test.json", inside)
    (found,) = faults(scenes)
    assert found.startswith(
        "a_1/transforms_test.json: frame ./test/r_0: the camera is inside the object: 0.224"
    )


def test_an_edited_object_away_from_the_origin(scenes: Path) -> None:
    def carry_off(meta: dict[str, Any]) -> None:
        for frame in meta["frames"]:
            frame["transform_matrix"][0][3] += 5e5

    edit_json(scenes / "a_1" / "transforms_train.json", carry_off)
    with pytest.raises(ValueError, match=r"the views converge 5e\+05 from the origin") as raised:
        read_scene(read_index(scenes), 0)
    assert faults(scenes) == [str(raised.value).removeprefix("scene a_1: ").replace(f"{scenes}/", "")]


def test_broken_json_and_a_missing_split(dnerf: Path) -> None:
    (dnerf / "transforms_test.json").write_text('{"frames": [')
    (dnerf / "transforms_train.json").unlink()
    missing, broken = faults(dnerf)
    assert missing.startswith(f"{dnerf} has neither transforms_train.json nor transforms.json")
    assert broken.startswith("transforms_test.json: not valid JSON")


@pytest.mark.parametrize(
    ("write", "problem"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:60]), "cannot read the image"),
        (lambda path: Image.new("RGBA", (12, 8)).save(path), "shows nothing: its alpha is zero everywhere"),
    ],
)
def test_a_broken_image(dnerf: Path, write: Callable[[Path], object], problem: str) -> None:
    write(dnerf / "train" / "r_3.png")
    (found,) = faults(dnerf)
    assert found.startswith(f"train/r_3.png: {problem}")


def test_an_empty_and_a_missing_mask(dnerf: Path) -> None:
    Image.new("L", (12, 8)).save(dnerf / "empty.png")
    Image.fromarray(np.eye(8, 12, dtype=np.uint8)).save(dnerf / "small.png")
    masks = ["empty.png", "none.png"] + 10 * ["small.png"]
    edit_json(
        dnerf / "transforms_train.json",
        lambda meta: [f.update(mask_path=m) for f, m in zip(meta["frames"], masks, strict=True)],
    )
    assert faults(dnerf) == ["empty.png: the mask is empty: no pixel is to be used", "none.png: is missing"]


def test_what_trains_is_noted(dnerf: Path) -> None:
    """Images that two frames show, of another size than most, or without alpha."""
    edit_json(dnerf / "transforms_test.json", first("file_path", "train/r_3"))
    for path in (*dnerf.glob("*/*.png"), dnerf / "train" / "r_3.png"):
        write_image(path, size=(10, 8) if path.stem == "r_3" else (12, 8), mode="RGB")
    report = check_dataset(dnerf)
    assert report.problems == []
    assert [note.removeprefix(f"{dnerf}: ") for note in report.notes] == [
        "2 frames show train/r_3",
        "1 of 19 images are of 10×8 pixels (first: r_3.png), but most of 12×8",
        "none of the 19 images has alpha: what they show is learned whole, but for a plain backdrop",
    ]
    assert len(parse(dnerf).image_filenames) == 12


@pytest.mark.parametrize(
    ("edits", "problem"),
    [
        ({"turn": {"yaww": 1.0}}, "edit turn: unknown key 'yaww'; known are: light, hue, yaw"),
        ({"turn": {"yaw": "much"}}, "edit turn: yaw must be 1 finite number(s), not much"),
        ({"turn": 3}, "edit turn: must be a table of light"),
        ({"base": {"translate": [1, 2]}}, "edit base: translate must be 3 finite number(s)"),
        ({"relight": {"light": {"colour": 1}}}, "edit relight: light: unknown key 'colour'"),
        ({"relight": {"light": {"sun": -1}}}, "edit relight: light: sun must not be negative"),
        ({"relight": {"light": {"direction": [0, 0, 0]}}}, "edit relight: light: direction must not be zero"),
    ],
)
def test_a_broken_edit(scenes: Path, edits: dict[str, Any], problem: str) -> None:
    edit_json(scenes / "a_1" / "transforms_train.json", lambda meta: meta["edits"].update(edits))
    (found,) = faults(scenes)
    assert found.startswith(f"a_1/transforms_train.json: {problem}")


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (first("edit", "turned"), "1 frame(s) show the edit 'turned'; there are: base, turn, relight"),
        (lambda meta: meta.pop("edits"), "no table `edits` with a state `base`"),
        (lambda meta: meta.update(category="x"), "category is 'x', but 'a' in scenes.json"),
    ],
)
def test_a_broken_scene_of_many(scenes: Path, spoil: Change, problem: str) -> None:
    edit_json(scenes / "a_1" / "transforms_test.json", spoil)
    assert faults(scenes) == [f"a_1/transforms_test.json: {problem}"]


def test_a_broken_list_of_scenes(scenes: Path) -> None:
    listed = [{"name": n, "category": "a"} for n in ("a_1", "a_1", "c_1")] + [{"name": "b_1"}, 7]
    (scenes / "scenes.json").write_text(json.dumps({"scenes": listed}))
    assert faults(scenes) == [
        'scenes.json: scene 4 is not a table {"name": …, "category": …} with a name',
        "scenes.json: two scenes are named a_1: a_1 and a_1; list each scene once, under a name of its own",
        "scenes.json: scene c_1 has no folder",
        "b_1/transforms_test.json: category is 'b', but 'scene' in scenes.json",
        "b_1/transforms_train.json: category is 'b', but 'scene' in scenes.json",
    ]
    (scenes / "scenes.json").write_text("[]")
    assert faults(scenes) == ["scenes.json: no list `scenes` with at least one entry"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scenes", "motion/horse_walk", "motion/koi_swim", "dnerf_lego"])
def test_the_shared_data_is_fine(shared_data: Path, name: str) -> None:
    assert check_dataset(shared_data / name).problems == []
