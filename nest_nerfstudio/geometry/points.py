"""Sets of points: how far they are apart, and evenly spread subsets."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def nearest(
    queries: Float[Tensor, "q 3"], points: Float[Tensor, "n 3"], count: int, chunk: int = 4096
) -> tuple[Float[Tensor, "q c"], Int[Tensor, "q c"]]:
    """Distances to the `count` nearest points (fewer where there are fewer), ascending, and their indices."""
    count = min(count, len(points))
    # without the matrix product that cdist else takes, which loses half the digits of short distances
    exact = "donot_use_mm_for_euclid_dist"
    found = [
        torch.cdist(part, points, compute_mode=exact).topk(count, largest=False)
        for part in queries.split(chunk)
    ]
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


def nearest_distances(points: Float[Tensor, "n 3"], count: int, chunk: int = 4096) -> Float[Tensor, "n c"]:
    """Distances from each point to its `count` nearest others (fewer where there are fewer), world units."""
    if min(count, len(points) - 1) < 1:
        return points.new_ones(len(points), 1)
    return nearest(points, points, count + 1, chunk)[0][:, 1:]


def smooth_neighbors(
    queries: Float[Tensor, "q 3"], points: Float[Tensor, "n 3"], count: int
) -> tuple[Int[Tensor, "q c"], Float[Tensor, "q c"]]:
    """The nearest points, and weights of them that do not jump where neighbours change places.

    w_j ∝ (1 − d_j² / d_next²)², with d_next the distance of the first that is not among them.

    Returns:
        Indices of at most `count` points, and weights that sum to one at most.
    """
    distances, indices = nearest(queries, points, count + 1)
    reach = distances[:, -1:].clamp_min(1e-12)
    weights = (1 - (distances[:, :-1] / reach).square()).square()
    return indices[:, :-1], weights / (weights.sum(1, keepdim=True) + 0.1)


def farthest_points(points: Float[Tensor, "n 3"], count: int) -> Int[Tensor, " k"]:
    """Indices of an evenly spread subset (Gonzalez's farthest-point sampling), starting nearest the mean.

    Raises:
        ValueError: fewer points than asked for.
    """
    if len(points) < count:
        raise ValueError(f"{count} tokens need at least as many points, but there are {len(points)}.")
    axes = points.mT.contiguous()  # sums over three rows are several times as fast as over rows of three
    chosen = torch.empty(count, dtype=torch.long, device=points.device)
    chosen[0] = last = (points - points.mean(0)).square().sum(1).argmin()
    nearest = torch.full_like(axes[0], float("inf"))
    for i in range(1, count):
        nearest = torch.minimum(nearest, (axes - axes[:, last, None]).square().sum(0))
        chosen[i] = last = nearest.argmax()
    return chosen
