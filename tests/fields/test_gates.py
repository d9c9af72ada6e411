"""What stands still stands still, exactly: gates, and the world token that no motion moves."""

from dataclasses import replace

import pytest
import torch

from nest_nerfstudio.dynamics.flow import LatentFlowConfig
from nest_nerfstudio.dynamics.free_motion import FreeMotion
from nest_nerfstudio.fields.bound_gaussians import COLOR_DIM, OPEN, BoundGaussians
from nest_nerfstudio.fields.rig import pose
from nest_nerfstudio.geometry.se3 import se3_exp
from nest_nerfstudio.models.decoded_scene import DecodedScene
from nest_nerfstudio.models.latent_parameters import LatentParameters, still_latent
from nest_nerfstudio.types import WORLD, Gaussians, SceneLatent

N, K, D = 60, 7, 4
STILL, MOVING = slice(0, 25), slice(35, N)
"""Gaussians of closed and of open gates; those between have half-open ones."""


def make_field(dtype: torch.dtype = torch.float32) -> BoundGaussians:
    torch.manual_seed(0)
    field = BoundGaussians(N, K, sh_degree=1)
    field.initialize(torch.randn(N, 3), torch.rand(N, 3), opacity=0.3)
    torch.nn.init.normal_(field.params["features_rest"])
    torch.nn.init.normal_(field.params["quats"])
    field.stand_still()
    with torch.no_grad():
        field.params["gates"][25:35] = 0.0
        field.params["gates"][MOVING] = 4.0
    field.bind(make_latent().poses)
    return field.to(dtype)


def make_latent(kind: str = "cyclic") -> SceneLatent:
    generator = torch.Generator().manual_seed(1)
    latent = still_latent(K, COLOR_DIM, D)
    parameters = LatentParameters.from_latent(latent, ("motion",))
    parameters.add_world()
    quats, translations = se3_exp(torch.randn(K, 6, generator=generator))
    parameters.set_poses(quats, translations)
    motion = replace(
        parameters().motion,
        kind=kind,
        start=torch.ones(D),
        period=torch.tensor(0.83),
        modes=0.3 * torch.randn(K, 6, D + 1, generator=generator),
    )
    return replace(parameters(), motion=motion)


def scene_of(field: BoundGaussians, latent: SceneLatent) -> DecodedScene:
    flow = LatentFlowConfig(state_dim=D, hidden_dim=8).setup()
    for parameter in flow.parameters():  # at first it stands still
        torch.nn.init.normal_(parameter, std=0.3)
    return DecodedScene(latent, field.eval(), flow)


def sorted_means(gaussians: Gaussians) -> torch.Tensor:
    return gaussians.means[gaussians.means[:, 0].argsort()]


def test_gates_are_exactly_zero_and_one_at_the_ends() -> None:
    gates = make_field().gates()
    assert gates is not None
    assert (gates[STILL] == 0).all()
    assert (gates[MOVING] == 1).all()
    assert ((gates[25:35] > 0.4) & (gates[25:35] < 0.6)).all()


