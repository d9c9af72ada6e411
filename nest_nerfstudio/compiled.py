"""Decorators that compile kernels with numba, and conversion of tensors to the arrays they take.

Kernels are module-level functions, so that numba can cache them on disk. They are compiled once per dtype.
numba's cache watches only the file of a kernel: after a change to a function it calls, delete `__pycache__`.
"""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor


def _compiler(**options: Any) -> Callable[[Callable], Any]:
    """Make a decorator that compiles the original function, without the type checks of an import hook."""

    def compile_(function: Callable) -> Any:
        from numba import njit  # slow to import, and not needed on CUDA

        return njit(nogil=True, error_model="numpy", **options)(inspect.unwrap(function))

    return compile_


kernel = _compiler(cache=True, fastmath={"contract"})
"""Compiles a kernel; it runs without the interpreter lock and is cached on disk."""

sum_kernel = _compiler(cache=True, fastmath={"contract", "reassoc", "nsz"})
"""Compiles a kernel that sums in a loop: it may reorder the sum, without which the loop is not vectorised."""

inlined = _compiler(inline="always", fastmath={"contract"})
"""Compiles a helper function that takes arrays, which LLVM alone would not inline."""


def fits_kernels(x: Tensor) -> bool:
    """Whether kernels take a tensor: it is float32 or float64 on the CPU."""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)


def as_array(x: Tensor) -> np.ndarray:
    """Array of a CPU tensor for a kernel to read; or to write, if `x` is contiguous (memory is shared)."""
    return x.detach().contiguous().numpy()
