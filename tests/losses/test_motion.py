"""Regularisers of token motion: what they leave free, what they cost, and the neighbours they use."""

import pytest
import torch
from torch import Tensor

from nest_nerfstudio.geometry.quaternion import quat_multiply, quat_normalize, quat_rotate
from nest_nerfstudio.geometry.se3 import se3_exp
from nest_nerfstudio.losses.motion import (
    as_rigid_as_possible_loss,
    nearest_tokens,
    smoothness_loss,
    straying_loss,
)


def rigid(points: Tensor) -> tuple[Tensor, Tensor]:
    """One rigid motion for all tokens."""
    quats, translations = se3_exp(torch.randn(1, 6))
    return quats.expand(len(points), 4), translations.expand(len(points), 3)


def test_rigid_motion_is_free() -> None:
    points = torch.randn(30, 3)
    neighbors = nearest_tokens(points, 5)
    assert as_rigid_as_possible_loss(rigid(points), points, neighbors, 1.0) < 1e-5
    assert smoothness_loss(rigid(points), neighbors) < 1e-5


def test_stretching_costs_its_relative_length() -> None:
    points = torch.randn(30, 3)
    neighbors = nearest_tokens(points, 5)
    identity = torch.tensor([1.0, 0, 0, 0]).expand(30, 4)
    stretched = (identity, 0.5 * points)  # moved = 1.5 × points
    spacing = float((points[neighbors] - points[:, None]).norm(dim=-1).mean())
    torch.testing.assert_close(
        as_rigid_as_possible_loss(stretched, points, neighbors, spacing), torch.tensor(0.5), atol=1e-4, rtol=0
    )


def test_rotations_that_differ_cost_their_distance() -> None:
    """Two tokens, one of them rotated by a quarter turn: ‖(1, 0) − (cos 45°, sin 45°)‖."""
    quats = torch.tensor([[1.0, 0, 0, 0], [0.5**0.5, 0.5**0.5, 0, 0]])
    loss = smoothness_loss((quats, torch.zeros(2, 3)), torch.tensor([[1], [0]]))
    assert loss.item() == pytest.approx((2 - 2**0.5) ** 0.5, abs=1e-6)


def test_energies_do_not_depend_on_the_world_frame() -> None:
    points = torch.randn(30, 3)
    neighbors = nearest_tokens(points, 5)
    quats, translations = se3_exp(0.3 * torch.randn(30, 6))
    g = quat_normalize(torch.randn(4))
    turned = quat_multiply(g, quats), quat_rotate(g, translations)
    torch.testing.assert_close(
        as_rigid_as_possible_loss((quats, translations), points, neighbors, 1.0),
        as_rigid_as_possible_loss(turned, points, neighbors, 1.0),
    )
    torch.testing.assert_close(
        smoothness_loss((quats, translations), neighbors), smoothness_loss(turned, neighbors)
    )


def test_gradient_at_rest_is_finite() -> None:
    points = torch.randn(10, 3)
    twists = torch.zeros(10, 6, requires_grad=True)
    neighbors = nearest_tokens(points, 3)
    deltas = se3_exp(twists)
    loss = as_rigid_as_possible_loss(deltas, points, neighbors, 1.0) + smoothness_loss(deltas, neighbors)
    loss.backward()
    assert twists.grad is not None
    assert twists.grad.isfinite().all()


def test_nearest_tokens_are_the_nearest_others() -> None:
    points = torch.tensor([[0.0, 0, 0], [1.0, 0, 0], [3.0, 0, 0], [7.0, 0, 0]])
    assert nearest_tokens(points, 2).tolist() == [[1, 2], [0, 2], [1, 0], [2, 1]]


def test_nearest_tokens_are_fewer_where_there_are_fewer() -> None:
    neighbors = nearest_tokens(torch.randn(6, 3), 10)
    assert neighbors.shape == (6, 5)
    assert not (neighbors == torch.arange(6)[:, None]).any()


def test_tokens_at_one_position_are_not_their_own_neighbours() -> None:
    """A duplicated token stands where its original does."""
    neighbors = nearest_tokens(torch.zeros(7, 3), 2)
    assert neighbors.shape == (7, 2)
    assert not (neighbors == torch.arange(7)[:, None]).any()


BOUNDS = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 3.0]])


def test_within_the_bounds_positions_are_free() -> None:
    inside = torch.tensor([[0.9, -0.9, 2.9], [0.0, 0.0, 1.0]])
    assert straying_loss(inside, BOUNDS) == 0


def test_what_strays_is_drawn_back_at_any_distance_and_scale() -> None:
    far = torch.tensor([[0.0, 5.0, 1.0], [0.0, 0.0, 0.0]], requires_grad=True)
    loss = straying_loss(far, BOUNDS)
    assert loss.item() == pytest.approx(2.0)  # four half sides beyond, for one token of two
    loss.backward()
    assert far.grad is not None
    assert far.grad[0].tolist() == [0.0, 0.5, 0.0]
    assert straying_loss(1000 * far, 1000 * BOUNDS).item() == pytest.approx(loss.item())