@torch.no_grad()
@pytest.mark.parametrize("kind", ["cyclic", "free"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_stands_still_is_the_same_to_the_bit_at_all_times(kind: str, dtype: torch.dtype) -> None:
    """Within the clip and far beyond it; what moves does move."""
    scene = scene_of(make_field(dtype), make_latent(kind))
    if dtype == torch.float64:
        scene = scene_of(make_field(dtype), _double(make_latent(kind)))
        scene.dynamics.double()
    first = scene.gaussians_at(0.0)
    for time in (0.3, 0.7, 1.0, 1.5, -0.4, 3.2):
        now = scene.gaussians_at(time)
        for name in ("means", "quats", "scales", "opacities", "sh"):
            assert torch.equal(getattr(now, name)[STILL], getattr(first, name)[STILL]), (name, time)
        assert (now.means[MOVING] - first.means[MOVING]).norm(dim=1).min() > 1e-3


def _double(latent: SceneLatent) -> SceneLatent:
    def up(x):
        return x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x

    motion = replace(latent.motion, **{k: up(v) for k, v in vars(latent.motion).items()})
    return replace(latent, **{k: up(v) for k, v in vars(latent).items() if k != "motion"}, motion=motion)


@torch.no_grad()
def test_the_free_fit_does_not_move_the_world_either() -> None:
    free, latent = FreeMotion(K, D, 8, 16, 5), make_latent()
    for parameter in free.parameters():
        torch.nn.init.normal_(parameter)
    quats, translations = free.poses(latent, free.solve(), torch.tensor(0.3))
    assert torch.equal(quats[-1], latent.quats[-1])
    assert torch.equal(translations[-1], latent.translations[-1])
    assert not torch.equal(translations[0], latent.translations[0])


def test_motion_has_no_gradient_from_what_stands_still() -> None:
    field, latent = make_field(), make_latent()
    modes = latent.motion.modes.requires_grad_()
    flow = LatentFlowConfig(state_dim=D, hidden_dim=8).setup()
    poses = flow.poses(latent, flow.solve(latent.motion), torch.tensor(0.4))
    pose(field(latent), poses, latent.light).means[STILL].square().sum().backward()
    assert not modes.grad.any()


@torch.no_grad()
def test_permuted_tokens_are_the_same_scene() -> None:
    field, latent = make_field(), make_latent()
    whole = scene_of(field, latent).gaussians_at(0.4)
    mixed = scene_of(field, latent.permute(torch.randperm(K))).gaussians_at(0.4)
    torch.testing.assert_close(sorted_means(mixed), sorted_means(whole))


@torch.no_grad()
def test_the_world_and_what_moves_can_be_taken_apart() -> None:
    field, latent = make_field(), make_latent()
    world = scene_of(field, latent.select(latent.ids == WORLD)).gaussians_at(0.4)
    moving = scene_of(field, latent.select(latent.ids != WORLD)).gaussians_at(0.4)
    assert len(world) + len(moving) == N
    whole = scene_of(field, latent).gaussians_at(0.4)
    torch.testing.assert_close(world.means[:25], whole.means[STILL])
    torch.testing.assert_close(moving.means[-25:], whole.means[MOVING])


@torch.no_grad()
def test_turning_all_tokens_turns_what_stands_still() -> None:
    field, latent, g = make_field(), make_latent(), se3_exp(torch.randn(6))
    moved = scene_of(field, latent.move(g)).gaussians_at(0.4)
    torch.testing.assert_close(moved.means, scene_of(field, latent).gaussians_at(0.4).move(g).means)


def test_open_gates_learn_to_shut_and_those_that_are_shut_stay_so() -> None:
    """Target images are of a scene in which half of what may move stands still; a weight shuts no others."""
    latent, field = make_latent(), make_field()
    field.params["gates"].data[MOVING] = OPEN
    wrong = torch.arange(N) >= N - 12
    rest, moved = (
        field.rest().means.detach(),
        pose(field(latent), scene_of(field, latent).poses_at(0.4), latent.light),
    )
    wanted = torch.where(wrong[:, None], rest, moved.means.detach())
    poses = tuple(part.detach() for part in scene_of(field, latent).poses_at(0.4))
    optimizer = torch.optim.Adam([field.params["gates"]], lr=0.05)
    field.train()
    for _ in range(200):
        optimizer.zero_grad()
        gates = field.gates()
        assert gates is not None
        missed = (pose(field(latent), poses, latent.light).means - wanted).square().mean()
        (missed + 1e-2 * gates.mean()).backward()
        optimizer.step()
    gates = field.gates()
    assert gates is not None
    assert (gates[STILL] == 0).all()
    assert (gates[wrong] < 0.05).all()
    assert (gates[MOVING][~wrong[MOVING]] > 0.9).all()


def test_a_checkpoint_brings_its_gates_and_one_without_has_none() -> None:
    stored, other = make_field(), BoundGaussians(5, K, sh_degree=1)
    other.load_state_dict(stored.state_dict())
    assert torch.equal(other.params["gates"], stored.params["gates"])
    plain, field = BoundGaussians(9, K, sh_degree=1), BoundGaussians(5, K, sh_degree=1)
    field.load_state_dict(plain.state_dict())
    assert field.gates() is None
    assert field.num_moving() == K
