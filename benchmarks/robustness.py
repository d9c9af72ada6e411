"""Smoke matrix: one moving scene at many scales, offsets, rotations and times, trained for a moment.

    python benchmarks/robustness.py
    python benchmarks/robustness.py --only 0 1        one variant, of the list that is printed first

The scene is that of `nest-data toy`, written again with other poses and times, which change no image. No run
should be more than 3 dB below the scene as it is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import tyro
from brief import train_briefly
from jaxtyping import Float
from nerfstudio.utils.rich_utils import CONSOLE
from results import record
from scipy.spatial.transform import Rotation

from nest_nerfstudio.pipelines.trainer import TrainingFailed
from nest_nerfstudio.synthesis.datasets import MovingSceneConfig, make_toy_scene
from nest_nerfstudio.thread_pool import SHARED

MOST_LOST = 3.0
"""dB below the scene as it is that count as a failure."""


@dataclass(frozen=True)
class Variant:
    """Another world for the same images: x ↦ scale (R x + offset), t ↦ first + (last − first) t.

    Attributes:
        scale: of lengths.
        offset: of the origin, in distances of the cameras.
        rotation: seed of a random rotation; None for none.
        times: of the first and the last train image.
    """

    scale: float = 1.0
    offset: float = 0.0
    rotation: int | None = None
    times: tuple[float, float] = (0.0, 1.0)

    def pose(self, pose: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "4 4"]:
        """A camera to world, OpenGL axes, in this world."""
        turn = np.eye(3)
        if self.rotation is not None:
            turn = Rotation.from_quat(np.random.default_rng(self.rotation).normal(size=4)).as_matrix()
        distance = float(np.linalg.norm(pose[:3, 3]))
        moved = np.eye(4)
        moved[:3, :3] = turn @ pose[:3, :3]
        moved[:3, 3] = self.scale * (turn @ pose[:3, 3] + self.offset * round(distance, 3))
        return moved

    def write(self, source: Path, target: Path) -> Path:
        """Write the transforms files of a scene in this world; images stay where they are."""
        target.mkdir(parents=True, exist_ok=True)
        for path in source.glob("transforms_*.json"):
            meta = json.loads(path.read_text())
            for frame in meta["frames"]:
                frame["file_path"] = str((source / frame["file_path"]).resolve())
                frame["transform_matrix"] = self.pose(np.array(frame["transform_matrix"])).tolist()
                frame["time"] = self.times[0] + (self.times[1] - self.times[0]) * frame["time"]
            (target / path.name).write_text(json.dumps(meta))
        return target


VARIANTS = [
    Variant(scale, offset, rotation, times)
    for scale, offset, rotation, times in product(
        (1e-3, 0.1, 10.0, 1e3), (0.0, 1e5), (None, 1), ((0.0, 1.0), (0.0, 0.05), (1.6e9, 1.6e9 + 100))
    )
]


@dataclass
class Robustness:
    """Train every variant with every seed, and record its PSNR."""

    only: tuple[int, ...] = ()
    """Variants to train, by their place in the list; empty: all."""
    seeds: tuple[int, ...] = (42, 7)
    """Random seeds."""
    steps: int = 300
    """Training steps."""
    size: int = 96
    """Width and height of the images, pixels."""
    train: int = 40
    """Train images."""
    threads: int = 1
    """Threads of the kernels."""
    output: Path = Path("benchmarks/out/robustness")
    """Where the scene and its variants go."""

    def main(self) -> None:
        """Score the scene as it is, then its variants; exit status 1 if one is lost."""
        SHARED.threads = self.threads
        scene = make_toy_scene(self.output / "scene", self._scene(), jobs=2)
        chosen = [VARIANTS[i] for i in self.only or range(len(VARIANTS))]
        figures: dict[str, dict[str, float]] = {}
        for seed in self.seeds:
            usual = self._train(Variant(), scene, seed)
            for variant in chosen:
                psnr = self._train(variant, scene, seed)
                line = {"psnr": psnr, "below": round(usual - psnr, 2)}
                figures[f"{variant}, seed {seed}"] = line
                CONSOLE.print(f"{variant}, seed {seed}: {psnr:.2f} dB, {usual:.2f} as it is")
            figures[f"as it is, seed {seed}"] = {"psnr": usual, "below": 0.0}
        below = [line["below"] for line in figures.values()]
        lost = sum(loss > MOST_LOST for loss in below)
        total = {"runs": len(below), "worst": max(below), "mean": float(np.mean(below)), "lost": lost}
        settings = {"steps": self.steps, "size": self.size, "train": self.train}
        record("robustness", {"all": total, **figures}, settings=settings)
        if lost:
            raise SystemExit(f"{lost} of {len(below)} runs are more than {MOST_LOST:g} dB below")

    def _scene(self) -> MovingSceneConfig:
        return MovingSceneConfig(size=self.size, samples=16, train=self.train, val=4, test=12, future=1)

    def _train(self, variant: Variant, scene: Path, seed: int) -> float:
        """PSNR on the test images; 0 where the training said that it failed."""
        data = variant.write(scene, self.output / "variant")
        try:  # a moment is not enough for a good ODE, so its fit is short
            scores = train_briefly(data, self.output / "runs", self.steps, seed, fit_iterations=500)
        except TrainingFailed:
            return 0.0
        return round(scores["psnr"], 2)


if __name__ == "__main__":
    tyro.cli(Robustness).main()
