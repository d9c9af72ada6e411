"""Rigid motions SE(3). A pose is a pair (unit quaternion wxyz, translation): x ↦ R(q) x + t.

Our own because no PyTorch library serves: roma has no SE(3) exp and log, and pypose, theseus and lietorch
bring tensor classes or CUDA extensions of their own.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from nest_nerfstudio.compiled import as_array, fits_kernels
from nest_nerfstudio.geometry.quaternion import (
    polynomial,
    quat_conjugate,
    quat_log,
    quat_multiply,
    quat_rotate,
    rotmat_to_quat,
    stumpff,
)

Pose: TypeAlias = tuple[Float[Tensor, "*#b 4"], Float[Tensor, "*#b 3"]]

# |B_2k| / (2k)! for k = 1, 2, …: the series of (1 - (θ/2) cot(θ/2)) / θ² in θ².
_INVERSE_SERIES = [1 / 12, 1 / 720, 1 / 30240, 1 / 1209600, 1 / 47900160, 691 / 1307674368000]


def se3_exp(xi: Float[Tensor, "... 6"]) -> tuple[Float[Tensor, "... 4"], Float[Tensor, "... 3"]]:
    """Exponential map, the pose of a twist: (exp φ, V ρ), V = I + c2 [φ]ₓ + c3 [φ]ₓ²; smooth at 0.

    c2 and c3 are the Stumpff functions of ‖φ‖² (J. Solà et al., arXiv 1812.01537, Eq. 172-174). They follow
    from those of the half angle, which the quaternion needs: c2(4x) = c1(x)² / 2 and
    c3(4x) = (c2(x) + c0(x) c3(x)) / 4.

    Args:
        xi: twists (ρ, φ): translational part in world units, then rotation vector in radians.

    Returns:
        quats: unit, wxyz.
        translations: world units.
    """
    rho, phi = xi.split(3, dim=-1)
    half = phi / 2
    c0, c1, c2, c3 = stumpff((half * half).sum(-1, keepdim=True))
    once = torch.linalg.cross(phi, rho)
    twice = torch.linalg.cross(phi, once)
    translations = rho + c1.square() / 2 * once + (c2 + c0 * c3) / 4 * twice
    return torch.cat([c0, c1 * half], dim=-1), translations


def se3_log(pose: Pose) -> Float[Tensor, "... 6"]:
    """Logarithm, the twist (ρ, φ) of a pose with ‖φ‖ ≤ π: the inverse of `se3_exp`; smooth at the identity.

    ρ = V⁻¹ t, V⁻¹ = I - ½ [φ]ₓ + (1 - (θ/2) cot(θ/2)) / θ² [φ]ₓ².

    Args:
        pose: unit quaternions wxyz, and translations.

    Returns:
        Twists: translational part in world units, then rotation vector in radians.
    """
    quats, translations = pose
    phi = quat_log(quats)
    once = torch.linalg.cross(phi, translations)
    twice = torch.linalg.cross(phi, once)
    gain = _inverse_gain((phi * phi).sum(-1, keepdim=True))
    return torch.cat([translations - once / 2 + gain * twice, phi], dim=-1)


def _inverse_gain(theta_sq: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """(1 - (θ/2) cot(θ/2)) / θ² with finite derivatives at 0."""
    near = theta_sq < 0.25
    far_sq = torch.where(near, torch.ones_like(theta_sq), theta_sq)
    half = far_sq.sqrt() / 2
    closed = (1 - half * torch.cos(half) / torch.sin(half)) / far_sq
    small = torch.where(near, theta_sq, torch.zeros_like(theta_sq))
    return torch.where(near, polynomial(small, _INVERSE_SERIES), closed)


def se3_compose(a: Pose, b: Pose) -> Pose:
    """Compose two poses, a·b: applies b first, then a. Batch shapes broadcast."""
    return quat_multiply(a[0], b[0]), se3_apply(a, b[1])


def se3_plus(pose: Pose, xi: Float[Tensor, "k 6"]) -> Pose:
    """Move each pose by a twist in its own frame, T · exp ξ (right ⊕, arXiv 1812.01537, Eq. 25).

    Equal to `se3_compose(pose, se3_exp(xi))`; on the CPU it is one compiled kernel.

    Args:
        pose: K poses: unit quaternions wxyz [K, 4] and translations [K, 3].
        xi: twists (ρ, φ), body frame: world units, then radians.

    Returns:
        The K moved poses.

    Raises:
        ValueError: the numbers of poses and twists differ.
    """
    if not len(pose[0]) == len(pose[1]) == len(xi):
        raise ValueError(f"got {len(xi)} twists for {len(pose[0])} poses; their numbers must be equal")
    if fits_kernels(xi):
        return _Plus.apply(*pose, xi)
    return se3_compose(pose, se3_exp(xi))


class _Plus(torch.autograd.Function):
    """Quaternions, translations and twists to moved quaternions and translations."""

    @staticmethod
    def forward(ctx: Any, quats: Tensor, translations: Tensor, xi: Tensor) -> Pose:
        from nest_nerfstudio.geometry.se3_kernels import plus_forward

        moved = xi.new_empty(len(xi), 4), xi.new_empty(len(xi), 3)
        plus_forward(*map(as_array, (quats, translations, xi, *moved)))
        ctx.save_for_backward(quats, xi)
        return moved

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_quats: Tensor, v_translations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        from nest_nerfstudio.geometry.se3_kernels import plus_backward

        outputs = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in ctx.saved_tensors]
        plus_backward(*map(as_array, (*ctx.saved_tensors, v_quats, v_translations, *outputs)))
        return outputs[0], v_translations, outputs[1]


def se3_interpolate(a: Pose, b: Pose, weight: Float[Tensor, "*#b"] | float) -> Pose:
    """Interpolate along the geodesic from a to b, a · exp(w log(a⁻¹ b)): a screw motion at constant speed.

    Batch shapes broadcast. The gradient is finite where both poses are equal.

    Args:
        a: pose at weight 0.
        b: pose at weight 1.
        weight: w; values outside [0, 1] extrapolate.

    Returns:
        The interpolated poses. The rotation takes the shorter way, whichever signs the quaternions have.
    """
    twist = se3_log(se3_compose(se3_inverse(a), b))
    if isinstance(weight, Tensor):
        weight = weight[..., None]
    return se3_compose(a, se3_exp(weight * twist))


def se3_inverse(pose: Pose) -> Pose:
    """Invert poses: (q, t)⁻¹ = (q*, -R(q)ᵀ t)."""
    inverse = quat_conjugate(pose[0])
    return inverse, -quat_rotate(inverse, pose[1])


def se3_in_frames(twist: Float[Tensor, " 6"], pose: Pose) -> Float[Tensor, "k 6"]:
    """A twist of the world in the frames of poses: T exp(its row) = exp(twist) T (the adjoint of T⁻¹).

    Args:
        twist: (ρ, φ), world frame: world units, then radians.
        pose: K poses T.
    """
    rho, phi = twist.expand(len(pose[1]), -1).split(3, 1)
    back = quat_conjugate(pose[0])
    along = rho + torch.linalg.cross(phi, pose[1])
    return torch.cat([quat_rotate(back, along), quat_rotate(back, phi)], 1)


def se3_align(a: Float[Tensor, "n 3"], b: Float[Tensor, "n 3"]) -> Pose:
    """The rigid motion g that brings points nearest to others: min over g of Σ ‖g a_i − b_i‖² (Kabsch 1976).

    Args:
        a: points.
        b: where they are to come, one for each.

    Returns:
        g: a unit quaternion wxyz [4] and a translation [3].
    """
    middle, target = a.mean(0), b.mean(0)
    left, _, right = torch.linalg.svd((b - target).mT @ (a - middle))
    handed = torch.ones_like(middle)
    handed[2] = torch.linalg.det(left @ right).sign()
    rotation = left * handed @ right
    return rotmat_to_quat(rotation), target - rotation @ middle


def se3_apply(pose: Pose, points: Float[Tensor, "*#b 3"]) -> Float[Tensor, "*#b 3"]:
    """Transform points by poses, R(q) x + t; batch shapes broadcast."""
    return quat_rotate(pose[0], points) + pose[1]
