"""Choice of the rasterizer by name and device."""

import subprocess
import sys

import pytest
import torch

from nest_nerfstudio.rasterizers import create_rasterizer


def test_auto_is_numba_on_the_cpu() -> None:
    assert create_rasterizer("auto", "cpu").name == create_rasterizer("numba", "cpu").name == "numba (CPU)"


def test_dense_runs_on_any_device() -> None:
    assert create_rasterizer("dense", "cpu").name == create_rasterizer("dense", "cuda").name


@pytest.mark.cuda
def test_auto_is_gsplat_on_cuda() -> None:
    assert create_rasterizer("auto", "cuda").name == "gsplat (CUDA)"


def test_numba_refuses_cuda() -> None:
    with pytest.raises(ValueError, match="runs on the CPU"):
        create_rasterizer("numba", "cuda")


def test_gsplat_refuses_the_cpu() -> None:
    with pytest.raises(ValueError, match="runs on CUDA"):
        create_rasterizer("gsplat", "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA")
def test_gsplat_without_cuda_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="needs a CUDA device"):
        create_rasterizer("gsplat", "cuda")


def test_importing_is_light() -> None:
    code = "import sys, nest_nerfstudio.rasterizers; print({'numba', 'gsplat'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "set()"
