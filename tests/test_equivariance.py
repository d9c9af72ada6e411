"""The measures of `analysis.commuting` find each part that does not commute, and nothing where all do."""

import math
from dataclasses import replace

import pytest
import torch

from nest_nerfstudio.geometry.se3 import se3_apply
from nest_nerfstudio.types import Gaussians, MotionCode, Points, SceneLatent
from tests.equivariance import (
    gaussians_distance,
    latent_distance,
    pictures,
    random_pose,
    relative,
    turn_points,
)
from tests.small_capture import blobs


def make_latent(count: int = 5) -> SceneLatent:
    return SceneLatent(
        ids=torch.arange(count),
        copies=torch.zeros(count, dtype=torch.long),
        quats=torch.nn.functional.normalize(torch.randn(count, 4), dim=1),
        translations=torch.randn(count, 3),
        geometry=torch.randn(count, 3),
        appearance=torch.randn(count, 4),
        light=torch.randn(3, 9),
        motion=MotionCode.still(count, torch.zeros(())),
    )


def test_the_same_is_at_no_distance() -> None:
    latent, gaussians = make_latent(), blobs(0.1)
    assert latent_distance(latent, latent) == 0
    assert latent_distance(replace(latent, quats=-latent.quats), latent) < 1e-6
    assert gaussians_distance(replace(gaussians, quats=-gaussians.quats), gaussians) < 1e-6


@pytest.mark.parametrize("part", ["quats", "translations", "geometry", "appearance", "light"])
def test_a_latent_that_differs_in_one_part_is_away(part: str) -> None:
    latent = make_latent()
    values = getattr(latent, part).clone()
    values[0] = values[0].roll(1) + 0.1
    assert latent_distance(replace(latent, **{part: values}), latent) > 1e-2


@pytest.mark.parametrize("part", ["means", "scales", "opacities", "sh"])
def test_gaussians_that_differ_in_one_part_are_away(part: str) -> None:
    gaussians: Gaussians = blobs(0.1)
    values = getattr(gaussians, part).clone()
    values[0] += 0.1
    assert gaussians_distance(replace(gaussians, **{part: values}), gaussians) > 1e-3


def test_a_map_that_does_not_commute_is_found() -> None:
    """A latent that stays where it is when the scene is turned."""
    latent, pose = make_latent(), random_pose(torch.float32, 0)
    assert latent_distance(latent, latent.turn_world(pose)) > 0.1
    assert latent_distance(latent.move(pose), latent.turn_world(pose)) > 0.1  # the light did not turn


def test_other_numbers_of_tokens_are_infinitely_far() -> None:
    assert latent_distance(make_latent(4), make_latent(5)) == math.inf


def test_relative_distance() -> None:
    assert relative(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 4.0])) == pytest.approx(0.75)


@pytest.mark.parametrize(("axis", "fixed"), [("z", [0.0, 0.0, 1.0]), ("x", [1.0, 0.0, 0.0])])
def test_motions_are_about_the_axis_that_is_asked_for(axis: str, fixed: list[float]) -> None:
    pose = random_pose(torch.float64, 1, axis, shift=0.0)
    vector = torch.tensor([fixed], dtype=torch.float64)
    torch.testing.assert_close(se3_apply(pose, vector), vector)
    other = torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64)
    assert (se3_apply(pose, other) - other).norm() > 0.1


def test_points_turn_with_the_motion() -> None:
    points, pose = Points(torch.randn(4, 3), torch.rand(4, 3)), random_pose(torch.float32, 2)
    torch.testing.assert_close(turn_points(points, pose).positions, se3_apply(pose, points.positions))


def test_cameras_are_exact_in_either_precision() -> None:
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-14)):
        rotations = pictures(3, dtype).viewmats[:, :3, :3]
        error = rotations @ rotations.mT - torch.eye(3, dtype=dtype)
        assert error.abs().max() < tolerance
