"""Optimizers and learning rates that follow the progress of a training, however long it is."""

from __future__ import annotations

from dataclasses import dataclass, field

from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.schedulers import Scheduler, SchedulerConfig
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


@dataclass
class FusedAdamConfig(AdamOptimizerConfig):
    """Adam in one kernel a parameter, on the CPU too."""

    eps: float = 1e-15
    fused: bool = True


@dataclass
class ProgressSchedulerConfig(SchedulerConfig):
    """Exponential decay of a learning rate over the whole training."""

    _target: type = field(default_factory=lambda: ProgressDecay)
    final_ratio: float = 0.01
    """Last learning rate over the first."""


class ProgressDecay(Scheduler):
    """nerfstudio's factory around `ProgressScheduler`."""

    config: ProgressSchedulerConfig

    def get_scheduler(self, optimizer: Optimizer, lr_init: float) -> LRScheduler:
        return ProgressScheduler(optimizer, self.config.final_ratio)


class ProgressScheduler(LRScheduler):
    """lr = lr₀ · ratio^p with the progress p ∈ [0, 1] that the trainer sets.

    Its state holds plain floats, unlike that of nerfstudio's schedulers, whose NumPy scalars torch's safe
    loader refuses (torch ≥ 2.6).
    """

    def __init__(self, optimizer: Optimizer, final_ratio: float) -> None:
        self.final_ratio, self.progress = final_ratio, 0.0
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:  # type: ignore[override]
        return [float(lr * self.final_ratio**self.progress) for lr in self.base_lrs]
