"""Cameras that `nest-data video` finds, against the true ones of rendered clips.

    python benchmarks/video.py --clips horse_yard frog_desk --unmatched horse_walk koi_swim

The train images of the casual set become an MP4 file (H.264), and that a data set. Clips of one object before
white, each image from another camera, have nothing to match, which must be said.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from jaxtyping import Float
from nerfstudio.utils.rich_utils import CONSOLE
from PIL import Image
from results import record

from nest_nerfstudio.data.video.capture import make_capture

DATA = Path(os.environ.get("NEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


@dataclass
class Video:
    """Make videos and data sets of them, and record how far their cameras are off."""

    clips: tuple[str, ...] = ("horse_yard", "frog_desk")
    """Scenes of the casual set."""
    unmatched: tuple[str, ...] = ("horse_walk", "koi_swim")
    """Scenes of the motion set."""
    rate: int = 30
    """Frames a second of the videos."""
    quality: int = 18
    """Constant rate factor of H.264; smaller is better."""
    jobs: int = 2
    """Threads."""
    data: Path = DATA
    """Folder of both sets."""
    output: Path = Path("benchmarks/out/video")
    """Where videos and data sets go. What an earlier run left there is used."""
    note: str = ""
    """What a reader of the figures has to know, such as what ran beside."""

    def main(self) -> None:
        """Run and record."""
        settings = {name: getattr(self, name) for name in ("rate", "quality", "jobs")}
        for name in self.clips:
            figures = self._cameras(name)
            record("video", figures, settings={"clip": name, **settings}, note=self.note)
            CONSOLE.print(f"{name}: {figures}")
        for name in self.unmatched:
            message = self._refusal(name)
            record("video", {"refused": 1}, settings={"clip": name, **settings}, note=message)
            CONSOLE.print(f"{name}: {message}")

    def _cameras(self, name: str) -> dict[str, float]:
        """Frames with a camera, and the errors of these after alignment of the centres."""
        true = json.loads((self.data / "casual" / name / "transforms.json").read_text())
        poses = {frame["file_path"]: np.array(frame["transform_matrix"]) for frame in true["frames"]}
        clip = self._encode(sorted((self.data / "casual" / name / "images").glob("train_*.png")), name)
        made = make_capture(clip, self.output / name, jobs=self.jobs)
        found = json.loads((self.output / name / "transforms.json").read_text())
        numbers = [round(frame["time"] * self.rate) for frame in found["frames"]]
        errors = pose_errors(
            np.array([frame["transform_matrix"] for frame in found["frames"]]),
            np.array([poses[true["train_filenames"][number]] for number in numbers]),
        )
        focal = found["fl_x"] / true["fl_x"] - 1
        return {
            "registered": made.num_cameras / len(true["train_filenames"]),
            **errors,
            "focal_length_percent": round(100 * focal, 3),
            "seed_points": made.num_points,
        }

    def _refusal(self, name: str) -> str:
        """The error of a clip that has nothing to match."""
        clip = self._encode(sorted((self.data / "motion" / name / "train").glob("*.png")), name)
        try:
            made = make_capture(clip, self.output / name, jobs=self.jobs)
        except ValueError as error:
            return str(error)
        raise SystemExit(f"{name}: {made.summary}, but its frames have nothing in common")

    def _encode(self, images: list[Path], name: str) -> Path:
        """An MP4 file of images, over white where they have alpha."""
        path = self.output / f"{name}.mp4"
        if path.exists():
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        shown = [over_white(image) for image in images]
        size = "{}x{}".format(*shown[0].size)
        source = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", str(self.rate), "-i", "-")
        target = ("-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", str(self.quality))
        part = path.with_suffix(".part.mp4")
        command = ("ffmpeg", "-y", "-loglevel", "error", *source, *target, str(part))
        subprocess.run(command, input=b"".join(image.tobytes() for image in shown), check=True)
        part.replace(path)
        return path


def over_white(path: Path) -> Image.Image:
    """An image file before white, RGB."""
    with Image.open(path) as image:
        rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def pose_errors(found: Float[np.ndarray, "n 4 4"], true: Float[np.ndarray, "n 4 4"]) -> dict[str, Any]:
    """Errors of camera poses after the similarity that best aligns their centres (Umeyama 1991).

    A path that is nearly straight leaves the turn about it to small errors of the centres; so rotations are
    also compared after the turn that aligns them best (`turned`).

    Args:
        found: camera to world.
        true: camera to world.

    Returns:
        Median and largest errors of rotation, degrees, and of position, percent of the length of the path.
    """
    a, b = found[:, :3, 3], true[:, :3, 3]
    from_centre, to_centre = a - a.mean(0), b - b.mean(0)
    rotation, scale = procrustes(to_centre.T @ from_centre)
    misses = np.linalg.norm(
        scale / np.square(from_centre).sum() * from_centre @ rotation.T - to_centre, axis=1
    )
    turn, _ = procrustes(np.einsum("nij,nkj->ik", true[:, :3, :3], found[:, :3, :3]))
    errors = {
        "rotation_degrees": angles(rotation, found, true),
        "rotation_turned_degrees": angles(turn, found, true),
        "position_percent": 100 * misses / np.linalg.norm(np.diff(b, axis=0), axis=1).sum(),
    }
    return {
        f"{name}_{kind}": round(float(of(values)), 4)
        for name, values in errors.items()
        for kind, of in (("median", np.median), ("max", np.max))
    }


def procrustes(covariance: Float[np.ndarray, "3 3"]) -> tuple[Float[np.ndarray, "3 3"], float]:
    """The rotation R of the largest trace of Rᵀ · covariance, and that trace."""
    u, s, vt = np.linalg.svd(covariance)
    sign = np.array([1, 1, np.linalg.det(u @ vt)])
    return u * sign @ vt, float((s * sign).sum())


def angles(
    rotation: Float[np.ndarray, "3 3"], found: Float[np.ndarray, "n 4 4"], true: Float[np.ndarray, "n 4 4"]
) -> Float[np.ndarray, " n"]:
    """Angles from the rotated rotations of found poses to the true ones, degrees."""
    traces = np.einsum("ij,njk,nik->n", rotation, found[:, :3, :3], true[:, :3, :3])
    return np.degrees(np.arccos(np.clip((traces - 1) / 2, -1, 1)))


if __name__ == "__main__":
    tyro.cli(Video).main()
