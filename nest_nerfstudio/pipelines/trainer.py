"""nerfstudio's Trainer, with budgets by steps or by time, and checkpoints that survive what goes wrong."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from nerfstudio.configs.base_config import MachineConfig, ViewerConfig
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.utils import comms
from nerfstudio.utils.rich_utils import CONSOLE
from rich.panel import Panel

from nest_nerfstudio.host import LOCAL_HOST, join_processes, on_this_machine, show_last_step
from nest_nerfstudio.pipelines.base import NestPipeline, NestPipelineConfig
from nest_nerfstudio.pipelines.schedules import FiniteOptimizers, ProgressScheduler


class TrainingFailed(RuntimeError):
    """A training that ran to its end, and of which nothing came; says why."""


@dataclass
class NestMachineConfig(MachineConfig):
    """nerfstudio's settings of the machine, with a device that is found out."""

    device_type: Literal["auto", "cpu", "cuda", "mps"] = "auto"  # type: ignore[assignment]
    """Device to train on; auto: CUDA where there is any, else the CPU."""


@dataclass
class NestTrainerConfig(TrainerConfig):
    """Settings of `NestTrainer`."""

    _target: type = field(default_factory=lambda: NestTrainer)
    pipeline: NestPipelineConfig = field(default_factory=NestPipelineConfig)  # type: ignore[assignment]
    machine: NestMachineConfig = field(default_factory=NestMachineConfig)
    max_num_iterations: int | None = None  # type: ignore[assignment]
    """Number of training steps; unset: a number that suits the method and the kind of device."""
    max_minutes: float = 0.0
    """Train for this long instead of `max_num_iterations` steps; 0: by steps. The schedule fits either."""
    viewer: ViewerConfig = field(default_factory=lambda: ViewerConfig(websocket_host=LOCAL_HOST))

    def __setattr__(self, name: str, value: Any) -> None:
        """Keep the viewer on this machine when `ns-viewer` puts its own settings in place of the run's.

        Its default, 0.0.0.0, listens on every interface, and it replaces whatever the run was trained with.
        YAML and `copy` restore attributes directly and do not come through here.
        """
        if name == "viewer" and name in vars(self) and (local := on_this_machine(value)) is not None:
            CONSOLE.log(
                "The viewer listens on this machine only; --viewer.websocket-host :: has it listen on every "
                "interface, an address on that one."
            )
            value = local
        super().__setattr__(name, value)

    def set_timestamp(self) -> None:
        super().set_timestamp()
        self.resolve()

    def resolve(self) -> None:
        """Give every setting that is unset a value for the device at hand, and log it."""
        unset: dict[str, Any] = {}
        if self.machine.device_type == "auto":
            self.machine.device_type = unset["device"] = "cuda" if torch.cuda.is_available() else "cpu"
        kind = self.machine.device_type
        if self.max_num_iterations is None:
            steps = self.pipeline.num_iterations["cuda" if kind == "cuda" else "cpu"]
            self.max_num_iterations = unset["max_num_iterations"] = steps
        unset |= self.pipeline.resolve(kind)
        if unset:
            CONSOLE.log("Settings for this device: " + ", ".join(f"{k} {v}" for k, v in unset.items()))


