import pytest
import torch

from nest_nerfstudio.geometry.se3 import se3_compose
from nest_nerfstudio.types import SceneLatent
from tests.equivariance import TOLERANCE, random_pose, relative
from tests.small_motions import body, motion_map, with_code

KINDS = ("cyclic", "free")


def poses_at(latent: SceneLatent, flow, time: float) -> torch.Tensor:
    path = flow.solve(latent.motion, 0.0, max(1.0, time))
    quats, translations = flow.poses(latent, path, latent.quats.new_tensor(time))
    return torch.cat([quats * quats[:, :1].sign(), translations], 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("gravity", [False, True])
def test_motion_commutes_with_rigid_motions_of_the_world(kind, dtype, gravity) -> None:
    made, flow = (part.to(dtype) for part in motion_map(kind, gravity))
    latent = with_code(body(dtype=dtype), made)
    g = random_pose(dtype, 1, axis="z" if gravity else "any")
    moved = made(latent.move(g), flow)
    there = made(latent, flow)
    for time in (0.3, 1.7):
        quats, translations = poses_at(there, flow, time).split([4, 3], 1)
        expected_quats, expected = se3_compose(g, (quats, translations))
        found = poses_at(moved, flow, time)
        expected_quats = expected_quats * expected_quats[:, :1].sign()
        assert relative(found[:, 4:], expected) < TOLERANCE[dtype]
        assert relative(found[:, :4], expected_quats) < TOLERANCE[dtype]


def test_with_gravity_a_tilted_body_moves_otherwise() -> None:
    made, flow = motion_map(gravity=True)
    latent = with_code(body(), made)
    g = random_pose(torch.float64, 1, axis="x")
    assert relative(made(latent.move(g), flow).motion.modes, made(latent, flow).motion.modes) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_motion_commutes_with_permutations_of_tokens(kind) -> None:
    made, flow = motion_map(kind)
    latent = with_code(body(), made)
    order = torch.randperm(len(latent), generator=torch.Generator().manual_seed(0))
    assert (
        relative(
            made(latent.permute(order), flow).motion.modes, made(latent, flow).permute(order).motion.modes
        )
        < 1e-12
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rest", [0.0, 0.4])
def test_tokens_stand_as_they_were_encoded_at_the_time_of_rest(kind, rest) -> None:
    made, flow = motion_map(kind)
    latent = made(with_code(body(), made), flow, rest)
    at_rest = torch.cat([latent.quats * latent.quats[:, :1].sign(), latent.translations], 1)
    # a roll-out that ends elsewhere has other nodes
    assert relative(poses_at(latent, flow, rest), at_rest) < (1e-10 if kind == "cyclic" else 1e-4)
    assert relative(poses_at(latent, flow, rest + 0.3)[:, 4:], at_rest[:, 4:]) > 1e-2


def test_a_cycle_repeats_after_its_period_and_another_code_moves_otherwise() -> None:
    made, flow = motion_map()
    latent, other = (made(with_code(body(), made, seed), flow) for seed in (0, 1))
    assert relative(poses_at(latent, flow, 0.33), poses_at(latent, flow, 0.33 + 0.8 * 5)) < 1e-10
    assert relative(poses_at(latent, flow, 0.33)[:, 4:], poses_at(other, flow, 0.33)[:, 4:]) > 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_codes_get_gradients_through_map_and_flow(kind) -> None:
    made, flow = motion_map(kind)
    latent = with_code(body(), made)
    code = latent.motion.scene_code.requires_grad_()
    poses_at(made(latent, flow), flow, 0.6).square().sum().backward()
    assert code.grad is not None
    assert code.grad.norm() > 0


def test_new_codes_are_drawn_from_the_codes_of_training_scenes() -> None:
    made, _ = motion_map()
    latent = body()
    with pytest.raises(ValueError, match="no motion has been learned"):
        made.sample(latent, 0)
    motions = [with_code(latent, made, seed).motion for seed in range(2)]
    for motion in motions * 200:
        made.observe(motion)
    mean = torch.stack([motion.scene_code for motion in motions]).mean(0)
    assert relative(made.sample(latent, 0, spread=0.0).motion.scene_code, mean) < 0.05
    drawn = torch.stack([made.sample(latent, seed).motion.scene_code for seed in range(300)])
    across = motions[0].scene_code - motions[1].scene_code  # two codes lie on a line, and so do all drawn
    offsets = drawn - drawn.mean(0)
    along = (offsets @ across)[:, None] * across / across.square().sum()
    assert relative(along, offsets) < 0.02
    assert relative(offsets.square().mean().sqrt(), (across / 2).square().mean().sqrt()) < 0.15
