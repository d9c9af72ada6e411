"""Muon: momentum whose matrices are made orthogonal before they step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.engine.optimizers import OptimizerConfig
from torch import Tensor
from torch.nn import Parameter


@dataclass
class MuonConfig(OptimizerConfig):
    """Settings of `Muon`."""

    _target: type = field(default_factory=lambda: Muon)  # type: ignore[assignment]
    momentum: float = 0.95
    """Share of the sum of earlier gradients that is kept in a step."""


class Muon(torch.optim.Optimizer):
    """Steps all directions of a matrix of weights alike, where Adam follows the few that dominate gradients.

    K. Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024, with steps of Adam's size
    (J. Liu et al., Muon is Scalable for LLM Training, arXiv 2502.16982), so that one learning rate serves
    both. Kernels of convolutions count as matrices of outputs by all else. What is no matrix, or one of fewer
    than eight rows or columns, is left to Adam; so are the weights of e3nn, which are stored as vectors.
    `torch.optim.Muon` (from 2.9 on) takes matrices only.

    Args:
        params: as for any optimizer of torch.
        lr: learning rate of all of them.
        eps: of Adam.
        momentum: of the matrices.
        betas: of Adam.
    """

    def __init__(
        self,
        params: Iterable[Parameter],
        lr: float,
        eps: float = 1e-8,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        super().__init__(params, {"lr": lr, "eps": eps, "momentum": momentum, "betas": betas})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from another's state.

        Raises:
            ValueError: it is that of another kind of optimizer.
        """
        kept = {name for state in state_dict["state"].values() for name in state}
        if strange := kept - {"momentum", "step", "mean", "square"}:
            raise ValueError(
                f"the checkpoint holds {', '.join(sorted(strange))} of another optimizer than Muon; go on "
                "with the one that the run's config.yml names, or train anew"
            )
        super().load_state_dict(state_dict)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    direction = self._of_matrix if _is_matrix(parameter) else self._of_adam
                    step = direction(parameter.grad, self.state[parameter], group)
                    parameter.sub_(step, alpha=group["lr"])
        return loss

    @staticmethod
    def _of_matrix(grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        if not state:
            state["momentum"] = torch.zeros_like(grad)
        state["momentum"].mul_(group["momentum"]).add_(grad)
        ahead = grad.add(state["momentum"], alpha=group["momentum"]).flatten(1)  # Nesterov
        return (0.2 * max(ahead.shape) ** 0.5 * orthogonalize(ahead)).view_as(grad)

    @staticmethod
    def _of_adam(grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        if not state:
            state.update(step=0, mean=torch.zeros_like(grad), square=torch.zeros_like(grad))
        slow, slower = group["betas"]
        state["step"] += 1
        mean = state["mean"].lerp_(grad, 1 - slow) / (1 - slow ** state["step"])
        square = state["square"].lerp_(grad.square(), 1 - slower) / (1 - slower ** state["step"])
        return mean / (square.sqrt() + group["eps"])


def _is_matrix(parameter: Tensor) -> bool:
    return parameter.ndim >= 2 and min(len(parameter), parameter[0].numel()) >= 8


def orthogonalize(matrix: Float[Tensor, "n m"], steps: int = 5) -> Float[Tensor, "n m"]:
    """About U Vᵀ of a matrix U S Vᵀ, by Newton–Schulz iteration: singular values end between 0.7 and 1.2.

    Those below a thousandth of the Frobenius norm get less. The coefficients are those of K. Jordan, 2024.
    """
    if len(matrix) > matrix.shape[1]:
        return orthogonalize(matrix.mT, steps).mT
    x = matrix / matrix.norm().clamp_min(1e-12)
    for _ in range(steps):
        products = x @ x.mT
        x = 3.4445 * x + (-4.775 * products + 2.0315 * products @ products) @ x
    return x
