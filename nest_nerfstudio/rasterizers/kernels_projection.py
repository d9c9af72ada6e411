"""Compiled kernels that project Gaussians and evaluate their colours, and their hand-written gradients.

Arithmetic is float64 for all array types, which costs nothing here and avoids the cancellation of float32.
With M = R(q) diag(s), W the camera's rotation and J the Jacobian of the pinhole, P = J W M is [2, 3] and the
projected covariance is P Pᵀ (EWA splatting, arXiv 2312.02121 writes out the gradients).
"""

import math

import numpy as np

from nest_nerfstudio.compiled import kernel

from .constants import EPS2D

CHUNK = 1024
"""Gaussians per partial sum of the camera gradient; fixed, so that sums do not depend on the threads."""
CAMERA_GRADS = 15
"""Columns of the camera gradient: rotation (9), translation (3), centre (3)."""


@kernel
def _rotation(quats, n):
    """Unit quaternion w, x, y, z, inverse length before normalisation, and rotation matrix, row by row."""
    w, x, y, z = float(quats[n, 0]), float(quats[n, 1]), float(quats[n, 2]), float(quats[n, 3])
    inv = 1.0 / math.sqrt(w * w + x * x + y * y + z * z)
    w, x, y, z = w * inv, x * inv, y * inv, z * inv
    rot = (
        (1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y - w * z), 2.0 * (x * z + w * y)),
        (2.0 * (x * y + w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z - w * x)),
        (2.0 * (x * z - w * y), 2.0 * (y * z + w * x), 1.0 - 2.0 * (x * x + y * y)),
    )
    return (w, x, y, z), inv, rot


@kernel
def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@kernel
def _add(a, b):
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


@kernel
def _mix(s, a, t, b):
    """s a + t b."""
    return s * a[0] + t * b[0], s * a[1] + t * b[1], s * a[2] + t * b[2]


@kernel
def _mix3(s, a, t, b, u, c):
    """s a + t b + u c."""
    return s * a[0] + t * b[0] + u * c[0], s * a[1] + t * b[1] + u * c[1], s * a[2] + t * b[2] + u * c[2]


@kernel
def _scale_columns(m, s):
    """M diag(s) for a 3 × 3 matrix given row by row."""
    return (
        (m[0][0] * s[0], m[0][1] * s[1], m[0][2] * s[2]),
        (m[1][0] * s[0], m[1][1] * s[1], m[1][2] * s[2]),
        (m[2][0] * s[0], m[2][1] * s[1], m[2][2] * s[2]),
    )


@kernel
def _vec(array, n):
    """Row n of an array [N, 3 or more], in float64."""
    return float(array[n, 0]), float(array[n, 1]), float(array[n, 2])


@kernel
def _camera(viewmat):
    """Rotation, row by row, and translation of a camera."""
    return (_vec(viewmat, 0), _vec(viewmat, 1), _vec(viewmat, 2)), (
        float(viewmat[0, 3]),
        float(viewmat[1, 3]),
        float(viewmat[2, 3]),
    )


@kernel
def _to_camera(rotation, m):
    """W M for 3 × 3 matrices given row by row."""
    return (
        _mix3(rotation[0][0], m[0], rotation[0][1], m[1], rotation[0][2], m[2]),
        _mix3(rotation[1][0], m[0], rotation[1][1], m[1], rotation[1][2], m[2]),
        _mix3(rotation[2][0], m[0], rotation[2][1], m[1], rotation[2][2], m[2]),
    )


@kernel
def _slope(position, focal, centre, size):
    """x / z clamped to 1.3 times the field of view, for the Jacobian, and whether it was within."""
    margin = 0.3 * 0.5 * size / focal
    low, high = -(centre / focal + margin), (size - centre) / focal + margin
    return min(max(position, low), high), low <= position <= high


@kernel
def _project_factor(m, fx, fy, slope_x, slope_y, inv_z):
    """P = J W M, row by row, from W M."""
    gain_x, gain_y = fx * inv_z, fy * inv_z
    return _mix(gain_x, m[0], -gain_x * slope_x, m[2]), _mix(gain_y, m[1], -gain_y * slope_y, m[2])


