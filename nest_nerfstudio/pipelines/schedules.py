"""Optimizers and learning rates that follow the progress of a training, however long it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from nerfstudio.engine.optimizers import AdamOptimizerConfig, Optimizers
from nerfstudio.engine.schedulers import Scheduler, SchedulerConfig
from nerfstudio.utils.rich_utils import CONSOLE
from nerfstudio.utils.writer import GLOBAL_BUFFER
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


@dataclass
class FusedAdamConfig(AdamOptimizerConfig):
    """Adam in one kernel a parameter, on the CPU too."""

    eps: float = 1e-15
    fused: bool = True


class FiniteOptimizers(Optimizers):
    """nerfstudio's optimizers, which leave a step out whose gradients are not all finite.

    A single NaN would stay in Adam's moments and so in the parameters for good.
    """

    patience = 20
    """Steps in a row that may be left out."""

    def __init__(self, config: dict[str, Any], param_groups: dict[str, Any]) -> None:
        super().__init__(config, param_groups)
        self._left_out = 0

    def optimizer_scaler_step_some(self, grad_scaler: Any, param_groups: list[str]) -> None:
        """Step these groups together, or none of them.

        Raises:
            FloatingPointError: as many steps as `patience` in a row had to be left out.
        """
        broken = [name for name in param_groups if not _all_finite(self._gradients(name))]
        if not broken or grad_scaler.is_enabled():  # a grad scaler looks after this itself
            self._left_out = 0
            return super().optimizer_scaler_step_some(grad_scaler, param_groups)
        self._left_out += 1
        CONSOLE.log(f"[yellow]Step left out: the gradients of {', '.join(broken)} are not finite.")
        if self._left_out >= self.patience:
            raise FloatingPointError(
                f"{self.patience} steps in a row had gradients that are not finite. The last checkpoint is "
                "untouched: go on from it with --load-dir at lower learning rates, and look for depth images "
                "that are not finite."
            )

    def scheduler_step_all(self, step: int) -> None:
        """Set the learning rates, and write them down as often as losses; nerfstudio does at every step."""
        if step % GLOBAL_BUFFER.get("steps_per_log", 1) == 0:
            return super().scheduler_step_all(step)
        for scheduler in self.schedulers.values():
            scheduler.step()

    def _gradients(self, name: str) -> list[Tensor]:
        # Of the optimizer: gsplat's strategies put new parameters there and not into `self.parameters`.
        groups = self.optimizers[name].param_groups
        return [p.grad for group in groups for p in group["params"] if p.grad is not None]


def _all_finite(tensors: list[Tensor]) -> bool:
    """Whether no value is NaN or infinite: then, and only then, their sum is finite too."""
    return not tensors or bool(torch.stack([tensor.sum() for tensor in tensors]).sum().isfinite())


@dataclass
class ProgressSchedulerConfig(SchedulerConfig):
    """Exponential decay of a learning rate over the whole training."""

    _target: type = field(default_factory=lambda: ProgressDecay)
    final_ratio: float = 0.01
    """Last learning rate over the first."""
    hold_until: float = 0.0
    """Progress from which on it decays."""
    warmup: float = 0.0
    """Progress over which it rises from zero."""


class ProgressDecay(Scheduler):
    """nerfstudio's factory around `ProgressScheduler`."""

    config: ProgressSchedulerConfig

    def get_scheduler(self, optimizer: Optimizer, lr_init: float) -> LRScheduler:
        return ProgressScheduler(
            optimizer, self.config.final_ratio, self.config.hold_until, self.config.warmup
        )


class ProgressScheduler(LRScheduler):
    """lr = lr₀ · ratio^((p − hold) / (1 − hold)) with the progress p that the trainer sets; lr₀ before hold.

    Before that it may rise from nearly zero, in proportion to p.

    Its state holds plain floats, unlike that of nerfstudio's schedulers, whose NumPy scalars torch's safe
    loader refuses (torch ≥ 2.6).
    """

    def __init__(
        self, optimizer: Optimizer, final_ratio: float, hold_until: float = 0.0, warmup: float = 0.0
    ) -> None:
        self.final_ratio, self.hold_until, self.warmup = final_ratio, hold_until, warmup
        self.progress = 0.0
        super().__init__(optimizer)

    def step(self, epoch: int | None = None) -> None:  # type: ignore[override]
        """Set the rates; for groups too that no gradient has reached yet, of which the parent would warn."""
        rates = self.get_lr()
        self._last_lr = [*rates]
        for group, lr in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = lr

    def get_lr(self) -> list[float]:  # type: ignore[override]
        decayed = max(0.0, self.progress - self.hold_until) / (1 - self.hold_until)
        risen = 1.0 if self.progress >= self.warmup else 0.01 + 0.99 * self.progress / self.warmup
        return [float(lr * risen * self.final_ratio**decayed) for lr in self.base_lrs]
