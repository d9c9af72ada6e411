"""One ODE solve for a block of training steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nest_nerfstudio.dynamics.trajectory import Trajectory


class SharedRollout:
    """Gives a block of training steps one roll-out, and the solver the sum of their gradients.

    The steps of a block read a leaf copy of the nodes, on which their gradients accumulate; the last step
    solves again, reads the live nodes and propagates the sum back through the solver.
    """

    def __init__(self) -> None:
        self._uses = 0
        self._leaf: Trajectory | None = None

    def state(self) -> dict[str, Any]:
        """The unfinished block, with the gradients collected so far, for a checkpoint."""
        if self._leaf is None:
            return {}
        leaf = self._leaf
        gradients = [
            x.grad if x.grad is not None else torch.zeros_like(x) for x in (leaf.values, leaf.slopes)
        ]
        nodes = [x.detach() for x in (leaf.values, leaf.slopes)]
        return {"uses": self._uses, "span": [leaf.t0, leaf.t1], "nodes": nodes, "gradients": gradients}

    def load(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on with the block of a `state`."""
        self._uses, self._leaf = state.get("uses", 0), None
        if state:
            values, slopes = (x.to(device).requires_grad_() for x in state["nodes"])
            values.grad, slopes.grad = (x.to(device) for x in state["gradients"])
            t0, t1 = state["span"]
            self._leaf = Trajectory(t0, t1, values, slopes)

    def next(self, solve: Callable[[], Trajectory], block: int) -> tuple[Trajectory, bool]:
        """The path for this step, and whether it is the live one, at the end of a block of so many steps."""
        if self._leaf is None or self._uses >= block:
            self._leaf, self._uses = None, 0
        self._uses += 1
        if self._uses == block:
            live, leaf, self._leaf = solve(), self._leaf, None
            return live if leaf is None else _with_gradient_of(live, leaf), True
        if self._leaf is None:
            with torch.no_grad():
                nodes = solve()
            self._leaf = Trajectory(
                nodes.t0, nodes.t1, nodes.values.requires_grad_(), nodes.slopes.requires_grad_()
            )
        return self._leaf, False


class _AddGradient(torch.autograd.Function):
    """Identity whose backward pass adds a gradient that was accumulated before."""

    @staticmethod
    def forward(ctx, x: Tensor, collected: Tensor) -> Tensor:
        ctx.save_for_backward(collected)
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        (collected,) = ctx.saved_tensors
        return grad + collected, None


def _with_gradient_of(live: Trajectory, leaf: Trajectory) -> Trajectory:
    def add(x: Tensor, collected: Tensor | None) -> Tensor:
        return x if collected is None else _AddGradient.apply(x, collected)

    return replace(live, values=add(live.values, leaf.values.grad), slopes=add(live.slopes, leaf.slopes.grad))