@kernel
def _gram(p):
    """P Pᵀ as (a, b, c), its determinant |p₀ × p₁|², and that of P Pᵀ + EPS2D I, without cancellation."""
    a, b, c = _dot(p[0], p[0]), _dot(p[0], p[1]), _dot(p[1], p[1])
    u = p[0][1] * p[1][2] - p[0][2] * p[1][1]
    v = p[0][2] * p[1][0] - p[0][0] * p[1][2]
    w = p[0][0] * p[1][1] - p[0][1] * p[1][0]
    det = u * u + v * v + w * w
    return a, b, c, det, det + EPS2D * (a + c) + EPS2D * EPS2D


@kernel
def _whitening(b, c, det):
    """xx, xy, yy of W = [[xx, xy], [0, yy]] with WᵀW = (P Pᵀ + EPS2D I)⁻¹."""
    blurred = math.sqrt(c + EPS2D)
    root = math.sqrt(det)
    return blurred / root, -b / (blurred * root), 1.0 / blurred


@kernel
def _sh_basis(degree, x, y, z, basis):
    """Real spherical harmonics of a unit direction (Sloan, JCGT 2013), gsplat's order and signs."""
    basis[0] = 0.2820947917738781
    if degree < 1:
        return
    basis[1] = -0.48860251190292 * y
    basis[2] = 0.48860251190292 * z
    basis[3] = -0.48860251190292 * x
    if degree < 2:
        return
    zz = z * z
    c2, s2 = x * x - y * y, 2.0 * x * y
    basis[4] = 0.5462742152960395 * s2
    basis[5] = -1.092548430592079 * z * y
    basis[6] = 0.9461746957575601 * zz - 0.3153915652525201
    basis[7] = -1.092548430592079 * z * x
    basis[8] = 0.5462742152960395 * c2
    if degree < 3:
        return
    c3, s3 = x * c2 - y * s2, x * s2 + y * c2
    p1, p2 = 0.4570457994644658 - 2.285228997322329 * zz, 1.445305721320277 * z
    basis[9] = -0.5900435899266435 * s3
    basis[10] = p2 * s2
    basis[11] = p1 * y
    basis[12] = z * (1.865881662950577 * zz - 1.119528997770346)
    basis[13] = p1 * x
    basis[14] = p2 * c2
    basis[15] = -0.5900435899266435 * c3
    if degree < 4:
        return
    c4, s4 = x * c3 - y * s3, x * s3 + y * c3
    q1 = z * (2.007139630671868 - 4.683325804901025 * zz)
    q2, q3 = 3.31161143515146 * zz - 0.47308734787878, -1.770130769779931 * z
    basis[16] = 0.6258357354491763 * s4
    basis[17] = q3 * s3
    basis[18] = q2 * s2
    basis[19] = q1 * y
    basis[20] = 1.984313483298443 * z * basis[12] - 1.006230589874905 * basis[6]
    basis[21] = q1 * x
    basis[22] = q2 * c2
    basis[23] = q3 * c3
    basis[24] = 0.6258357354491763 * c4


