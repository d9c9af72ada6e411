"""Hand-held captures without masks: what stands still, what moves, and what comes after the clip.

    python benchmarks/casual.py --scenes ../shared/data/casual/horse_yard --steps 2500

PSNR over all pixels, over those that show what stands still, and over those that show what moves, each the
mean over images. `dynamic/NAME.png` of the data says which move. Without it, the output "moving" of the first
row does, for all rows; the future is then not scored, but "crossed" is: what stands still from the cameras of
held-out images at times half a clip away, against these images.
"""

from __future__ import annotations

import math
import time
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.scripts.train import _set_random_seed
from nerfstudio.utils.rich_utils import CONSOLE
from PIL import Image
from results import record
from torch import Tensor

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
    """Folders of captures; where there are `dynamic` masks, with splits "test" and "future"."""
    variants: tuple[str, ...] = tuple(VARIANTS)
    """Rows: ours, static, all may move, mlp; without `dynamic` masks ours has to be the first."""
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
            found: list[Tensor] = []
            for variant in self.variants:
                pipeline, seconds = self._train(scene, variant)
                folder = self.output / f"{scene.name}, {variant}"
                if (scene / "dynamic").is_dir():
                    figures = {
                        split: scores(pipeline, split, known_to_move(pipeline, split, scene), folder / split)
                        for split in ("test", "future")
                    }
                else:
                    times = pipeline.datamanager.read_split("test").cameras.times
                    away = (times + 0.5) % 1
                    found = found or [seen_to_move(pipeline, times), seen_to_move(pipeline, away)]
                    crossed = scores(pipeline, "test", found[0] | found[1], folder / "crossed", away)
                    figures = {
                        "test": scores(pipeline, "test", found[0], folder / "test"),
                        "crossed": {"still": crossed["still"]},
                    }
                settings = {"scene": scene.name, "variant": variant, "steps": self.steps}
                record("casual", {**figures, "seconds": round(seconds)}, seed=self.seed, settings=settings)
                CONSOLE.print(f"{scene.name}, {variant}: {figures}, {seconds:.0f} s")

    def _train(self, scene: Path, variant: str) -> tuple[NestDynamicPipeline, float]:
        config = deepcopy(nest_dynamic.config)
        config.data = config.pipeline.datamanager.data = scene
        config.output_dir, config.vis, config.max_num_iterations = self.output, "tensorboard", self.steps
        config.steps_per_eval_image, config.steps_per_save = 0, 10**9
        config.viewer.quit_on_train_completion = True
        if (scene / "dynamic").is_dir():
            config.pipeline.datamanager.dataparser.eval_split = "test"
        if '"time"' not in (scene / "transforms.json").read_text():
            config.pipeline.datamanager.dataparser.time_from = "frame-order"
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
def scores(
    pipeline: NestDynamicPipeline,
    split: str,
    moves: Bool[Tensor, "n h w"],
    folder: Path,
    times: Float[Tensor, "n 1"] | None = None,
) -> dict[str, float]:
    """PSNR in dB, mean over the images of a split: of all pixels, of those that stand still, and that move.

    Args:
        pipeline: of the trained run.
        split: of the data.
        moves: pixels that move.
        folder: where images go, target and rendering side by side.
        times: to show instead of those of the images.
    """
    images, found = pipeline.datamanager.read_split(split), []
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(Path(path).name for path in images.image_filenames):
        target = images.get_image_float32(i)[..., :3]
        drawn = _outputs(pipeline, images.cameras[i : i + 1], None if times is None else times[i])["rgb"]
        error = (drawn - target).square().mean(-1)
        found.append([error.mean(), error[~moves[i]].mean(), error[moves[i]].mean()])
        pixels = (torch.cat([target, drawn], 1) * 255).round().byte()
        Image.fromarray(pixels.numpy()).save(folder / name)
    psnr = (-10 * torch.tensor(found).log10()).nanmean(0)
    named = zip(("all", "still", "moving"), psnr.tolist(), strict=True)
    return {name: round(x, 2) for name, x in named if not math.isnan(x)}


def known_to_move(pipeline: NestDynamicPipeline, split: str, scene: Path) -> Bool[Tensor, "n h w"]:
    """Pixels that move, as the data says."""
    names = [Path(path).name for path in pipeline.datamanager.read_split(split).image_filenames]
    masks = [np.asarray(Image.open(scene / "dynamic" / name).convert("L")) > 127 for name in names]
    return torch.from_numpy(np.stack(masks))


@torch.no_grad()
def seen_to_move(pipeline: NestDynamicPipeline, times: Float[Tensor, "n 1"]) -> Bool[Tensor, "n h w"]:
    """Pixels that move from the cameras of the held-out images, as a run shows it, and four pixels around."""
    cameras = pipeline.datamanager.read_split("test").cameras
    moving = torch.stack(
        [_outputs(pipeline, cameras[i : i + 1], time)["moving"][..., 0] for i, time in enumerate(times)]
    )
    return F.max_pool2d(moving, 9, stride=1, padding=4) > 0.05


def _outputs(pipeline: NestDynamicPipeline, camera: Cameras, time: Tensor | None) -> dict[str, Tensor]:
    if time is not None:
        camera = deepcopy(camera)
        camera.times = time.reshape(1, 1)
    outputs = pipeline.model.get_outputs_for_camera(camera)
    return {name: image.cpu() for name, image in outputs.items() if isinstance(image, Tensor)}


if __name__ == "__main__":
    tyro.cli(Casual).main()
