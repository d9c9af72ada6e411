from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import CameraType

from nest_nerfstudio.data.coordinates import Coordinates
from nest_nerfstudio.data.dataset import DynamicDataset
from nest_nerfstudio.data.frame_cameras import camera_problems, make_cameras
from nest_nerfstudio.data.images import ImageHeader
from nest_nerfstudio.data.transforms import (
    check_files,
    entry_problems,
    file_notes,
    file_paths,
    find_transforms,
    read_frames,
    read_seed_points,
    read_transforms,
)
from tests.data.small_scenes import edit_json, orbit, parse, write_image


def frames_of(path: Path, **changes: Any) -> list[Any]:
    """The frames of a file, after changes of its first frame."""
    edit_json(path, lambda meta: meta["frames"][0].update(changes))
    return read_frames(read_transforms(path), path)


def test_a_frame_is_its_entry(dnerf: Path) -> None:
    path = dnerf / "transforms_train.json"
    extra = {"mask_path": "m.png", "depth_file_path": "d.png", "fl_x": 20.0, "camera_angle_x": 0.5}
    frame, other, *_ = frames_of(path, **extra)
    assert (frame.name, frame.file) == ("./train/r_0", path)
    assert frame.image == dnerf / "train" / "r_0.png"
    assert (frame.mask, frame.depth) == (dnerf / "m.png", dnerf / "d.png")
    assert (frame.time, other.time) == (0.0, pytest.approx(1 / 11))
    assert np.array_equal(frame.pose, orbit(0))
    assert (frame.camera["fl_x"], frame.camera["camera_angle_x"]) == (20.0, 0.5)
    assert (other.mask, other.depth, other.camera["camera_angle_x"]) == (None, None, 0.7)
    assert str(frame.error("is odd")) == f"{path}: frame ./train/r_0: is odd"


def test_a_pose_of_three_rows_is_completed(dnerf: Path) -> None:
    frame = frames_of(dnerf / "transforms_train.json", transform_matrix=orbit(0.2)[:3])[0]
    assert np.array_equal(frame.pose, orbit(0.2))


def test_all_problems_of_an_entry_are_found() -> None:
    pose = orbit(0)
    assert not list(entry_problems({"file_path": "a", "transform_matrix": pose, "time": None}))
    assert not list(entry_problems({"file_path": "a", "transform_matrix": pose, "time": 1}))
    assert list(entry_problems({"file_path": 3, "mask_path": None, "time": "noon"})) == [
        "no `transform_matrix`",
        "file_path is 3, not a path",
        "mask_path is None, not a path",
        "time is 'noon', not a finite number",
    ]
    assert list(entry_problems("r_0")) == ["not a table of keys and values, but 'r_0'"]


def test_all_problems_of_a_camera_are_found(dnerf: Path) -> None:
    path = dnerf / "transforms_train.json"
    frame = frames_of(path)[0]
    assert not list(camera_problems(frame, ImageHeader((12, 8))))
    wrong = {"camera_model": "PIN", "fl_x": 0, "fl_y": "f", "cx": None, "k1": "x", "w": 13, "h": 8}
    assert list(camera_problems(frames_of(path, **wrong)[0], ImageHeader((12, 8)))) == [
        next(camera_problems(frames_of(path, camera_model="PIN")[0])),
        "impossible intrinsics: fl_x must be a positive number, not 0",
        "impossible intrinsics: fl_y must be a positive number, not 'f'",
        "impossible intrinsics: cx must be a finite number, not None",
        "impossible intrinsics: k1 must be a finite number, not 'x'",
        "its image r_0.png is 12×8 pixels, but its camera is 13×8",
    ]


@pytest.mark.parametrize("angle", [0.0, -1.0, 3.2, float("nan"), "wide", None])
def test_an_impossible_field_of_view(dnerf: Path, angle: Any) -> None:
    (problem,) = camera_problems(frames_of(dnerf / "transforms_train.json", camera_angle_x=angle)[0])
    assert problem.startswith("impossible intrinsics: camera_angle_x must be in (0, π) radians")


def test_cameras_are_moved_scaled_and_shrunk(dnerf: Path) -> None:
    frames = read_frames(read_transforms(dnerf / "transforms_train.json"), dnerf / "transforms_train.json")
    plain = make_cameras(frames, [ImageHeader((12, 8))] * 12)
    torch.testing.assert_close(plain.camera_to_worlds[3], torch.tensor(orbit(3 / 12))[:3])
    turn = torch.tensor([[0.0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3]])
    moved = make_cameras(
        frames,
        [ImageHeader((12, 8))] * 12,
        sizes=[(6, 4)] * 12,
        coordinates=Coordinates(turn.double(), scale=0.5),
    )
    expected = turn @ torch.tensor(orbit(3 / 12))
    expected[:, 3] *= 0.5
    torch.testing.assert_close(moved.camera_to_worlds[3], expected)
    torch.testing.assert_close(moved.fx, plain.fx / 2)
    assert (int(moved.width[0]), int(moved.height[0])) == (6, 4)


def test_the_files_of_a_scene(dnerf: Path) -> None:
    files, named = find_transforms(dnerf)
    assert (sorted(files), named) == (["future", "test", "train", "val"], "")
    assert find_transforms(dnerf / "transforms_future.json") == (files, "future")
    assert find_transforms(dnerf / "transforms_train.json") == (files, "")