@kernel
def _sh_basis_vjp(degree, x, y, z, v):
    """Gradient of Σ v_i basis_i with respect to x, y, z.

    The factors in x and y are c_m = Re (x + iy)^m and s_m = Im (x + iy)^m, with
    ∂c_m/∂x = m c_{m-1}, ∂c_m/∂y = -m s_{m-1}, ∂s_m/∂x = m s_{m-1}, ∂s_m/∂y = m c_{m-1}.
    """
    if degree < 1:
        return 0.0, 0.0, 0.0
    v_x, v_y, v_z = -0.48860251190292 * v[3], -0.48860251190292 * v[1], 0.48860251190292 * v[2]
    if degree < 2:
        return v_x, v_y, v_z
    zz = z * z
    c2, s2 = x * x - y * y, 2.0 * x * y
    v_c2, v_s2 = 0.5462742152960395 * v[8], 0.5462742152960395 * v[4]
    v_x += -1.092548430592079 * z * v[7]
    v_y += -1.092548430592079 * z * v[5]
    v_z += -1.092548430592079 * (y * v[5] + x * v[7]) + 2.0 * 0.9461746957575601 * z * v[6]
    v_c3 = v_s3 = v_c4 = v_s4 = 0.0
    c3, s3 = x * c2 - y * s2, x * s2 + y * c2
    if degree >= 3:
        p1, p2 = 0.4570457994644658 - 2.285228997322329 * zz, 1.445305721320277 * z
        v_c3, v_s3 = -0.5900435899266435 * v[15], -0.5900435899266435 * v[9]
        v_c2 += p2 * v[14]
        v_s2 += p2 * v[10]
        v_x += p1 * v[13]
        v_y += p1 * v[11]
        v_z += 1.445305721320277 * (s2 * v[10] + c2 * v[14]) - 2.0 * 2.285228997322329 * z * (
            y * v[11] + x * v[13]
        )
        v_z += (3.0 * 1.865881662950577 * zz - 1.119528997770346) * v[12]
    if degree >= 4:
        q1 = z * (2.007139630671868 - 4.683325804901025 * zz)
        q2, q3 = 3.31161143515146 * zz - 0.47308734787878, -1.770130769779931 * z
        v_c4, v_s4 = 0.6258357354491763 * v[24], 0.6258357354491763 * v[16]
        v_c3 += q3 * v[23]
        v_s3 += q3 * v[17]
        v_c2 += q2 * v[22]
        v_s2 += q2 * v[18]
        v_x += q1 * v[21]
        v_y += q1 * v[19]
        v_z += -1.770130769779931 * (s3 * v[17] + c3 * v[23]) + 2.0 * 3.31161143515146 * z * (
            s2 * v[18] + c2 * v[22]
        )
        v_z += (2.007139630671868 - 3.0 * 4.683325804901025 * zz) * (y * v[19] + x * v[21])
        v_z += 1.984313483298443 * z * (4.0 * 1.865881662950577 * zz - 2.0 * 1.119528997770346) * v[20]
        v_z -= 1.006230589874905 * 2.0 * 0.9461746957575601 * z * v[20]
    v_x += 2.0 * (x * v_c2 + y * v_s2) + 3.0 * (c2 * v_c3 + s2 * v_s3) + 4.0 * (c3 * v_c4 + s3 * v_s4)
    v_y += 2.0 * (x * v_s2 - y * v_c2) + 3.0 * (c2 * v_s3 - s2 * v_c3) + 4.0 * (c3 * v_s4 - s3 * v_c4)
    return v_x, v_y, v_z


@kernel
def _direction(means, n, centre):
    """Unit direction from the camera centre to a Gaussian, and the inverse distance."""
    x, y, z = means[n, 0] - float(centre[0]), means[n, 1] - float(centre[1]), means[n, 2] - float(centre[2])
    inv = 1.0 / math.sqrt(x * x + y * y + z * z)
    return x * inv, y * inv, z * inv, inv


