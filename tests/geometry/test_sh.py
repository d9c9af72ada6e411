"""Spherical harmonics against gsplat's own formulas, e3nn, and what a rotation must do."""

import subprocess
import sys

import e3nn.o3 as o3
import pytest
import torch
from gsplat.cuda._torch_impl import _eval_sh_bases_fast, _spherical_harmonics
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.autograd import gradcheck
from torch.nn import functional as F

from nest_nerfstudio.geometry.sh import (
    eval_sh,
    rgb_to_sh,
    rotate_sh,
    sh_basis,
    sh_degree,
    sh_from_e3nn,
    sh_to_e3nn,
    sh_to_rgb,
    wigner_d,
)

DEGREES = range(4)
E3NN = 1e-5  # e3nn's own constants are of single precision


def random_dirs(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape, 3, dtype=torch.float64), dim=-1)


def random_rotmats(count: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(Rotation.random(count, random_state=seed).as_matrix())


def random_sh(*shape: int, degree: int) -> Tensor:
    return torch.randn(*shape, (degree + 1) ** 2, 3, dtype=torch.float64)


@pytest.mark.parametrize("degree", DEGREES)
def test_basis_is_gsplats(degree: int) -> None:
    dirs = random_dirs(50)
    torch.testing.assert_close(
        sh_basis(degree, dirs), _eval_sh_bases_fast((degree + 1) ** 2, dirs), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("degree", DEGREES)
def test_evaluation_is_gsplats(degree: int) -> None:
    dirs, sh = 5 * torch.randn(50, 3, dtype=torch.float64), random_sh(50, degree=3)
    torch.testing.assert_close(eval_sh(degree, dirs, sh), _spherical_harmonics(degree, dirs, sh))


def test_basis_is_orthonormal() -> None:
    dirs = F.normalize(torch.randn(200_000, 3), dim=-1)
    basis = sh_basis(3, dirs)
    gram = basis.T @ basis * (4 * torch.pi / len(dirs))
    torch.testing.assert_close(gram, torch.eye(16), rtol=0, atol=0.03)


@pytest.mark.parametrize("degree", DEGREES)
@given(seed=st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_turned_colour_is_seen_along_the_turned_direction(degree: int, seed: int) -> None:
    rotmats, dirs, sh = random_rotmats(8, seed), random_dirs(8), random_sh(8, degree=degree)
    turned_dirs = (rotmats @ dirs[..., None])[..., 0]
    turned = rotate_sh(sh, rotmats)
    torch.testing.assert_close(
        eval_sh(degree, turned_dirs, turned), eval_sh(degree, dirs, sh), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("degree", DEGREES)
def test_rotations_compose_and_keep_lengths(degree: int) -> None:
    first, second, sh = random_rotmats(6, 1), random_rotmats(6, 2), random_sh(6, degree=degree)
    stepwise = rotate_sh(rotate_sh(sh, first), second)
    torch.testing.assert_close(stepwise, rotate_sh(sh, second @ first), rtol=0, atol=1e-12)
    torch.testing.assert_close(stepwise.norm(dim=-2), sh.norm(dim=-2))


def test_one_rotation_turns_many_expansions() -> None:
    sh, rotmat = random_sh(2, 5, degree=3), random_rotmats(1)[0]
    torch.testing.assert_close(rotate_sh(sh, rotmat)[1, 3], rotate_sh(sh[1, 3], rotmat))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-14)])
def test_rotation_loses_no_precision(dtype: torch.dtype, tolerance: float) -> None:
    rotmats, sh = random_rotmats(100), random_sh(100, degree=3)
    exact = rotate_sh(sh, rotmats)
    assert (rotate_sh(sh.to(dtype), rotmats.to(dtype)) - exact).abs().max() < tolerance * exact.abs().max()


def test_derivatives_of_rotation() -> None:
    sh, rotmats = random_sh(2, degree=3).requires_grad_(), random_rotmats(2).requires_grad_()
    assert gradcheck(rotate_sh, (sh, rotmats))


FIRST_USE_IN_INFERENCE_MODE = """
import torch
from nest_nerfstudio.geometry.sh import rotate_sh, sh_to_e3nn
sh, rotmats = torch.randn(2, 16, 3), torch.eye(3).repeat(2, 1, 1)
with torch.inference_mode():
    rotate_sh(sh, rotmats), sh_to_e3nn(sh)
rotmats.requires_grad_(), sh.requires_grad_()
(rotate_sh(sh, rotmats).sum() + sh_to_e3nn(sh).sum()).backward()
print(rotmats.grad.isfinite().all().item(), sh.grad.isfinite().all().item())
"""


def test_gradient_after_first_use_in_inference_mode() -> None:
    """The constants are cached at first use; a new process has an empty cache."""
    command = [sys.executable, "-c", FIRST_USE_IN_INFERENCE_MODE]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["True", "True"]


@pytest.mark.parametrize("degree", DEGREES)
def test_e3nn_on_yzx_is_gsplat_up_to_signs(degree: int) -> None:
    dirs = random_dirs(50)
    e3nn = o3.spherical_harmonics(
        list(range(degree + 1)), dirs[:, [1, 2, 0]], normalize=False, normalization="integral"
    )
    signs = (-1.0) ** torch.arange((degree + 1) ** 2)
    torch.testing.assert_close(sh_basis(degree, dirs), e3nn * signs, rtol=0, atol=E3NN)


@pytest.mark.parametrize("degree", DEGREES)
def test_wigner_d_is_e3nns(degree: int) -> None:
    rotmats = random_rotmats(10)
    cycle = torch.tensor([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]], dtype=torch.float64)
    expected = o3.Irrep(degree, 1).D_from_matrix(cycle @ rotmats @ cycle.T)
    signs = (-1.0) ** torch.arange(degree**2, (degree + 1) ** 2)
    torch.testing.assert_close(
        wigner_d(rotmats, degree), signs[:, None] * expected * signs, rtol=0, atol=E3NN
    )