class NestTrainer(Trainer):
    """Runs every schedule by progress: the larger share of the step and the time budget that is used."""

    config: NestTrainerConfig
    pipeline: NestPipeline

    def __init__(self, config: NestTrainerConfig, local_rank: int = 0, world_size: int = 1) -> None:
        config.resolve()
        if config.max_minutes > 0:  # nerfstudio's loop counts steps; the clock is to end it
            config = replace(config, max_num_iterations=10**9)
        if world_size == 1 and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            local_rank, world_size = join_processes(config)
        super().__init__(config, local_rank, world_size)

    def setup(self, test_mode: Literal["test", "val", "inference"] = "val") -> None:
        torch.set_flush_denormal(True)  # on a CPU, tails of exponentials and moments cost a third more
        super().setup(test_mode)
        self._resumed_seconds = self.pipeline.progress * self.config.max_minutes * 60
        self._clock = Stopwatch()
        self._last_step = self._start_step

    def train(self) -> None:
        if self.config.max_num_iterations == 0:  # only the start is wanted
            show_last_step(0)
            return self._after_train()
        return super().train()

    def setup_optimizers(self) -> FiniteOptimizers:
        return FiniteOptimizers(self.config.optimizers.copy(), self.pipeline.get_param_groups())

    def progress(self, step: int) -> float:
        """Fraction of the budget that is used when `step` begins."""
        if self.config.max_minutes > 0:
            used = (self._resumed_seconds + self._clock.seconds) / (60 * self.config.max_minutes)
        else:
            assert self.config.max_num_iterations is not None  # resolved
            used = step / self.config.max_num_iterations
        return min(1.0, used)

    def _of_first_process(self, progress: float) -> float:
        """The same for all processes, whose clocks differ: else they would drift apart, and end unequally."""
        if self.world_size == 1 or self.config.max_minutes == 0:
            return progress
        shared = torch.tensor(progress, dtype=torch.float64, device=self.device)
        dist.broadcast(shared, 0)
        return shared.item()

    def train_iteration(self, step: int):
        self._clock.start()
        self._last_step = step
        progress = self._of_first_process(self.progress(step))
        for scheduler in self.optimizers.schedulers.values():
            if isinstance(scheduler, ProgressScheduler):
                scheduler.progress = progress
        self.pipeline.set_progress(step, progress)
        result = super().train_iteration(step)
        progress = self._of_first_process(self.progress(step + 1))
        if self.config.max_minutes > 0:
            show_last_step(math.ceil((step + 1) / max(progress, 1e-6)))
        if progress >= 1:
            self.stop_training = True
        return result

    def _after_train(self) -> None:
        """Save a checkpoint named by the last step that ran: nerfstudio counts one more where it stops early.

        Raises:
            TrainingFailed: nothing came of it; the checkpoint is there to be looked at.
        """
        self.step = self._last_step
        failure = self.pipeline.failure()
        if failure is not None:
            CONSOLE.print(Panel(failure, title="[bold red]Training failed", expand=False))
        super()._after_train()
        if failure is not None:
            raise TrainingFailed(failure)

    def eval_iteration(self, step: int) -> None:
        self._clock.stop()
        super().eval_iteration(step)

    def _load_checkpoint(self) -> None:
        load_dir = self.config.load_dir
        if load_dir is not None and not any(Path(load_dir).glob("step-*.ckpt")):
            raise FileNotFoundError(
                f"There is no checkpoint (step-*.ckpt) in {load_dir}; --load-dir takes the folder "
                "nerfstudio_models of a run."
            )
        super()._load_checkpoint()
        path, step = self.config.load_checkpoint, self.config.load_step
        if load_dir is not None:
            path = max(Path(load_dir).glob("step-*.ckpt")) if step is None else _checkpoint(load_dir, step)
        if path is not None:
            stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            _restore_random_state(stored["random"])

    def save_checkpoint(self, step: int) -> None:
        """Write the checkpoint beside its place and move it there whole; on failure the last one stays."""
        self._clock.stop()
        if not comms.is_main_process():
            return
        target = _checkpoint(self.checkpoint_dir, step)
        partial = Path(self.base_dir) / "checkpoint.partial"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            torch.save(self._state(step), partial)
            os.replace(partial, target)
        except (OSError, RuntimeError) as error:
            partial.unlink(missing_ok=True)
            CONSOLE.print(
                f"[bold red]Step {step} was not saved ({error}). The last checkpoint is untouched and "
                f"training goes on; free some space under {self.base_dir}."
            )
            return
        if self.config.save_only_latest_checkpoint:
            for other in target.parent.glob("step-*.ckpt"):
                if other != target:
                    other.unlink()

    def _state(self, step: int) -> dict[str, Any]:
        """What nerfstudio's tools expect in a checkpoint; plain types only, for torch's safe loader."""
        return {
            "step": step,
            "pipeline": self.pipeline.state_dict(),
            "optimizers": {k: v.state_dict() for k, v in self.optimizers.optimizers.items()},
            "schedulers": {k: v.state_dict() for k, v in self.optimizers.schedulers.items()},
            "scalers": self.grad_scaler.state_dict(),
            "random": _random_state(),
        }


def _checkpoint(folder: Path, step: int) -> Path:
    return Path(folder) / f"step-{step:09d}.ckpt"


def _random_state() -> dict[str, Any]:
    """State of torch's generators, so that a resumed training draws what the interrupted one would have."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}


def _restore_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


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
