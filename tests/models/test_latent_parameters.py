"""Charts of a latent: there and back, what is learned, what is stored, and that steps turn with the world."""

from collections.abc import Callable
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from nest_nerfstudio.geometry.quaternion import quat_exp, quat_to_rotmat
from nest_nerfstudio.geometry.se3 import se3_apply
from nest_nerfstudio.models.latent_parameters import Factor, LatentParameters, detached
from nest_nerfstudio.types import MotionCode, MotionKind, SceneLatent, TimeMap
from tests.equivariance import latent_distance, random_pose

TOKENS, STATE = 7, 4
FACTORS: dict[Factor, set[str]] = {
    "poses": {"shifts", "turns"},
    "geometry": {"geometry"},
    "appearance": {"appearance"},
    "light": {"light"},
    "motion": {"start", "modes", "scene_code", "log_period"},
}
EVERYTHING = tuple(FACTORS)


def make_latent(
    dtype: torch.dtype = torch.float32, kind: MotionKind = "cyclic", period: float = 0.4
) -> SceneLatent:
    def rand(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=dtype)

    return SceneLatent(
        ids=torch.randperm(TOKENS),
        copies=torch.randint(0, 2, (TOKENS,)),
        quats=quat_exp(rand(TOKENS, 3)),
        translations=rand(TOKENS, 3),
        geometry=rand(TOKENS, 5),
        appearance=torch.rand(TOKENS, 6, dtype=dtype) * 0.9 + 0.05,
        light=rand(3, 9),
        motion=MotionCode(
            start=rand(STATE),
            modes=rand(TOKENS, 6, STATE + 1),
            drift=rand(TOKENS, 6),
            scene_code=rand(2),
            period=torch.tensor(period, dtype=dtype),
            phase=rand(),
            kind=kind,
            time_map=TimeMap(speed=-2.0, offset=0.5),
        ),
    )


def assert_same(found: SceneLatent, expected: SceneLatent, exactly: bool = False) -> None:
    tolerance = {"atol": 0.0, "rtol": 0.0} if exactly else {"atol": 1e-5, "rtol": 1e-5}
    pairs = [(found, expected), (found.motion, expected.motion)]
    for a, b in pairs:
        for part in fields(a):
            value, other = getattr(a, part.name), getattr(b, part.name)
            if isinstance(value, Tensor):
                torch.testing.assert_close(value, other, **tolerance, msg=f"{part.name} differs")
            elif part.name != "motion":
                assert value == other, part.name


@pytest.mark.parametrize("kind", ["still", "free", "cyclic"])
@pytest.mark.parametrize("albedo", [False, True])
@pytest.mark.parametrize("learn", [(), *((factor,) for factor in EVERYTHING), EVERYTHING])
def test_a_latent_comes_back(learn: tuple[Factor, ...], albedo: bool, kind: MotionKind) -> None:
    latent = make_latent(kind=kind)
    assert_same(LatentParameters.from_latent(latent, learn, albedo)(), latent, exactly=not learn)


@pytest.mark.parametrize("learn", [(), *((factor,) for factor in EVERYTHING), ("poses", "light"), EVERYTHING])
def test_learned_factors_get_gradients_and_others_none(learn: tuple[Factor, ...]) -> None:
    parameters = LatentParameters.from_latent(make_latent(), learn, albedo=True)
    named = dict(parameters.named_parameters())
    assert set(named) == set().union(*(FACTORS[factor] for factor in learn))
    z = parameters()
    everything = {
        part: getattr(z, part) for part in ("quats", "translations", "geometry", "appearance", "light")
    }
    everything |= {
        part: getattr(z.motion, part) for part in ("start", "modes", "scene_code", "period", "phase")
    }
    owners = {"quats": "poses", "translations": "poses", "phase": None}
    owners |= {part: part for part in ("geometry", "appearance", "light")}
    owners |= {part: "motion" for part in ("start", "modes", "scene_code", "period")}
    for part, value in everything.items():
        assert value.requires_grad == (owners[part] in learn), part
    if named:
        sum((value * torch.randn_like(value)).sum() for value in everything.values()).backward()  # type: ignore[union-attr]
    for name, parameter in named.items():
        assert parameter.grad is not None, name
        assert parameter.grad.all(), name


