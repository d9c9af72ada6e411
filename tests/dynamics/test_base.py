from dataclasses import replace

import pytest
import torch

from nest_nerfstudio.dynamics.base import Dynamics
from nest_nerfstudio.geometry.se3 import se3_apply, se3_compose, se3_exp
from nest_nerfstudio.types import MotionKind, SceneLatent, TimeMap
from tests.dynamics.moving_scenes import make_flow, make_free_motion, make_latent, poses_at

T = torch.float64
STAGES = ("free fit", "free", "cyclic")


def make_scene(stage: str, dtype: torch.dtype = T) -> tuple[Dynamics, SceneLatent]:
    """A scene that moves, and what moves it, at a stage of training."""
    kind: MotionKind = "still" if stage == "free fit" else "cyclic" if stage == "cyclic" else "free"
    latent = make_latent(dtype=dtype, kind=kind)
    latent.motion.modes.mul_(0.3)
    latent.motion.drift.normal_(std=0.3)
    return make_free_motion(dtype) if stage == "free fit" else make_flow(dtype), latent


class Player:
    """The poses of one scene at any clip time and under any time map, as one vector for each token."""

    def __init__(self, dynamics: Dynamics, latent: SceneLatent) -> None:
        self.dynamics, self.latent = dynamics, latent
        with torch.no_grad():
            self.path = dynamics.solve(latent.motion, -3.0, 3.0)

    @torch.no_grad()
    def __call__(self, time: float, time_map: TimeMap | None = None) -> torch.Tensor:
        motion = self.latent.motion
        latent = replace(self.latent, motion=replace(motion, time_map=time_map or motion.time_map))
        quats, translations = self.dynamics.poses(latent, self.path, latent.quats.new_tensor(time))
        return torch.cat([translations, quats * quats[:, :1].sign()], 1)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("stage", STAGES)
def test_poses_commute_with_rigid_motion(dtype: torch.dtype, tolerance: float, stage: str) -> None:
    dynamics, latent = make_scene(stage, dtype)
    quat, translation = (x[0] for x in se3_exp(torch.randn(1, 6, dtype=dtype)))
    for time_map in (TimeMap(), TimeMap(loop=(0.1, 0.8), fade=0.3)):
        scene = replace(latent, motion=replace(latent.motion, time_map=time_map))
        moved_then_turned = se3_compose((quat, translation), poses_at(dynamics, scene, 0.6))
        turned_then_moved = poses_at(dynamics, scene.turn_world((quat, translation)), 0.6)
        gap = (moved_then_turned[1] - turned_then_moved[1]).norm()
        assert gap <= tolerance * moved_then_turned[1].norm()
        assert (moved_then_turned[0] - turned_then_moved[0]).norm() <= tolerance * 5
        moved = poses_at(dynamics, scene, 0.6)[1]
        torch.testing.assert_close(moved_then_turned[1], se3_apply((quat, translation), moved))
        assert (moved - latent.translations).norm() > 0.1  # it does move


@pytest.mark.parametrize("stage", STAGES)
def test_poses_commute_with_permutations_and_selections(stage: str) -> None:
    dynamics, latent = make_scene(stage)
    poses = poses_at(dynamics, latent, 1.3)
    for rows in (torch.randperm(5), torch.tensor([3, 1])):
        for found, expected in zip(poses_at(dynamics, latent.permute(rows), 1.3), poses, strict=True):
            torch.testing.assert_close(found, expected[rows])


@pytest.mark.parametrize("stage", STAGES)
def test_a_copy_of_tokens_moves_as_they_do(stage: str) -> None:
    dynamics, latent = make_scene(stage)
    g = tuple(x[0] for x in se3_exp(torch.randn(1, 6, dtype=T)))
    rows = torch.tensor([3, 1])
    both = poses_at(dynamics, latent.duplicate(rows, (g[0], g[1])), 0.6)
    quats, translations = poses_at(dynamics, latent, 0.6)
    expected = se3_compose((g[0], g[1]), (quats[rows], translations[rows]))
    torch.testing.assert_close(both[1][5:], expected[1])
    torch.testing.assert_close(both[0][5:], expected[0])


