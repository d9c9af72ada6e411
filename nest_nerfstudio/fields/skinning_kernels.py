"""Compiled kernels of skinning and its hand-written gradients.

Arithmetic is in float64 whatever the arrays hold.
"""

import math

import numpy as np

from nest_nerfstudio.compiled import inlined, kernel
from nest_nerfstudio.geometry.quaternion_kernels import conjugate, multiply, quat_at, rotmat, rotmat_vjp

# One row per token, and one of gradients: what is blended (rotation matrix, translation, quaternion).
SHIFT, TURN, BLENDED = 9, 12, 16
CHUNK = 2048
"""Gaussians that one thread works on at a time; fixed, so that sums do not depend on how many threads."""

TINY = 1e-12
"""Shorter quaternions are divided by this instead of their length, as torch's `normalize` does."""

# Harmonics are turned many at once: one lane per Gaussian and channel, one plane of lanes per quantity.
# The planes lie at fixed distances in one array because LLVM then knows that they do not overlap.
LANES = 96
ROTMAT, SH, QUAT, PLANES = 0, 9, 25, 29

# Ratios of the constants in the harmonics of degree 2, and of those of degree 3.
ROOT3 = math.sqrt(3.0)
RING, CROSS, POLE = math.sqrt(3.0 / 5.0), math.sqrt(2.0 / 3.0), math.sqrt(2.0 / 5.0)


@kernel
def _normalize(q):
    """Unit quaternion, and its former inverse length."""
    inv = 1.0 / max(math.sqrt(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3]), TINY)
    return (q[0] * inv, q[1] * inv, q[2] * inv, q[3] * inv), inv


@kernel
def _normalize_vjp(unit, inv, v):
    along = unit[0] * v[0] + unit[1] * v[1] + unit[2] * v[2] + unit[3] * v[3]
    along = along if inv < 1.0 / TINY else 0.0
    return (
        (v[0] - along * unit[0]) * inv,
        (v[1] - along * unit[1]) * inv,
        (v[2] - along * unit[2]) * inv,
        (v[3] - along * unit[3]) * inv,
    )


@inlined
def _exponent(centres, sharpness, k, x, y, z):
    """-‖x − b_k‖² / 2r_k²."""
    dx, dy, dz = x - centres[k, 0], y - centres[k, 1], z - centres[k, 2]
    return -0.5 * (dx * dx + dy * dy + dz * dz) * sharpness[k]


@kernel
def weights_forward(first, last, tokens, means, centres, sharpness, weights):
    """Softmax of the exponents of each Gaussian's tokens.

    Args:
        first, last: range of Gaussians.
        tokens: [N, J].
        means: [N, 3].
        centres, sharpness: [K, 3] and [K], positions b and 1 / r² of the tokens.
        weights: [N, J], written.
    """
    real = weights.dtype.type  # float32's exponential is twice as fast, and exact enough below the largest
    exponents = np.empty(tokens.shape[1])
    for n in range(first, last):
        x, y, z = float(means[n, 0]), float(means[n, 1]), float(means[n, 2])
        largest, total = -np.inf, 0.0
        for j in range(tokens.shape[1]):
            exponents[j] = _exponent(centres, sharpness, tokens[n, j], x, y, z)
            largest = max(largest, exponents[j])
        for j in range(tokens.shape[1]):
            exponents[j] = math.exp(real(exponents[j] - largest))
            total += exponents[j]
        for j in range(tokens.shape[1]):
            weights[n, j] = exponents[j] / total


