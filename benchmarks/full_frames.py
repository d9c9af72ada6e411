"""Full frames on a CPU: time of a training step and of its loss, and memory by the number of frames.

    python benchmarks/full_frames.py steps
    python benchmarks/full_frames.py memory

The clip is drawn: a hand-held camera on an arc over a coloured floor before coloured walls, which fill every
image, and a ball that rolls; after 60 frames both come again. Memory is the peak resident set of a process
that sets up and trains on 960×540 pixels, schedule and search for motion included. Steps are of the random
scene of `motion_cost.py`, which fills images of 480×270 pixels, with 20,000 Gaussians on an ODE, with the
loss in plain torch and in kernels in turns.
"""

from __future__ import annotations

import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import tyro
from PIL import Image
from results import record

CYCLE = 60
"""Frames after which the clip comes again."""


@dataclass
class Clip:
    """Writes frames and their cameras."""

    width: int
    height: int
    frames: int

    def write(self, folder: Path) -> None:
        """JPEG files and transforms.json; every tenth frame is for evaluation."""
        names, entries = [f"{i:04d}.jpg" for i in range(self.frames)], []
        for i, name in enumerate(names):
            moment = i % CYCLE / (CYCLE - 1)
            pose = _pose(math.radians(-30 + 60 * moment), 0.05 * math.sin(9 * moment))
            if i < CYCLE:
                Image.fromarray(self._draw(pose, moment)).save(folder / name, quality=92)
            else:
                os.link(folder / names[i - CYCLE], folder / name)
            entry = {"file_path": name, "time": i / (self.frames - 1), "transform_matrix": pose.tolist()}
            entries.append(entry)
        sizes = {"w": self.width, "h": self.height, "cx": self.width / 2, "cy": self.height / 2}
        held_out = names[5::10]
        splits = {"train_filenames": [n for n in names if n not in held_out], "val_filenames": held_out}
        meta = {**sizes, "fl_x": self.width, "fl_y": self.width, "frames": entries, **splits}
        (folder / "transforms.json").write_text(json.dumps(meta | {"test_filenames": held_out}))

    def _draw(self, pose: np.ndarray, moment: float) -> np.ndarray:
        """Cast a ray through each pixel: floor z = 0, walls of a sphere around it, and the ball."""
        x, y = (np.arange(n, dtype=np.float32) + 0.5 for n in (self.width, self.height))
        rays = np.empty((self.height, self.width, 3), np.float32)
        rays[..., 0] = (x - self.width / 2) / self.width
        rays[..., 1] = (self.height / 2 - y[:, None]) / self.width
        rays[..., 2] = -1
        rays = rays @ pose[:3, :3].T.astype(np.float32)
        rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
        eye = pose[:3, 3].astype(np.float32)
        distance = _to_sphere(eye, rays, np.zeros(3), 6.0)[1]
        with np.errstate(divide="ignore"):
            floor = np.where(rays[..., 2] < 0, -eye[2] / rays[..., 2], np.inf)
        distance = np.minimum(distance, floor)
        rgb = _colors(eye + distance[..., None] * rays, 1.0)
        centre = np.array([1.2 * moment - 0.6, 0.8 - 0.8 * moment, 0.35])
        near = _to_sphere(eye, rays, centre, 0.35)[0]
        is_ball = np.isfinite(near) & (near < distance)
        rgb[is_ball] = _colors((eye + near[..., None] * rays)[is_ball] - centre, 4.0)[:, ::-1]
        return (255 * rgb).astype(np.uint8)


def _pose(angle: float, up: float) -> np.ndarray:
    """Camera to world (OpenGL axes) at an angle of the arc, looking a little above the origin."""
    eye = np.array([4 * math.cos(angle), 4 * math.sin(angle), 1.6 + up])
    back = eye - [0, 0, 0.5]
    back /= np.linalg.norm(back)
    right = np.cross([0, 0, 1], back)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(back, right), back, eye], 1)
    return pose


def _to_sphere(eye: np.ndarray, rays: np.ndarray, centre: np.ndarray, radius: float) -> tuple[Any, Any]:
    """Distances along rays to where they enter a sphere and where they leave it; NaN where they miss it."""
    to_centre = (centre - eye).astype(np.float32)
    along = rays @ to_centre
    with np.errstate(invalid="ignore"):
        half = np.sqrt(along**2 - to_centre @ to_centre + np.float32(radius**2))
    return along - half, along + half


def _colors(points: np.ndarray, frequency: float) -> np.ndarray:
    """A pattern in space with detail at several scales."""
    x, y, z = (frequency * points[..., i] for i in range(3))
    coarse = np.sin(2.1 * x + 1) * np.sin(1.7 * y + 2) + np.sin(2.3 * z)
    fine = np.sin(9 * x) * np.sin(11 * y + 3 * z) + 0.5 * np.sin(31 * x + 7 * z) * np.sin(29 * y)
    phases = np.array([0.0, 1.1, 2.2], np.float32)
    return np.clip(0.5 + 0.2 * np.sin(coarse[..., None] + phases) + 0.12 * fine[..., None], 0, 1)


