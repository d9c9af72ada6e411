import pytest
import torch

from nest_nerfstudio.dynamics.free_motion import FreeMotion
from nest_nerfstudio.geometry.quaternion import quat_rotate
from nest_nerfstudio.geometry.se3 import se3_exp
from tests.dynamics.moving_scenes import make_free_motion, make_latent, poses_at


def put(free: FreeMotion, values: torch.Tensor) -> None:
    with torch.no_grad():
        free.path_values.copy_(values)


def test_free_motion_is_the_identity_at_the_start() -> None:
    free, latent = FreeMotion(5, 4, 6, 16, 33), make_latent()
    torch.nn.init.normal_(free.token_codes)
    for time in (0.0, 0.7, 2.0):
        quats, translations = poses_at(free, latent, time)
        torch.testing.assert_close(translations, latent.translations)
        torch.testing.assert_close(quats, latent.quats)


def test_free_motion_moves_scenes_whose_code_is_still() -> None:
    free, latent = make_free_motion(), make_latent(kind="still")
    assert not free.is_still(latent.motion)
    assert (poses_at(free, latent, 0.6)[1] - latent.translations).norm() > 0.1


def test_free_motion_stands_still_beyond_the_clip() -> None:
    free, latent = make_free_motion(), make_latent()
    for inside, beyond in ((1.0, 1.8), (0.0, -0.3)):
        for a, b in zip(poses_at(free, latent, inside), poses_at(free, latent, beyond), strict=True):
            torch.testing.assert_close(a, b)


def test_the_curve_spans_the_clip_and_goes_through_its_nodes() -> None:
    free = make_free_motion()
    path = free.solve(None, -1.0, 2.0)
    assert (path.t0, path.t1) == (0.0, 1.0)
    torch.testing.assert_close(path(torch.linspace(0, 1, 33)), free.path_values)


@pytest.mark.parametrize("count", [33, 129])
def test_observed_twists_are_those_on_the_curve(count: int) -> None:
    free, latent = make_free_motion(), make_latent()
    observed, path = free.observed_twists(count), free.solve()
    assert observed.shape == (count, 5, 6)
    assert not observed.requires_grad
    for i in (0, count // 3, count - 1):
        torch.testing.assert_close(observed[i], free.twists(latent, path(torch.tensor(i / (count - 1)))))


def test_gradients_reach_codes_curve_and_decoder() -> None:
    free, latent = make_free_motion(), make_latent()
    torch.cat(poses_at(free, latent, 0.43), 1).square().sum().backward()
    for name, parameter in free.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_codes_start_as_smooth_functions_of_the_positions() -> None:
    free, positions = FreeMotion(200, 4, 32, 16, 33), 0.3 * torch.randn(200, 3)
    free.start_codes(positions)
    codes = free.token_codes.detach()
    torch.testing.assert_close(codes.square().mean(), torch.tensor(1.0), atol=1e-4, rtol=0)
    distances, changes = torch.cdist(positions, positions), torch.cdist(codes, codes)
    others = ~torch.eye(200, dtype=torch.bool)
    near = others & (distances < 0.05)
    assert near.any()
    assert changes[near].mean() < 0.5 * changes[others].mean()
    assert changes[others].min() > 1e-3  # they tell tokens apart


def test_codes_do_not_depend_on_where_the_scene_is_or_how_large() -> None:
    positions, codes = torch.randn(20, 3), []
    for moved in (positions, 7.0 * positions + torch.tensor([1.0, -2.0, 3.0])):
        free = FreeMotion(20, 4, 32, 16, 33)
        free.start_codes(moved)
        codes.append(free.token_codes.detach())
    torch.testing.assert_close(codes[0], codes[1], atol=1e-3, rtol=0)


def test_codes_are_free_parameters_from_then_on() -> None:
    """A turn of the world does not change them: the motion turns with it."""
    free, latent = make_free_motion(), make_latent()
    free.start_codes(latent.translations)
    g = tuple(x[0] for x in se3_exp(torch.randn(1, 6)))
    turned, moved = poses_at(free, latent.turn_world((g[0], g[1])), 0.6)[1], poses_at(free, latent, 0.6)[1]
    torch.testing.assert_close(turned, quat_rotate(g[0], moved) + g[1], atol=1e-5, rtol=1e-5)


def test_roughness_is_zero_of_a_line_and_large_of_a_zigzag() -> None:
    free = make_free_motion()
    put(free, torch.linspace(0, 1, 33)[:, None] * torch.ones(4))
    assert free.roughness() < 1e-6
    with torch.no_grad():
        free.path_values[::2] += 1.0
    assert free.roughness() > 1


def test_roughness_does_not_depend_on_the_size_of_the_motion() -> None:
    free = make_free_motion()
    before = free.roughness().detach()
    put(free, 10 * free.path_values.detach() + 3)
    torch.testing.assert_close(free.roughness().detach(), before)


def test_the_motion_follows_given_twists() -> None:
    """Two groups of tokens on two ways, one of which turns."""
    free = FreeMotion(40, 6, 8, 32, 9)
    free.start_codes(torch.rand(40, 3))
    times = torch.linspace(0, 1, 9)[:, None]
    twists = torch.zeros(9, 40, 6)
    twists[:, :20, 0] = times - 0.5
    twists[:, 20:, 1] = 0.3 * (6 * times).sin()
    twists[:, 20:, 5] = times
    left = free.follow(twists, iterations=600)
    found = free.observed_twists(9)
    error = (found - twists).square().mean().sqrt() / twists.square().mean().sqrt()
    assert error < 0.15
    assert left == pytest.approx(float(error), abs=0.05)
    assert all(parameter.grad is None for parameter in free.parameters())