@pytest.mark.parametrize("stage", ["free", "cyclic"])
def test_time_maps_go_faster_backwards_and_out_of_phase(stage: str) -> None:
    at = Player(*make_scene(stage))
    torch.testing.assert_close(at(0.1, TimeMap(speed=3.0)), at(0.3))
    torch.testing.assert_close(at(0.2, TimeMap(speed=-1.0)), at(-0.2))
    torch.testing.assert_close(at(0.2, TimeMap(offset=0.25)), at(0.45))
    torch.testing.assert_close(at(0.2, TimeMap(2.0, 0.1).after(TimeMap(-1.0, 0.3))), at(0.3))
    assert (at(0.45) - at(0.2)).norm() > 0.1


@pytest.mark.parametrize("stage", ["free", "cyclic"])
def test_frozen_motion_stands_still(stage: str) -> None:
    at = Player(*make_scene(stage))
    for time in (-1.0, 0.0, 7.0):
        torch.testing.assert_close(at(time, TimeMap(0.0, 0.3)), at(0.3))


@pytest.mark.parametrize("stage", STAGES)
def test_a_scene_at_a_time_has_its_clock_shifted(stage: str) -> None:
    dynamics, latent = make_scene(stage)
    at = Player(dynamics, latent)
    torch.testing.assert_close(Player(dynamics, latent.at(0.7))(0.0), at(0.7))
    torch.testing.assert_close(Player(dynamics, latent.at(0.3).at(-0.1))(0.2), at(0.4))


@pytest.mark.parametrize("speed", [1.0, -2.0])
@pytest.mark.parametrize("stage", ["free", "cyclic"])
def test_loop_has_no_seam(stage: str, speed: float) -> None:
    """Neither position nor speed jumps where the span begins again."""
    at, loop = Player(*make_scene(stage)), TimeMap(speed=speed, loop=(0.1, 0.8), fade=0.3)

    def looped(own: float) -> torch.Tensor:
        return at(own / speed, loop)

    torch.testing.assert_close(looped(0.25 + 3 * 0.7), looped(0.25))
    torch.testing.assert_close(looped(0.25 - 3 * 0.7), looped(0.25))
    torch.testing.assert_close(looped(0.25), at(0.25))
    e = 1e-5
    before, after = (looped(0.8 + s * e) - looped(0.8 + (s - 1) * e) for s in (0, 2))
    torch.testing.assert_close(before, after, atol=1e-2 * after.norm().item(), rtol=0)
    assert (looped(0.8) - looped(0.8 - e)).norm() < 1e-3
    begin = 0.5  # of the fade
    before, after = (looped(begin + s * e) - looped(begin + (s - 1) * e) for s in (0, 2))
    torch.testing.assert_close(before, after, atol=1e-2 * after.norm().item(), rtol=0)


def test_loop_without_fade_jumps_back_to_its_start() -> None:
    at, loop, e = Player(*make_scene("free")), TimeMap(loop=(0.1, 0.8)), 1e-9
    torch.testing.assert_close(at(0.8 - e, loop), at(0.8))
    torch.testing.assert_close(at(0.8 + e, loop), at(0.1))
    torch.testing.assert_close(at(0.25 + 3 * 0.7, loop), at(0.25))
    assert (at(0.8) - at(0.1)).norm() > 0.1


def test_loop_of_cycles_is_the_motion_itself() -> None:
    """Nothing is to be faded where the motion repeats after the span anyway, and does not travel."""
    dynamics, latent = make_scene("cyclic")
    latent.motion.drift.zero_()
    at, loop = Player(dynamics, latent), TimeMap(loop=(0.1, 0.6), fade=0.2)
    for time in (0.2, 0.5, 0.59, 1.3):
        torch.testing.assert_close(at(time, loop), at(time))


def test_loop_refuses_an_empty_span() -> None:
    for start, end, fade in ((0.5, 0.5, 0.0), (0.0, 1.0, 1.5)):
        with pytest.raises(ValueError, match="cannot loop"):
            TimeMap(loop=(start, end), fade=fade)
