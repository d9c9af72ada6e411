"""Unit quaternions in the order wxyz (scipy's and roma's order is xyzw). q and -q are the same rotation."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

_SERIES_BELOW = 0.25  # θ² in rad²; above it the closed forms are accurate
_C2_SERIES, _C3_SERIES = ([(-1) ** i / math.factorial(k + 2 * i) for i in range(7)] for k in (2, 3))


def stumpff(theta_sq: Float[Tensor, "*b"]) -> tuple[Float[Tensor, "*b"], ...]:
    """Stumpff functions c_k(θ²) = Σ_i (-θ²)^i / (k + 2i)! for k = 0 to 3, smooth at 0.

    c0 = cos θ, c1 = sin θ / θ, c2 = (1 - cos θ) / θ², c3 = (θ - sin θ) / θ³: the coefficients of
    all exponential maps of this package.

    Args:
        theta_sq: squared angle θ², rad².

    Returns:
        c0, c1, c2 and c3, with finite derivatives everywhere.
    """
    near = theta_sq < _SERIES_BELOW
    # The branch that is not taken must be finite too, or its NaN gradient leaks through `where`.
    small = torch.where(near, theta_sq, torch.zeros_like(theta_sq))
    theta = torch.where(near, torch.ones_like(theta_sq), theta_sq).sqrt()
    c2 = torch.where(near, polynomial(small, _C2_SERIES), 2 * (torch.sin(theta / 2) / theta) ** 2)
    c3 = torch.where(near, polynomial(small, _C3_SERIES), (theta - torch.sin(theta)) / theta**3)
    return 1 - theta_sq * c2, 1 - theta_sq * c3, c2, c3


def polynomial(x: Float[Tensor, "..."], coefficients: list[float]) -> Float[Tensor, "..."]:
    """Σ_i coefficients[i] x^i by Horner's rule."""
    total = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + coefficient
    return total


def quat_normalize(quats: Float[Tensor, "... 4"]) -> Float[Tensor, "... 4"]:
    """Normalise quaternions: q / ‖q‖; a zero quaternion stays zero."""
    return F.normalize(quats, dim=-1)


def quat_conjugate(quats: Float[Tensor, "... 4"]) -> Float[Tensor, "... 4"]:
    """Conjugate (w, -x, -y, -z): the inverse rotation of a unit quaternion."""
    return torch.cat([quats[..., :1], -quats[..., 1:]], dim=-1)


def quat_multiply(p: Float[Tensor, "*#b 4"], q: Float[Tensor, "*#b 4"]) -> Float[Tensor, "*#b 4"]:
    """Hamilton product p q, the rotation that applies q first, then p: (pw qw − u·v, pw v + qw u + u × v)."""
    p, q = torch.broadcast_tensors(p, q)
    pw, u, qw, v = p[..., :1], p[..., 1:], q[..., :1], q[..., 1:]
    w = pw * qw - (u * v).sum(-1, keepdim=True)
    return torch.cat([w, pw * v + qw * u + torch.linalg.cross(u, v)], dim=-1)


def quat_rotate(quats: Float[Tensor, "*#b 4"], vectors: Float[Tensor, "*#b 3"]) -> Float[Tensor, "*#b 3"]:
    """Rotate vectors by unit quaternions: v + w t + u × t with t = 2 u × v, q = (w, u); batches broadcast."""
    vectors, axes = torch.broadcast_tensors(vectors, quats[..., 1:])
    twist = 2 * torch.linalg.cross(axes, vectors)
    return vectors + quats[..., :1] * twist + torch.linalg.cross(axes, twist)


def quat_to_rotmat(quats: Float[Tensor, "... 4"]) -> Float[Tensor, "... 3 3"]:
    """Rotation matrices of unit quaternions, acting on column vectors."""
    w, x, y, z = quats.unbind(-1)
    entries = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]
    return torch.stack(entries, dim=-1).unflatten(-1, (3, 3))


def rotmat_to_quat(rotmats: Float[Tensor, "... 3 3"]) -> Float[Tensor, "... 4"]:
    """Unit quaternions with w ≥ 0 of rotation matrices; differentiable, stable at every angle.

    4 q qᵀ is linear in the matrix, and each of its rows is a multiple of q; the row with the largest
    diagonal entry (≥ 1) is taken and normalised (Shepperd's method).

    Args:
        rotmats: orthonormal, determinant 1.

    Returns:
        Quaternions, wxyz.
    """
    m = rotmats
    trace = m[..., 0, 0] + m[..., 1, 1] + m[..., 2, 2]
    ww, xx, yy, zz = 1 + trace, *(1 + 2 * m[..., i, i] - trace for i in range(3))
    wx, wy, wz = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    xy, xz, yz = m[..., 0, 1] + m[..., 1, 0], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 2] + m[..., 2, 1]
    outer = torch.stack([ww, wx, wy, wz, wx, xx, xy, xz, wy, xy, yy, yz, wz, xz, yz, zz], dim=-1)
    outer = outer.unflatten(-1, (4, 4))
    largest = outer.detach().diagonal(dim1=-2, dim2=-1).argmax(-1)
    row = torch.take_along_dim(outer, largest[..., None, None], dim=-2).squeeze(-2)
    return quat_normalize(torch.where(row[..., :1] < 0, -row, row))


def quat_exp(rotvecs: Float[Tensor, "... 3"]) -> Float[Tensor, "... 4"]:
    """Unit quaternion of a rotation vector φ = θ·axis, (cos θ/2, sin(θ/2) axis); smooth at 0.

    Args:
        rotvecs: rotation vectors, radians.

    Returns:
        Unit quaternions, wxyz.
    """
    half = rotvecs / 2
    half_sq = (half * half).sum(-1, keepdim=True)
    cos, sinc, *_ = stumpff(half_sq)
    return torch.cat([cos, sinc * half], dim=-1)


def quat_log(quats: Float[Tensor, "... 4"]) -> Float[Tensor, "... 3"]:
    """Rotation vector of a unit quaternion, of angle ≤ π: the inverse of `quat_exp`, smooth at ±identity.

    φ = 2 atan2(‖u‖, w) u / ‖u‖ with q = (w, u), w ≥ 0.

    Args:
        quats: unit quaternions, wxyz.

    Returns:
        Rotation vectors, radians.
    """
    quats = torch.where(quats[..., :1] < 0, -quats, quats)
    w, axes = quats[..., :1], quats[..., 1:]
    sin_sq = (axes * axes).sum(-1, keepdim=True)
    near = sin_sq < 1e-3
    one = torch.ones_like(w)
    safe_w = torch.where(near, w, one)
    tan_sq = torch.where(near, sin_sq, torch.zeros_like(w)) / (safe_w * safe_w)
    series = polynomial(tan_sq, [(-1) ** i / (2 * i + 1) for i in range(5)]) / safe_w
    sin = torch.where(near, one, sin_sq).sqrt()
    return 2 * torch.where(near, series, torch.atan2(sin, w) / sin) * axes
