"""A path of the latent state with dense output: cubic Hermite between evenly spaced nodes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Trajectory:
    """z(t) for t0 ≤ t ≤ t1, third order between nodes; held at its ends beyond them.

    Evaluating it costs no integration, whether its nodes are free parameters or come from an ODE solver.

    Attributes:
        t0: clip time of the first node.
        t1: clip time of the last node.
        values: state at the nodes.
        slopes: dz/dt at the nodes.
    """

    t0: float
    t1: float
    values: Float[Tensor, "s d"]
    slopes: Float[Tensor, "s d"]

    @property
    def step(self) -> float:
        """Time between two nodes."""
        return (self.t1 - self.t0) / (self.values.shape[0] - 1)

    def __call__(self, times: Float[Tensor, "*b"]) -> Float[Tensor, "*b d"]:
        """The state at any times; Hermite basis functions as in Hairer, Nørsett, Wanner I, II.6."""
        u, a, b, c, d = self._cubic(times)
        return a + u * (b + u * (c + u * d))

    def slope(self, times: Float[Tensor, "*b"]) -> Float[Tensor, "*b d"]:
        """dz/dt at times inside the span."""
        u, _, b, c, d = self._cubic(times)
        return (b + u * (2 * c + 3 * u * d)) / self.step

    def _cubic(self, times: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Position u in its interval, 0…1, and the polynomial a + bu + cu² + du³ there."""
        intervals = len(self.values) - 1
        position = ((times - self.t0) / self.step).clamp(0, intervals)
        left = position.long().clamp(0, intervals - 1)
        m0, m1 = (_rows(self.slopes, left + i) * self.step for i in (0, 1))
        start, end = (_rows(self.values, left + i) for i in (0, 1))
        rise = end - start
        bend = m0 + m1 - 2 * rise
        return (position - left)[..., None], start, m0, rise - m0 - bend, bend

    def reversed(self) -> Trajectory:
        """The same path run backwards: z(−t) for −t1 ≤ t ≤ −t0."""
        return Trajectory(-self.t1, -self.t0, self.values.flip(0), -self.slopes.flip(0))

    def detach(self) -> Trajectory:
        """The same path outside the graph."""
        return Trajectory(self.t0, self.t1, self.values.detach(), self.slopes.detach())


def _rows(x: Float[Tensor, "s d"], index: Int[Tensor, "*b"]) -> Float[Tensor, "*b d"]:
    """Rows of x; indexing by a single number on a GPU would wait for it."""
    return x.index_select(0, index.reshape(-1)).reshape(*index.shape, -1)


def fourier_trajectory(num_nodes: int, dim: int) -> Trajectory:
    """A smooth, generic path over [0, 1] to start from: half, one, one and a half, … turns, in pairs."""
    t = torch.linspace(0, 1, num_nodes)[:, None]
    frequency = torch.pi * (torch.arange(dim) // 2 + 1)
    phase = torch.pi / 2 * (torch.arange(dim) % 2)
    angle = frequency * t + phase
    return Trajectory(0.0, 1.0, angle.sin(), frequency * angle.cos())


def smooth_trajectory(nodes: Float[Tensor, "s d"]) -> Trajectory:
    """The curve over [0, 1] through evenly spaced nodes, with second-order differences as slopes.

    A Catmull-Rom spline with parabolic ends: free slopes would let it wiggle between its nodes.
    """
    step = 1 / (len(nodes) - 1)
    inner = (nodes[2:] - nodes[:-2]) / (2 * step)
    first = (4 * nodes[1] - 3 * nodes[0] - nodes[2]) / (2 * step)
    last = (3 * nodes[-1] - 4 * nodes[-2] + nodes[-3]) / (2 * step)
    return Trajectory(0.0, 1.0, nodes, torch.cat([first[None], inner, last[None]]))