def test_a_missing_file_is_named_and_some_frames_may_have_no_mask(dnerf: Path) -> None:
    path = dnerf / "transforms_train.json"
    check_files(frames_of(path))
    assert file_paths(frames_of(path), "mask") is None
    frames = frames_of(path, mask_path="gone.png")
    with pytest.raises(FileNotFoundError, match=r"1 of 13 files are missing: .*/gone.png$"):
        check_files(frames)
    assert file_paths(frames[:2], "mask") == [dnerf / "gone.png", None]
    assert list(file_notes(frames)) == [
        "1 of 12 frames have a mask file; all pixels of the others are used",
    ]


def test_no_seed_points(dnerf: Path) -> None:
    assert read_seed_points({}, dnerf) is None
    with pytest.raises(FileNotFoundError, match=r"seed points: .*gone.ply; remove `ply_file_path`"):
        read_seed_points({"ply_file_path": "gone.ply"}, dnerf)


def test_cameras_of_more_than_one_size(dnerf: Path) -> None:
    write_image(dnerf / "train" / "r_3.png", size=(20, 10))
    outputs = parse(dnerf)
    assert outputs.cameras.width.flatten().tolist() == [12] * 3 + [20] + [12] * 8
    assert float(outputs.cameras.fx[3] / outputs.cameras.fx[0]) == pytest.approx(20 / 12)
    assert DynamicDataset(outputs).get_data(3)["image"].shape == (10, 20, 4)


def test_intrinsics_of_single_frames(dnerf: Path) -> None:
    def own_camera(meta: dict[str, Any]) -> None:
        meta["frames"][1].update(fl_x=30.0, cx=5.0, camera_model="OPENCV_FISHEYE", k1=0.1)

    edit_json(dnerf / "transforms_train.json", own_camera)
    cameras = parse(dnerf).cameras
    assert (float(cameras.fx[1]), float(cameras.fy[1]), float(cameras.cx[1])) == (30, 30, 5)
    assert int(cameras.camera_type[1]) == CameraType.FISHEYE.value
    assert cameras.distortion_params is not None
    assert cameras.distortion_params[:, 0].tolist() == pytest.approx([0, 0.1] + [0] * 10)


def _set(key: str, value: Any, frame: int | None = 2) -> Any:
    def edit(meta: dict[str, Any]) -> None:
        for target in meta["frames"] if frame is None else [meta["frames"][frame]]:
            if value is None:
                target.pop(key)
            else:
                target[key] = value

    return edit


NAN_POSE = [[float("nan"), *row[1:]] if i == 0 else row for i, row in enumerate(orbit(0))]


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        (
            _set("time", None, frame=None),
            ValueError,
            r"transforms_train.json: 12 of 12 frames have no `time`.*give each frame one$",
        ),
        (_set("time", None), ValueError, r"1 of 12 frames have no `time` \(first: ./train/r_2\)"),
        (_set("time", 0.5, frame=None), ValueError, "all 12 train frames have time 0.5"),
        (_set("time", float("inf")), ValueError, "r_2.*time is inf"),
        (_set("time", "noon"), ValueError, "r_2.*time is 'noon', not a finite number"),
        (_set("transform_matrix", NAN_POSE), ValueError, "r_2.*not a finite 4×4 matrix"),
        (_set("transform_matrix", [[1.0, 0.0]]), ValueError, "r_2.*not a finite 4×4 matrix"),
        (_set("transform_matrix", [[1.0], []]), ValueError, "r_2.*not a finite 4×4 matrix"),
        (
            _set("transform_matrix", None),
            ValueError,
            "train.json: frame ./train/r_2: no `transform_matrix`",
        ),
        (_set("file_path", "./train/gone"), FileNotFoundError, r"1 of 12 files are missing: .*gone\.png"),
        (_set("file_path", "./gone", frame=None), FileNotFoundError, r"12 of 12 .* and 7 more"),
        (_set("mask_path", "gone.png"), FileNotFoundError, "1 of 13 files are missing: .*/gone.png$"),
        (_set("mask_path", "gone.png", frame=None), FileNotFoundError, "gone.png"),
        (_set("depth_file_path", "gone.png", frame=None), FileNotFoundError, "gone.png"),
        (_set("w", 13), ValueError, "its image r_2.png is 12×8 pixels, but its camera is 13×8"),
        (_set("fl_x", -1.0), ValueError, "r_2.*impossible intrinsics"),
        (_set("camera_model", "PINHOLEY"), ValueError, "PINHOLEY is unknown"),
        (lambda meta: meta.pop("camera_angle_x"), ValueError, "frame ./train/r_0: no focal length"),
        (lambda meta: meta.update(frames=meta["frames"][:1]), ValueError, "only one train frame"),
        (lambda meta: meta.update(frames=[]), ValueError, "no list `frames`"),
        (lambda meta: meta.update(ply_file_path="gone.ply"), FileNotFoundError, "seed points.*gone.ply"),
    ],
)
def test_bad_scene(dnerf: Path, edit: Any, error: type[Exception], message: str) -> None:
    edit_json(dnerf / "transforms_train.json", edit)
    with pytest.raises(error, match=message):
        parse(dnerf)


def test_bad_folder_or_json(dnerf: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        parse(dnerf / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"neither transforms_train\.json nor"):
        parse(dnerf / "train")
    (dnerf / "transforms_train.json").write_text('{"frames": [')
    with pytest.raises(ValueError, match="not valid JSON"):
        parse(dnerf)


def test_a_file_that_is_no_image_is_named(dnerf: Path) -> None:
    (dnerf / "train" / "r_4.png").write_bytes(b"not a image")
    with pytest.raises(ValueError, match=r"r_4\.png: cannot read the image"):
        parse(dnerf)
