"""Decorators of the compiled kernels, and the arrays they work on.

Kernels are module-level functions so that numba can keep them on disk; they are compiled once per float type.
numba's cache watches only the file a kernel is in: after changing one that others call, delete `__pycache__`.
"""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor


def _compiler(**options: Any) -> Callable[[Callable], Any]:
    """Compiles what a function was written as, without the checks that an import hook wrapped it in."""

    def compile_(function: Callable) -> Any:
        from numba import njit  # slow to import, and whoever has no kernels needs it not

        return njit(nogil=True, error_model="numpy", **options)(inspect.unwrap(function))

    return compile_


kernel = _compiler(cache=True, fastmath={"contract"})

sum_kernel = _compiler(cache=True, fastmath={"contract", "reassoc", "nsz"})
"""For loops that sum: they are vectorised only where sums may be regrouped."""

inlined = _compiler(inline="always", fastmath={"contract"})
"""For helpers that take arrays, which LLVM alone would leave as calls."""


def fits_kernels(x: Tensor) -> bool:
    """Whether kernels take a tensor: on the CPU, in single or double precision."""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)


def as_array(x: Tensor) -> np.ndarray:
    """The values of a CPU tensor for a kernel to read; or to write, if it is contiguous."""
    return x.detach().contiguous().numpy()
