"""Quaternions against scipy and roma, group laws, and derivatives where formulas are singular."""

import math

import pytest
import roma
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from torch.autograd import gradcheck

from nest_nerfstudio.geometry.quaternion import (
    quat_conjugate,
    quat_exp,
    quat_log,
    quat_multiply,
    quat_normalize,
    quat_rotate,
    quat_to_rotmat,
    rotmat_to_quat,
    stumpff,
)

coordinate = st.floats(-1.0, 1.0)
vectors = st.tuples(coordinate, coordinate, coordinate).map(lambda v: torch.tensor(v, dtype=torch.float64))


def random_quats(*shape: int) -> torch.Tensor:
    return quat_normalize(torch.randn(*shape, 4, dtype=torch.float64))


def to_scipy(quats: torch.Tensor) -> Rotation:
    return Rotation.from_quat(quats.reshape(-1, 4)[:, [1, 2, 3, 0]].numpy())


def same_rotation(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return torch.minimum((p - q).abs().amax(-1), (p + q).abs().amax(-1)).max()


def test_product_and_rotation_match_scipy() -> None:
    p, q, v = random_quats(20), random_quats(20), torch.randn(20, 3, dtype=torch.float64)
    expected = (to_scipy(p) * to_scipy(q)).as_matrix()
    torch.testing.assert_close(quat_to_rotmat(quat_multiply(p, q)), torch.from_numpy(expected))
    torch.testing.assert_close(quat_rotate(p, v), torch.from_numpy(to_scipy(p).apply(v.numpy())))


def test_everything_matches_roma() -> None:
    """An independent library, whose order is xyzw."""
    p, q, v = random_quats(20), random_quats(20), torch.randn(20, 3, dtype=torch.float64)
    p_xyzw, q_xyzw = roma.quat_wxyz_to_xyzw(p), roma.quat_wxyz_to_xyzw(q)
    matrices = roma.unitquat_to_rotmat(p_xyzw)
    product = roma.quat_xyzw_to_wxyz(roma.quat_product(p_xyzw, q_xyzw))
    torch.testing.assert_close(quat_to_rotmat(p), matrices)
    torch.testing.assert_close(quat_multiply(p, q), product)
    torch.testing.assert_close(quat_conjugate(p), roma.quat_xyzw_to_wxyz(roma.quat_inverse(p_xyzw)))
    torch.testing.assert_close(quat_rotate(p, v), roma.quat_action(p_xyzw, v))
    torch.testing.assert_close(quat_log(p), roma.unitquat_to_rotvec(p_xyzw, shortest_arc=True))
    torch.testing.assert_close(quat_exp(v), roma.quat_xyzw_to_wxyz(roma.rotvec_to_unitquat(v)))
    assert same_rotation(rotmat_to_quat(matrices), p) < 1e-14


def test_order_is_wxyz() -> None:
    """A quarter turn about z, written out; read as xyzw it would be another rotation."""
    quarter = torch.tensor([0.5**0.5, 0.0, 0.0, 0.5**0.5])
    torch.testing.assert_close(quat_rotate(quarter, torch.tensor([1.0, 0, 0])), torch.tensor([0.0, 1, 0]))
    torch.testing.assert_close(quat_exp(torch.tensor([0.0, 0, math.pi / 2])), quarter)


def test_a_zero_quaternion_stays_zero() -> None:
    assert (quat_normalize(torch.zeros(2, 4)) == 0).all()
    torch.testing.assert_close(quat_normalize(torch.tensor([0.0, 3, 0, 4])), torch.tensor([0.0, 0.6, 0, 0.8]))


def test_group_laws() -> None:
    p, q, r = random_quats(3, 5, 7)
    one = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(
        quat_multiply(quat_multiply(p, q), r), quat_multiply(p, quat_multiply(q, r)), rtol=0, atol=1e-14
    )
    torch.testing.assert_close(quat_multiply(p, quat_conjugate(p)), one.expand(5, 7, 4), rtol=0, atol=1e-14)
    torch.testing.assert_close(quat_multiply(one, p), p)


def test_batch_shapes_broadcast() -> None:
    q, v = random_quats(4, 1), torch.randn(6, 3, dtype=torch.float64)
    turned = quat_rotate(q, v)
    assert turned.shape == (4, 6, 3)
    torch.testing.assert_close(turned, torch.einsum("kij,nj->kni", quat_to_rotmat(q[:, 0]), v))


@given(vectors.filter(lambda v: v.norm() > 1e-3), st.floats(0.0, math.pi))
@settings(max_examples=200, deadline=None)
def test_quaternion_of_matrix_at_every_angle(axis: torch.Tensor, angle: float) -> None:
    q = quat_exp(axis / axis.norm() * angle)
    found = rotmat_to_quat(quat_to_rotmat(q))
    assert found[0] >= 0
    assert same_rotation(found, q) < 1e-12


@pytest.mark.parametrize("axis", [(1.0, 0, 0), (0, 1.0, 0), (0, 0, 1.0), (0.6, 0, 0.8)])
@pytest.mark.parametrize("angle", [0.0, 2.0, math.pi])
def test_quaternion_of_matrix_is_differentiable(axis: tuple, angle: float) -> None:
    matrix = quat_to_rotmat(quat_exp(torch.tensor(axis, dtype=torch.float64) * angle))

    def outer(m: torch.Tensor) -> torch.Tensor:  # q and -q are one rotation: at angle π the sign is free
        q = rotmat_to_quat(m)
        return q[:, None] * q

    assert gradcheck(outer, matrix.requires_grad_())


@given(vectors, st.sampled_from([0.0, 1e-200, 1e-12, 1e-6, 1e-3, 0.1, 0.499, 0.501, 1.0, 1.8]))
@settings(max_examples=200, deadline=None)
def test_exp_matches_scipy_and_log_inverts_it(direction: torch.Tensor, size: float) -> None:
    rotvec = direction * size
    q = quat_exp(rotvec)
    assert abs(q.norm() - 1) < 1e-14
    expected = torch.from_numpy(Rotation.from_rotvec(rotvec.numpy()).as_matrix())
    torch.testing.assert_close(quat_to_rotmat(q), expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(quat_log(q), rotvec, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(quat_log(-q), rotvec, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("angle", [0.0, 1e-8, 1e-3, 0.063, 0.0633, 0.5, 2.0, 3.1])
def test_derivatives_of_exp_and_log(angle: float) -> None:
    rotvec = (torch.tensor([0.36, 0.48, 0.8], dtype=torch.float64) * angle).requires_grad_()
    assert gradcheck(quat_exp, rotvec)
    assert gradcheck(lambda v: quat_log(quat_exp(v)), rotvec)
    jacobian = torch.autograd.functional.jacobian(lambda v: quat_log(quat_exp(v)), rotvec)
    torch.testing.assert_close(jacobian, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-10)


@pytest.mark.parametrize("order", range(4))
def test_stumpff_series_meets_closed_form(order: int) -> None:
    theta_sq = torch.linspace(0.2, 0.3, 101, dtype=torch.float64).requires_grad_()
    exact = sum((-theta_sq) ** i / float(math.factorial(order + 2 * i)) for i in range(12))
    torch.testing.assert_close(stumpff(theta_sq)[order], exact, rtol=1e-13, atol=0)
    (gradient,) = torch.autograd.grad(stumpff(theta_sq)[order].sum(), theta_sq)
    (expected,) = torch.autograd.grad(exact.sum(), theta_sq)
    torch.testing.assert_close(gradient, expected, rtol=1e-11, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(dtype: torch.dtype) -> None:
    q = quat_exp(torch.randn(3, 3, dtype=dtype))
    results = [q, quat_log(q), quat_to_rotmat(q), rotmat_to_quat(quat_to_rotmat(q)), quat_rotate(q, q[:, 1:])]
    assert {r.dtype for r in results} == {dtype}
