"""Rigid motions against scipy and roma, group laws, interpolation, and derivatives at the identity."""

import pytest
import roma
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm, logm
from torch import Tensor
from torch.autograd import gradcheck

from nest_nerfstudio.geometry.quaternion import quat_to_rotmat
from nest_nerfstudio.geometry.se3 import (
    se3_apply,
    se3_compose,
    se3_exp,
    se3_interpolate,
    se3_inverse,
    se3_log,
    se3_plus,
)

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


def random_poses(count: int) -> tuple[Tensor, Tensor]:
    return se3_exp(torch.randn(count, 6, dtype=torch.float64))


def to_roma(pose: tuple[Tensor, Tensor]) -> roma.RigidUnitQuat:
    return roma.RigidUnitQuat(roma.quat_wxyz_to_xyzw(pose[0]), pose[1])


def test_group_operations_match_roma() -> None:
    a, b, points = random_poses(20), random_poses(20), torch.randn(20, 3, dtype=torch.float64)
    torch.testing.assert_close(to_matrix(se3_compose(a, b)), (to_roma(a) @ to_roma(b)).to_homogeneous())
    torch.testing.assert_close(to_matrix(se3_inverse(a)), to_roma(a).inverse().to_homogeneous())
    torch.testing.assert_close(se3_apply(a, points), to_roma(a).apply(points))


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


def test_interpolation_ends_at_both_poses_whatever_the_signs() -> None:
    a, b = random_poses(8), random_poses(8)
    for sign in (1.0, -1.0):
        start, end = (
            se3_interpolate(a, (sign * b[0], b[1]), 0.0),
            se3_interpolate(a, (sign * b[0], b[1]), 1.0),
        )
        torch.testing.assert_close(to_matrix(start), to_matrix(a), rtol=0, atol=1e-13)
        torch.testing.assert_close(to_matrix(end), to_matrix(b), rtol=0, atol=1e-12)


@pytest.mark.parametrize("weight", [-0.5, 0.25, 0.5, 1.5])
def test_interpolation_is_the_geodesic(weight: float) -> None:
    a, b = random_poses(8), random_poses(8)
    got = se3_interpolate(a, b, weight)
    for matrix, first, last in zip(to_matrix(got), to_matrix(a).numpy(), to_matrix(b).numpy(), strict=True):
        twist = logm(torch.linalg.solve(torch.from_numpy(first), torch.from_numpy(last)).numpy())
        torch.testing.assert_close(matrix, torch.from_numpy(first @ expm(weight * twist)), rtol=0, atol=1e-11)
    steps = torch.tensor([weight])
    turn = roma.unitquat_slerp(*(roma.quat_wxyz_to_xyzw(q) for q in (a[0], b[0])), steps, shortest_arc=True)[
        0
    ]
    torch.testing.assert_close(to_matrix(got)[:, :3, :3], roma.unitquat_to_rotmat(turn), rtol=0, atol=1e-12)


def test_interpolation_is_equivariant_and_symmetric() -> None:
    g, a, b = (random_poses(8) for _ in range(3))
    weights = torch.rand(8, dtype=torch.float64)
    got = se3_interpolate(a, b, weights)
    moved = se3_interpolate(se3_compose(g, a), se3_compose(g, b), weights)
    torch.testing.assert_close(to_matrix(moved), to_matrix(se3_compose(g, got)), rtol=0, atol=1e-12)
    torch.testing.assert_close(
        to_matrix(se3_interpolate(b, a, 1 - weights)), to_matrix(got), rtol=0, atol=1e-11
    )


def test_interpolation_broadcasts_weights_over_poses() -> None:
    a, b = random_poses(5), random_poses(5)
    weights = torch.linspace(0, 1, 4, dtype=torch.float64)
    quats, translations = se3_interpolate(a, b, weights[:, None])
    assert quats.shape == (4, 5, 4)
    expected = se3_interpolate(a, b, float(weights[2]))
    torch.testing.assert_close(quats[2], expected[0])
    torch.testing.assert_close(translations[2], expected[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_of_interpolation_at_equal_poses_is_finite(dtype: torch.dtype) -> None:
    """There the midpoint follows half of a motion of b."""
    quats, translations = (x[:1].to(dtype) for x in random_poses(1))
    twist = torch.zeros(1, 6, dtype=dtype)

    def twist_of_the_midpoint(xi: Tensor) -> Tensor:
        midpoint = se3_interpolate((quats, translations), se3_plus((quats, translations), xi), 0.5)
        return se3_log(se3_compose(se3_inverse((quats, translations)), midpoint))[0]

    jacobian = torch.autograd.functional.jacobian(twist_of_the_midpoint, twist)[:, 0]
    torch.testing.assert_close(jacobian, 0.5 * torch.eye(6, dtype=dtype), rtol=0, atol=1e-6)
    inputs = [x.requires_grad_() for x in (quats, translations, quats.clone(), translations.clone())]
    out = se3_interpolate((inputs[0], inputs[1]), (inputs[2], inputs[3]), torch.zeros(1, dtype=dtype))
    gradients = torch.autograd.grad(out[0].sum() + out[1].sum(), inputs)
    assert all(gradient.isfinite().all() for gradient in gradients)


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


def test_plus_of_no_poses() -> None:
    quats, translations = se3_plus((torch.zeros(0, 4), torch.zeros(0, 3)), torch.zeros(0, 6))
    assert quats.shape == (0, 4)
    assert translations.shape == (0, 3)


def test_plus_needs_as_many_twists_as_poses() -> None:
    with pytest.raises(ValueError, match="5 twists for 4 poses"):
        se3_plus((torch.zeros(4, 4), torch.zeros(4, 3)), torch.zeros(5, 6))