@kernel
def project_forward(first, last, frame, near, far, antialiased, degree, scene, Ks, splats, radii, unclamped):
    """Project the Gaussians first..last into every camera.

    Args:
        frame: `Frame`.
        near, far: range of camera-space z that is rendered, world units.
        antialiased: whether to scale the opacities.
        degree: degree of the spherical harmonics.
        scene: `Scene`.
        Ks: [C, 3, 3].
        splats: `Splats`, written where visible.
        radii: [C, N], written; 0 where not visible.
        unclamped: [C, N], written; bit k is set if colour channel k was not clamped at 0.
    """
    means, opacities, sh = scene.means, scene.opacities, scene.sh
    basis = np.zeros(25, means.dtype)
    for n in range(first, last):
        mean = _vec(means, n)
        scale = _vec(scene.scales, n)
        rot = _rotation(scene.quats, n)[2]
        m = _scale_columns(rot, scale)
        for camera in range(Ks.shape[0]):
            radii[camera, n] = 0
            rotation, translation = _camera(scene.viewmats[camera])
            z = _dot(rotation[2], mean) + translation[2]
            if not (z >= near and z <= far and z > 0.0):
                continue
            x, y = _dot(rotation[0], mean) + translation[0], _dot(rotation[1], mean) + translation[1]
            fx, fy = float(Ks[camera, 0, 0]), float(Ks[camera, 1, 1])
            cx, cy = float(Ks[camera, 0, 2]), float(Ks[camera, 1, 2])
            inv_z = 1.0 / z
            u, v = fx * x * inv_z + cx, fy * y * inv_z + cy
            slope_x = _slope(x * inv_z, fx, cx, frame.width)[0]
            slope_y = _slope(y * inv_z, fy, cy, frame.height)[0]
            p = _project_factor(_to_camera(rotation, m), fx, fy, slope_x, slope_y, inv_z)
            a, b, c, det_sharp, det = _gram(p)
            half = 0.5 * (a + c) + EPS2D
            radius = np.ceil(3.0 * math.sqrt(half + math.sqrt(max(0.01, half * half - det))))
            if not (det > 0.0 and radius < 1e9):
                continue
            if not (u + radius > 0.0 and u - radius < frame.width):
                continue
            if not (v + radius > 0.0 and v - radius < frame.height):
                continue
            opacity = float(opacities[n])
            if antialiased:
                opacity *= math.sqrt(det_sharp / det)
            dir_x, dir_y, dir_z, _ = _direction(means, n, scene.centres[camera])
            _sh_basis(degree, dir_x, dir_y, dir_z, basis)
            red = green = blue = means.dtype.type(0.5)
            for k in range((degree + 1) ** 2):
                red += basis[k] * sh[n, k, 0]
                green += basis[k] * sh[n, k, 1]
                blue += basis[k] * sh[n, k, 2]
            if not math.isfinite(opacity + red + green + blue):
                continue
            radii[camera, n] = np.int32(radius)
            splats.means2d[camera, n, 0], splats.means2d[camera, n, 1] = u, v
            splats.depths[camera, n] = z
            xx, xy, yy = _whitening(b, c, det)
            white = splats.whitenings[camera, n]
            white[0], white[1], white[2] = xx, xy, yy
            splats.opacities[camera, n] = opacity
            splats.colors[camera, n, 0] = max(red, 0.0)
            splats.colors[camera, n, 1] = max(green, 0.0)
            splats.colors[camera, n, 2] = max(blue, 0.0)
            unclamped[camera, n] = (red >= 0.0) | (green >= 0.0) << 1 | (blue >= 0.0) << 2


@kernel
def _quat_vjp(quat, inv, v):
    """Gradient of a quaternion before normalisation, from the gradient of its rotation matrix."""
    w, x, y, z = quat
    v_w = 2.0 * (x * (v[2][1] - v[1][2]) + y * (v[0][2] - v[2][0]) + z * (v[1][0] - v[0][1]))
    v_x = 2.0 * (
        -2.0 * x * (v[1][1] + v[2][2])
        + y * (v[0][1] + v[1][0])
        + z * (v[0][2] + v[2][0])
        + w * (v[2][1] - v[1][2])
    )
    v_y = 2.0 * (
        x * (v[0][1] + v[1][0])
        - 2.0 * y * (v[0][0] + v[2][2])
        + z * (v[1][2] + v[2][1])
        + w * (v[0][2] - v[2][0])
    )
    v_z = 2.0 * (
        x * (v[0][2] + v[2][0])
        + y * (v[1][2] + v[2][1])
        - 2.0 * z * (v[0][0] + v[1][1])
        + w * (v[1][0] - v[0][1])
    )
    along = w * v_w + x * v_x + y * v_y + z * v_z
    return (v_w - along * w) * inv, (v_x - along * x) * inv, (v_y - along * y) * inv, (v_z - along * z) * inv


