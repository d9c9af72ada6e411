"""Compiled kernels of `se3_plus` and its hand-written gradient; arithmetic is float64 for all array types."""

import math

from nest_nerfstudio.compiled import inlined, kernel
from nest_nerfstudio.geometry.quaternion_kernels import conjugate, multiply, quat_at

SERIES_BELOW = 1.0
"""θ², rad²; above it the closed forms are accurate."""
C0, C1, C2, C3, C4, C5 = (tuple((-1) ** i / math.factorial(k + 2 * i) for i in range(8)) for k in range(6))
"""Series of the Stumpff functions c_k(x) = Σ_i (-x)^i / (k + 2i)!."""


@inlined
def _vector_at(array, n, first):
    return float(array[n, first]), float(array[n, first + 1]), float(array[n, first + 2])


@kernel
def _cross(a, b):
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


@kernel
def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@kernel
def _rotate(q, v):
    """v + w t + u × t with t = 2 u × v, q = (w, u)."""
    u = (q[1], q[2], q[3])
    c = _cross(u, v)
    t = (2.0 * c[0], 2.0 * c[1], 2.0 * c[2])
    c = _cross(u, t)
    return v[0] + q[0] * t[0] + c[0], v[1] + q[0] * t[1] + c[1], v[2] + q[0] * t[2] + c[2]


@kernel
def _rotate_vjp(q, v, g):
    """Gradient of g · `_rotate`(q, v) with respect to q."""
    u = (q[1], q[2], q[3])
    moment, gu, uv, gv = _cross(v, g), _dot(g, u), _dot(u, v), _dot(g, v)
    return (
        2.0 * _dot(g, _cross(u, v)),
        2.0 * (q[0] * moment[0] + uv * g[0] + gu * v[0] - 2.0 * gv * u[0]),
        2.0 * (q[0] * moment[1] + uv * g[1] + gu * v[1] - 2.0 * gv * u[1]),
        2.0 * (q[0] * moment[2] + uv * g[2] + gu * v[2] - 2.0 * gv * u[2]),
    )


@kernel
def _series(coefficients, x):
    """Σ_i coefficients[i] x^i by Horner's rule."""
    total = coefficients[len(coefficients) - 1]
    for i in range(len(coefficients) - 2, -1, -1):
        total = total * x + coefficients[i]
    return total


@kernel
def _stumpff(theta_sq):
    """c0 and c1 of the half angle's square, c2 and c3 of the angle's."""
    if theta_sq < SERIES_BELOW:
        return (
            _series(C0, 0.25 * theta_sq),
            _series(C1, 0.25 * theta_sq),
            _series(C2, theta_sq),
            _series(C3, theta_sq),
        )
    theta = math.sqrt(theta_sq)
    cos, sin = math.cos(0.5 * theta), math.sin(0.5 * theta)
    return cos, 2.0 * sin / theta, 2.0 * sin * sin / theta_sq, (theta - 2.0 * sin * cos) / (theta * theta_sq)


@kernel
def _stumpff_slopes(theta_sq, c0, c1, c2, c3):
    """Derivatives (k c_{k+2} - c_{k+1}) / 2 of c_k: c1 of the half angle's square, c2, c3 of the angle's."""
    if theta_sq < SERIES_BELOW:
        half_c2, half_c3 = _series(C2, 0.25 * theta_sq), _series(C3, 0.25 * theta_sq)
        c4, c5 = _series(C4, theta_sq), _series(C5, theta_sq)
        return 0.5 * (half_c3 - half_c2), c4 - 0.5 * c3, 1.5 * c5 - 0.5 * c4
    c4, c5 = (0.5 - c2) / theta_sq, (1.0 / 6.0 - c3) / theta_sq
    return 2.0 * (c0 - c1) / theta_sq, c4 - 0.5 * c3, 1.5 * c5 - 0.5 * c4


