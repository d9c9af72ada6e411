"""Hand-held captures without masks: what stands still, what moves, and what comes after the clip.

    python benchmarks/casual.py --scenes ../shared/data/casual/horse_yard --steps 2500

PSNR over all pixels, over those that show what stands still, and over those of `dynamic/NAME.png`, white
where something moves. Each is the mean over images.
"""

from __future__ import annotations

import time
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import tyro
from nerfstudio.scripts.train import _set_random_seed
from nerfstudio.utils.rich_utils import CONSOLE
from PIL import Image
from results import record

from nest_nerfstudio.method_configs.nest_dynamic import nest_dynamic
from nest_nerfstudio.pipelines.nest_dynamic import NestDynamicPipeline
from nest_nerfstudio.pipelines.trainer import NestTrainer
from nest_nerfstudio.thread_pool import SHARED

VARIANTS: dict[str, dict[str, Any]] = {
    "ours": {},
    "static": {"motion": "static"},
    "all may move": {"background": "none"},
    "mlp": {"motion": "mlp"},
}
"""Settings of the model, by the names of rows."""


@dataclass
class Casual:
    """Train on hand-held captures, and record scores by what moves."""

    scenes: tuple[Path, ...] = (
        Path("../shared/data/casual/horse_yard"),
        Path("../shared/data/casual/frog_desk"),
    )
    """Folders with `transforms.json`, splits "test" and "future", and `dynamic` masks of both."""
    variants: tuple[str, ...] = tuple(VARIANTS)
    """Rows: ours, static, all may move, mlp."""
    steps: int = 2500
    """Training steps."""
    seed: int = 42
    """Random seed."""
    threads: int = 1
    """Threads of the kernels."""
    output: Path = Path("benchmarks/out/casual")
    """Where runs and images go."""

    def main(self) -> None:
        """Train, score and record."""
        SHARED.threads = self.threads
        torch.set_num_threads(self.threads)
        for scene in self.scenes:
            for variant in self.variants:
                pipeline, seconds = self._train(scene, variant)
                folder = self.output / f"{scene.name}, {variant}"
                figures = {split: scores(pipeline, split, scene, folder) for split in ("test", "future")}
                settings = {"scene": scene.name, "variant": variant, "steps": self.steps}
                record("casual", {**figures, "seconds": round(seconds)}, seed=self.seed, settings=settings)
                CONSOLE.print(f"{scene.name}, {variant}: {figures}, {seconds:.0f} s")

    def _train(self, scene: Path, variant: str) -> tuple[NestDynamicPipeline, float]:
        config = deepcopy(nest_dynamic.config)
        config.data = config.pipeline.datamanager.data = scene
        config.output_dir, config.vis, config.max_num_iterations = self.output, "tensorboard", self.steps
        config.steps_per_eval_image, config.steps_per_save = 0, 10**9
        config.viewer.quit_on_train_completion = True
        config.pipeline.datamanager.dataparser.eval_split = "test"
        for name, value in VARIANTS[variant].items():
            setattr(config.pipeline.model, name, value)
        config.set_timestamp()
        _set_random_seed(self.seed)
        start = time.perf_counter()
        trainer = NestTrainer(config)
        trainer.setup()
        trainer.train()
        trainer.pipeline.eval()
        return cast(NestDynamicPipeline, trainer.pipeline), time.perf_counter() - start


@torch.no_grad()
def scores(pipeline: NestDynamicPipeline, split: str, scene: Path, folder: Path) -> dict[str, float]:
    """PSNR in dB, mean over the images of a split: of all pixels, of those that stand still, and that move.

    Args:
        pipeline: of the trained run.
        split: of the data.
        scene: its folder.
        folder: where images go, target and rendering side by side.
    """
    images, found = pipeline.datamanager.read_split(split), []
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(Path(path).name for path in images.image_filenames):
        target = images.get_image_float32(i)[..., :3]
        drawn = pipeline.model.get_outputs_for_camera(images.cameras[i : i + 1])["rgb"].cpu()
        with Image.open(scene / "dynamic" / name) as image:
            moves = torch.from_numpy(np.asarray(image.convert("L")) > 127)
        error = (drawn - target).square().mean(-1)
        found.append([error.mean(), error[~moves].mean(), error[moves].mean()])
        pixels = (torch.cat([target, drawn], 1) * 255).round().byte()
        Image.fromarray(pixels.numpy()).save(folder / name)
    psnr = (-10 * torch.tensor(found).log10()).nanmean(0)
    return {name: round(float(x), 2) for name, x in zip(("all", "still", "moving"), psnr, strict=True)}


if __name__ == "__main__":
    tyro.cli(Casual).main()