def test_albedo_stays_between_zero_and_one() -> None:
    parameters = LatentParameters.from_latent(make_latent(), ("appearance",), albedo=True)
    for sign in (1.0, -1.0):
        with torch.no_grad():
            parameters.appearance.add_(10 * sign)
        found = parameters().appearance
        assert ((found > 0) & (found < 1)).all()


def test_albedo_at_the_ends_can_be_learned() -> None:
    latent = replace(make_latent(), appearance=torch.tensor([[0.0], [1.0]]).repeat(4, 3)[:TOKENS])
    parameters = LatentParameters.from_latent(latent, ("appearance",), albedo=True)
    parameters().appearance.sum().backward()
    assert parameters.appearance.isfinite().all()
    assert parameters.appearance.grad is not None
    assert parameters.appearance.grad.abs().min() > 1e-3
    torch.testing.assert_close(parameters().appearance, latent.appearance, atol=0.011, rtol=0)


def test_a_step_on_poses_is_in_the_frames_of_the_tokens() -> None:
    """T · exp ξ: the shift is along a token's own axes, and quaternions stay unit."""
    latent = make_latent()
    parameters = LatentParameters.from_latent(latent, ("poses",))
    with torch.no_grad():
        parameters.shifts.copy_(torch.randn(TOKENS, 3))
    expected = latent.translations + (quat_to_rotmat(latent.quats) @ parameters.shifts[..., None])[..., 0]
    torch.testing.assert_close(parameters().translations, expected)
    with torch.no_grad():
        parameters.turns.copy_(torch.randn(TOKENS, 3))
    torch.testing.assert_close(parameters().quats.norm(dim=1), torch.ones(TOKENS))
    assert (quat_to_rotmat(parameters().quats) - quat_to_rotmat(latent.quats)).norm() > 1


def test_the_state_dict_holds_the_whole_latent() -> None:
    first, time_map = make_latent(), TimeMap(speed=-2.0, offset=0.5)
    for learn in ((), EVERYTHING):
        stored = LatentParameters.from_latent(first, learn)
        with torch.no_grad():
            for parameter in stored.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        other = make_latent(kind="free")
        other = replace(other, motion=replace(other.motion, time_map=time_map))
        restored = LatentParameters.from_latent(other, learn)
        restored.load_state_dict(stored.state_dict())
        assert_same(restored(), stored(), exactly=True)
        assert restored().motion.kind == "cyclic"


@pytest.mark.parametrize("learn", [("poses",), EVERYTHING])
def test_an_adam_step_turns_with_the_world(learn: tuple[Factor, ...]) -> None:
    """Loss and latent turned by g, step, and the result is that of the step, turned by g."""
    g = random_pose(torch.float64, 3)
    points = torch.randn(TOKENS, 3, dtype=torch.float64)
    axes = torch.randn(TOKENS, 3, dtype=torch.float64)

    def loss_for(points: Tensor, axes: Tensor) -> Callable[[SceneLatent], Tensor]:
        def loss(z: SceneLatent) -> Tensor:
            first = quat_to_rotmat(z.quats)[..., 0]
            near = (z.translations - points).square().sum() + (first * axes).sum()
            return near + z.geometry.square().sum() + (z.appearance - 0.3).square().sum()

        return loss

    def stepped(latent: SceneLatent, loss: Callable[[SceneLatent], Tensor]) -> SceneLatent:
        parameters = LatentParameters.from_latent(latent, learn, albedo=True)
        optimizer = torch.optim.Adam(parameters.parameters(), lr=0.05)
        for _ in range(3):
            optimizer.zero_grad()
            loss(parameters()).backward()
            optimizer.step()
        return detached(parameters())

    latent = make_latent(torch.float64)
    turned_axes = (quat_to_rotmat(g[0]) @ axes[..., None])[..., 0]
    turned_first = stepped(latent.turn_world(g), loss_for(se3_apply(g, points), turned_axes))
    stepped_first = stepped(latent, loss_for(points, axes))
    assert latent_distance(turned_first, stepped_first.turn_world(g)) < 1e-8
    assert latent_distance(stepped_first, latent) > 1e-2


