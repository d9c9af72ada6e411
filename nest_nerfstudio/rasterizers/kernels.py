"""What all compiled kernels share: the decorator, the numbers of the drawing rules, and the exponential.

Kernels are module-level functions so that numba can keep them on disk; they are compiled once per float type.
`no_type_check` keeps jaxtyping's import hook, which wraps every function it sees, away from compiled ones.
numba's cache watches only the file a kernel is in: after changing this one, delete `__pycache__`.
"""

import math
from typing import NamedTuple, no_type_check

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload

TILE = 16
"""Width and height of a tile in pixels."""
ALPHA_MIN = 1.0 / 255.0
"""Weaker contributions are skipped."""
ALPHA_MAX = 0.999
"""Opacity at a pixel is cut here."""
T_MIN = 1e-4
"""A pixel is complete before the Gaussian that would leave it this little transmittance."""
EPS2D = 0.3
"""Added to the diagonal of the projected covariance, pixels²."""


class Frame(NamedTuple):
    """Size of the pictures in pixels and in tiles."""

    width: int
    height: int
    tiles_x: int
    tiles_y: int


class Scene(NamedTuple):
    """What is projected, or the gradients of it: arrays over N Gaussians and C cameras."""

    means: np.ndarray
    quats: np.ndarray
    scales: np.ndarray
    opacities: np.ndarray
    sh: np.ndarray
    viewmats: np.ndarray
    centres: np.ndarray


class Splats(NamedTuple):
    """Gaussians on the image planes, or the gradients of them: arrays over C cameras and N Gaussians.

    `whitenings` holds (p, q, r) of W = [[p, q], [0, r]] with WᵀW = Σ⁻¹, so that σ = ½ |W d|². Unlike with the
    inverse covariance (gsplat's conic) nothing large cancels in σ, which float32 needs for thin Gaussians.
    """

    means2d: np.ndarray
    whitenings: np.ndarray
    opacities: np.ndarray
    colors: np.ndarray
    depths: np.ndarray


class Bins(NamedTuple):
    """What each tile draws.

    Attributes:
        starts: [tiles + 1], where each tile's entries begin.
        entries: [M], rows of `records`, front to back within each tile.
        slots: [M], rows of the gradient buffer, those of one Gaussian side by side.
        records: [V, RECORD], the visible Gaussians, nearest first.
    """

    starts: np.ndarray
    entries: np.ndarray
    slots: np.ndarray
    records: np.ndarray


class Pictures(NamedTuple):
    """Pictures [C, H, W, ·], or the gradients of them."""

    rgb: np.ndarray
    alpha: np.ndarray
    depth: np.ndarray


kernel = njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
sum_kernel = njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
"""For loops that sum: they are vectorised only where sums may be regrouped."""


@intrinsic
@no_type_check
def _float_from_bits(typingctx, bits):
    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), codegen


@intrinsic
@no_type_check
def _bits_from_float(typingctx, value):
    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.IntType(32))

    return types.int32(types.float32), codegen


@no_type_check
def exp(x):
    """eˣ for x ≤ 88; float32 by a polynomial that inlines and vectorises, float64 by the C library."""
    return math.exp(x)


@overload(exp, jit_options={"nogil": True, "fastmath": {"contract"}, "error_model": "numpy"})
@no_type_check
def _exp_overload(x):
    return _exp32 if x == types.float32 else _exp64


@no_type_check
def _exp64(x):
    return math.exp(x)


@no_type_check
def _exp32(x):
    """x = n ln 2 + r, eʳ by Cephes' polynomial (`expf.c`, 2 ulp), 2ⁿ by writing the exponent bits."""
    f = types.float32
    x = x if x > f(-87.0) else f(-87.0)
    # Adding 1.5 · 2²³ rounds to an integer and leaves it in the low bits.
    shifted = x * f(1.44269504088896341) + f(12582912.0)
    n = shifted - f(12582912.0)
    r = x - n * f(0.693359375)
    r = r - n * f(-2.12194440e-4)
    p = f(1.9875691500e-4)
    p = p * r + f(1.3981999507e-3)
    p = p * r + f(8.3334519073e-3)
    p = p * r + f(4.1665795894e-2)
    p = p * r + f(1.6666665459e-1)
    p = p * r + f(5.0000001201e-1)
    y = p * (r * r) + r + f(1.0)
    exponent = types.int32((_bits_from_float(shifted) - types.int32(0x4B400000) + types.int32(127)) << 23)
    return y * _float_from_bits(exponent)
