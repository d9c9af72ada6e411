"""Types that the rasterizer's kernels share, and their exponential function."""

import math
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from nest_nerfstudio.compiled import kernel


class Frame(NamedTuple):
    """Image size in pixels and in tiles."""

    width: int
    height: int
    tiles_x: int
    tiles_y: int


class Scene(NamedTuple):
    """Gaussians and cameras, or their gradients: arrays over N Gaussians and C cameras."""

    means: np.ndarray
    quats: np.ndarray
    scales: np.ndarray
    opacities: np.ndarray
    sh: np.ndarray
    viewmats: np.ndarray
    centres: np.ndarray


class Splats(NamedTuple):
    """Gaussians on the image planes, or their gradients: arrays over C cameras and N Gaussians.

    `whitenings` holds (p, q, r) of W = [[p, q], [0, r]] with WᵀW = Σ⁻¹, so that σ = ½ |W d|². In contrast to
    the inverse covariance (gsplat's conic), no large terms cancel in σ: float32 is enough for thin Gaussians.
    """

    means2d: np.ndarray
    whitenings: np.ndarray
    opacities: np.ndarray
    colors: np.ndarray
    depths: np.ndarray


class Bins(NamedTuple):
    """Lists of the Gaussians of each tile.

    Attributes:
        starts: [tiles + 1], index of the first entry of each tile.
        entries: [M], rows of `records`, front to back within each tile.
        slots: [M], rows of the gradient buffer; those of one Gaussian are adjacent.
        records: [V, RECORD], the visible Gaussians, nearest first.
    """

    starts: np.ndarray
    entries: np.ndarray
    slots: np.ndarray
    records: np.ndarray


class Images(NamedTuple):
    """Rendered images [C, H, W, ·], or their gradients."""

    rgb: np.ndarray
    alpha: np.ndarray
    depth: np.ndarray


@intrinsic
def _float_from_bits(typingctx, bits):
    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), codegen


@intrinsic
def _bits_from_float(typingctx, value):
    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.IntType(32))

    return types.int32(types.float32), codegen


def exp(x):
    """eˣ for x ≤ 88; float32 by a polynomial that can be inlined and vectorised, float64 by the C library."""
    return math.exp(x)


@overload(exp)
def _exp_overload(x):
    compiled = _exp32 if x == types.float32 else _exp64
    return lambda x: compiled(x)


@kernel
def _exp64(x):
    return math.exp(x)


@kernel
def _exp32(x):
    """eˣ = 2ⁿ eʳ with x = n ln 2 + r: eʳ by Cephes' polynomial (`expf.c`, 2 ulp), 2ⁿ as exponent bits."""
    f = types.float32
    x = x if x > f(-87.0) else f(-87.0)
    # Adding 1.5 · 2²³ rounds to an integer, which is then in the low bits.
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
    bits = _bits_from_float(shifted)  # type: ignore[call-arg]  # numba passes the context
    exponent = types.int32((bits - types.int32(0x4B400000) + types.int32(127)) << 23)
    return y * _float_from_bits(exponent)
