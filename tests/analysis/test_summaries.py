"""Vectors of fixed size of a latent: the order of tokens does not matter, and its groups act linearly."""

import math

import pytest
import torch

from nest_nerfstudio.analysis.summaries import (
    PARTS,
    chroma,
    summarise,
    turning_frames,
    turning_light,
    turning_positions,
)
from nest_nerfstudio.fields.latent_gaussians import LatentGaussianFieldConfig
from nest_nerfstudio.geometry.quaternion import quat_exp, quat_to_rotmat
from nest_nerfstudio.types import SceneLatent
from tests.test_equivariance import make_latent

ANGLE = 0.7


def about_z(angle: float) -> torch.Tensor:
    return quat_exp(torch.tensor([0.0, 0.0, angle]))


def turned(pairs: torch.Tensor, angle: float, frequencies: list[int]) -> torch.Tensor:
    angles = angle * torch.tensor(frequencies, dtype=torch.float32)
    (x, y), (cos, sin) = pairs.unflatten(0, (-1, 2)).unbind(1), (angles.cos(), angles.sin())
    return torch.stack([x * cos - y * sin, x * sin + y * cos], 1).flatten()


def test_the_order_of_tokens_does_not_matter() -> None:
    latent = make_latent(20)
    found, other = summarise(latent), summarise(latent.permute(torch.randperm(20)))
    assert tuple(found) == PARTS
    for part in PARTS:
        torch.testing.assert_close(found[part], other[part], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("act", "changed"),
    [
        (lambda z: z.move((about_z(ANGLE), torch.ones(3))), {"positions", "frames"}),
        (lambda z: z.relight(quat_to_rotmat(about_z(ANGLE)), 2.0), {"light"}),
        (lambda z: z.turn_world((about_z(ANGLE), torch.zeros(3))), {"positions", "frames", "light"}),
    ],
)
def test_an_action_changes_its_own_parts(act, changed: set[str]) -> None:
    latent = make_latent(20)
    before, after = summarise(latent), summarise(act(latent))
    assert {part for part in PARTS if not torch.equal(before[part], after[part])} == changed


def test_turns_about_z_act_linearly() -> None:
    latent = make_latent(20)
    moved = latent.turn_world((about_z(ANGLE), torch.zeros(3)))
    positions = turned(turning_positions(latent), ANGLE, [1, 1, 2])
    torch.testing.assert_close(turning_positions(moved), positions, atol=1e-4, rtol=1e-4)
    frames = turned(turning_frames(latent), ANGLE, [1, 1, 1])
    torch.testing.assert_close(turning_frames(moved), frames, atol=1e-5, rtol=1e-5)
    light, turned_light = turning_light(latent), turning_light(moved)
    torch.testing.assert_close(light.norm(), turned_light.norm())
    back = moved.turn_world((about_z(-ANGLE), torch.zeros(3)))
    torch.testing.assert_close(turning_light(back), light, atol=1e-5, rtol=1e-5)


def test_hue_turns_the_chroma() -> None:
    """By a third of a turn red becomes green, and the mean of all colours turns by 120°."""
    latent: SceneLatent = make_latent(20)
    field = LatentGaussianFieldConfig().setup(geometry_dim=3)
    colors = torch.rand(20, 24)
    latent = SceneLatent(**{**vars(latent), "appearance": colors})
    shifted = field.recolor(latent, torch.ones(20, dtype=torch.bool), 1 / 3, (1.0, 1.0, 1.0))
    expected = turned(chroma(latent), 2 * math.pi / 3, [1])
    torch.testing.assert_close(chroma(shifted), expected, atol=1e-5, rtol=1e-4)
