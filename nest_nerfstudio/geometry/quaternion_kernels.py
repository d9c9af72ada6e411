"""Compiled helper functions for unit quaternions, wxyz; quaternions and matrices are tuples of numbers."""

from nest_nerfstudio.compiled import inlined, kernel


@kernel
def rotmat(w, x, y, z):
    """Rotation matrix of a unit quaternion, row by row."""
    return (
        1.0 - 2.0 * (y * y + z * z),
        2.0 * (x * y - w * z),
        2.0 * (x * z + w * y),
        2.0 * (x * y + w * z),
        1.0 - 2.0 * (x * x + z * z),
        2.0 * (y * z - w * x),
        2.0 * (x * z - w * y),
        2.0 * (y * z + w * x),
        1.0 - 2.0 * (x * x + y * y),
    )


@kernel
def rotmat_vjp(q, v):
    """Gradient of Σ v_i rotmat_i with respect to the quaternion."""
    w, x, y, z = q
    return (
        2.0 * (x * (v[7] - v[5]) + y * (v[2] - v[6]) + z * (v[3] - v[1])),
        2.0 * (y * (v[1] + v[3]) + z * (v[2] + v[6]) + w * (v[7] - v[5])) - 4.0 * x * (v[4] + v[8]),
        2.0 * (x * (v[1] + v[3]) + z * (v[5] + v[7]) + w * (v[2] - v[6])) - 4.0 * y * (v[0] + v[8]),
        2.0 * (x * (v[2] + v[6]) + y * (v[5] + v[7]) + w * (v[3] - v[1])) - 4.0 * z * (v[0] + v[4]),
    )


@inlined
def quat_at(array, n):
    """Row n of an array [N, 4], in float64."""
    return float(array[n, 0]), float(array[n, 1]), float(array[n, 2]), float(array[n, 3])


@kernel
def conjugate(q):
    """Inverse of a unit quaternion."""
    return q[0], -q[1], -q[2], -q[3]


@kernel
def multiply(p, q):
    """Hamilton product p q."""
    return (
        p[0] * q[0] - p[1] * q[1] - p[2] * q[2] - p[3] * q[3],
        p[0] * q[1] + p[1] * q[0] + p[2] * q[3] - p[3] * q[2],
        p[0] * q[2] - p[1] * q[3] + p[2] * q[0] + p[3] * q[1],
        p[0] * q[3] + p[1] * q[2] - p[2] * q[1] + p[3] * q[0],
    )