def make_trainer(folder: Path, steps: int, count: int) -> Any:
    """A training of nest-dynamic with a number of Gaussians."""
    import torch

    from nest_nerfstudio.method_configs.nest_dynamic import nest_dynamic

    config = nest_dynamic.config
    config.data = config.pipeline.datamanager.data = folder
    config.output_dir, config.vis, config.max_num_iterations = folder / "runs", "tensorboard", steps
    config.steps_per_eval_image, config.steps_per_save, config.machine.device_type = 0, 10**9, "cpu"
    model = cast(Any, config.pipeline.model)
    model.num_random = model.max_gs_num = count
    model.flow_fit.motion, model.flow_fit.fit_attempts, model.flow_fit.fit_iterations = "free", 1, 300
    config.set_timestamp()
    torch.manual_seed(0)
    trainer = config.setup()
    trainer.setup()
    return trainer


@dataclass
class Steps:
    """Time steps and losses, with the loss in torch and in kernels."""

    width: int = 480
    """Pixels."""
    height: int = 270
    """Pixels."""
    gaussians: int = 20_000
    """Number of Gaussians."""
    rounds: int = 10
    """Rounds of five calls of each kind."""

    def main(self) -> None:
        """Print and record least times in ms."""
        figures = self._measure()
        for threads, found in figures.items():
            print(threads, {name: round(value, 2) for name, value in found.items()})
        record("full_frames", figures, seed=0, settings={"what": "steps"} | vars(self))

    def _measure(self) -> dict[str, dict[str, float]]:
        import torch
        from motion_cost import Scene

        from nest_nerfstudio.losses.photometric import photometric_loss, photometric_loss_reference
        from nest_nerfstudio.thread_pool import SHARED, give_cores_to_kernels

        give_cores_to_kernels()
        torch.set_flush_denormal(True)
        scene = Scene(self.gaussians, 512, self.width, self.height, sh_degree=1, distance=1.6)
        rgb = torch.rand_like(scene.target).requires_grad_()
        losses = {"torch": photometric_loss_reference, "kernels": photometric_loss}
        rows: dict[str, dict[str, float]] = {}
        for _ in range(self.rounds):
            for threads in (1, 2):
                SHARED.threads = threads
                row = rows.setdefault(f"{threads} thread(s)", {})
                for name, loss in losses.items():
                    spent = {
                        **_least(f"loss in {name}", lambda f=loss: f(rgb, scene.target).backward()),
                        **_least(f"step, loss in {name}", lambda f=loss: scene.step(True, f)),
                    }
                    row |= {key: min(value, row.get(key, math.inf)) for key, value in spent.items()}
        return rows


def _least(name: str, run: Callable[[], object]) -> dict[str, float]:
    """Least time of five calls, and least time on processors, which a busy machine hardly changes, ms."""
    times = []
    for _ in range(5):
        begin = time.perf_counter(), time.process_time()
        run()
        times.append((1000 * (time.perf_counter() - begin[0]), 1000 * (time.process_time() - begin[1])))
    return {name: min(wall for wall, _ in times), f"{name}, CPU": min(cpu for _, cpu in times)}


@dataclass
class Memory:
    """Peak memory and time of a training by its number of frames, each in a process of its own."""

    counts: tuple[int, ...] = (60, 300, 1000)
    """Numbers of frames."""
    width: int = 960
    """Pixels."""
    height: int = 540
    """Pixels."""
    gaussians: int = 20_000
    """Number of Gaussians."""
    steps: int = 120
    """Training steps."""
    measure: Path | None = None
    """Only train on this folder and print what it takes; what the processes are told."""

    def main(self) -> None:
        """Print and record."""
        if self.measure:
            print(json.dumps(self._train(self.measure)))
            return
        figures = {}
        for count in self.counts:
            with TemporaryDirectory() as folder:
                Clip(self.width, self.height, count).write(Path(folder))
                figures[f"{count} frames"] = found = self._run(Path(folder))
            print(count, found, flush=True)
        settings = {name: getattr(self, name) for name in ("width", "height", "gaussians", "steps")}
        record("full_frames", figures, seed=0, settings={"what": "memory"} | settings)

    def _run(self, folder: Path) -> dict[str, float]:
        options = {"measure": folder, "steps": self.steps, "gaussians": self.gaussians}
        arguments = [text for key, value in options.items() for text in (f"--{key}", str(value))]
        done = subprocess.run(
            [sys.executable, __file__, "memory", *arguments], capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
        return json.loads(done.stdout.splitlines()[-1])

    def _train(self, folder: Path) -> dict[str, float]:
        begun, start = peak_megabytes(), time.perf_counter()
        trainer = make_trainer(folder, self.steps, self.gaussians)
        set_up, peak = time.perf_counter() - start, peak_megabytes()
        trainer.train()
        return {
            "peak (MB)": peak_megabytes(),
            "after set-up (MB)": peak,
            "before (MB)": begun,
            "set-up (s)": set_up,
            **_least("step (ms)", lambda: trainer.train_iteration(10**6 + 1)),  # nothing is refined or logged
        }


def peak_megabytes() -> float:
    """Largest resident set of this process so far, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"steps": Steps, "memory": Memory}).main()
