"""Image quality against training time: one run of `nest-dynamic`, scored at given minutes.

    python benchmarks/quality.py --data ../shared/data/motion/horse_walk --splits test future --minutes 20

The clock is the trainer's: wall-clock time of training, without loading data and without scoring.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from nerfstudio.scripts.train import _set_random_seed
from nerfstudio.utils.rich_utils import CONSOLE
from results import record

from nest_nerfstudio.method_configs.nest_dynamic import nest_dynamic
from nest_nerfstudio.pipelines.trainer import NestTrainer
from nest_nerfstudio.thread_pool import SHARED


@dataclass
class Quality:
    """Train on one scene and score it along the way."""

    data: Path
    """Folder of the scene."""
    splits: tuple[str, ...] = ("test",)
    """Splits to score."""
    minutes: float = 20.0
    """Budget of training time; 0: by steps."""
    steps: int = 20_000
    """Budget in steps, where there is none of time."""
    marks: tuple[float, ...] = (5.0, 10.0, 20.0)
    """Minutes at which to score; the end is always scored."""
    motion: Literal["ode", "mlp", "static"] = "ode"
    """What moves the scene."""
    downscale: float = 1.0
    """Divide the size of the pictures by this; 2 brings dnerf_lego to 200×200."""
    strides: Literal["three", "two", "one"] = "three"
    """Of training the ODE. two: it is fitted to the path after the training, and no picture trains it.
    one: a roll-out, of a field that starts with none, is fitted to the pictures from the first step on."""
    interval: int = 1
    """Train on every so many of the train frames."""
    span: tuple[float, float] = (0.0, 1.0)
    """Part of the clip to train on. Splits that reach beyond it are scored beyond it too."""
    cycles: float = 0.0
    """Cycles of the motion in the clip, where known: also score the last split 20 true cycles later, if the
    motion was found to be cyclic."""
    threads: int = 2
    """Threads of the kernels."""
    seed: int = 42
    """Random seed."""
    output: Path = Path("benchmarks/out")
    """Where runs go."""
    name: str = ""
    """Name of the run; empty: scene and motion."""
    set: list[str] = field(default_factory=list)
    """Settings of the model to change, as name=value; with a dot for those of the ODE."""

    def main(self) -> None:
        """Train, score, and record all marks in one line."""
        SHARED.threads = self.threads
        _set_random_seed(self.seed)
        trainer = ScoringTrainer(self._config(), self)
        trainer.setup()
        trainer.config.save_config()  # so that ns-viewer and ns-render open the run
        model = trainer.pipeline.dynamic_model
        if self.strides == "one":
            _begin_rolled_out(model)
        trainer.train()
        if self.strides == "two":
            model.fitter.next_check.fill_(0)
            model.config.flow_fit.latest = 0.0
            model.hand_over(trainer.pipeline.views_over_time())
            trainer.save_checkpoint(trainer.step)
        trainer.score("end")
        record("quality", trainer.figures, seed=self.seed, settings=self._settings())

    def _settings(self) -> dict:
        names = ("motion", "minutes", "interval", "span", "downscale", "strides", "cycles", "threads", "set")
        budget = f"{self.minutes:g} min" if self.minutes else f"{self.steps} steps"
        return {"scene": self.data.name, "budget": budget, **{name: getattr(self, name) for name in names}}

    def _config(self):
        config = deepcopy(nest_dynamic.config)
        config.output_dir, config.experiment_name = (
            self.output,
            self.name or f"{self.data.name}_{self.motion}",
        )
        config.max_num_iterations = self.steps
        config.vis, config.max_minutes, config.data = "tensorboard", self.minutes, self.data
        config.steps_per_eval_image, config.steps_per_save = 0, 10**9
        config.pipeline.datamanager.data = self.data
        parser = config.pipeline.datamanager.dataparser
        parser.downscale_factor, parser.train_interval, parser.train_span = (
            self.downscale,
            self.interval,
            self.span,
        )
        config.pipeline.model.motion = self.motion
        if self.strides == "two":
            config.pipeline.model.flow_fit.settled_change, config.pipeline.model.flow_fit.latest = -1.0, 2.0
        for change in self.set:
            _assign(config, *change.split("=", 1))
        config.set_timestamp()
        return config


class ScoringTrainer(NestTrainer):
    """Stops the clock at every mark to score."""

    def __init__(self, config, benchmark: Quality) -> None:
        super().__init__(config)
        self.benchmark, self.marks = benchmark, sorted(benchmark.marks)
        self.figures: dict[str, dict] = {}

    def train_iteration(self, step: int):
        result = super().train_iteration(step)
        if self.marks and self._clock.seconds >= 60 * self.marks[0]:
            self._clock.stop()
            self.score(f"{self.marks.pop(0):g} min")
        return result

    def score(self, mark: str) -> None:
        """Mean PSNR and SSIM over each split, printed and kept."""
        self.pipeline.eval()
        model = self.pipeline.dynamic_model
        line = {
            "seconds": round(self._clock.seconds, 1),
            "step": self.step,
            "gaussians": len(model.field),
            "committed": self.benchmark.motion == "ode" and bool(model.fitter.rolls_out),
        }
        for split in self.benchmark.splits:
            line |= self._score_split(split)
        motion = model.latent().motion
        if motion.kind == "cyclic":
            line["period"] = round(float(motion.period), 5)
            if self.benchmark.cycles:
                first, last = self.benchmark.span
                line["period_true"] = 1 / self.benchmark.cycles / (last - first)
                later = 20 * line["period_true"]
                scores = self._score_split(self.benchmark.splits[-1], later)
                line |= {f"{name}, 20 cycles later": score for name, score in scores.items()}
        self.pipeline.train()
        CONSOLE.print({"run": self.config.experiment_name, "mark": mark, **line})
        self.figures[mark] = line

    def _score_split(self, split: str, later: float = 0.0) -> dict[str, dict[str, float]]:
        """Mean scores of a split, so many clips later; apart for what lies beyond the part trained on."""
        parts: dict[str, list[dict[str, float]]] = {}
        for camera, batch in self._views(split):
            beyond = self.benchmark.span != (0.0, 1.0) and not 0 <= float(camera.times) <= 1
            name = f"{split}, beyond" if beyond else split
            parts.setdefault(name, []).append(self._score_view(camera, batch, later))
        return {
            name: {k: round(float(np.mean([s[k] for s in scores])), 4) for k in scores[0]}
            for name, scores in parts.items()
        }

    def _views(self, split: str):
        manager = self.pipeline.datamanager
        dataset = manager.read_split(split)
        return [(dataset.cameras[i : i + 1], dataset.get_data(i)) for i in range(len(dataset))]

    def _score_view(self, camera, batch, later: float) -> dict[str, float]:
        model = self.pipeline.dynamic_model
        camera = camera.to(model.device)
        camera.times = camera.times + later
        outputs = model.get_outputs_for_camera(camera)
        return model.get_image_metrics_and_images(outputs, batch)[0]


@torch.no_grad()
def _begin_rolled_out(model) -> None:
    """A roll-out in place of the free path from the start: of a still state, with small random modes."""
    model.fitter.rolls_out.fill_(True)
    motion = model.latent().motion
    modes, start = 0.01 * torch.randn_like(motion.modes), torch.randn_like(motion.start)
    model.latent.set_motion(replace(motion, kind="free", start=start, modes=modes))


def _assign(config, name: str, value: str) -> None:
    if name.startswith("optimizers."):
        config.optimizers[name.split(".")[1]]["optimizer"].lr = float(value)
        return
    target = config.pipeline.model
    *parents, leaf = name.split(".")
    for parent in parents:
        target = getattr(target, parent)
    current = getattr(target, leaf)
    setattr(target, leaf, value if isinstance(current, str) else type(current)(float(value)))


if __name__ == "__main__":
    tyro.cli(Quality).main()
