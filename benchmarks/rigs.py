"""Rigs of few fixed cameras, without alpha: a start from nothing against one from seed points on the surface.

    python benchmarks/rigs.py --cameras 3 4 8

The walker of `nest-data toy` before white, seen by cameras over an arc; one more between them is held out.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from brief import train_briefly
from jaxtyping import Float
from nerfstudio.utils.rich_utils import CONSOLE
from PIL import Image
from plyfile import PlyData, PlyElement
from results import record

from nest_nerfstudio.synthesis.datasets import WALKER
from nest_nerfstudio.synthesis.rendering import (
    CAMERA_ANGLE_X,
    RenderJob,
    Sensor,
    look_at_origin,
    render_missing,
)
from nest_nerfstudio.thread_pool import SHARED


@dataclass
class Rigs:
    """Train with and without seed points, and record PSNR and SSIM of the camera that is held out."""

    cameras: tuple[int, ...] = (3, 4, 8)
    """Train cameras of each rig."""
    times: int = 20
    """Images of each camera."""
    arc: float = 72.0
    """Degrees from the first to the last camera."""
    size: int = 96
    """Width and height of the images, pixels."""
    seed_points: int = 4000
    """Points on the surface at the middle of the clip."""
    steps: int = 1500
    """Training steps."""
    seed: int = 42
    """Random seed."""
    output: Path = Path("benchmarks/out/rigs")
    """Where rigs and runs go."""

    def main(self) -> None:
        """Render, train and record."""
        SHARED.threads = 1
        for count in self.cameras:
            folder = self._write(self.output / f"{count}_cameras", count)
            starts = ("nothing", "seed points")
            figures = {start: self._train(folder / f"{start}.json") for start in starts}
            settings = {name: getattr(self, name) for name in ("times", "arc", "size", "steps")}
            record("rigs", figures, seed=self.seed, settings={"cameras": count, **settings})
            CONSOLE.print(f"{count} cameras: {figures}")

    def _write(self, folder: Path, count: int) -> Path:
        """Render a rig, and write a transforms file for each start."""
        held = (count + 1) // 2  # between two others
        jobs, frames = [], []
        for camera in range(count + 1):
            pose = look_at_origin(math.radians(self.arc) * (camera / count - 0.5) - math.pi / 2, 0.35)
            for i in range(self.times):
                name, time = f"cam{camera:02d}/{i:04d}.png", i / (self.times - 1)
                sensor = Sensor(self.size, 16)
                jobs.append(RenderJob(folder / "rgba" / name, WALKER, time, pose, sensor, 1000 * camera + i))
                frames.append({"file_path": name, "time": time, "transform_matrix": pose.tolist()})
        render_missing(jobs, 2, f"Rendering {folder.name}")
        for frame in frames:
            _before_white(folder / "rgba" / frame["file_path"], folder / frame["file_path"])
        names = [frame["file_path"] for frame in frames]
        is_held = [name.startswith(f"cam{held:02d}") for name in names]
        splits = {
            "train_filenames": [name for name, out in zip(names, is_held, strict=True) if not out],
            "test_filenames": [name for name, out in zip(names, is_held, strict=True) if out],
        }
        meta = {"camera_angle_x": CAMERA_ANGLE_X, "frames": frames, **splits}
        _write_cloud(_surface(self.seed_points), folder / "seeds.ply")
        (folder / "nothing.json").write_text(json.dumps(meta))
        (folder / "seed points.json").write_text(json.dumps({**meta, "ply_file_path": "seeds.ply"}))
        return folder

    def _train(self, data: Path) -> dict[str, float]:
        scores = train_briefly(data, self.output, self.steps, self.seed)
        return {name: round(scores[name], 3) for name in ("psnr", "ssim")}


def _before_white(source: Path, target: Path) -> None:
    with Image.open(source) as image:
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image)
    target.parent.mkdir(parents=True, exist_ok=True)
    white.convert("RGB").save(target)


def _surface(count: int) -> Float[np.ndarray, "n 3"]:
    """Random points on the walker at the middle of the clip, evenly by area."""
    meshes, rng = WALKER.meshes(0.5), np.random.default_rng(0)
    corners = np.concatenate([mesh.vertices[mesh.faces] for mesh in meshes])
    areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    chosen = corners[rng.choice(len(areas), count, p=areas / areas.sum())]
    return (chosen * rng.dirichlet([1, 1, 1], count)[:, :, None]).sum(1)


def _write_cloud(points: Float[np.ndarray, "n 3"], path: Path) -> None:
    """Write a grey point cloud."""
    names = [("x", "f4"), ("y", "f4"), ("z", "f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1")]
    rows = np.full(len(points), 128, dtype=names)
    for axis, values in zip("xyz", points.T, strict=True):
        rows[axis] = values
    PlyData([PlyElement.describe(rows, "vertex")]).write(str(path))


if __name__ == "__main__":
    tyro.cli(Rigs).main()
