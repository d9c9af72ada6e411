"""The point that views converge on is found wherever, however large and however turned the world is."""

import pytest
import torch
from torch import Tensor

from nest_nerfstudio.geometry.convergence import convergence

TARGET = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)


def looking_at(centres: Tensor, targets: Tensor) -> Tensor:
    """Camera to world matrices [n, 3, 4], OpenGL axes."""
    back = torch.nn.functional.normalize(centres - targets, dim=1)
    right = torch.nn.functional.normalize(
        torch.linalg.cross(torch.tensor([0.1, 0.2, 1.0]).to(back).expand_as(back), back), dim=1
    )
    return torch.stack([right, torch.linalg.cross(back, right), back, centres], -1)


def arc(degrees: float, count: int = 8, radius: float = 4.0) -> Tensor:
    """Centres of cameras on an arc around the target."""
    angles = torch.linspace(-0.5, 0.5, count, dtype=torch.float64) * torch.pi * degrees / 180
    return TARGET + radius * torch.stack([angles.cos(), angles.sin(), 0.2 + 0 * angles], -1)


@pytest.mark.parametrize("degrees", [5, 40, 72, 330])
def test_views_of_an_arc_converge_on_its_middle(degrees: float) -> None:
    found = convergence(looking_at(arc(degrees), TARGET))
    assert found.is_certain
    torch.testing.assert_close(found.point, TARGET)
    assert found.distance == pytest.approx(4 * 1.04**0.5)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("offset", [0.0, 5e5, 4.512e6])
def test_it_moves_turns_and_scales_with_the_world(scale: float, offset: float) -> None:
    poses = looking_at(arc(72), TARGET + 0.1 * torch.randn(8, 3, dtype=torch.float64))
    plain = convergence(poses)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    shift = offset * scale * torch.tensor([0.8, -0.6, 0.1], dtype=torch.float64)
    moved = torch.cat([turn @ poses[..., :3], scale * turn @ poses[..., 3:] + shift[:, None]], -1)
    found = convergence(moved)
    assert found.is_certain
    assert plain.is_certain
    assert found.distance == pytest.approx(scale * plain.distance, rel=1e-5)
    expected = scale * turn @ plain.point + shift
    torch.testing.assert_close(found.point, expected, rtol=0, atol=1e-5 * scale * plain.distance)


def test_few_cameras_that_look_elsewhere_have_little_say() -> None:
    centres = torch.cat([arc(300, 30), torch.tensor([[1e4, 0.0, 0.0], [0.0, 3.0, 0.0]]).double()])
    poses = looking_at(centres, torch.cat([TARGET.expand(30, 3), torch.tensor([[1e4, 1, 0], [0, 9, 5]])]))
    found = convergence(poses)
    assert found.is_certain
    torch.testing.assert_close(found.point, TARGET, rtol=0, atol=0.05)


def test_a_camera_counts_once_however_many_frames_it_has() -> None:
    poses = looking_at(arc(72, 4), TARGET + torch.randn(4, 3, dtype=torch.float64) / 10)
    often = torch.cat([poses, poses[:1].expand(100, 3, 4)])
    torch.testing.assert_close(convergence(often).point, convergence(poses).point)


def test_parallel_views_do_not_converge() -> None:
    centres = torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 2, 0], [0, 1, 1]], dtype=torch.float64)
    found = convergence(looking_at(centres, centres + torch.tensor([5.0, 0, 0])))
    assert not found.is_certain
    torch.testing.assert_close(found.point, torch.tensor([4.0, 1, 0], dtype=torch.float64))


@pytest.mark.parametrize("offset", [0.0, 4.512e6])
def test_a_tripod_and_views_outward_do_not_converge(offset: float) -> None:
    directions = torch.randn(20, 3, dtype=torch.float64)
    place = torch.tensor([offset, 1.0, 2.0], dtype=torch.float64)
    tripod = looking_at(place.expand(20, 3), place + directions)
    outward = looking_at(place + directions, place + 2 * directions)
    one = looking_at(place[None], place[None] + directions[:1])
    assert not any(convergence(poses).is_certain for poses in (tripod, outward, one))
    assert convergence(tripod).distance == convergence(one).distance == 1.0


def test_a_walk_with_unrelated_directions_does_not_converge() -> None:
    """Forward-facing by hand: small turns that have nothing to do with the position."""
    torch.manual_seed(0)
    centres = 0.3 * torch.randn(50, 3, dtype=torch.float64)
    ahead = torch.tensor([5.0, 0, 0], dtype=torch.float64)
    poses = looking_at(centres, centres + ahead + 0.3 * torch.randn(50, 3, dtype=torch.float64))
    assert not convergence(poses).is_certain
