"""What names of files say about cameras and times, in the conventions that captures come in."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nest_nerfstudio.data.check import check_dataset
from nest_nerfstudio.data.frame_order import frame_times, natural_order, order_problems, read_shots
from tests.data.small_scenes import edit_json, orbit, parse, write_scene

CAMERAS, TIMES = 3, 5
GRID = [(c, t) for c in range(CAMERAS) for t in range(TIMES)]


def moving(count: int) -> np.ndarray:
    """Poses of which no two are equal."""
    return np.array([orbit(i / (2 * count)) for i in range(count)])


def fixed(grid: list[tuple[int, int]]) -> np.ndarray:
    """Poses of a fixed rig, by the number of the camera."""
    return np.array([orbit(c / 7) for c, _ in grid])


def grid_of(pattern: str) -> list[str]:
    return [pattern.format(c=c, t=t) for c, t in GRID]


@pytest.mark.parametrize(
    ("pattern", "camera"),
    [
        ("cam{c:02d}/{t:04d}.png", "cam01"),
        ("./images/cam{c:02d}/{t:04d}.png", "cam01"),
        ("images\\{c}\\{t}.jpg", "1"),
        ("cam{c:02d}/images/frame_{t:04d}", "cam01"),
        ("cam{c:02d}/cam{c:02d}_{t:04d}.png", "cam01"),
        ("phone {c}/IMG {t:03d}.JPG", "phone 1"),
        ("day/gopro{c}/{t}.png", "gopro1"),
        ("frame_{t:04d}/cam{c:02d}.png", "cam01"),
        ("{t:04d}/cam{c:02d}.png", "cam01"),
        ("frame{t}/{c}.png", "1"),
        ("images/cam{c:02d}_{t:04d}.png", "cam01"),
        ("images/camera_{c}-{t:04d}.png", "camera_1"),
        ("images/{t:04d}_cam{c:02d}.png", "cam01"),
        ("images/view{c}frame{t}.png", "view1"),
    ],
)
@pytest.mark.parametrize("poses", [fixed(GRID), moving(len(GRID))], ids=["fixed", "moving"])
def test_several_cameras_show_the_same_times(pattern: str, camera: str, poses: np.ndarray) -> None:
    names = grid_of(pattern)
    assert frame_times(names, poses) == [t / (TIMES - 1) for _, t in GRID]
    shots = read_shots(names, poses)
    assert {shot.camera for shot, (c, _) in zip(shots, GRID, strict=True) if c == 1} == {camera}


@pytest.mark.parametrize("pattern", ["{t:04d}/{c}", "{c}/{t:04d}", "a/{t}_{c}.png", "{c}_{t}", "{t:03d}c{c}"])
def test_a_fixed_rig_tells_which_number_is_the_camera(pattern: str) -> None:
    assert frame_times(grid_of(pattern), fixed(GRID)) == [t / (TIMES - 1) for _, t in GRID]


def test_words_tell_the_camera() -> None:
    names = [f"images/{side}_{t:04d}.png" for side in ("left", "right") for t in range(4)]
    assert frame_times(names, moving(8)) == [t / 3 for _ in range(2) for t in range(4)]
    assert {shot.camera for shot in read_shots(names, moving(8))} == {"left", "right"}


@pytest.mark.parametrize(
    "pattern", ["cam{c}/{t:g}.png", "cam{c}_{t:g}.png", "{t:g}_cam{c}.png", "{t:g}/cam{c}.png"]
)
@pytest.mark.parametrize("order", ["frame-order", "camera-order"])
def test_decimal_time_stamps_of_several_cameras_are_ordered_by_value(pattern: str, order: Any) -> None:
    names = [pattern.format(c=c, t=round(t / 30, 7)) for c, t in GRID]
    assert frame_times(names, moving(len(GRID)), order) == [t / (TIMES - 1) for _, t in GRID]


def test_frames_of_a_camera_may_be_missing() -> None:
    names = [f"cam{c:02d}/{t:04d}.png" for c in range(2) for t in range(20) if (c, t) not in {(0, 3), (1, 0)}]
    at = {name: time for name, time in zip(names, frame_times(names, moving(38)), strict=True)}
    assert all(at[name] == int(name[6:10]) / 19 for name in names)


@pytest.mark.parametrize(
    "names",
    [
        [f"images/frame_{i:05d}.png" for i in range(20)],
        [f"r_{i}" for i in range(20)],
        [f"frame_{i:05d}/rgb.png" for i in range(20)],
        [f"cam_{i:04d}.png" for i in range(20)],
        [f"view{i}.png" for i in range(20)],
        [f"{i:02d}/{i:02d}.png" for i in range(20)],
        [f"t{i / 10:.1f}.png" for i in range(20)],
        [f"images/{round(i / 30, 7):g}.png" for i in range(20)],
        [f"t_{i / 20}s.jpg" for i in range(20)],
        [f"clip.{i // 10}.{i % 10}" for i in range(20)],
        [f"1.{i}" for i in range(20)],
        [f"2024-01-01 12-0{i // 4}-{10 + 15 * (i % 4)}.jpg" for i in range(20)],
        [f"IMG_20240101_12{i:02d}{i * 7 % 60:02d}.jpg" for i in range(20)],
    ],
)
def test_one_camera_has_a_time_for_each_frame(names: list[str]) -> None:
    assert frame_times(names, moving(20)) == [i / 19 for i in range(20)]
    assert frame_times(names, np.array(20 * [orbit(0)])) == [i / 19 for i in range(20)]  # a tripod


SERIAL = [f"cam00/{t:04d}.png" for t in range(20)] + [f"cam01/{t:04d}.png" for t in range(20, 40)]
UNCLEAR = {
    "numbered on": SERIAL,
    "half of the names": [f"a/{t}.png" for t in range(20)] + [f"b/{t}.png" for t in range(10, 30)],
    "another count": [f"a/{t}.png" for t in range(20)] + [f"b/{t}.png" for t in range(10)],
    "splits": [f"{split}/r_{t}" for split in ("train", "test") for t in range(20)],
    "two numbers": [f"{c:02d}_{t:04d}.png" for c in range(2) for t in range(20)],
}


@pytest.mark.parametrize("names", UNCLEAR.values(), ids=UNCLEAR)
def test_what_is_unclear_is_asked(names: list[str]) -> None:
    with pytest.raises(ValueError, match=r"which frames are of the same time\? Give each a `time`, or"):
        frame_times(names, moving(len(names)))


def test_numbers_that_run_on_over_a_fixed_rig_are_asked() -> None:
    names = [f"img_{i:04d}.png" for i in range(len(GRID))]
    (problem,) = order_problems(names, fixed(GRID))
    assert "3 cameras or parts (pose 0: 5 from img_0000 to img_0004" in problem
    assert frame_times(names, fixed(GRID), "camera-order") == [t / (TIMES - 1) for _, t in GRID]


def test_answers() -> None:
    poses = moving(40)
    assert frame_times(SERIAL, poses, "camera-order") == [t / 19 for _ in range(2) for t in range(20)]
    for order in ("path-order", "frame-name"):
        assert frame_times(SERIAL, poses, order) == [t / 39 for t in range(40)]
    names = [f"a/{t}.png" for t in range(4)] + ["b/3.png"]
    assert frame_times(names, moving(5), "frame-name") == pytest.approx([0, 1 / 3, 2 / 3, 1, 1])
    assert frame_times(names, moving(5), "camera-order") == pytest.approx([0, 1 / 3, 2 / 3, 1, 0])
    assert frame_times(names, moving(5), "path-order") == [0, 0.25, 0.5, 0.75, 1]


def test_names_are_ordered_as_people_count() -> None:
    names = ["r_10", "r_2", "a_3", "r_2b", "r_2²"]
    assert sorted(names, key=natural_order) == ["a_3", "r_2", "r_2b", "r_2²", "r_10"]


# In a scene


def rig(folder: Path, cameras: int = 4, times: int = 20, **shared: Any) -> Path:
    """A `transforms.json` of a rig with a folder for each camera and no times."""
    names = [(f"cam{c:02d}/{t:04d}.png", orbit(c / 8)) for c in range(cameras) for t in range(times)]
    frames = [{"file_path": name, "transform_matrix": pose} for name, pose in names]
    return write_scene(folder, frames, **shared)


def of_cameras(outputs: Any) -> dict[str, list[int]]:
    """Numbers of the frames of each camera."""
    found: dict[str, list[int]] = {}
    for path in outputs.image_filenames:
        found.setdefault(path.parent.name, []).append(int(path.stem))
    return found


@pytest.mark.parametrize("interval", [2, 3, 4, 8])
def test_frames_of_all_cameras_are_held_out(tmp_path: Path, interval: int) -> None:
    rig(tmp_path)
    train, held = (
        parse(tmp_path, split, time_from="frame-order", eval_interval=interval) for split in ("train", "val")
    )
    assert len(train.image_filenames) + len(held.image_filenames) == 80
    assert len(set(train.image_filenames) | set(held.image_filenames)) == 80
    shares = {camera: len(numbers) / 20 for camera, numbers in of_cameras(held).items()}
    assert shares.keys() == of_cameras(train).keys() == {f"cam{c:02d}" for c in range(4)}
    assert all(abs(share - 1 / interval) <= 0.05 for share in shares.values())
    assert {n for numbers in of_cameras(train).values() for n in numbers} == set(range(20))


def test_few_times_of_many_cameras(tmp_path: Path) -> None:
    rig(tmp_path, cameras=5, times=2)
    train, held = (parse(tmp_path, split, time_from="frame-order") for split in ("train", "val"))
    assert 1 <= len(held.image_filenames) <= 2
    assert len(of_cameras(train)) == 5
    assert {n for numbers in of_cameras(train).values() for n in numbers} == {0, 1}


def test_one_camera_is_held_out_by_name(tmp_path: Path) -> None:
    rig(tmp_path)
    options = {"time_from": "frame-order", "eval_camera": "cam02"}
    assert of_cameras(parse(tmp_path, "val", **options)) == {"cam02": list(range(20))}
    assert of_cameras(parse(tmp_path, **options)).keys() == {"cam00", "cam01", "cam03"}
    with pytest.raises(ValueError, match=r"no camera 'cam9' .*; there are: cam00, cam01, cam02, cam03"):
        parse(tmp_path, time_from="frame-order", eval_camera="cam9")
    with pytest.raises(ValueError, match="either on the camera cam02 or on the split late"):
        parse(tmp_path, eval_split="late", **options)


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_camera_by_name_replaces_the_splits_of_the_data(tmp_path: Path, split: str) -> None:
    """It may be that of a split to evaluate, and then the others of that split are trained on."""
    rig(tmp_path)
    names = [f"cam{c:02d}/{t:04d}.png" for c in range(4) for t in range(20)]
    lists = {"train_filenames": names[:40], f"{split}_filenames": names[40:]}
    edit_json(tmp_path / "transforms.json", lambda meta: meta.update(lists))
    options = {"time_from": "frame-order", "eval_camera": "cam02"}
    assert of_cameras(parse(tmp_path, split, **options)) == {"cam02": list(range(20))}
    assert of_cameras(parse(tmp_path, **options)).keys() == {"cam00", "cam01", "cam03"}


def test_a_camera_by_name_of_split_files(dnerf: Path) -> None:
    with pytest.raises(ValueError, match=r"'cam00'.*file names tell of one camera only"):
        parse(dnerf, eval_camera="cam00")
    for split in ("train", "val", "test", "future"):  # train/r_3 becomes train/cam01/r_3
        meta = json.loads((dnerf / f"transforms_{split}.json").read_text())
        for i, frame in enumerate(meta["frames"]):
            source = dnerf / f"{frame['file_path']}.png"
            frame["file_path"] = f"./{split}/cam{i % 2:02d}/{source.stem}"
            target = dnerf / f"{frame['file_path']}.png"
            target.parent.mkdir(exist_ok=True)
            source.rename(target)
        (dnerf / f"transforms_{split}.json").write_text(json.dumps(meta))
    held = parse(dnerf, "val", eval_camera="cam01").image_filenames
    assert {path.parent.name for path in held} == {"cam01"}
    assert len(held) == 6 + 1 + 1
    assert len(parse(dnerf, eval_camera="cam01").image_filenames) == 6 + 2 + 1


def test_check_asks_as_training_does(tmp_path: Path) -> None:
    frames = [{"file_path": name, "transform_matrix": orbit(i / 50)} for i, name in enumerate(SERIAL)]
    write_scene(tmp_path, frames)
    with pytest.raises(ValueError, match="which frames are of the same time") as raised:
        parse(tmp_path, time_from="frame-order")
    assert check_dataset(tmp_path).problems == [str(raised.value)]
