"""The way of tensors to compiled kernels."""

import numpy as np
import pytest
import torch

from nest_nerfstudio.compiled import as_array, fits_kernels, inlined, kernel, sum_kernel


@pytest.mark.parametrize(
    ("dtype", "fits"), [(torch.float32, True), (torch.float64, True), (torch.half, False)]
)
def test_kernels_take_single_and_double_precision(dtype: torch.dtype, fits: bool) -> None:
    assert fits_kernels(torch.zeros(2, dtype=dtype)) == fits


def test_kernels_take_no_other_device() -> None:
    assert not fits_kernels(torch.zeros(2, device="meta"))


def test_arrays_share_the_memory_of_contiguous_tensors() -> None:
    x = torch.zeros(3, requires_grad=True)
    as_array(x)[1] = 5.0
    assert x.tolist() == [0.0, 5.0, 0.0]


def test_arrays_of_strided_tensors_are_contiguous() -> None:
    x = torch.arange(6.0).reshape(2, 3).T
    array = as_array(x)
    assert array.flags.c_contiguous
    np.testing.assert_array_equal(array, [[0, 3], [1, 4], [2, 5]])


def plus_one(x):
    return x + 1.0


def total(x):
    s = 0.0
    for i in range(x.size):
        s += x[i]
    return s


def test_decorators_compile_what_they_decorate() -> None:
    assert kernel(plus_one)(2.0) == 3.0
    assert sum_kernel(total)(np.arange(5.0)) == 10.0
    assert inlined(total)(np.arange(5.0)) == 10.0
