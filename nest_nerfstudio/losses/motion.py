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


@dataclass
class MotionWeights:
    """Weights of the losses that regularise the motion of a scene that is fitted alone."""

    rigidity: float = 0.001
    """Weight of the as-rigid-as-possible loss on tokens."""
    smoothness: float = 0.0001
    """Weight of the smoothness of token rotations."""
    straying: float = 1.0
    """Weight of tokens that leave what cameras see: the scene box and all points of the start."""
    roughness: float = 0.001
    """Weight of the roughness of the free path where there are fewer than two training times for each of its
    nodes: images then leave open what happens between them."""
    attraction: float = 0.05
    """Weight of the ODE's attraction to its path, where it is a vector field; in steps that solve it."""


class MotionLosses:
    """Losses of the tokens' poses; keeps their graph.

    Args:
        weights: of the losses.
    """

    def __init__(self, weights: MotionWeights) -> None:
        self._weights = weights
        self._graph: TokenGraph | None = None

    def __call__(
        self, poses: Pose, bind_poses: Pose, bounds: Float[Tensor, "2 3"], **others: Float[Tensor, ""]
    ) -> dict[str, Float[Tensor, ""]]:
        """Weighted "rigidity", "smoothness" and "straying" of tokens that move, and others.

        Args:
            poses: of the tokens now: (quats [K, 4], translations [K, 3]), world frame.
            bind_poses: at rest, likewise.
            bounds: smallest and largest corner of what cameras see, world units.
            others: further losses, by the names of their weights.
        """
        rest = bind_poses[1]
        if self._graph is None or not torch.equal(self._graph.rest, rest):  # tokens were placed anew
            self._graph = TokenGraph.of(rest.clone())
        graph, deltas = self._graph, se3_compose(poses, se3_inverse(bind_poses))
        found = {
            "rigidity": as_rigid_as_possible_loss(deltas, graph.rest, graph.neighbors, graph.spacing),
            "smoothness": smoothness_loss(deltas, graph.neighbors),
            "straying": straying_loss(poses[1], bounds),
            **others,
        }
        return {name: getattr(self._weights, name) * loss for name, loss in found.items()}


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


def straying_loss(positions: Float[Tensor, "k 3"], bounds: Float[Tensor, "2 3"]) -> Float[Tensor, ""]:
    """Mean distance of tokens beyond bounds, along the axis on which it is the largest.

    What has left all images has no gradient from them; this brings it back.

    Args:
        positions: of the tokens now, world units.
        bounds: smallest and largest corner of what cameras see, world units.

    Returns:
        The loss, in half sides of the bounds; zero while all tokens are within.
    """
    middle, half = bounds.mean(0), 0.5 * (bounds[1] - bounds[0])
    return (((positions - middle).abs() / half).amax(1) - 1).clamp_min(0).mean()


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