@pytest.mark.parametrize("degree", DEGREES)
def test_e3nn_coefficients_describe_the_same_function(degree: int) -> None:
    dirs, sh = random_dirs(50), random_sh(degree=degree)
    basis = o3.spherical_harmonics(list(range(degree + 1)), dirs, normalize=False, normalization="integral")
    torch.testing.assert_close(
        basis @ sh_to_e3nn(sh), eval_sh(degree, dirs, sh.expand(50, -1, -1)), rtol=0, atol=E3NN
    )
    torch.testing.assert_close(sh_from_e3nn(sh_to_e3nn(sh)), sh, rtol=0, atol=E3NN)


@pytest.mark.parametrize("degree", DEGREES)
def test_e3nn_coefficients_turn_as_irreps(degree: int) -> None:
    sh, rotmat = random_sh(degree=degree), random_rotmats(1)[0]
    turn = o3.Irreps.spherical_harmonics(degree).D_from_matrix(rotmat)
    torch.testing.assert_close(sh_to_e3nn(rotate_sh(sh, rotmat)), turn @ sh_to_e3nn(sh), rtol=0, atol=E3NN)


def test_colour_of_degree_zero() -> None:
    rgb = torch.rand(10, 3)
    torch.testing.assert_close(sh_to_rgb(rgb_to_sh(rgb)), rgb)
    torch.testing.assert_close(eval_sh(0, torch.randn(10, 3), rgb_to_sh(rgb)[:, None]) + 0.5, rgb)


def test_bad_degrees() -> None:
    with pytest.raises(ValueError, match="1, 4, 9 or 16"):
        sh_degree(7)
    with pytest.raises(ValueError, match="degree 0 to 4"):
        sh_basis(5, torch.ones(1, 3))
    with pytest.raises(ValueError, match="degree 0 to 3"):
        wigner_d(torch.eye(3), 4)
    with pytest.raises(ValueError, match="too few"):
        eval_sh(2, torch.ones(1, 3), torch.zeros(1, 4, 3))