@kernel
def _step(rho, phi, c2, c3):
    """V ρ = ρ + c2 φ×ρ + c3 φ×(φ×ρ), and the two products."""
    once = _cross(phi, rho)
    twice = _cross(phi, once)
    step = (
        rho[0] + c2 * once[0] + c3 * twice[0],
        rho[1] + c2 * once[1] + c3 * twice[1],
        rho[2] + c2 * once[2] + c3 * twice[2],
    )
    return step, once, twice


@kernel
def plus_forward(quats, translations, xi, moved_quats, moved_translations):
    """T · exp ξ for each of K poses.

    Args:
        quats, translations: [K, 4] and [K, 3].
        xi: [K, 6], (ρ, φ).
        moved_quats, moved_translations: [K, 4] and [K, 3], written.
    """
    for k in range(len(xi)):
        q, rho, phi = quat_at(quats, k), _vector_at(xi, k, 0), _vector_at(xi, k, 3)
        c0, c1, c2, c3 = _stumpff(_dot(phi, phi))
        step, _, _ = _step(rho, phi, c2, c3)
        turned = multiply(q, (c0, 0.5 * c1 * phi[0], 0.5 * c1 * phi[1], 0.5 * c1 * phi[2]))
        way = _rotate(q, step)
        for i in range(4):
            moved_quats[k, i] = turned[i]
        for i in range(3):
            moved_translations[k, i] = translations[k, i] + way[i]


@kernel
def plus_backward(quats, xi, v_moved_quats, v_moved_translations, v_quats, v_xi):
    """Gradients of `plus_forward`; the gradient of the translations is `v_moved_translations` itself.

    With g the gradient of the step V ρ, the gradient of ρ is Vᵀ g. c2 and c3 are functions of ‖φ‖², so that
    they contribute multiples of 2φ to the gradient of φ.

    Args:
        quats, xi: as for `plus_forward`.
        v_moved_quats, v_moved_translations: gradients of its results.
        v_quats, v_xi: gradients of its inputs, written.
    """
    for k in range(len(xi)):
        q, rho, phi = quat_at(quats, k), _vector_at(xi, k, 0), _vector_at(xi, k, 3)
        theta_sq = _dot(phi, phi)
        c0, c1, c2, c3 = _stumpff(theta_sq)
        slope1, slope2, slope3 = _stumpff_slopes(theta_sq, c0, c1, c2, c3)
        step, once, twice = _step(rho, phi, c2, c3)
        v_turned, v_way = quat_at(v_moved_quats, k), _vector_at(v_moved_translations, k, 0)
        turn = (c0, 0.5 * c1 * phi[0], 0.5 * c1 * phi[1], 0.5 * c1 * phi[2])
        by_turn, by_way = multiply(v_turned, conjugate(turn)), _rotate_vjp(q, step, v_way)
        for i in range(4):
            v_quats[k, i] = by_turn[i] + by_way[i]

        v_turn, g = multiply(conjugate(q), v_turned), _rotate(conjugate(q), v_way)
        along = 0.5 * (v_turn[1] * phi[0] + v_turn[2] * phi[1] + v_turn[3] * phi[2])
        # c0' = -c1 / 2 and c1' are derivatives by the square of the half angle, a quarter of ‖φ‖²
        shared = 0.25 * (slope1 * along - 0.5 * c1 * v_turn[0])
        shared = 2.0 * (shared + slope2 * _dot(g, once) + slope3 * _dot(g, twice))
        back, by_phi = _cross(g, phi), _cross(rho, g)
        again = _cross(back, phi)
        phi_rho, g_phi, g_rho = _dot(phi, rho), _dot(g, phi), _dot(g, rho)
        for i in range(3):
            v_xi[k, i] = g[i] + c2 * back[i] + c3 * again[i]
            bends = c2 * by_phi[i] + c3 * (phi_rho * g[i] + g_phi * rho[i] - 2.0 * g_rho * phi[i])
            v_xi[k, 3 + i] = 0.5 * c1 * v_turn[1 + i] + bends + shared * phi[i]
