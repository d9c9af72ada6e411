"""Real spherical harmonics in gsplat's order and sign: evaluation, rotation, and conversion to e3nn's basis.

The coefficient of degree l and order m has index l² + l + m; Y_1 = C₁·(-y, z, -x). This is also the order of
the original 3D Gaussian Splatting.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

MAX_DEGREE = 3
"""Highest degree of expansions that are stored and rotated."""
MAX_BASIS_DEGREE = 4
"""Highest degree of `sh_basis` and of the rasterizers, as in gsplat."""
SH_C0 = 0.2820947917738781
"""Y_0 = 1 / (2 √π)."""


def sh_degree(coefficients: int) -> int:
    """Degree of an expansion with (degree + 1)² coefficients.

    Raises:
        ValueError: not 1, 4, 9 or 16 coefficients.
    """
    degree = math.isqrt(coefficients) - 1
    if (degree + 1) ** 2 != coefficients or not 0 <= degree <= MAX_DEGREE:
        raise ValueError(f"spherical harmonics have 1, 4, 9 or 16 coefficients here, not {coefficients}")
    return degree


def rgb_to_sh(rgb: Float[Tensor, "... 3"]) -> Float[Tensor, "... 3"]:
    """Coefficient of degree 0 of a view-independent colour, (rgb − 0.5) / Y_0."""
    return (rgb - 0.5) / SH_C0


def sh_to_rgb(sh: Float[Tensor, "... 3"]) -> Float[Tensor, "... 3"]:
    """Colour of a coefficient of degree 0: the inverse of `rgb_to_sh`."""
    return sh * SH_C0 + 0.5


def sh_basis(degree: int, dirs: Float[Tensor, "... 3"]) -> Float[Tensor, "... k"]:
    """Evaluate all functions up to a degree at unit directions (P.-P. Sloan, JCGT 2(2), 2013).

    Args:
        degree: highest degree, 0 to 4.
        dirs: unit directions.

    Returns:
        Values of the K = (degree + 1)² functions.

    Raises:
        ValueError: degree outside 0 to 4.
    """
    if not 0 <= degree <= MAX_BASIS_DEGREE:
        raise ValueError(f"spherical harmonics go from degree 0 to {MAX_BASIS_DEGREE}, not {degree}")
    x, y, z = dirs.unbind(-1)
    zz = z * z
    c1, s1 = x, y  # c_m + i s_m = (x + i y)^m
    c2, s2 = x * c1 - y * s1, x * s1 + y * c1
    c3, s3 = x * c2 - y * s2, x * s2 + y * c2
    c4, s4 = x * c3 - y * s3, x * s3 + y * c3
    a1 = 0.48860251190292
    a2, b2 = 0.5462742152960395, -1.092548430592079 * z
    a3, b3, d3 = -0.5900435899266435, 1.445305721320277 * z, 0.4570457994644658 - 2.285228997322329 * zz
    a4, b4, d4 = 0.6258357354491763, -1.770130769779931 * z, 3.31161143515146 * zz - 0.47308734787878
    e4 = z * (2.007139630671868 - 4.683325804901025 * zz)
    y20 = 0.9461746957575601 * zz - 0.3153915652525201
    y30 = z * (1.865881662950577 * zz - 1.119528997770346)
    y40 = 1.984313483298443 * z * y30 - 1.006230589874905 * y20
    bands = [
        [torch.full_like(x, SH_C0)],
        [-a1 * s1, a1 * z, -a1 * c1],
        [a2 * s2, b2 * s1, y20, b2 * c1, a2 * c2],
        [a3 * s3, b3 * s2, d3 * s1, y30, d3 * c1, b3 * c2, a3 * c3],
        [a4 * s4, b4 * s3, d4 * s2, e4 * s1, y40, e4 * c1, d4 * c2, b4 * c3, a4 * c4],
    ]
    return torch.stack([value for band in bands[: degree + 1] for value in band], -1)


def eval_sh(
    degree: int, dirs: Float[Tensor, "*#b 3"], coeffs: Float[Tensor, "*#b k c"]
) -> Float[Tensor, "*#b c"]:
    """Evaluate expansions, Σ_i coeffs_i Y_i(dir / ‖dir‖) up to `degree`, as gsplat's `spherical_harmonics`.

    Args:
        degree: highest degree to use; at most that of `coeffs`.
        dirs: directions from the camera to the Gaussian, world frame, any length > 0.
        coeffs: coefficients, one column per channel.

    Returns:
        Values per channel; a Gaussian's colour is max(0, value + 0.5).

    Raises:
        ValueError: degree outside 0 to 3 or above that of `coeffs`.
    """
    if degree > sh_degree(coeffs.shape[-2]):
        raise ValueError(
            f"{coeffs.shape[-2]} coefficients are too few for spherical harmonics of degree {degree}"
        )
    basis = sh_basis(degree, F.normalize(dirs, dim=-1))
    return (basis[..., None] * coeffs[..., : basis.shape[-1], :]).sum(-2)


def wigner_d(rotmats: Float[Tensor, "... 3 3"], degree: int) -> Float[Tensor, "... m m"]:
    """Wigner matrix D_l(R), which rotates the 2l + 1 coefficients of one degree: (D c)·Y(R d) = c·Y(d).

    Evaluated on fixed directions p_j: D = Y(p)⁺ Y(Rᵀ p), exact because rotations mix only one degree.

    Args:
        rotmats: rotations R.
        degree: l, 0 to 3.

    Returns:
        Orthogonal matrices in gsplat's order and sign.

    Raises:
        ValueError: degree outside 0 to 3.
    """
    if not 0 <= degree <= MAX_DEGREE:
        raise ValueError(f"spherical harmonics go from degree 0 to {MAX_DEGREE}, not {degree}")
    if degree == 0:
        return torch.ones_like(rotmats[..., :1, :1])
    if degree == 1:  # Y_1 = C₁ (-y, z, -x): the rotation itself with rows and columns renamed
        order = torch.tensor([1, 2, 0], device=rotmats.device)
        sign = rotmats.new_tensor([-1.0, 1.0, -1.0])
        return rotmats[..., order[:, None], order] * (sign[:, None] * sign)
    dirs, inverse = _sample_directions(degree, rotmats.dtype, rotmats.device)
    return inverse @ _band(degree, dirs @ rotmats)


def rotate_sh(sh: Float[Tensor, "*#b k c"], rotmats: Float[Tensor, "*#b 3 3"]) -> Float[Tensor, "*#b k c"]:
    """Rotate expansions: f'(R d) = f(d), so the colour along R d is the former colour along d.

    Args:
        sh: coefficients of degree 0 to 3, one column per channel.
        rotmats: rotations R.

    Returns:
        Coefficients of the rotated expansions.

    Raises:
        ValueError: not 1, 4, 9 or 16 coefficients.
    """
    bands = sh.split([2 * n + 1 for n in range(sh_degree(sh.shape[-2]) + 1)], dim=-2)
    return torch.cat([_rotate_band(n, band, rotmats) for n, band in enumerate(bands)], dim=-2)


def sh_to_e3nn(sh: Float[Tensor, "... k c"]) -> Float[Tensor, "... k c"]:
    """Convert coefficients to e3nn's basis (irreps 0e + 1o + 2e + 3o, normalization "integral").

    The result is an e3nn feature in world axes: a rotation R acts on it by `Irreps.D_from_matrix(R)`.

    Args:
        sh: coefficients in gsplat's order and sign.

    Returns:
        Coefficients for `e3nn.o3.spherical_harmonics(…, normalization="integral")`.
    """
    return _e3nn_basis(sh_degree(sh.shape[-2]), sh.dtype, sh.device).mT @ sh


def sh_from_e3nn(sh: Float[Tensor, "... k c"]) -> Float[Tensor, "... k c"]:
    """Convert coefficients from e3nn's basis: the inverse of `sh_to_e3nn`."""
    return _e3nn_basis(sh_degree(sh.shape[-2]), sh.dtype, sh.device) @ sh


