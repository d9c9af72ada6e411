"""Losses that regularise the motion of tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nest_nerfstudio.geometry.points import nearest
from nest_nerfstudio.geometry.quaternion import quat_rotate
from nest_nerfstudio.geometry.se3 import Pose, se3_compose, se3_inverse


@dataclass(frozen=True)
class TokenGraph:
    """Which tokens are neighbours at rest.

    Attributes:
        rest: positions of the tokens at rest, world units.
        neighbors: indices of the nearest other tokens of each.
        spacing: mean distance of neighbours, world units.
    """

    rest: Float[Tensor, "k 3"]
    neighbors: Int[Tensor, "k j"]
    spacing: float

    @staticmethod
    def of(rest: Float[Tensor, "k 3"], count: int = 8) -> TokenGraph:
        """The graph of tokens at these positions, of so many neighbours each."""
        neighbors = nearest_tokens(rest, count)
        return TokenGraph(rest, neighbors, (rest[neighbors] - rest[:, None]).norm(dim=-1).mean().item())


def regularity_losses(poses: Pose, bind_poses: Pose, graph: TokenGraph) -> dict[str, Float[Tensor, ""]]:
    """ "rigidity", `as_rigid_as_possible_loss`, and "smoothness", `smoothness_loss`, of tokens that move.

    Args:
        poses: of the tokens now: (quats [K, 4], translations [K, 3]), world frame.
        bind_poses: at rest, likewise.
        graph: of the tokens at rest.
    """
    deltas = se3_compose(poses, se3_inverse(bind_poses))
    return {
        "rigidity": as_rigid_as_possible_loss(deltas, graph.rest, graph.neighbors, graph.spacing),
        "smoothness": smoothness_loss(deltas, graph.neighbors),
    }


def as_rigid_as_possible_loss(
    deltas: Pose, rest: Float[Tensor, "k 3"], neighbors: Int[Tensor, "k j"], spacing: float
) -> Float[Tensor, ""]:
    """As-rigid-as-possible energy: neighbouring tokens keep their offsets, rotated with the token.

    mean_{k, j} ‖(x_j − x_k) − R_k (p_j − p_k)‖ / spacing (Sorkine and Alexa 2007), with R_k the token's own
    rotation and the norm not squared, so that a few true joints cost little.

    Args:
        deltas: motion of each token from its rest position: (quats [K, 4], translations [K, 3]), world frame.
        rest: p, positions of the tokens at rest, world units.
        neighbors: indices of the neighbours of each token, from `nearest_tokens`.
        spacing: typical distance between neighbouring tokens, world units.

    Returns:
        The energy; relative to `spacing`, without unit.
    """
    quats, translations = deltas
    moved = quat_rotate(quats, rest) + translations
    offsets = rest[neighbors] - rest[:, None]
    residuals = moved[neighbors] - moved[:, None] - quat_rotate(quats[:, None], offsets)
    return _norm(residuals).mean() / spacing


def smoothness_loss(deltas: Pose, neighbors: Int[Tensor, "k j"]) -> Float[Tensor, ""]:
    """Mean difference of the rotations of neighbouring tokens, mean_{k, j} ‖q_j − q_k‖.

    Args:
        deltas: motion of each token from its rest position: (quats [K, 4], translations [K, 3]), world frame.
        neighbors: indices of the neighbours of each token, from `nearest_tokens`.
    """
    quats, _ = deltas
    return _norm(quats[neighbors] - quats[:, None]).mean()


def _norm(x: Float[Tensor, "*b c"]) -> Float[Tensor, "*b"]:
    """Euclidean norm with a finite gradient at zero."""
    return (x.square().sum(-1) + 1e-12).sqrt()


def nearest_tokens(points: Float[Tensor, "k 3"], count: int) -> Int[Tensor, "k j"]:
    """Find the `count` nearest other tokens of each token (fewer if there are fewer).

    Args:
        points: positions of the tokens, world units.
        count: neighbours per token.

    Returns:
        Indices, nearest first; never the token itself, even if others stand at the same position.
    """
    count = min(count, len(points) - 1)
    _, found = nearest(points, points, count + 1)
    drop = found == torch.arange(len(points), device=points.device)[:, None]
    drop[~drop.any(1), -1] = True  # so many tokens at one position that the token itself is not listed
    return found[~drop].view(len(points), count)
