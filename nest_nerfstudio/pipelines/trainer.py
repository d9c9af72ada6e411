"""nerfstudio's Trainer, with budgets by steps or by time, and checkpoints that survive what goes wrong."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.engine.schedulers import Scheduler, SchedulerConfig
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.utils.rich_utils import CONSOLE
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from nest_nerfstudio.pipelines.nest_dynamic import NestDynamicPipeline


@dataclass
class NestTrainerConfig(TrainerConfig):
    """Settings of `NestTrainer`."""

    _target: type = field(default_factory=lambda: NestTrainer)
    max_minutes: float = 0.0
    """Train for this long instead of `max_num_iterations` steps; 0: by steps. The schedule fits either."""
    viewer: ViewerConfig = field(default_factory=lambda: ViewerConfig(websocket_host="127.0.0.1"))


class NestTrainer(Trainer):
    """Runs every schedule by progress: the larger share of the step and the time budget that is used."""

    config: NestTrainerConfig
    pipeline: NestDynamicPipeline

    def setup(self, test_mode="val") -> None:
        super().setup(test_mode)
        self._resumed_seconds = self.pipeline.dynamic_model.progress.item() * self.config.max_minutes * 60
        self._clock = Stopwatch()

    def progress(self, step: int) -> float:
        """Fraction of the budget that is used when `step` begins."""
        if self.config.max_minutes > 0:
            used = (self._resumed_seconds + self._clock.seconds) / (60 * self.config.max_minutes)
        else:
            used = step / self.config.max_num_iterations
        return min(1.0, used)

    def train_iteration(self, step: int):
        self._clock.start()
        progress = self.progress(step)
        for scheduler in self.optimizers.schedulers.values():
            if isinstance(scheduler, ProgressScheduler):
                scheduler.progress = progress
        self.pipeline.set_progress(step, progress)
        result = super().train_iteration(step)
        if self.progress(step + 1) >= 1:
            self.stop_training = True
        return result

    def eval_iteration(self, step: int) -> None:
        self._clock.stop()
        super().eval_iteration(step)

    def save_checkpoint(self, step: int) -> None:
        """Write the checkpoint beside its place and move it there whole; on failure the last one stays."""
        self._clock.stop()
        if self.local_rank != 0:
            return
        target = Path(self.checkpoint_dir) / f"step-{step:09d}.ckpt"
        partial = Path(self.base_dir) / "checkpoint.partial"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            torch.save(self._state(step), partial)
            os.replace(partial, target)
        except (OSError, RuntimeError) as error:
            partial.unlink(missing_ok=True)
            CONSOLE.print(
                f"[bold red]Step {step} was not saved ({error}). The last checkpoint is untouched and training"
                f" goes on; free some space under {self.base_dir}."
            )
            return
        if self.config.save_only_latest_checkpoint:
            for other in target.parent.glob("step-*.ckpt"):
                if other != target:
                    other.unlink()

    def _state(self, step: int) -> dict[str, Any]:
        """What nerfstudio's tools expect in a checkpoint; plain types only, as torch's safe loader demands."""
        return {
            "step": step,
            "pipeline": self.pipeline.state_dict(),
            "optimizers": {k: v.state_dict() for k, v in self.optimizers.optimizers.items()},
            "schedulers": {k: v.state_dict() for k, v in self.optimizers.schedulers.items()},
            "scalers": self.grad_scaler.state_dict(),
        }


class Stopwatch:
    """Adds up wall-clock time between starts and stops."""

    def __init__(self) -> None:
        self._total = 0.0
        self._started: float | None = None

    def start(self) -> None:
        """Run on, if it does not already run."""
        self._started = time.perf_counter() if self._started is None else self._started

    def stop(self) -> None:
        """Hold."""
        self._total, self._started = self.seconds, None

    @property
    def seconds(self) -> float:
        """Time on the clock."""
        return self._total + (0.0 if self._started is None else time.perf_counter() - self._started)


@dataclass
class ProgressSchedulerConfig(SchedulerConfig):
    """Exponential decay of a learning rate over the whole training, however long it is."""

    _target: type = field(default_factory=lambda: ProgressDecay)
    final_ratio: float = 0.01
    """Last learning rate over the first."""
    begin: float = 0.0
    """Fraction of the training at which the decay begins."""


class ProgressDecay(Scheduler):
    """nerfstudio's factory around `ProgressScheduler`."""

    config: ProgressSchedulerConfig

    def get_scheduler(self, optimizer: Optimizer, lr_init: float) -> LRScheduler:
        return ProgressScheduler(optimizer, self.config.final_ratio, self.config.begin)


class ProgressScheduler(LRScheduler):
    """lr = lr₀ · ratio^((p − begin) / (1 − begin)) with the progress p that the trainer sets."""

    def __init__(self, optimizer: Optimizer, final_ratio: float, begin: float) -> None:
        self.final_ratio, self.begin, self.progress = final_ratio, begin, 0.0
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:  # type: ignore[override]
        share = max(0.0, self.progress - self.begin) / (1 - self.begin)
        return [float(lr * self.final_ratio**share) for lr in self.base_lrs]
