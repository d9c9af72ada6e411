"""The albedo cube: where its corners are, what is read between them, and that it moves with its token."""

import itertools

import pytest
import torch
from torch import Tensor

from nest_nerfstudio.geometry.albedo_cube import (
    CORNERS,
    HALF_EDGE,
    NUM_CORNERS,
    albedo_at,
    corner_positions,
)
from nest_nerfstudio.geometry.quaternion import quat_normalize
from nest_nerfstudio.geometry.se3 import se3_apply, se3_compose


def appearances(tokens: int) -> Tensor:
    return torch.rand(tokens, 3 * NUM_CORNERS, dtype=torch.float64)


def poses(count: int) -> tuple[Tensor, Tensor]:
    quats = quat_normalize(torch.randn(count, 4, dtype=torch.float64))
    return quats, torch.randn(count, 3, dtype=torch.float64)


def test_corners_in_the_frame_of_a_token_at_rest() -> None:
    quats, translations = torch.tensor([[1.0, 0, 0, 0]]), torch.tensor([[1.0, 2.0, 3.0]])
    got = corner_positions(quats, translations, torch.tensor([0.5]))[0]
    half = HALF_EDGE * 0.5
    expected = [[1 + a, 2 + b, 3 + c] for a, b, c in itertools.product((-half, half), repeat=3)]
    torch.testing.assert_close(got, torch.tensor(expected))


def test_corners_move_with_their_token() -> None:
    (quats, translations), (g_quat, g_translation) = poses(5), poses(1)
    sizes = torch.rand(5, dtype=torch.float64)
    moved = corner_positions(*se3_compose((g_quat, g_translation), (quats, translations)), sizes)
    expected = se3_apply((g_quat, g_translation), corner_positions(quats, translations, sizes))
    torch.testing.assert_close(moved, expected)


def test_a_corner_has_its_own_albedo() -> None:
    """Positions as `corner_positions` gives them, taken to the token's frame, in sizes of the token."""
    appearance = appearances(4)
    corners = (HALF_EDGE * CORNERS).double().expand(4, -1, -1)
    torch.testing.assert_close(albedo_at(appearance, corners), appearance.unflatten(1, (NUM_CORNERS, 3)))


def test_affine_albedo_is_reproduced() -> None:
    """Trilinear interpolation is exact for functions that are affine in x, y and z."""
    slope, offset = torch.randn(3, 3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    corners = (HALF_EDGE * CORNERS).double()
    appearance = (corners @ slope + offset).reshape(1, -1)
    inside = HALF_EDGE * (2 * torch.rand(1, 50, 3, dtype=torch.float64) - 1)
    torch.testing.assert_close(albedo_at(appearance, inside), inside @ slope + offset)


def test_agrees_with_grid_sample() -> None:
    """torch's own trilinear interpolation, whose grid is indexed [z, y, x]."""
    appearance, offsets = appearances(3), 2 * torch.rand(3, 20, 3, dtype=torch.float64) - 1
    volume = appearance.reshape(3, 2, 2, 2, 3).permute(0, 4, 3, 2, 1)
    grid = (offsets / HALF_EDGE)[:, None, None]
    expected = torch.nn.functional.grid_sample(volume, grid, padding_mode="border", align_corners=True)
    torch.testing.assert_close(albedo_at(appearance, offsets), expected[:, :, 0, 0].mT)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_outside_is_as_on_the_surface(axis: int, side: float) -> None:
    offsets = HALF_EDGE * (2 * torch.rand(2, 10, 3, dtype=torch.float64) - 1)
    offsets[..., axis] = side * HALF_EDGE
    beyond = offsets.clone()
    beyond[..., axis] = side * 5.0
    appearance = appearances(2)
    torch.testing.assert_close(albedo_at(appearance, beyond), albedo_at(appearance, offsets))


def test_gradients_reach_corners_and_positions() -> None:
    appearance, offsets = appearances(2).requires_grad_(), 0.3 * torch.randn(2, 4, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(albedo_at, (appearance, offsets.clamp(-0.5, 0.5).requires_grad_()))
