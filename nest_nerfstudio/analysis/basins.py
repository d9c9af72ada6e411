"""Which training examples of an autoencoder are attractors, and where iteration from other states ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nest_nerfstudio.analysis.maps import DIVERGED, NOT_SETTLED, Limits, Map, distinct, limits, spectral_radii

NEAR = 0.05
"""Distance from an example, as a share of the least distance between two, at which a state has reached it."""
SETTLED = 1e-5
"""Distance of a state from where it returns to, as the same share, at which iteration ends."""
PERTURBED = 0.1
"""Length of perturbations, as the same share."""


MARGIN = 1e-3
"""By which a spectral radius has to be below 1. As reconstructions are not exact, an eigenvalue of 1,
which ReLU networks without bias have at each fixed point, is found to within the square root of the error."""


@dataclass(frozen=True)
class BasinConfig:
    """Iteration of the trained map."""

    starts: int = 300
    """Random starts, from where the data lie."""
    perturbations: int = 8
    """Perturbed copies of each example, a tenth of the least distance between two examples away."""
    max_iterations: int = 2000
    """Iterations after which a state that has not settled on a fixed point or a cycle is given up."""


@dataclass(frozen=True)
class Basins:
    """What attracts under a map.

    Attributes:
        radii: spectral radius of the Jacobian at each example's reconstruction.
        returns: whether iteration from the example stays at it.
        returns_perturbed: share of its perturbed copies from which iteration comes back.
        shares: share of the random starts that end at the example.
        limits: of the random starts.
        reached: example at which a start ends, −1 where there is none.
        spurious: period, and share of the starts, of each limit that is no example.
    """

    radii: Float[Tensor, " n"]
    returns: Bool[Tensor, " n"]
    returns_perturbed: Float[Tensor, " n"]
    shares: Float[Tensor, " n"]
    limits: Limits
    reached: Int[Tensor, " s"]
    spurious: list[tuple[int, float]]

    @property
    def is_attractor(self) -> Bool[Tensor, " n"]:
        """Examples of spectral radius below 1 to which iteration comes back, also from perturbed copies."""
        return (self.radii < 1 - MARGIN) & self.returns & (self.returns_perturbed == 1)

    def share_of(self, period: int) -> float:
        """Share of the starts whose limit has this period; 0 for not settled, −1 for diverged."""
        return float((self.limits.periods == period).double().mean())

    def figures(self) -> dict[str, float | int]:
        """All that is counted."""
        return {
            "attractors": float(self.is_attractor.double().mean()),
            "largest spectral radius": float(self.radii.max()),
            "starts that end at an example": float(self.shares.sum()),
            "examples reached": int((self.shares > 0).sum()),
            "spurious fixed points": sum(period == 1 for period, _ in self.spurious),
            "starts that end there": sum(share for period, share in self.spurious if period == 1),
            "spurious cycles": sum(period > 1 for period, _ in self.spurious),
            "starts that end in them": sum(share for period, share in self.spurious if period > 1),
            "starts that do not settle": self.share_of(NOT_SETTLED),
            "starts that diverge": self.share_of(DIVERGED),
        }


def scale_of(examples: Float[Tensor, "n d"]) -> float:
    """Least distance between two examples, by which all distances are measured."""
    return float(torch.pdist(examples).min())


def nearest_example(states: Float[Tensor, "s d"], examples: Float[Tensor, "n d"]) -> Int[Tensor, " s"]:
    """Index of the example at which a state is; −1 where there is none within a share `NEAR`."""
    distance, index = torch.cdist(states, examples).nan_to_num(torch.inf).min(1)
    return torch.where(distance <= NEAR * scale_of(examples), index, -1)


@torch.no_grad()
def find_basins(
    function: Map,
    examples: Float[Tensor, "n d"],
    draw: Callable[[int], Float[Tensor, "s d"]],
    config: BasinConfig,
    generator: torch.Generator,
) -> Basins:
    """Iterate a map from its examples, their surroundings and random starts.

    Args:
        function: a map that reproduces its examples.
        examples: x_i.
        draw: random starts, of a number.
        config: how many.
        generator: of the perturbations.
    """
    scale, count = scale_of(examples), len(examples)
    nudges = torch.randn(config.perturbations, *examples.shape, generator=generator)
    nudges = nudges * (PERTURBED * scale / nudges.norm(dim=-1, keepdim=True))
    near = torch.cat([examples[None], examples + nudges]).flatten(0, 1)
    found = limits(function, torch.cat([near, draw(config.starts)]), SETTLED * scale, config.max_iterations)
    at = nearest_example(found.ends, examples)
    at = torch.where(found.periods == 1, at, -1)
    comes_back = at[: len(near)].view(-1, count) == torch.arange(count)
    far = Limits(found.ends[len(near) :], found.periods[len(near) :])
    reached = at[len(near) :]
    elsewhere = reached < 0
    others = distinct(function, Limits(far.ends[elsewhere], far.periods[elsewhere]), NEAR * scale)
    return Basins(
        radii=spectral_radii(function, function(examples)),
        returns=comes_back[0],
        returns_perturbed=comes_back[1:].double().mean(0),
        shares=torch.stack([(reached == i).double().mean() for i in range(count)]),
        limits=far,
        reached=reached,
        spurious=[(period, size / config.starts) for period, size in others],
    )


@dataclass(frozen=True)
class Plane:
    """Where iteration from the states of a plane ends.

    Attributes:
        reached: example that is reached from each state, −1 where there is none; columns are along the
            first axis.
        periods: of the limits, as in `Limits`.
        points: coordinates in the plane of the examples that it goes through.
        extent: least and greatest first coordinate, then second.
    """

    reached: Int[Tensor, "r r"]
    periods: Int[Tensor, "r r"]
    points: Float[Tensor, "m 2"]
    extent: tuple[float, float, float, float]


@torch.no_grad()
def basin_plane(
    function: Map, examples: Float[Tensor, "n d"], resolution: int, config: BasinConfig, margin: float = 0.4
) -> Plane:
    """Iterate from a grid of states in the plane through the first three examples (of two, one through both).

    Args:
        function: a map that reproduces its examples.
        examples: x_i, of d ≥ 2 numbers.
        resolution: states along a side.
        config: of the iteration.
        margin: beside the examples, as a share of the larger of their extents.
    """
    corners = examples[:3]
    centre = corners.mean(0)
    axes = torch.linalg.svd(corners - centre, full_matrices=True)[2][:2]
    points = (corners - centre) @ axes.T
    low, high = points.amin(0), points.amax(0)
    (x, y), half = ((low + high) / 2).tolist(), float((high - low).max()) * (0.5 + margin)
    ticks = torch.linspace(-half, half, resolution)
    grid = torch.stack(torch.meshgrid(ticks + x, ticks + y, indexing="xy"), -1).flatten(0, 1)
    found = limits(function, centre + grid @ axes, SETTLED * scale_of(examples), config.max_iterations)
    reached = torch.where(found.periods == 1, nearest_example(found.ends, examples), -1)
    shape = (resolution, resolution)
    extent = (x - half, x + half, y - half, y + half)
    return Plane(reached.view(shape), found.periods.view(shape), points, extent)
