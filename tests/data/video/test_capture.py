"""From a video file to a data set that trains, and clips of which none can be made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nest_nerfstudio.data.check import check_dataset
from nest_nerfstudio.data.video import capture, sfm
from nest_nerfstudio.data.video.capture import VideoConfig, make_capture
from nest_nerfstudio.data.video.sfm import image_pairs
from tests.small_clips import FOCAL, HEIGHT, WIDTH, along_an_arc, pose, render, texture, write_video

CAMERAS = along_an_arc(12)
MOVER = texture(9)[:36, :36]


def frames(cameras: list[np.ndarray]) -> list[np.ndarray]:
    """The room, and a square that moves up and down before it."""
    images = [render(camera) for camera in cameras]
    for i, image in enumerate(images):
        image[30 + 4 * i : 66 + 4 * i, 100:136] = MOVER
    return images


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("clips") / "room.mp4", frames(CAMERAS))


@pytest.fixture(scope="module")
def made(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set of the clip."""
    pytest.importorskip("pycolmap", reason="cameras are found by pycolmap (extra sfm)")
    output = tmp_path_factory.mktemp("made") / "room"
    made = make_capture(clip, output)
    assert made.num_cameras == made.num_frames == len(CAMERAS)
    return output


def read_poses(folder: Path) -> np.ndarray:
    meta = json.loads((folder / "transforms.json").read_text())
    return np.array([frame["transform_matrix"] for frame in meta["frames"]])


def test_cameras_are_found_up_to_a_similarity(made: Path) -> None:
    """Relative rotations, and ratios of distances; the focal length; z is up."""
    poses, true = read_poses(made), np.stack([np.eye(4)] * len(CAMERAS))
    true[:, :3] = CAMERAS
    true = np.linalg.inv(true) * [1, -1, -1, 1]
    for i in range(1, len(poses)):
        turn, expected = (p[0, :3, :3].T @ p[i, :3, :3] for p in (poses, true))
        assert np.degrees(np.arccos(np.clip((np.trace(turn.T @ expected) - 1) / 2, -1, 1))) < 0.3
    steps, expected = (np.linalg.norm(np.diff(p[:, :3, 3], axis=0), axis=1) for p in (poses, true))
    np.testing.assert_allclose(steps / steps.mean(), expected / expected.mean(), atol=0.1)
    meta = json.loads((made / "transforms.json").read_text())
    assert meta["fl_x"] == pytest.approx(FOCAL, rel=0.05)
    assert (meta["w"], meta["h"]) == (WIDTH, HEIGHT)
    np.testing.assert_allclose(poses[:, :3, 1].mean(0)[:2], 0, atol=1e-3)


def test_the_data_set_has_no_problems_and_its_times(made: Path) -> None:
    report = check_dataset(made)
    assert not report.problems
    assert report.num_frames == len(CAMERAS)
    meta = json.loads((made / "transforms.json").read_text())
    times = [frame["time"] for frame in meta["frames"]]
    np.testing.assert_allclose(times, np.arange(len(CAMERAS)) / 30, atol=1e-3)
    assert meta["ply_file_path"] == "seed_points.ply"
    with Image.open(made / "report.png") as image:
        assert image.width > 1000


def test_seed_points_are_on_what_stands_still(made: Path, clip: Path) -> None:
    """Features on what moves are left out by the masks: there are hardly any in the middle of the square."""
    model = sfm.read_model(made / "sfm" / "models" / "0")
    inside = [
        (np.abs(frame.pixels - (118, 48 + 4 * i)).max(1) < 10).sum()
        for i, frame in enumerate(model.frames.values())
    ]
    total = sum(len(frame.pixels) for frame in model.frames.values())
    assert sum(inside) < 0.01 * total
    assert len(model.points) > 100


def test_nothing_is_computed_twice(
    made: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second run reads what is there; with another lens, frames and masks stay and cameras are new."""
    output = tmp_path / "room"
    shutil.copytree(made, output)
    (output / "transforms.json").unlink()
    called: list[str] = []
    for name in ("write_frames", "write_motion_masks", "reconstruct"):
        monkeypatch.setattr(capture, name, lambda *_, name=name: called.append(name))
    make_capture(clip, output)
    np.testing.assert_array_equal(read_poses(output), read_poses(made))
    assert called == []
    with pytest.raises(AttributeError):  # the stand-in gives no folder
        make_capture(clip, output, VideoConfig(camera_model="OPENCV"))
    assert called == ["reconstruct"]


def test_a_tripod_gives_one_pose_and_says_what_is_missing(tmp_path: Path) -> None:
    pytest.importorskip("pycolmap", reason="cameras are found by pycolmap (extra sfm)")
    clip = write_video(tmp_path / "tripod.mp4", frames([pose(0, 0, 0)] * 12))
    made = make_capture(clip, tmp_path / "out")
    assert any("does not move" in note for note in made.notes)
    poses = read_poses(tmp_path / "out")
    assert (poses == poses[0]).all()
    assert poses[0, 2, 1] == pytest.approx(1)
    assert not check_dataset(tmp_path / "out").problems


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("turning", "the camera only turns where it stands"),
        ("blank", "there is nothing to match: only 0 of 11 frames"),
        ("unrelated", "there is nothing to match"),
    ],
)
def test_clips_of_which_no_cameras_can_be_told(tmp_path: Path, name: str, message: str) -> None:
    """The error says why, and frames and masks stay."""
    pytest.importorskip("pycolmap", reason="cameras are found by pycolmap (extra sfm)")
    images = {
        "turning": [render(pose(0, 0, 0, yaw)) for yaw in np.linspace(-0.2, 0.2, 12)],
        "blank": [np.full((HEIGHT, WIDTH, 3), 255, np.uint8)] * 12,
        "unrelated": [texture(100 + i)[:HEIGHT, :WIDTH] for i in range(12)],
    }[name]
    with pytest.raises(ValueError, match=message):
        make_capture(write_video(tmp_path / "clip.mp4", images), tmp_path / "out")
    assert not (tmp_path / "out" / "transforms.json").exists()
    assert len(list((tmp_path / "out" / "motion_masks").iterdir())) == 12


def test_without_pycolmap_nothing_is_written(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(sfm, "import_module", missing)
    with pytest.raises(ImportError, match=r"pip install 'nest-nerfstudio\[sfm\]'"):
        make_capture(clip, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="num_frames must be 10 or more"):
        VideoConfig(num_frames=9)
    with pytest.raises(ValueError, match="size must be 64 or more"):
        VideoConfig(size=10)


def test_short_clips_match_all_pairs_and_long_ones_neighbours() -> None:
    assert len(image_pairs([str(i) for i in range(20)])) == 190
    pairs = image_pairs([str(i) for i in range(200)])
    assert {int(b) - int(a) for a, b in pairs} == {*range(1, 11), 16, 32, 64, 128}
    assert len(set(pairs)) == len(pairs)
