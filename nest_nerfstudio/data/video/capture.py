"""A clip of a moving scene as a data set of it: frames, times, cameras and seed points.

    clip → images → motion_masks → sfm → transforms.json, seed_points.ply, report.png

Each step is done once for its inputs and settings (`record`); a failure leaves the steps before it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from nest_nerfstudio.data.coordinates import fit_poses
from nest_nerfstudio.data.video.frames import MIN_FRAMES, open_clip, write_frames
from nest_nerfstudio.data.video.motion_masks import camera_stands_still, write_motion_masks
from nest_nerfstudio.data.video.record import Record
from nest_nerfstudio.data.video.report import write_report
from nest_nerfstudio.data.video.sfm import (
    FOCAL_FACTOR,
    CameraModel,
    Model,
    Registered,
    read_model,
    reconstruct,
    require_pycolmap,
)
from nest_nerfstudio.files import written_whole
from nest_nerfstudio.io.point_clouds import write_cloud
from nest_nerfstudio.types import Points

SEED_POINTS = "seed_points.ply"
TRIPOD = (
    "The camera does not move: one pose for all frames, a guessed focal length, and no seed points. The "
    "scene can be trained and shown from there; what it looks like from elsewhere is not known."
)


@dataclass(frozen=True)
class VideoConfig:
    """How a clip becomes a data set.

    Attributes:
        num_frames: Number of equal intervals of the clip, of each of which the sharpest frame is taken.
        size: Longer side of the frames at most, pixels; those of a larger video are shrunk.
        camera_model: Lens of the camera, as COLMAP names it; all frames share its intrinsics.
    """

    num_frames: int = 150
    size: int = 1600
    camera_model: CameraModel = "SIMPLE_RADIAL"

    def __post_init__(self) -> None:
        if self.num_frames < MIN_FRAMES:
            raise ValueError(f"num_frames must be {MIN_FRAMES} or more, got {self.num_frames}")
        if self.size < 64:
            raise ValueError(f"size must be 64 or more, got {self.size}")


@dataclass(frozen=True)
class Capture:
    """What was made of a clip.

    Attributes:
        num_frames: frames taken from the clip.
        num_cameras: frames that have a camera, and are in `transforms.json`.
        num_points: seed points.
        notes: what was assumed, left out, or cannot be had.
    """

    num_frames: int
    num_cameras: int
    num_points: int
    notes: tuple[str, ...]

    @property
    def summary(self) -> str:
        """In a line."""
        return f"{self.num_cameras} of {self.num_frames} frames with cameras, {self.num_points} seed points"


def make_capture(clip: Path, output: Path, config: VideoConfig = VideoConfig(), jobs: int = 1) -> Capture:
    """Make a data set of a moving scene that was filmed by one camera.

    Args:
        clip: video file, or folder of images.
        output: folder to write; one that an earlier run has written goes on there.
        config: settings.
        jobs: number of threads.

    Returns:
        What was made of it; `output` has `transforms.json`, `seed_points.ply` and `report.png`.

    Raises:
        FileNotFoundError: there is no such clip.
        ImportError: pycolmap is not installed.
        ValueError: the clip cannot be read, or no cameras can be found for its frames.
    """
    opened = open_clip(clip)
    require_pycolmap()
    record = Record.of(output)
    settings = {"clip": _stamp(clip), **asdict(config)}
    lens = settings.pop("camera_model")

    def frames(folder: Path) -> dict[str, Any]:
        times = write_frames(opened, folder, config.num_frames, config.size)
        return {"times": times, "notes": opened.notes}

    def cameras(folder: Path) -> str | None:
        if camera_stands_still(images):
            return None
        return reconstruct(folders[0], folders[1], list(times), folder, lens, jobs).name

    taken = record.once("images", settings, frames)
    times: dict[str, float] = taken["times"]
    folders = [output / "images", output / "motion_masks"]
    images = [folders[0] / name for name in times]
    record.once("motion_masks", settings, lambda folder: write_motion_masks(images, folder))
    found = record.once("sfm", {**settings, "camera_model": lens}, cameras)
    model = _tripod(images) if found is None else read_model(output / "sfm" / "models" / found)
    notes = [*taken["notes"], *([TRIPOD] if found is None else [])]
    if lost := len(times) - len(model.frames):
        notes.append(f"{lost} of {len(times)} frames have no camera: they are left out.")
    made = Capture(len(times), len(model.frames), len(model.points), tuple(notes))
    _write(output, model, times, f"{clip.name}: {made.summary}")
    return made


def _stamp(clip: Path) -> list[list[Any]]:
    """What tells a clip from others and from its later versions: names, sizes and times of its files."""
    files = sorted(clip.iterdir()) if clip.is_dir() else [clip]
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def _tripod(images: Sequence[Path]) -> Model:
    """A camera that looks along y, z up, in all frames."""
    with Image.open(images[0]) as image:
        width, height = image.size
    pose = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    focal = FOCAL_FACTOR * max(width, height)
    camera = {"camera_model": "PINHOLE", "fl_x": focal, "fl_y": focal, "cx": width / 2, "cy": height / 2}
    frame = Registered(pose, np.zeros((0, 2)))
    nothing = Points(torch.zeros(0, 3, dtype=torch.float64), torch.zeros(0, 3))
    return Model({**camera, "w": width, "h": height}, {path.name: frame for path in images}, nothing)


def _write(output: Path, model: Model, times: Mapping[str, float], title: str) -> None:
    """Write the transforms file, last and whole, the seed points and the report, z up."""
    poses = torch.from_numpy(np.stack([frame.pose for frame in model.frames.values()]))
    coordinates = fit_poses(poses, "up", "poses", auto_scale=False, scale=1.0)
    upright = coordinates.poses(poses)
    points = Points(coordinates.points(model.points.positions), model.points.rgb)
    meta = dict(model.camera)
    if len(points):
        write_cloud(output / SEED_POINTS, points)
        meta["ply_file_path"] = SEED_POINTS
    meta["frames"] = [
        {
            "file_path": f"images/{name}",
            "time": times[name],
            "transform_matrix": [*pose.tolist(), [0.0, 0.0, 0.0, 1.0]],
        }
        for name, pose in zip(model.frames, upright, strict=True)
    ]
    write_report(
        output / "report.png",
        title,
        [output / "images" / name for name in model.frames],
        [output / "motion_masks" / name for name in model.frames],
        [frame.pixels for frame in model.frames.values()],
        upright[..., 3].numpy(),
        points.positions.numpy(),
        points.rgb.numpy(),
    )
    with written_whole(output / "transforms.json") as part:
        part.write_text(json.dumps(meta, indent=1))
