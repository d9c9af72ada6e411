"""Point sets: nearest neighbours, and evenly spread subsets.

Farthest-point sampling is our own because the packages that have it (pytorch3d, torch-cluster, fpsample) are
compiled extensions, and one loop of a few lines takes milliseconds for the number of tokens used here.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def nearest(
    queries: Float[Tensor, "q 3"], points: Float[Tensor, "n 3"], count: int, chunk: int = 4096
) -> tuple[Float[Tensor, "q c"], Int[Tensor, "q c"]]:
    """Find the `count` nearest points of each query, by brute force over chunks of queries.

    Args:
        queries: positions, world units.
        points: positions to search, world units.
        count: neighbours per query; all points if there are fewer.
        chunk: queries per distance matrix, which bounds the memory to `chunk` × N distances.

    Returns:
        distances: ascending, world units.
        indices: of the points.
    """
    count = min(count, len(points))
    # The matrix product that cdist uses by default loses half the digits of short distances.
    exact = "donot_use_mm_for_euclid_dist"
    found = [
        torch.cdist(part, points, compute_mode=exact).topk(count, largest=False)
        for part in queries.split(chunk)
    ]
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


def nearest_distances(points: Float[Tensor, "n 3"], count: int, chunk: int = 4096) -> Float[Tensor, "n c"]:
    """Distances from each point to its `count` nearest other points.

    Args:
        points: positions, world units.
        count: neighbours per point; all others if there are fewer.
        chunk: points per distance matrix.

    Returns:
        Distances, ascending, world units; one column of ones if there is no other point.
    """
    if min(count, len(points) - 1) < 1:
        return points.new_ones(len(points), 1)
    return nearest(points, points, count + 1, chunk)[0][:, 1:]


def smooth_neighbors(
    queries: Float[Tensor, "q 3"], points: Float[Tensor, "n 3"], count: int
) -> tuple[Int[Tensor, "q c"], Float[Tensor, "q c"]]:
    """Find the nearest points, with weights that are continuous in the positions.

    w_j ∝ (1 − d_j² / d_next²)², with d_next the distance of the nearest point that is not selected, so that a
    neighbour has weight zero when another one replaces it.

    Args:
        queries: positions, world units.
        points: positions to search, world units.
        count: neighbours per query; one less than there are points if there are not more than `count`.

    Returns:
        indices: of the points, nearest first.
        weights: sum to less than one.
    """
    distances, indices = nearest(queries, points, count + 1)
    reach = distances[:, -1:].clamp_min(1e-12)
    weights = (1 - (distances[:, :-1] / reach).square()).square()
    return indices[:, :-1], weights / (weights.sum(1, keepdim=True) + 0.1)


def farthest_points(points: Float[Tensor, "n 3"], count: int) -> Int[Tensor, " k"]:
    """Select an evenly spread subset by farthest-point sampling (Gonzalez 1985).

    Args:
        points: positions, world units.
        count: size of the subset.

    Returns:
        Indices of the selected points in the order of selection; the first is the point nearest the mean.

    Raises:
        ValueError: `count` is larger than the number of points.
    """
    if len(points) < count:
        raise ValueError(f"{count} tokens need at least {count} points, but there are only {len(points)}")
    axes = points.mT.contiguous()  # sums over three rows are several times as fast as over rows of three
    chosen = [(points - points.mean(0)).square().sum(1).argmin(0, keepdim=True)]
    distances = torch.full_like(axes[0], float("inf"))
    for _ in range(1, count):
        last = axes.index_select(1, chosen[-1])  # indexing by a single number on a GPU would wait for it
        distances = torch.minimum(distances, (axes - last).square().sum(0))
        chosen.append(distances.argmax(0, keepdim=True))
    return torch.cat(chosen)
