"""Several losses as one, with weights that are learned."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class UncertaintyWeights(nn.Module):
    """Σ_i exp(−s_i) L_i + s_i with a learned s_i for each task: homoscedastic uncertainty.

    Source: A. Kendall, Y. Gal, R. Cipolla, Multi-Task Learning Using Uncertainty to Weigh Losses, 2018, for
    losses that are absolute errors. A task's optimal weight is one over its loss.

    Args:
        tasks: names of the losses.
        learned: without it the losses are added as they are.
    """

    def __init__(self, tasks: Iterable[str], learned: bool = True) -> None:
        super().__init__()
        self.log_scales = nn.ParameterDict(
            {task: nn.Parameter(torch.zeros(()), requires_grad=learned) for task in tasks}
        )

    def forward(self, losses: dict[str, Tensor], shares: dict[str, float] | None = None) -> dict[str, Tensor]:
        """The weighted losses, whose sum is to be minimised.

        Args:
            losses: of the tasks at hand; means over all samples, where those without a task count as 0.
            shares: of the samples that have each task; None: all do. s_i is counted as often as its task
                occurs, so that the result is linear in the samples.
        """
        return {
            name: torch.exp(-self.log_scales[name]) * loss
            + (1.0 if shares is None else shares[name]) * self.log_scales[name]
            for name, loss in losses.items()
        }
