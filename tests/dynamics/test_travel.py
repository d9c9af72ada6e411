"""Motion that repeats while it travels: found, taken out, and continued beyond the clip."""

import math
from dataclasses import replace

import pytest
import torch

from nest_nerfstudio.dynamics.fitter import LatentFlowFitter, LatentFlowFitterConfig
from nest_nerfstudio.dynamics.flow import LatentFlow, LatentFlowConfig
from nest_nerfstudio.dynamics.travel import find_drift, without_drift
from nest_nerfstudio.geometry.quaternion import quat_normalize
from nest_nerfstudio.geometry.se3 import (
    Pose,
    se3_align,
    se3_apply,
    se3_compose,
    se3_exp,
    se3_in_frames,
    se3_inverse,
    se3_log,
    se3_plus,
)
from nest_nerfstudio.types import MotionCode
from tests.dynamics.moving_scenes import make_latent

PERIOD = 0.4
TOKENS = 12
SETTINGS = LatentFlowFitterConfig(fit_iterations=300)
STRAIGHT = torch.tensor([1.5, -0.4, 0.0, 0.0, 0.0, 0.0])
ROUND = torch.tensor([1.0, 0.2, 0.0, 0.0, 0.0, 1.2])


def body() -> Pose:
    torch.manual_seed(0)
    return quat_normalize(torch.randn(TOKENS, 4)), torch.randn(TOKENS, 3) * torch.tensor([1.0, 0.3, 0.5])


def walk(poses: Pose, times: torch.Tensor, twist: torch.Tensor) -> Pose:
    """Poses, a row for each time, of a body whose tokens swing while all of it goes on by a twist."""
    generator = torch.Generator().manual_seed(1)
    swings, phases = torch.randn(TOKENS, 6, generator=generator), torch.rand(TOKENS, 1, generator=generator)
    angles = 2 * math.pi * (times[:, None, None] / PERIOD + phases)
    inner = 0.15 * swings * (angles.sin() + 0.4 * (2 * angles).cos())
    return se3_compose(se3_exp(times[:, None, None] * twist), se3_compose(poses, se3_exp(inner)))


def twists_of(poses: Pose, twist: torch.Tensor, count: int = 33) -> torch.Tensor:
    return se3_log(se3_compose(se3_inverse(poses), walk(poses, torch.linspace(0, 1, count), twist)))


def test_points_are_aligned_by_the_motion_that_moved_them_and_never_by_a_reflection() -> None:
    torch.manual_seed(0)
    points, motion = torch.randn(30, 3), se3_exp(torch.randn(6))
    found = se3_align(points, se3_apply(motion, points))
    torch.testing.assert_close(se3_apply(found, points), se3_apply(motion, points), atol=1e-5, rtol=0)
    mirrored = points * torch.tensor([-1.0, 1.0, 1.0])
    assert not torch.allclose(se3_apply(se3_align(points, mirrored), points), mirrored, atol=0.1)


def test_a_twist_of_the_world_in_the_frames_of_tokens_moves_them_alike() -> None:
    poses = body()
    moved = se3_plus(poses, se3_in_frames(ROUND, poses))
    expected = se3_compose(se3_exp(ROUND), poses)
    torch.testing.assert_close(moved[1], expected[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(moved[0].abs(), expected[0].abs(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("twist", [STRAIGHT, ROUND], ids=["straight on", "round a bend"])
def test_the_drift_of_a_walk_is_found_and_what_is_left_repeats(twist: torch.Tensor) -> None:
    poses = body()
    twists = twists_of(poses, twist)
    drift = find_drift(twists, poses)
    assert drift is not None
    torch.testing.assert_close(drift, se3_in_frames(twist, poses), atol=0.08, rtol=0)
    left = without_drift(twists_of(poses, twist, 41), se3_in_frames(twist, poses))
    torch.testing.assert_close(left[:25], left[16:], atol=1e-4, rtol=0)  # 16 of 40 steps are a period


def test_tokens_that_stand_still_do_not_drift() -> None:
    poses = body()
    twists = torch.nn.functional.pad(twists_of(poses, STRAIGHT), (0, 0, 0, 2))
    drift = find_drift(twists, poses)
    assert drift is not None
    assert len(drift) == TOKENS + 2
    assert (drift[TOKENS:] == 0).all()


def test_what_does_not_recur_has_no_drift() -> None:
    """A body whose shape only ever grows, and one that stands still."""
    poses, times = body(), torch.linspace(0, 1, 33)[:, None, None]
    torch.manual_seed(3)
    assert find_drift(times**2 * torch.randn(TOKENS, 6), poses) is None
    assert find_drift(torch.zeros(33, TOKENS, 6), poses) is None


@pytest.mark.slow
def test_a_walk_goes_on_beyond_the_clip() -> None:
    poses = body()
    torch.manual_seed(0)
    config = LatentFlowConfig(state_dim=8, hidden_dim=16)
    fitter, flow = LatentFlowFitter(SETTINGS, config, TOKENS), LatentFlow(config)
    fitter.free.start_codes(poses[1])
    assert fitter.free.follow(twists_of(poses, STRAIGHT), iterations=300) < 0.1
    fit = fitter.fit(flow, 0.2, poses=poses)
    assert fit.accepted
    assert "while it travels" in fit.reason
    assert fit.motion.period.item() == pytest.approx(PERIOD, rel=0.03)
    later, scene = torch.tensor(1.7), make_latent(TOKENS)
    moving = replace(scene, quats=poses[0], translations=poses[1], motion=fit.motion)
    found = flow.poses(moving, flow.solve(fit.motion, 0.0, 1.7), later)[1]
    true = walk(poses, later[None], STRAIGHT)[1][0]
    here = walk(poses, torch.ones(1), STRAIGHT)[1][0]
    assert (found - true).norm(dim=1).mean() < 0.2 * (here - true).norm(dim=1).mean()


def test_moved_scenes_walk_along() -> None:
    """Turned, a scene travels in the turned direction; it stands where it stood at time 0."""
    scene, poses = make_latent(TOKENS), body()
    code = MotionCode.still(TOKENS, poses[1], state_dim=2)
    code = replace(code, drift=se3_in_frames(STRAIGHT, poses), kind="cyclic")
    scene = replace(scene, quats=poses[0], translations=poses[1], motion=code)
    flow, half = LatentFlow(LatentFlowConfig(state_dim=2)), torch.tensor(0.5)
    turn = se3_exp(torch.tensor([0.3, 1.0, 0.0, 0.0, 0.0, 1.0]))
    moved = flow.poses(scene.move(turn), flow.solve(code), half)[1]
    torch.testing.assert_close(moved, se3_apply(turn, poses[1] + 0.5 * STRAIGHT[:3]), atol=1e-5, rtol=0)
    torch.testing.assert_close(flow.poses(scene, flow.solve(code), 0 * half)[1], poses[1], atol=1e-6, rtol=0)
