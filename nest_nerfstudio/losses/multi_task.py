"""Several losses: gathered by name, and weighted as is learned."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn


class UncertaintyWeights(nn.Module):
    """Weights losses by their homoscedastic uncertainty: Σ_i exp(−s_i) L_i + s_i with a learned s_i per task.
    Losses of no task are added as they are.

    Source: A. Kendall, Y. Gal, R. Cipolla, Multi-Task Learning Using Uncertainty to Weigh Losses, 2018, for
    losses that are absolute errors. The optimal weight of a task is one over its loss.

    Args:
        tasks: names of the losses.
        learned: learn the weights; if False all weights are one.
    """

    def __init__(self, tasks: Iterable[str], learned: bool = True) -> None:
        super().__init__()
        self.log_scales = nn.ParameterDict(
            {task: nn.Parameter(torch.zeros(()), requires_grad=learned) for task in tasks}
        )

    def forward(self, losses: dict[str, Tensor], shares: dict[str, float] | None = None) -> dict[str, Tensor]:
        """Weight the losses.

        Args:
            losses: loss of each task in this batch, the mean over all samples; a sample without the task
                counts as 0.
            shares: fraction of the samples that have each task; None means all of them. It weights s_i, so
                that the result is linear in the samples and can be averaged over processes.

        Returns:
            The weighted losses; their sum is to be minimised.
        """
        return {
            name: torch.exp(-self.log_scales[name]) * loss
            + (1.0 if shares is None else shares[name]) * self.log_scales[name]
            if name in self.log_scales
            else loss
            for name, loss in losses.items()
        }


def by_name(losses: Iterable[dict[str, Tensor]]) -> dict[str, Float[Tensor, " _n"]]:
    """Losses of the same name together; not all need be in each."""
    found: dict[str, list[Tensor]] = defaultdict(list)
    for each in losses:
        for name, loss in each.items():
            found[name].append(loss)
    return {name: torch.stack(values) for name, values in found.items()}
