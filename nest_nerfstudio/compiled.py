"""Decorators of the compiled kernels.

Kernels are module-level functions so that numba can keep them on disk; they are compiled once per float type.
numba's cache watches only the file a kernel is in: after changing one that others call, delete `__pycache__`.
"""

import inspect
from collections.abc import Callable
from typing import Any

from numba import njit


def _compiler(**options: Any) -> Callable[[Callable], Any]:
    """Compiles what a function was written as, without the checks that an import hook wrapped it in."""
    compile_ = njit(nogil=True, error_model="numpy", **options)
    return lambda function: compile_(inspect.unwrap(function))


kernel = _compiler(cache=True, fastmath={"contract"})

sum_kernel = _compiler(cache=True, fastmath={"contract", "reassoc", "nsz"})
"""For loops that sum: they are vectorised only where sums may be regrouped."""

inlined = _compiler(inline="always", fastmath={"contract"})
"""For helpers that take arrays, which LLVM alone would leave as calls."""
