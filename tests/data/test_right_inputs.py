"""Inputs of many kinds that are read right, each held against the same scene in its plain form.

Others have their tests elsewhere: keyframed camera paths with times beyond the clip in `tests/test_cli.py`
and `tests/scripts/test_demo.py`, a killed run that is resumed in `tests/pipelines/test_trainer.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from PIL import Image
from scipy.spatial.transform import Rotation

from nest_nerfstudio.data.check import check_dataset
from nest_nerfstudio.data.datamanager import DynamicDatamanager, DynamicDatamanagerConfig
from nest_nerfstudio.data.dataparser import NestDynamicDataParserConfig
from tests.data.small_scenes import edit_json, orbit

Frame = dict[str, Any]


def manage(data: Path, parser: Any = None, **options: Any) -> DynamicDatamanager:
    config = DynamicDatamanagerConfig(
        data=data, dataparser=parser or NestDynamicDataParserConfig(), **options
    )
    return config.setup(device="cpu", test_mode="val")


def views(manager: DynamicDatamanager) -> list[tuple[Any, torch.Tensor]]:
    """Cameras and images of all train views, in order of time."""
    found = [manager.next_train(step) for step in range(len(manager.train_dataset))]
    return sorted(
        ((camera, batch["image"]) for camera, batch in found), key=lambda view: float(view[0].times)
    )


def each_frame(change: Callable[[Path, Frame, int], object]) -> Callable[[Path], Path]:
    """A change of each train frame of a scene."""

    def apply(folder: Path) -> Path:
        def edit(meta: dict[str, Any]) -> None:
            for i, frame in enumerate(meta["frames"]):
                change(folder, frame, i)

        edit_json(folder / "transforms_train.json", edit)
        return folder

    return apply


def rename(name: str) -> Callable[[Path], Path]:
    def change(folder: Path, frame: Frame, i: int) -> None:
        new = folder / name.format(i)
        new.parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{frame['file_path']}.png").rename(new)
        frame["file_path"] = name.format(i)

    return each_frame(change)


def absolute(folder: Path, frame: Frame, i: int) -> None:
    frame["file_path"] = str((folder / f"{frame['file_path']}.png").resolve())


def linked_image(folder: Path, frame: Frame, i: int) -> None:
    image = folder / f"{frame['file_path']}.png"
    target = folder / "elsewhere" / f"{i}.dat"
    target.parent.mkdir(exist_ok=True)
    image.rename(target)
    image.symlink_to(target)


def linked_scene(folder: Path) -> Path:
    link = folder.parent / f"{folder.name} link"
    link.symlink_to(folder)
    return link


def focal_length(folder: Path, frame: Frame, i: int) -> None:
    frame.update(fl_x=6 / math.tan(0.35), fl_y=6 / math.tan(0.35), cx=6, cy=4, w=12, h=8)


SAME: dict[str, Callable[[Path], Path]] = {
    "camera_angle_x alone": lambda folder: folder,
    "intrinsics in each frame": each_frame(focal_length),
    "absolute paths": each_frame(absolute),
    "symlinks to images": each_frame(linked_image),
    "a symlink to the scene": linked_scene,
    "spaces": rename("my images/frame {}.png"),
    "unicode": rename("bilder/größe 図 {}.png"),
    "dots in names": rename("v1.0/frame.{:04d}.png"),
    "suffixes in capitals": rename("images/IMG_{}.PNG"),
}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME)
def test_the_same_scene_in_another_form(dnerf: Path, change: Callable[[Path], Path]) -> None:
    plain = views(manage(dnerf))
    folder = change(dnerf)
    assert check_dataset(folder).problems == []
    found = views(manage(folder))
    assert len(found) == len(plain) == 12
    for (camera, image), (expected, pixels) in zip(found, plain, strict=True):
        assert torch.equal(image, pixels)
        assert torch.equal(camera.times, expected.times)
        for name in ("camera_to_worlds", "fx", "fy", "cx", "cy", "width", "height"):
            torch.testing.assert_close(getattr(camera, name), getattr(expected, name))


def test_every_frame_with_a_camera_and_a_size_of_its_own(dnerf: Path) -> None:
    def own(folder: Path, frame: Frame, i: int) -> None:
        size = (12 + i, 8 + 2 * (i % 3))
        path = folder / f"{frame['file_path']}.png"
        Image.open(path).resize(size).save(path)
        frame.update(
            fl_x=20.0 + i, fl_y=30.0 + i, cx=size[0] / 2 + 0.1 * i, cy=size[1] / 2, w=size[0], h=size[1]
        )

    for i, (camera, image) in enumerate(views(manage(each_frame(own)(dnerf)))):
        assert image.shape[:2] == (8 + 2 * (i % 3), 12 + i) == (int(camera.height), int(camera.width))
        assert (float(camera.fx), float(camera.fy)) == (20 + i, 30 + i)
        assert float(camera.cx) == pytest.approx((12 + i) / 2 + 0.1 * i)


@pytest.mark.parametrize("turning", [False, True])
def test_a_tripod(dnerf: Path, turning: bool) -> None:
    position = np.array(orbit(0.0))[:3, 3]

    def stand(folder: Path, frame: Frame, i: int) -> None:
        pose = np.array(orbit(0.005 * i * turning))
        pose[:3, 3] = position
        frame["transform_matrix"] = pose.tolist()

    manager = manage(each_frame(stand)(dnerf))
    assert check_dataset(dnerf).problems == []
    cameras = [camera for camera, _ in views(manager)]
    assert [float(camera.times) for camera in cameras] == pytest.approx(np.linspace(0, 1, 12).tolist())
    places = torch.cat([camera.camera_to_worlds[..., 3] for camera in cameras])
    assert torch.equal(places, places[:1].expand(12, 3))
    assert len(manager.eval_dataset) == 3


def test_a_tripod_video(video: Path) -> None:
    def stand(meta: dict[str, Any]) -> None:
        for frame in meta["frames"]:
            frame["transform_matrix"] = orbit(0.0)

    edit_json(video / "transforms.json", stand)
    manager = manage(video, NestDynamicDataParserConfig(time_from="frame-order"))
    assert check_dataset(video).problems == []
    poses = manager.train_dataset.cameras.camera_to_worlds
    assert bool(poses.isfinite().all())
    torch.testing.assert_close(poses, poses[:1].expand_as(poses))


def write_colmap(folder: Path, frames: list[Frame]) -> None:
    """A text model of COLMAP with one camera, and its points."""
    sparse = folder / "colmap" / "sparse" / "0"
    sparse.mkdir(parents=True)
    (sparse / "cameras.txt").write_text("# cameras\n1 OPENCV 12 8 15.0 16.0 6.0 4.0 0 0 0 0\n")
    lines = ["# images"]
    for i, frame in enumerate(frames, start=1):
        pose = np.array(frame["transform_matrix"]) @ np.diag([1, -1, -1, 1])
        viewmat = np.linalg.inv(pose)
        x, y, z, w = Rotation.from_matrix(viewmat[:3, :3]).as_quat()
        numbers = (w, x, y, z, *viewmat[:3, 3])
        lines += [f"{i} {' '.join(map(str, numbers))} 1 {Path(frame['file_path']).name}", ""]
    (sparse / "images.txt").write_text("\n".join(lines) + "\n")
    (sparse / "points3D.txt").write_text("# points\n1 0.1 0.2 0.3 255 0 51 0.5\n2 0.5 0.5 0.5 0 102 0 0.5\n")


def test_a_text_model_of_colmap(video: Path) -> None:
    plain = NestDynamicDataParserConfig(time_from="frame-order", eval_interval=0)
    edit_json(video / "transforms.json", lambda meta: [meta.pop(key) for key in ("k1", "k2", "p1", "p2")])
    edit_json(video / "transforms.json", lambda meta: meta.update(cx=6.0))
    edit_json(video / "transforms.json", lambda meta: write_colmap(video, meta["frames"]))
    options = {"missing_times": "frame-order"}
    found = views(manage(video, ColmapDataParserConfig(eval_mode="all"), **options))
    expected = views(manage(video, plain))
    assert len(found) == len(expected) == 20
    for (camera, image), (other, pixels) in zip(found, expected, strict=True):
        assert torch.equal(image, pixels)
        torch.testing.assert_close(camera.times, other.times)
        torch.testing.assert_close(camera.fx, other.fx)
        torch.testing.assert_close(camera.camera_to_worlds, other.camera_to_worlds, rtol=1e-3, atol=1e-3)