def _rotate_band(
    degree: int, band: Float[Tensor, "*#b m c"], rotmats: Float[Tensor, "*#b 3 3"]
) -> Float[Tensor, "*#b m c"]:
    if degree < 2:
        return wigner_d(rotmats, degree) @ band
    dirs, inverse = _sample_directions(degree, band.dtype, band.device)
    return inverse @ (_band(degree, dirs @ rotmats) @ band)  # not forming D is a quarter faster


def _band(degree: int, dirs: Float[Tensor, "... 3"]) -> Float[Tensor, "... m"]:
    """Evaluate the 2·degree + 1 functions of one degree at unit directions."""
    return sh_basis(degree, dirs)[..., degree**2 :]


@lru_cache(maxsize=32)
def _sample_directions(degree: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Sample directions for one degree, and the inverse matrix of the degree's functions on them.

    A spiral over a hemisphere, as the functions of one degree are all even or all odd. Its two constants were
    chosen for a small condition number: 3.6 for degree 2, 5.4 for degree 3.
    """
    count = 2 * degree + 1
    with torch.inference_mode(False), torch.no_grad():  # a cached tensor outlives the mode it was made in
        i = torch.arange(count, dtype=torch.float64)
        z, turn = 1 - (i + 0.3) / count, 2.68 * i
        ring = (1 - z * z).sqrt()
        dirs = torch.stack([ring * turn.cos(), ring * turn.sin(), z], dim=-1)
        inverse = torch.linalg.inv(_band(degree, dirs))
        return dirs.to(device, dtype), inverse.to(device, dtype)


@lru_cache(maxsize=32)
def _e3nn_basis(degree: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Orthogonal matrix M with Y_gsplat(d) = M Y_e3nn(d), by least squares on fixed directions.

    Although Y_gsplat(x, y, z)_i = (-1)^i Y_e3nn(y, z, x)_i, M is dense within a degree: it includes the
    permutation of the axes.
    """
    from e3nn import o3  # slow to import, and only the encoders need it

    with torch.inference_mode(False), torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        dirs = torch.randn(64, 3, dtype=torch.float64, generator=generator)
        dirs = F.normalize(dirs, dim=-1)
        irreps = o3.Irreps.spherical_harmonics(degree)
        theirs = o3.spherical_harmonics(irreps, dirs, normalize=False, normalization="integral")
        return torch.linalg.lstsq(theirs, sh_basis(degree, dirs)).solution.mT.to(device, dtype)
