"""D_LSBD: how far a code is from a linear, symmetry-based disentangled one.

Source: L. Tonnaer, L. A. Pérez Rey, V. Menkovski, M. Holenderski, J. W. Portegies, Quantifying and Learning
Linear Symmetry-Based Disentanglement, ICML 2022, arXiv 2011.06070. For a group G that acts on data x₀ ↦ g·x₀,
an encoder h, and a representation ρ of G on codes, the codes of an orbit are brought back by the inverse
action, ρ(g)⁻¹ h(g·x₀). They coincide if and only if h is equivariant on the orbit; D_LSBD is their dispersion
relative to their size, 0 at best. A constant code has 1 under every ρ without a trivial part.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int

MAX_FREQUENCY = 10
"""Highest frequency of a representation of SO(2) that is tried, as in the paper."""
_SWEEPS = 30
_STARTS = 8


def dispersion(aligned: Float[np.ndarray, "n d"], orbits: Int[np.ndarray, " n"]) -> float:
    """D_LSBD of codes that were brought back by the inverse of a known orthogonal action.

    Σ_o s_o² / Σ_o m_o over orbits o, with s_o² = Σ ‖a_i − ā_o‖² / (n_o − 1), the unbiased variance of codes
    brought back, and m_o the mean of ‖a_i‖²: so that orbits of two points and of hundreds compare.

    Args:
        aligned: ρ(g_i)⁻¹ h(g_i·x_o), without components on which the group acts trivially.
        orbits: which orbit each code is of.

    Returns:
        In [0, 1]; 1 for codes without size.

    Raises:
        ValueError: NaN, or no orbit has two points.
    """
    _require_finite(aligned)
    within, size, orbits_used = 0.0, 0.0, 0
    for orbit in np.unique(orbits):
        codes = aligned[orbits == orbit]
        if len(codes) > 1:
            within += np.square(codes - codes.mean(0)).sum() / (len(codes) - 1)
            size += np.square(codes).sum() / len(codes)
            orbits_used += 1
    if not orbits_used:
        raise ValueError("D_LSBD needs an orbit of two states or more that one group element tells apart")
    return float(min(within / size, 1.0)) if size > 1e-20 * orbits_used else 1.0


def shift_dispersion(
    codes: Float[np.ndarray, "n d"],
    shifts: Float[np.ndarray, "n m"],
    orbits: Int[np.ndarray, " n"],
    action: Float[np.ndarray, "m d"] | None = None,
) -> float:
    """D_LSBD of a group of translations (of time, of places), which acts by z(t) = z(0) + t A.

    Translations are no orthogonal action, so what remains is compared with what the action does:
    Σ ‖z − t A − (its mean over the orbit)‖² / Σ ‖(t − t̄) A‖², at most 1; 1 for a constant code.

    Args:
        codes: h(t_i·x_o).
        shifts: t_i.
        orbits: which orbit each code is of.
        action: A; None: that of least squares.

    Raises:
        ValueError: NaN, or every orbit is at one place.
    """
    _require_finite(codes)
    centred, moved = _centred(codes, orbits), _centred(shifts, orbits)
    if not np.square(moved).sum():
        raise ValueError("D_LSBD of shifts needs a scene at two places, or times, or more")
    expected = moved @ (np.linalg.lstsq(moved, centred)[0] if action is None else action)
    size = np.square(expected).sum()
    return float(min(np.square(centred - expected).sum() / size, 1.0)) if size > 1e-20 else 1.0


def so2_elements(angles: Float[np.ndarray, " n"], orbits: Int[np.ndarray, " n"]) -> dict[str, np.ndarray]:
    """Representations of SO(2) on the plane, by name: rotations by ω times the angle.

    Frequencies that orbits of so few points cannot tell apart are left out.

    Args:
        angles: radians.
        orbits: which orbit each angle is of.
    """
    fewest = min(np.unique(orbits, return_counts=True)[1])
    highest = min(MAX_FREQUENCY, max((fewest - 1) // 2, 1))
    return {f"ω = {k}": _rotations(k * angles) for k in range(1, highest + 1)}


def fitted_dispersion(
    codes: Float[np.ndarray, "n d"], elements: Mapping[str, Float[np.ndarray, "n r r"]], orbits: np.ndarray
) -> tuple[float, str]:
    """D_LSBD of codes whose action is not known: the least over representations, as in the paper.

    Codes less the mean of their orbit are projected to their first r principal components and whitened; for
    each family of orthogonal matrices ρ(g_i), the orthogonal Q of ρ' = Q ρ Qᵀ is found by alternating
    between the codes brought back and Procrustes' problem.

    Args:
        codes: h(g_i·x_o).
        elements: ρ(g_i), by name of the representation.
        orbits: which orbit each code is of; at least r + 1 points in each tell a representation from chance.

    Returns:
        D_LSBD, and the name of the representation.

    Raises:
        ValueError: NaN, or no representation.
    """
    _require_finite(codes)
    if not elements:
        raise ValueError("D_LSBD needs at least one representation to try")
    found = {}
    for name, matrices in elements.items():
        plane = _whitened(_centred(codes, orbits), matrices.shape[-1])
        found[name] = 1.0 if plane is None else _best_basis(plane, matrices, orbits)
    best = min(found, key=lambda name: found[name])
    return found[best], best


def _best_basis(codes: np.ndarray, matrices: np.ndarray, orbits: np.ndarray) -> float:
    """Least dispersion over orthogonal changes of basis."""
    dim, rng = matrices.shape[-1], np.random.default_rng(0)
    least = 1.0
    for start in range(_STARTS):
        basis = np.eye(dim) if start == 0 else np.linalg.qr(rng.normal(size=(dim, dim)))[0]
        for _ in range(_SWEEPS):
            aligned = np.einsum("nji,nj->ni", matrices, codes @ basis)
            expected = np.einsum("nij,nj->ni", matrices, aligned - _centred(aligned, orbits))
            u, _, vt = np.linalg.svd(codes.T @ expected)
            basis = u @ vt
        least = min(least, dispersion(np.einsum("nji,nj->ni", matrices, codes @ basis), orbits))
    return least


def _whitened(centred: np.ndarray, count: int) -> np.ndarray | None:
    """The first principal components, each of one variance; None where there are fewer."""
    u, values, _ = np.linalg.svd(centred, full_matrices=False)
    if len(values) < count or values[count - 1] <= 1e-9 * max(values[0], 1e-9):
        return None
    return u[:, :count] * len(centred) ** 0.5


def _rotations(angles: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 2 2"]:
    cos, sin = np.cos(angles), np.sin(angles)
    return np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)


def _centred(values: np.ndarray, orbits: np.ndarray) -> np.ndarray:
    """Values less the mean of their orbit."""
    _, index, counts = np.unique(orbits, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), values.shape[1]))
    np.add.at(sums, index, values)
    return values - (sums / counts[:, None])[index]


def _require_finite(codes: np.ndarray) -> None:
    if not np.isfinite(codes).all():
        raise ValueError("the codes hold NaN or infinite numbers; the encoder has diverged")