@kernel
def _covariance_vjp(b, c, det_sharp, det, v_white, v_compensation):
    """Gradient of P Pᵀ = [[a, b], [b, c]] from the gradients of whitening and compensation.

    W enters only σ = ½ |W d|². With S = Σ ∂L/∂σ (W d)(W d)ᵀ it is -½ Wᵀ S W, and the
    gradient of W = [[xx, xy], [0, yy]] is (S_uu - S_uv xy / yy) / xx, S_uv / yy, S_vv / yy: solved for S.
    """
    xx, xy, yy = _whitening(b, c, det)
    s_uu, s_uv, s_vv = xx * v_white[0] + xy * v_white[1], yy * v_white[1], yy * v_white[2]
    t = s_uu * xy + s_uv * yy
    out_a, out_b = -0.5 * xx * xx * s_uu, -0.5 * xx * t
    out_c = -0.5 * (xy * t + yy * (s_uv * xy + s_vv * yy))
    if v_compensation != 0.0:
        # √(det₀ / det) with gsplat's 1e-6, which keeps its gradient finite at det₀ = 0.
        ratio = det_sharp / det
        v_ratio = v_compensation * 0.5 / (math.sqrt(ratio) + 1e-6)
        out_a += v_ratio * ((1.0 - ratio) * xx * xx - EPS2D / det)
        out_b += v_ratio * (1.0 - ratio) * xx * xy
        out_c += v_ratio * ((1.0 - ratio) * (xy * xy + yy * yy) - EPS2D / det)
    return out_a, out_b, out_c


