"""Flows of ODEs: divergence, closed orbits and their Floquet multipliers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor

Field = Callable[[Tensor], Tensor]
"""F: z → dz/dt, for one state [d] or several [n, d]."""

CLOSED = 1e-4
"""Distance between a cycle's ends, relative to its size, at which it is closed."""


@dataclass(frozen=True)
class Cycle:
    """A closed orbit of ż = F(z).

    Attributes:
        start: a state on it.
        period: in units of time.
        multipliers: eigenvalues of the derivative of the flow over a period, by falling modulus. One is 1, of
            shifts along the cycle; it attracts where all others have a modulus below 1.
    """

    start: Float[Tensor, " d"]
    period: float
    multipliers: Complex[Tensor, " d"]

    @property
    def transverse(self) -> float:
        """Largest modulus of the multipliers other than the one nearest to 1."""
        trivial = (self.multipliers - 1).abs().argmin()
        others = torch.cat([self.multipliers[:trivial], self.multipliers[trivial + 1 :]])
        return float(others.abs().max()) if len(others) else 0.0


def divergence(field: Field, states: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """tr ∂F/∂z at states."""
    return torch.func.vmap(torch.func.jacfwd(field))(states).diagonal(dim1=1, dim2=2).sum(1)


def flow(field: Field, start: Float[Tensor, " d"], time: float | Tensor, steps: int) -> Float[Tensor, "s d"]:
    """States at 0, 1, …, `steps` Runge–Kutta steps (classical, fourth order) over a span of time."""
    states, h = [start], time / steps
    for _ in range(steps):
        z = states[-1]
        k1 = field(z)
        k2 = field(z + h / 2 * k1)
        k3 = field(z + h / 2 * k2)
        k4 = field(z + h * k3)
        states.append(z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4))
    return torch.stack(states)


def monodromy(field: Field, start: Float[Tensor, " d"], period: float, steps: int) -> Float[Tensor, "d d"]:
    """Derivative of the flow over a period with respect to the start."""
    return torch.func.jacfwd(lambda z: flow(field, z, period, steps)[-1])(start)


def cycle_at(field: Field, start: Float[Tensor, " d"], period: float, steps: int) -> Cycle:
    """The closed orbit through a state, of known period."""
    multipliers = torch.linalg.eigvals(monodromy(field, start, period, steps))
    return Cycle(start, period, multipliers[multipliers.abs().argsort(descending=True)])


def find_cycle(
    field: Field, start: Float[Tensor, " d"], longest: float, steps_per_unit: int, iterations: int = 20
) -> Cycle | None:
    """The closed orbit near the trajectory of a state: its first near return, corrected by Newton's method.

    Shooting: solves φ_T(z) = z, with F(z₀)·(z − z₀) = 0, for z and T (Seydel, Practical Bifurcation and
    Stability Analysis, 7.1).

    Args:
        field: F.
        start: state on or near the cycle.
        longest: time after which a return comes too late.
        steps_per_unit: Runge–Kutta steps for a unit of time.
        iterations: of Newton's method, at most.

    Returns:
        The cycle; None where nothing returns, or the iteration does not converge.
    """
    path = flow(field, start, longest, round(longest * steps_per_unit))
    size = (path - path.mean(0)).norm(dim=1).max()
    lag = _first_return(path, size)
    if lag is None or size == 0:
        return None
    z, period = start, lag / steps_per_unit
    for _ in range(iterations):
        steps = max(8, round(period * steps_per_unit))
        end = flow(field, z, period, steps)[-1]
        if (end - z).norm() <= CLOSED * size:
            return cycle_at(field, z, period, steps)
        slope = field(z)
        rows = torch.cat(
            [monodromy(field, z, period, steps) - torch.eye(len(z)).to(z), field(end)[:, None]], 1
        )
        system = torch.cat([rows, torch.cat([slope, slope.new_zeros(1)])[None]])
        step = torch.linalg.lstsq(system, torch.cat([z - end, z.new_zeros(1)])[:, None]).solution[:, 0]
        z, period = z + step[:-1], period + float(step[-1])
        if not (0 < period <= 2 * longest) or not z.isfinite().all() or (z - start).norm() > 2 * size:
            return None
    return None


def _first_return(path: Float[Tensor, "s d"], size: Tensor, near: float = 0.2) -> int | None:
    """Number of steps to the first local minimum of the distance from the start that is a near return."""
    distance = (path - path[0]).norm(dim=1)
    inner = (
        (distance[1:-1] <= distance[:-2]) & (distance[1:-1] < distance[2:]) & (distance[1:-1] < near * size)
    )
    found = inner.nonzero().flatten()
    return int(found[0]) + 1 if len(found) else None
