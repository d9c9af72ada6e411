"""Rigid motions against matrices and matrix exponentials, group laws, and derivatives at the identity."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm
from torch import Tensor
from torch.autograd import gradcheck

from nest_nerfstudio.geometry.quaternion import quat_to_rotmat
from nest_nerfstudio.geometry.se3 import se3_apply, se3_compose, se3_exp, se3_inverse, se3_log, se3_plus

coordinate = st.floats(-1.0, 1.0)
twists = st.tuples(*[coordinate] * 6).map(lambda v: torch.tensor(v, dtype=torch.float64))


def to_matrix(pose: tuple[Tensor, Tensor]) -> Tensor:
    quats, translations = pose
    matrix = torch.eye(4, dtype=quats.dtype).repeat(*quats.shape[:-1], 1, 1)
    matrix[..., :3, :3], matrix[..., :3, 3] = quat_to_rotmat(quats), translations
    return matrix


def twist_matrix(xi: Tensor) -> Tensor:
    rho, (a, b, c) = xi[:3], xi[3:]
    matrix = torch.zeros(4, 4, dtype=xi.dtype)
    matrix[0, 1], matrix[0, 2], matrix[1, 2] = -c, b, -a
    matrix[1, 0], matrix[2, 0], matrix[2, 1] = c, -b, a
    matrix[:3, 3] = rho
    return matrix


@given(twists, st.sampled_from([0.0, 1e-9, 1e-4, 0.1, 1.0, 1.8, 5.0]))
@settings(max_examples=200, deadline=None)
def test_exp_is_the_matrix_exponential(xi: Tensor, size: float) -> None:
    # torch.linalg.matrix_exp is off by 8e-12 in float64
    expected = torch.from_numpy(expm(twist_matrix(xi * size).numpy()))
    torch.testing.assert_close(to_matrix(se3_exp(xi * size)), expected, rtol=0, atol=1e-13)


@given(twists, st.sampled_from([0.0, 1e-9, 1e-4, 0.1, 0.28, 0.3, 1.0, 1.8]))
@settings(max_examples=200, deadline=None)
def test_log_inverts_exp(xi: Tensor, size: float) -> None:
    torch.testing.assert_close(se3_log(se3_exp(xi * size)), xi * size, rtol=1e-11, atol=1e-14)


def test_group_laws() -> None:
    a, b, c = (se3_exp(torch.randn(5, 6, dtype=torch.float64)) for _ in range(3))
    left, right = se3_compose(se3_compose(a, b), c), se3_compose(a, se3_compose(b, c))
    torch.testing.assert_close(to_matrix(left), to_matrix(right), rtol=0, atol=1e-13)
    torch.testing.assert_close(to_matrix(se3_compose(a, b)), to_matrix(a) @ to_matrix(b), rtol=0, atol=1e-13)
    identity = torch.eye(4, dtype=torch.float64).expand(5, 4, 4)
    torch.testing.assert_close(to_matrix(se3_compose(a, se3_inverse(a))), identity, rtol=0, atol=1e-13)


def test_apply_broadcasts_poses_over_points() -> None:
    quats, translations = se3_exp(torch.randn(4, 1, 6))
    points = torch.randn(7, 3)
    moved = se3_apply((quats, translations), points)
    expected = torch.einsum("kij,nj->kni", quat_to_rotmat(quats[:, 0]), points) + translations
    assert moved.shape == (4, 7, 3)
    torch.testing.assert_close(moved, expected)


@pytest.mark.parametrize("angle", [0.0, 1e-8, 1e-3, 0.499, 0.501, 2.0, 3.1])
def test_derivatives(angle: float) -> None:
    xi = torch.tensor([1.0, -2, 3, 0.36 * angle, 0.48 * angle, 0.8 * angle], dtype=torch.float64)
    xi.requires_grad_()
    assert gradcheck(se3_exp, xi)
    jacobian = torch.autograd.functional.jacobian(lambda v: se3_log(se3_exp(v)), xi)
    torch.testing.assert_close(jacobian, torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-8)


def test_derivative_at_zero_in_float32() -> None:
    jacobian = torch.autograd.functional.jacobian(lambda v: torch.cat(se3_exp(v)), torch.zeros(6))
    expected = torch.zeros(7, 6)
    expected[4:, :3] = torch.eye(3)
    expected[1:4, 3:] = 0.5 * torch.eye(3)
    torch.testing.assert_close(jacobian, expected, rtol=0, atol=0)


ANGLES = [0.0, 1e-8, 1e-3, 0.499, 0.501, 0.999, 1.001, 2.0, 3.1, 7.0]


def poses_and_twists() -> tuple[Tensor, Tensor, Tensor]:
    """One pose and twist for each angle, the twists as every other column of a table."""
    torch.manual_seed(0)
    quats, translations = se3_exp(torch.randn(len(ANGLES), 6, dtype=torch.float64))
    table = torch.randn(len(ANGLES), 12, dtype=torch.float64)
    axes = torch.nn.functional.normalize(table[:, 6::2], dim=1)
    table[:, 6::2] = torch.tensor(ANGLES, dtype=torch.float64)[:, None] * axes
    return quats, translations, table[:, ::2]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 2e-15), (torch.float32, 2e-6)])
def test_plus_composes_with_exp(dtype: torch.dtype, tolerance: float) -> None:
    quats, translations, xi = poses_and_twists()
    moved = se3_plus((quats.to(dtype), translations.to(dtype)), xi.to(dtype))
    for got, expected in zip(moved, se3_compose((quats, translations), se3_exp(xi)), strict=True):
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), expected, rtol=0, atol=tolerance)


def test_derivatives_of_plus() -> None:
    inputs = [x.detach().requires_grad_() for x in poses_and_twists()]
    assert gradcheck(lambda quats, translations, xi: se3_plus((quats, translations), xi), inputs)
    pose, weights = (inputs[0], inputs[1]), torch.randn(len(ANGLES), 7, dtype=torch.float64)
    by_kernel, by_torch = (
        torch.autograd.grad((torch.cat(moved, 1) * weights).sum(), inputs)
        for moved in (se3_plus(pose, inputs[2]), se3_compose(pose, se3_exp(inputs[2])))
    )
    for got, expected in zip(by_kernel, by_torch, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-13)


def test_plus_of_no_bodies() -> None:
    quats, translations = se3_plus((torch.zeros(0, 4), torch.zeros(0, 3)), torch.zeros(0, 6))
    assert quats.shape == (0, 4)
    assert translations.shape == (0, 3)


def test_plus_of_other_numbers_of_poses_and_twists_is_refused() -> None:
    with pytest.raises(ValueError, match="5 twists need as many poses, but there are 4"):
        se3_plus((torch.zeros(4, 4), torch.zeros(4, 3)), torch.zeros(5, 6))