def test_raw_quaternions_would_not_turn_with_the_world() -> None:
    """The test above can fail: of a step on the numbers of a quaternion it does."""
    g, axes = random_pose(torch.float64, 3), torch.randn(TOKENS, 3, dtype=torch.float64)

    def stepped(quats: Tensor, axes: Tensor) -> Tensor:
        q = quats.clone().requires_grad_()
        (quat_to_rotmat(q / q.norm(dim=1, keepdim=True))[..., 0] * axes).sum().backward()
        torch.optim.Adam([q], lr=0.05).step()
        return q.detach() / q.detach().norm(dim=1, keepdim=True)

    latent = make_latent(torch.float64)
    turned = latent.turn_world(g)
    turned_first = stepped(turned.quats, (quat_to_rotmat(g[0]) @ axes[..., None])[..., 0])
    stepped_first = replace(latent, quats=stepped(latent.quats, axes)).turn_world(g).quats
    assert (quat_to_rotmat(turned_first) - quat_to_rotmat(stepped_first)).norm() > 1e-2


def test_the_period_is_learned_by_its_logarithm() -> None:
    """So it stays positive, and a step is a share of it."""
    parameters = LatentParameters.from_latent(make_latent(period=0.4), ("motion",))
    parameters().motion.period.backward()
    assert parameters.log_period.grad == pytest.approx(0.4)
    with torch.no_grad():
        parameters.log_period.sub_(20.0)
    assert 0 < parameters().motion.period < 1e-6


def test_a_period_that_is_known_stays() -> None:
    latent = make_latent(period=0.4)
    parameters = LatentParameters.from_latent(latent, ("motion",))
    parameters.set_motion(latent.motion, learn_period=False)
    motion = parameters().motion
    assert not motion.period.requires_grad
    assert motion.start.requires_grad
    (motion.period * motion.start.sum()).backward()
    assert parameters.log_period.grad is None
    restored = LatentParameters.from_latent(make_latent(period=0.7), ("motion",))
    restored.load_state_dict(parameters.state_dict())
    assert restored().motion.period.item() == pytest.approx(0.4)
    assert not restored().motion.period.requires_grad
    restored.set_motion(latent.motion)
    assert restored().motion.period.requires_grad


@pytest.mark.parametrize("learn", [(), ("poses", "motion")])
def test_poses_and_motion_can_be_set_anew(learn: tuple[Factor, ...]) -> None:
    """In the parameters that optimizers hold."""
    parameters, wanted = LatentParameters.from_latent(make_latent(), learn), make_latent(kind="free")
    with torch.no_grad():
        for parameter in parameters.parameters():
            parameter.add_(0.1)
    held = dict(parameters.named_parameters())
    parameters.set_poses(wanted.quats, wanted.translations)
    parameters.set_motion(wanted.motion)
    found = parameters()
    for part in ("quats", "translations"):
        torch.testing.assert_close(getattr(found, part), getattr(wanted, part))
    for part in ("start", "modes", "scene_code", "period", "phase"):
        torch.testing.assert_close(getattr(found.motion, part), getattr(wanted.motion, part))
    assert found.motion.kind == "free"
    assert all(parameter is held[name] for name, parameter in parameters.named_parameters())


def test_it_keeps_its_own_copy() -> None:
    latent = make_latent()
    parameters = LatentParameters.from_latent(latent, EVERYTHING)
    before = detached(parameters())
    latent.translations.add_(1.0)
    latent.geometry.add_(1.0)
    assert_same(parameters(), before, exactly=True)


def test_detached_is_the_same_without_gradients() -> None:
    parameters = LatentParameters.from_latent(make_latent(), EVERYTHING)
    found = detached(parameters())
    assert_same(found, parameters(), exactly=True)
    parts = [getattr(z, part.name) for z in (found, found.motion) for part in fields(z)]
    assert not any(part.requires_grad for part in parts if isinstance(part, Tensor))
