"""Iterated maps: fixed points, cycles, what attracts, and spectral radii of Jacobians."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Map = Callable[[Tensor], Tensor]
"""f: rows to rows, [n, d] → [n, d]; also of a single vector [d]."""

EXACT_UP_TO = 512
"""Dimension up to which eigenvalues are those of the whole Jacobian."""
NOT_SETTLED = 0
DIVERGED = -1


def jacobians(function: Map, points: Float[Tensor, "n d"]) -> Float[Tensor, "n d d"]:
    """df/dx at each point, rows are outputs."""
    return torch.func.vmap(torch.func.jacfwd(function), chunk_size=8)(points)


def spectral_radii(function: Map, points: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """Largest modulus of an eigenvalue of the Jacobian at each point.

    Exact up to d = 512; beyond by `spectral_radius` with Jacobian-vector products.
    """
    if points.shape[1] <= EXACT_UP_TO:
        return torch.linalg.eigvals(jacobians(function, points)).abs().amax(-1)
    radii = []
    for point in points:

        def jvp(vector: Tensor, point: Tensor = point) -> Tensor:
            return torch.func.jvp(function, (point,), (vector,))[1]

        start = torch.randn(point.shape, generator=torch.Generator().manual_seed(0)).to(point)
        radii.append(spectral_radius(jvp, start))
    return points.new_tensor(radii)


def spectral_radius(
    linear: Map, start: Float[Tensor, " d"], krylov: int = 12, tolerance: float = 1e-4, most: int = 50
) -> float:
    """Largest modulus of an eigenvalue of a linear map that is given by its products with vectors.

    Power iteration, `krylov` products a round, whose directions of a round are solved exactly (Arnoldi). So
    complex pairs and up to `krylov` eigenvalues of equal modulus, between which plain power iteration would
    turn for ever, are found; a round starts at the vector where the one before it ended.

    Args:
        linear: v → J v.
        start: generic vector.
        krylov: products in a round.
        tolerance: relative change between two rounds at which the radius has converged.
        most: rounds.
    """
    radius, vector = float("nan"), start
    for _ in range(most):
        before = radius
        projected, vector = _arnoldi(linear, vector, min(krylov, len(start)))
        if not vector.any():  # a power of J sends everything to zero
            return 0.0
        radius = float(torch.linalg.eigvals(projected).abs().max())
        if radius == 0 or abs(radius - before) <= tolerance * radius:
            break
    return radius


def _arnoldi(linear: Map, start: Tensor, size: int) -> tuple[Float[Tensor, "m m"], Tensor]:
    """J on the span of v, Jv, …, J^{m−1} v in an orthonormal basis, and J^m v, normalised."""
    basis = [start / start.norm()]
    power = basis[0]
    projected = start.new_zeros(size, size)
    for column in range(size):
        image = linear(basis[column])
        power = linear(power)
        power = power / power.norm().clamp_min(torch.finfo(power.dtype).tiny)
        length = image.norm()
        for _ in range(2):  # twice, for orthogonality in floating point
            for row, vector in enumerate(basis):
                part = vector @ image
                projected[row, column] += part
                image = image - part * vector
        rest = image.norm()
        if column + 1 == size:
            break
        if (
            rest <= 10 * torch.finfo(rest.dtype).eps * length
        ):  # the span is invariant: its eigenvalues are J's
            return projected[: column + 1, : column + 1], power
        projected[column + 1, column] = rest
        basis.append(image / rest)
    return projected, power


@dataclass(frozen=True)
class Limits:
    """Where iteration from some starts ends.

    Attributes:
        ends: last states; rows of cycles are somewhere on their cycle.
        periods: 1 at a fixed point, p on a cycle of p states; 0 where iteration has not settled, −1 where it
            diverged.
    """

    ends: Float[Tensor, "n d"]
    periods: Int[Tensor, " n"]


@torch.no_grad()
def limits(
    function: Map,
    starts: Float[Tensor, "n d"],
    tolerance: float,
    max_iterations: int = 2000,
    longest: int = 32,
    bound: float = 1e6,
) -> Limits:
    """Iterate until each state comes back to within `tolerance` of itself after 1, 2, … or `longest` steps.

    Args:
        function: f.
        starts: first states.
        tolerance: distance that counts as a return.
        max_iterations: after which what has not returned is not settled.
        longest: period of the longest cycle that is recognised.
        bound: norm beyond which a state has diverged.
    """
    ends, periods = starts.clone(), torch.zeros(len(starts), dtype=torch.long, device=starts.device)
    left = torch.arange(len(starts), device=starts.device)
    for _ in range(0, max_iterations, longest):
        orbit = [ends[left]]
        for _ in range(longest):
            orbit.append(function(orbit[-1]))
        ends[left] = orbit[-1]
        found = torch.full_like(left, NOT_SETTLED)
        for period in range(longest, 0, -1):  # the shortest is written last
            found[(orbit[-1] - orbit[-1 - period]).norm(dim=-1) <= tolerance] = period
        found[~(orbit[-1].norm(dim=-1) <= bound)] = DIVERGED  # NaN too
        periods[left] = found
        left = left[found == NOT_SETTLED]
        if not len(left):
            break
    return Limits(ends, periods)


@torch.no_grad()
def distinct(function: Map, found: Limits, radius: float) -> list[tuple[int, int]]:
    """Different fixed points and cycles among limits: (period, number of starts that end there) of each.

    Args:
        function: f.
        found: limits; what has not settled is left out.
        radius: distance up to which two states count as the same.
    """
    left: Bool[Tensor, " n"] = found.periods > 0
    sets = []
    while left.any():
        state = found.ends[left][:1]
        period = int(found.periods[left][0])
        is_same = left & False
        for _ in range(period):
            is_same |= left & ((found.ends - state).norm(dim=-1) <= radius)
            state = function(state)
        is_same[left.nonzero()[0]] = True
        sets.append((period, int(is_same.sum())))
        left = left & ~is_same
    return sets


def compose(function: Map, times: int) -> Map:
    """f ∘ … ∘ f."""

    def composed(x: Tensor) -> Tensor:
        for _ in range(times):
            x = function(x)
        return x

    return composed