@kernel
def weights_backward(first, last, all_sums, tokens, means, centres, sharpness, weights, v_weights, v_means):
    """Gradients of `weights_forward`: ∂L/∂e_j = w_j (∂L/∂w_j − Σ_i w_i ∂L/∂w_i) for the exponents e_j.

    Args:
        first, last: range of Gaussians, which starts at a multiple of CHUNK.
        all_sums: [N / CHUNK, K], gradients of log r from each chunk, added to.
        tokens, means, centres, sharpness, weights: as for `weights_forward`.
        v_weights: gradients of its result.
        v_means: [N, 3], written.
    """
    sums = all_sums[first // CHUNK]
    for n in range(first, last):
        x, y, z = float(means[n, 0]), float(means[n, 1]), float(means[n, 2])
        mean, v_x, v_y, v_z = 0.0, 0.0, 0.0, 0.0
        for j in range(tokens.shape[1]):
            mean += float(weights[n, j]) * v_weights[n, j]
        for j in range(tokens.shape[1]):
            k = tokens[n, j]
            v_exponent = float(weights[n, j]) * (v_weights[n, j] - mean)
            pull = v_exponent * sharpness[k]
            v_x -= pull * (x - centres[k, 0])
            v_y -= pull * (y - centres[k, 1])
            v_z -= pull * (z - centres[k, 2])
            sums[k] -= 2.0 * v_exponent * _exponent(centres, sharpness, k, x, y, z)
        v_means[n, 0], v_means[n, 1], v_means[n, 2] = v_x, v_y, v_z


@kernel
def token_table(quats, translations, bind_quats, centres):
    """What Gaussians read of each token, [K, BLENDED]: its motion since it was bound."""
    table = np.empty((len(quats), BLENDED))
    for k in range(len(quats)):
        q = multiply(quat_at(quats, k), conjugate(quat_at(bind_quats, k)))
        rot = rotmat(q[0], q[1], q[2], q[3])
        for i in range(9):
            table[k, i] = rot[i]
        for i in range(3):
            table[k, SHIFT + i] = translations[k, i]
            for j in range(3):
                table[k, SHIFT + i] -= rot[3 * i + j] * centres[k, j]
        for i in range(4):
            table[k, TURN + i] = q[i]
    return table


@inlined
def _blend(table, tokens, n, weights, motion):
    """Write the weighted mean of the tokens' motions."""
    motion[:] = 0.0
    for j in range(tokens.shape[1]):
        k, w = tokens[n, j], weights[n, j]
        for i in range(BLENDED):
            motion[i] += w * table[k, i]


@kernel
def skin_forward(first, last, table, tokens, weights, means, quats, moved, turned, turns):
    """Move Gaussians with their tokens.

    Args:
        first, last: range of Gaussians to move.
        table: [K, BLENDED], from `token_table`.
        tokens, weights: [N, J].
        means, quats: [N, 3] and [N, 4], at rest; quaternions of any length.
        moved, turned: [N, 3] and [N, 4], moved means and unit quaternions, written.
        turns: [N, 4], blended unit rotation of each Gaussian, written.
    """
    motion = np.empty(BLENDED)
    for n in range(first, last):
        x, y, z = float(means[n, 0]), float(means[n, 1]), float(means[n, 2])
        _blend(table, tokens, n, weights, motion)
        for i in range(3):
            row = 3 * i
            moved[n, i] = motion[row] * x + motion[row + 1] * y + motion[row + 2] * z + motion[SHIFT + i]
        turn, _ = _normalize((motion[TURN], motion[TURN + 1], motion[TURN + 2], motion[TURN + 3]))
        unit, _ = _normalize(quat_at(quats, n))
        quat = multiply(turn, unit)
        for i in range(4):
            turned[n, i] = quat[i]
            turns[n, i] = turn[i]


@kernel
def skin_backward(
    first,
    last,
    table,
    all_sums,
    tokens,
    weights,
    means,
    quats,
    v_moved,
    v_turned,
    v_weights,
    v_means,
    v_quats,
):
    """Gradients of `skin_forward`.

    With P = Σ_j w_j P_j the blended motion, ∂L/∂w_j = (P_j − P) · ∂L/∂P: as the weights sum to one, a
    constant is free for each Gaussian, and this one keeps the digits of small differences.

    Args:
        first, last: range of Gaussians, which starts at a multiple of CHUNK.
        table, tokens, weights, means, quats: as for `skin_forward`.
        all_sums: [N / CHUNK, K, BLENDED], gradients of the table from each chunk; added to.
        v_moved, v_turned: gradients of its results.
        v_weights, v_means, v_quats: gradients of its inputs, written.
    """
    motion, v_motion = np.empty(BLENDED), np.empty(BLENDED)
    sums = all_sums[first // CHUNK]
    for n in range(first, last):
        x, y, z = float(means[n, 0]), float(means[n, 1]), float(means[n, 2])
        _blend(table, tokens, n, weights, motion)
        v = float(v_moved[n, 0]), float(v_moved[n, 1]), float(v_moved[n, 2])
        for i in range(3):
            v_motion[3 * i], v_motion[3 * i + 1], v_motion[3 * i + 2] = v[i] * x, v[i] * y, v[i] * z
            v_motion[SHIFT + i] = v[i]

        turn, turn_inv = _normalize((motion[TURN], motion[TURN + 1], motion[TURN + 2], motion[TURN + 3]))
        unit, unit_inv = _normalize(quat_at(quats, n))
        v_quat = quat_at(v_turned, n)
        v_turn = _normalize_vjp(turn, turn_inv, multiply(v_quat, conjugate(unit)))
        v_rest = _normalize_vjp(unit, unit_inv, multiply(conjugate(turn), v_quat))
        for i in range(4):
            v_motion[TURN + i] = v_turn[i]
            v_quats[n, i] = v_rest[i]

        mean_share = 0.0
        for i in range(BLENDED):
            mean_share += motion[i] * v_motion[i]
        for j in range(tokens.shape[1]):
            k, w = tokens[n, j], float(weights[n, j])
            share = 0.0
            for i in range(BLENDED):
                share += table[k, i] * v_motion[i]
                sums[k, i] += w * v_motion[i]
            v_weights[n, j] = share - mean_share
        v_means[n, 0] = motion[0] * v[0] + motion[3] * v[1] + motion[6] * v[2]
        v_means[n, 1] = motion[1] * v[0] + motion[4] * v[1] + motion[7] * v[2]
        v_means[n, 2] = motion[2] * v[0] + motion[5] * v[1] + motion[8] * v[2]


@kernel
def token_backward(table, bind_quats, centres, sums, v_quats, v_translations):
    """Gradients of `token_table`: from the rows of `sums`, used up, to poses, written."""
    for k in range(len(table)):
        row = table[k]
        for i in range(3):
            v_translations[k, i] = sums[k, SHIFT + i]
            for j in range(3):
                sums[k, 3 * i + j] -= sums[k, SHIFT + i] * centres[k, j]
        v_turn = rotmat_vjp((row[TURN], row[TURN + 1], row[TURN + 2], row[TURN + 3]), sums[k])
        v_turn = (
            v_turn[0] + sums[k, TURN],
            v_turn[1] + sums[k, TURN + 1],
            v_turn[2] + sums[k, TURN + 2],
            v_turn[3] + sums[k, TURN + 3],
        )
        v_quat = multiply(v_turn, quat_at(bind_quats, k))
        for i in range(4):
            v_quats[k, i] = v_quat[i]


@kernel
def _turn_form(r, m):
    """R M Rᵀ for a symmetric matrix given as (xx, xy, xz, yy, yz, zz)."""
    xx, xy, xz, yy, yz, zz = m
    a0, a1, a2 = (
        r[0] * xx + r[1] * xy + r[2] * xz,
        r[0] * xy + r[1] * yy + r[2] * yz,
        r[0] * xz + r[1] * yz + r[2] * zz,
    )
    b0, b1, b2 = (
        r[3] * xx + r[4] * xy + r[5] * xz,
        r[3] * xy + r[4] * yy + r[5] * yz,
        r[3] * xz + r[4] * yz + r[5] * zz,
    )
    c0, c1, c2 = (
        r[6] * xx + r[7] * xy + r[8] * xz,
        r[6] * xy + r[7] * yy + r[8] * yz,
        r[6] * xz + r[7] * yz + r[8] * zz,
    )
    return (
        a0 * r[0] + a1 * r[1] + a2 * r[2],
        a0 * r[3] + a1 * r[4] + a2 * r[5],
        a0 * r[6] + a1 * r[7] + a2 * r[8],
        b0 * r[3] + b1 * r[4] + b2 * r[5],
        b0 * r[6] + b1 * r[7] + b2 * r[8],
        c0 * r[6] + c1 * r[7] + c2 * r[8],
    )


@kernel
def _at(plane, p):
    """Where entry p of a plane stands; unsigned, as numba otherwise guards against negative indices."""
    return np.uint64(plane * LANES + p)


@kernel
def _rotation(planes, p):
    """Rotation matrix of lane p, row by row."""
    return (
        planes[_at(ROTMAT, p)],
        planes[_at(ROTMAT + 1, p)],
        planes[_at(ROTMAT + 2, p)],
        planes[_at(ROTMAT + 3, p)],
        planes[_at(ROTMAT + 4, p)],
        planes[_at(ROTMAT + 5, p)],
        planes[_at(ROTMAT + 6, p)],
        planes[_at(ROTMAT + 7, p)],
        planes[_at(ROTMAT + 8, p)],
    )


@kernel
def _fill_rotations(planes, sign):
    """Rotation matrices of the lanes' quaternions, or of their conjugates where the sign is -1."""
    for p in range(LANES):
        rot = rotmat(
            planes[_at(QUAT, p)],
            sign * planes[_at(QUAT + 1, p)],
            sign * planes[_at(QUAT + 2, p)],
            sign * planes[_at(QUAT + 3, p)],
        )
        planes[_at(ROTMAT, p)], planes[_at(ROTMAT + 1, p)], planes[_at(ROTMAT + 2, p)] = rot[0:3]
        planes[_at(ROTMAT + 3, p)], planes[_at(ROTMAT + 4, p)], planes[_at(ROTMAT + 5, p)] = rot[3:6]
        planes[_at(ROTMAT + 6, p)], planes[_at(ROTMAT + 7, p)], planes[_at(ROTMAT + 8, p)] = rot[6:9]


@kernel
def _turn_vectors(planes):
    """Degree 1: c · Y is linear in the direction."""
    for p in range(LANES):
        r = _rotation(planes, p)
        x, y, z = -planes[_at(SH + 3, p)], -planes[_at(SH + 1, p)], planes[_at(SH + 2, p)]
        planes[_at(SH + 1, p)] = -(r[3] * x + r[4] * y + r[5] * z)
        planes[_at(SH + 2, p)] = r[6] * x + r[7] * y + r[8] * z
        planes[_at(SH + 3, p)] = -(r[0] * x + r[1] * y + r[2] * z)


@kernel
def _turn_forms(planes):
    """Degree 2: c · Y is a quadratic form dᵀ M d without trace."""
    for p in range(LANES):
        ring, edge = planes[_at(SH + 6, p)] * (1.0 / ROOT3), planes[_at(SH + 8, p)]
        xy, yz, xz = planes[_at(SH + 4, p)], -planes[_at(SH + 5, p)], -planes[_at(SH + 7, p)]
        m = (edge - ring, xy, xz, -edge - ring, yz, 2.0 * ring)
        xx, xy, xz, yy, yz, zz = _turn_form(_rotation(planes, p), m)
        planes[_at(SH + 4, p)] = xy
        planes[_at(SH + 5, p)] = -yz
        planes[_at(SH + 6, p)] = 0.5 * ROOT3 * zz
        planes[_at(SH + 7, p)] = -xz
        planes[_at(SH + 8, p)] = 0.5 * (xx - yy)


@kernel
def _turn_cubics(planes):
    """Degree 3: c · Y is a cubic form Σ_a d_a (dᵀ M_a d), so R turns each M_a and then mixes the three."""
    for p in range(LANES):
        ring_y, ring_x = RING * planes[_at(SH + 11, p)], RING * planes[_at(SH + 13, p)]
        wing_y, wing_x = planes[_at(SH + 9, p)], planes[_at(SH + 15, p)]
        pole, edge = POLE * planes[_at(SH + 12, p)], CROSS * planes[_at(SH + 14, p)]
        xyz = CROSS * planes[_at(SH + 10, p)]
        xxx, xyy, xzz = ring_x - wing_x, 1.0 / 3.0 * ring_x + wing_x, -4.0 / 3.0 * ring_x
        yyy, xxy, yzz = ring_y + wing_y, 1.0 / 3.0 * ring_y - wing_y, -4.0 / 3.0 * ring_y
        zzz, xxz, yyz = 2.0 * pole, edge - pole, -edge - pole
        r = _rotation(planes, p)
        a = _turn_form(r, (xxx, xxy, xxz, xyy, xyz, xzz))
        b = _turn_form(r, (xxy, xyy, xyz, yyy, yyz, yzz))
        c = _turn_form(r, (xxz, xyz, xzz, yyz, yzz, zzz))
        xxy = r[0] * a[1] + r[1] * b[1] + r[2] * c[1]
        xyy = r[0] * a[3] + r[1] * b[3] + r[2] * c[3]
        xxz = r[6] * a[0] + r[7] * b[0] + r[8] * c[0]
        xyz = r[6] * a[1] + r[7] * b[1] + r[8] * c[1]
        xzz = r[6] * a[2] + r[7] * b[2] + r[8] * c[2]
        yyz = r[6] * a[3] + r[7] * b[3] + r[8] * c[3]
        yzz = r[6] * a[4] + r[7] * b[4] + r[8] * c[4]
        zzz = r[6] * a[5] + r[7] * b[5] + r[8] * c[5]
        planes[_at(SH + 9, p)] = -xxy - 0.25 * yzz
        planes[_at(SH + 10, p)] = (1.0 / CROSS) * xyz
        planes[_at(SH + 11, p)] = (-0.75 / RING) * yzz
        planes[_at(SH + 12, p)] = (0.5 / POLE) * zzz
        planes[_at(SH + 13, p)] = (-0.75 / RING) * xzz
        planes[_at(SH + 14, p)] = (0.5 / CROSS) * (xxz - yyz)
        planes[_at(SH + 15, p)] = xyy + 0.25 * xzz


@kernel
def turn_sh(first, last, inverse, turns, sh, out):
    """Turn spherical harmonics of degree 0 to 3, in gsplat's order and sign.

    Args:
        first, last: range of Gaussians.
        inverse: turn back instead, which is also the gradient, as these rotations are orthogonal.
        turns: [N, 4], unit quaternions.
        sh: [N, (degree + 1)², 3].
        out: turned coefficients, written.
    """
    count = sh.shape[1]
    planes = np.zeros(PLANES * LANES)
    for start in range(first, last, LANES // 3):
        width = min(LANES // 3, last - start)
        for g in range(width):
            for i in range(4):
                for c in range(3):
                    planes[_at(QUAT + i, 3 * g + c)] = turns[start + g, i]
            for i in range(count):
                for c in range(3):
                    planes[_at(SH + i, 3 * g + c)] = sh[start + g, i, c]
        _fill_rotations(planes, -1.0 if inverse else 1.0)
        if count > 1:
            _turn_vectors(planes)
        if count > 4:
            _turn_forms(planes)
        if count > 9:
            _turn_cubics(planes)
        for g in range(width):
            for i in range(count):
                for c in range(3):
                    out[start + g, i, c] = planes[_at(SH + i, 3 * g + c)]
