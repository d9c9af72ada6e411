"""What makes the motion of tokens plausible."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nest_nerfstudio.geometry.quaternion import quat_rotate
from nest_nerfstudio.geometry.se3 import Pose


def as_rigid_as_possible_loss(
    deltas: Pose, rest: Float[Tensor, "k 3"], neighbors: Int[Tensor, "k j"], spacing: float
) -> Float[Tensor, ""]:
    """Neighbouring tokens keep their offsets, turned with the token.

    mean ‖(x_j − x_k) − R_k (p_j − p_k)‖ / spacing: the as-rigid-as-possible energy (Sorkine and Alexa 2007)
    with the tokens' own rotations, and the norm unsquared, so that a few true joints cost little.

    Args:
        deltas: motion of each token from its rest place: (quats [K, 4], translations [K, 3]), world frame.
        rest: where the tokens were bound, world units.
        neighbors: nearest tokens of each token.
        spacing: typical distance between tokens, world units.
    """
    quats, translations = deltas
    moved = quat_rotate(quats, rest) + translations
    offsets = rest[neighbors] - rest[:, None]
    stretched = moved[neighbors] - moved[:, None] - quat_rotate(quats[:, None], offsets)
    return _norm(stretched).mean() / spacing


def smoothness_loss(deltas: Pose, neighbors: Int[Tensor, "k j"]) -> Float[Tensor, ""]:
    """Neighbouring tokens turn alike: mean distance of their rotations, ‖q_j − q_k‖."""
    quats, _ = deltas
    return _norm(quats[neighbors] - quats[:, None]).mean()


def _norm(x: Float[Tensor, "*b c"]) -> Float[Tensor, "*b"]:
    """Euclidean norm whose gradient is finite at zero."""
    return (x.square().sum(-1) + 1e-12).sqrt()


def nearest_tokens(points: Float[Tensor, "k 3"], count: int) -> Int[Tensor, "k j"]:
    """Indices of the `count` nearest other tokens of each token (fewer where there are fewer)."""
    count = min(count, len(points) - 1)
    return torch.cdist(points, points).topk(count + 1, largest=False).indices[:, 1:]