@kernel
def project_backward(
    first, last, frame, antialiased, degree, scene, Ks, radii, unclamped, g_splats, v_scene, v_cameras
):
    """Gradients of the chunks first..last of CHUNK Gaussians, summed over the cameras.

    Args:
        frame, antialiased, degree, scene, Ks, radii, unclamped: of `project_forward`.
        g_splats: `Splats`, gradients of the outputs.
        v_scene: `Scene`, written for the Gaussians.
        v_cameras: [chunks, C, CAMERA_GRADS], partial sums over each chunk, added to.
    """
    means, opacities, sh = scene.means, scene.opacities, scene.sh
    v_sh = v_scene.sh
    bases = (degree + 1) ** 2
    basis = np.zeros(25, means.dtype)
    weighted = np.zeros(25, means.dtype)
    zero = means.dtype.type(0)
    for n in range(first * CHUNK, min(last * CHUNK, means.shape[0])):
        mean = _vec(means, n)
        scale = _vec(scene.scales, n)
        quat, inv_norm, rot = _rotation(scene.quats, n)
        m = _scale_columns(rot, scale)
        v_m0 = v_m1 = v_m2 = v_mean = (0.0, 0.0, 0.0)
        v_opacity = 0.0
        visible = False
        v_sh[n] = 0
        for camera in range(Ks.shape[0]):
            if radii[camera, n] <= 0:
                continue
            visible = True
            rotation, translation = _camera(scene.viewmats[camera])
            x, y, z = (
                _dot(rotation[0], mean) + translation[0],
                _dot(rotation[1], mean) + translation[1],
                _dot(rotation[2], mean) + translation[2],
            )
            fx, fy = float(Ks[camera, 0, 0]), float(Ks[camera, 1, 1])
            inv_z = 1.0 / z
            slope_x, in_x = _slope(x * inv_z, fx, float(Ks[camera, 0, 2]), frame.width)
            slope_y, in_y = _slope(y * inv_z, fy, float(Ks[camera, 1, 2]), frame.height)
            m_c = _to_camera(rotation, m)
            p = _project_factor(m_c, fx, fy, slope_x, slope_y, inv_z)
            _, b, c, det_sharp, det = _gram(p)

            # opacity and covariance
            v_seen = float(g_splats.opacities[camera, n])
            v_compensation = v_seen * opacities[n] if antialiased else 0.0
            v_opacity += v_seen * math.sqrt(det_sharp / det) if antialiased else v_seen
            g_white = _vec(g_splats.whitenings[camera], n)
            v_a, v_b, v_c = _covariance_vjp(b, c, det_sharp, det, g_white, v_compensation)
            v_p0 = _mix(2.0 * v_a, p[0], 2.0 * v_b, p[1])
            v_p1 = _mix(2.0 * v_b, p[0], 2.0 * v_c, p[1])

            # Jacobian and mean
            gain_x, gain_y = fx * inv_z, fy * inv_z
            v_slope_x, v_slope_y = -gain_x * _dot(v_p0, m_c[2]), -gain_y * _dot(v_p1, m_c[2])
            v_u, v_v = float(g_splats.means2d[camera, n, 0]), float(g_splats.means2d[camera, n, 1])
            v_x, v_y = gain_x * v_u, gain_y * v_v
            v_inv_z = fx * x * v_u + fy * y * v_v + (_dot(v_p0, p[0]) + _dot(v_p1, p[1])) * z
            if in_x:
                v_x += v_slope_x * inv_z
                v_inv_z += v_slope_x * x
            if in_y:
                v_y += v_slope_y * inv_z
                v_inv_z += v_slope_y * y
            v_z = g_splats.depths[camera, n] - v_inv_z * inv_z * inv_z
            v_c0 = gain_x * v_p0[0], gain_x * v_p0[1], gain_x * v_p0[2]
            v_c1 = gain_y * v_p1[0], gain_y * v_p1[1], gain_y * v_p1[2]
            v_c2 = _mix(-gain_x * slope_x, v_p0, -gain_y * slope_y, v_p1)

            # colour
            dir_x, dir_y, dir_z, inv_length = _direction(means, n, scene.centres[camera])
            _sh_basis(degree, dir_x, dir_y, dir_z, basis)
            bits = unclamped[camera, n]
            g_red = g_splats.colors[camera, n, 0] if bits & 1 else zero
            g_green = g_splats.colors[camera, n, 1] if bits & 2 else zero
            g_blue = g_splats.colors[camera, n, 2] if bits & 4 else zero
            for k in range(bases):
                v_sh[n, k, 0] += basis[k] * g_red
                v_sh[n, k, 1] += basis[k] * g_green
                v_sh[n, k, 2] += basis[k] * g_blue
                weighted[k] = sh[n, k, 0] * g_red + sh[n, k, 1] * g_green + sh[n, k, 2] * g_blue
            d_x, d_y, d_z = _sh_basis_vjp(degree, dir_x, dir_y, dir_z, weighted)
            along = d_x * dir_x + d_y * dir_y + d_z * dir_z
            v_dir = (
                (d_x - along * dir_x) * inv_length,
                (d_y - along * dir_y) * inv_length,
                (d_z - along * dir_z) * inv_length,
            )

            # world
            v_m0 = _add(v_m0, _mix3(rotation[0][0], v_c0, rotation[1][0], v_c1, rotation[2][0], v_c2))
            v_m1 = _add(v_m1, _mix3(rotation[0][1], v_c0, rotation[1][1], v_c1, rotation[2][1], v_c2))
            v_m2 = _add(v_m2, _mix3(rotation[0][2], v_c0, rotation[1][2], v_c1, rotation[2][2], v_c2))
            v_mean = _add(v_mean, _add(v_dir, _mix3(v_x, rotation[0], v_y, rotation[1], v_z, rotation[2])))
            out = v_cameras[n // CHUNK, camera]
            for i in range(3):
                out[i] += _dot(v_c0, m[i]) + v_x * mean[i]
                out[3 + i] += _dot(v_c1, m[i]) + v_y * mean[i]
                out[6 + i] += _dot(v_c2, m[i]) + v_z * mean[i]
                out[12 + i] -= v_dir[i]
            out[9] += v_x
            out[10] += v_y
            out[11] += v_z
        if not visible:  # its inputs may be NaN
            v_scene.means[n], v_scene.quats[n], v_scene.scales[n], v_scene.opacities[n] = 0, 0, 0, 0
            continue
        v_scene.means[n, 0], v_scene.means[n, 1], v_scene.means[n, 2] = v_mean
        v_scene.opacities[n] = v_opacity
        for i in range(3):
            v_scene.scales[n, i] = rot[0][i] * v_m0[i] + rot[1][i] * v_m1[i] + rot[2][i] * v_m2[i]
        v_rot = _scale_columns((v_m0, v_m1, v_m2), scale)
        v_scene.quats[n, 0], v_scene.quats[n, 1], v_scene.quats[n, 2], v_scene.quats[n, 3] = _quat_vjp(
            quat, inv_norm, v_rot
        )
