import math
from dataclasses import replace

import pytest
import torch

from nest_nerfstudio.dynamics.flow import LatentFlow, LatentFlowConfig
from nest_nerfstudio.dynamics.orbit import Orbit
from nest_nerfstudio.dynamics.trajectory import Trajectory, smooth_trajectory
from nest_nerfstudio.dynamics.vector_field import VectorField
from nest_nerfstudio.types import MotionCode, MotionKind
from tests.dynamics.moving_scenes import Rotation, circle, make_flow, make_latent, poses_at, with_settings

T = torch.float64


def test_zero_initialised_flow_is_the_identity() -> None:
    flow, latent = LatentFlow(LatentFlowConfig(state_dim=4)), make_latent()
    latent.motion.modes.zero_()
    quats, translations = poses_at(flow, latent, 0.7)
    torch.testing.assert_close(translations, latent.translations)
    torch.testing.assert_close(quats, latent.quats)


def test_zero_initialised_field_leaves_the_state_where_it_starts() -> None:
    flow, start = LatentFlow(LatentFlowConfig(state_dim=4)), torch.randn(4)
    path = flow.roll_out(start, -2, 3)
    assert (path.values == start).all()
    assert (path.slopes == 0).all()


@pytest.mark.parametrize("kind", ["free", "cyclic", "still"])
def test_a_kind_of_motion_gives_its_path(kind: MotionKind) -> None:
    flow, motion = make_flow(), make_latent(kind=kind).motion
    path = flow.solve(motion, -0.3, 1.6)
    assert isinstance(path, Orbit if kind == "cyclic" else Trajectory)
    torch.testing.assert_close(path(torch.tensor(0.0)), motion.start)
    if isinstance(path, Trajectory):
        assert path.t0 <= -0.3
        assert path.t1 >= 1.6
    assert flow.is_still(motion) == (kind == "still")


def test_what_is_still_stands_at_rest_whatever_its_modes() -> None:
    flow, latent = make_flow(), make_latent(kind="still")
    for time in (-3.0, 0.5, 7.0):
        assert poses_at(flow, latent, time) == latent.poses
    path = flow.solve(latent.motion, 2.0, 5.0)
    torch.testing.assert_close(path(torch.tensor(4.0)), latent.motion.start)


def test_cyclic_motion_has_the_period_and_phase_of_its_code() -> None:
    flow, latent = make_flow(T), make_latent(dtype=T, kind="cyclic")
    shifted = replace(latent, motion=replace(latent.motion, phase=latent.motion.phase + 0.25))
    later = poses_at(flow, latent, 0.2 + 0.25 * 0.5)
    for a, b in zip(poses_at(flow, shifted, 0.2), later, strict=True):
        torch.testing.assert_close(a, b)
    for a, b in zip(poses_at(flow, latent, 0.2 + 20 * 0.5), poses_at(flow, latent, 0.2), strict=True):
        torch.testing.assert_close(a, b)


def test_roll_out_is_fourth_order_on_an_exact_solution() -> None:
    def error(steps: int) -> float:
        flow = LatentFlow(LatentFlowConfig(state_dim=2, steps_per_clip=steps)).double()
        flow.vector_field = Rotation(1.5)
        path = flow.roll_out(torch.tensor([1.0, 0.0], dtype=T))
        angle = 2 * math.pi * 1.5 * torch.linspace(0, 1, steps + 1, dtype=T)
        exact = torch.stack([angle.cos(), angle.sin()], 1)
        return float((path.values - exact).norm(dim=1).max())

    assert math.log2(error(32) / error(64)) == pytest.approx(4, abs=0.3)


def test_rolls_out_before_and_after_the_clip() -> None:
    flow = LatentFlow(LatentFlowConfig(state_dim=2, steps_per_clip=64)).double()
    flow.vector_field, flow.backward_field = Rotation(1.0), Rotation(-1.0)
    path = flow.roll_out(torch.tensor([1.0, 0.0], dtype=T), -1, 3)
    times = torch.tensor([-0.75, 0.0, 0.25, 2.5], dtype=T)
    exact = torch.stack([(2 * math.pi * times).cos(), (2 * math.pi * times).sin()], 1)
    torch.testing.assert_close(path(times), exact, atol=1e-4, rtol=0)


def test_gradient_matches_finite_differences() -> None:
    flow = make_flow(T, steps_per_clip=4)
    weights = torch.randn(5, 4, dtype=T)
    start = torch.randn(4, dtype=T, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: (flow.roll_out(z).values * weights).sum(), start)


@pytest.mark.parametrize("code_dim", [0, 3])
@pytest.mark.parametrize("attraction", [0.0, 20.0])
def test_adjoint_gives_the_gradient(attraction: float, code_dim: int) -> None:
    """Of the start, of F and of the scene code, against that of a solver with steps as fine, where F is
    stiff too."""
    flow = make_flow(T, scene_code_dim=code_dim)
    flow.vector_field.linear.weight.data.sub_(attraction * torch.eye(4))
    weights = torch.randn(33, 4, dtype=T)
    start = torch.randn(4, dtype=T, requires_grad=True)
    leaf = torch.randn(code_dim, dtype=T, requires_grad=True)
    inputs = [start, *flow.vector_field.parameters(), *([leaf] if code_dim else [])]
    gradients = []
    for settings in ({"steps_per_clip": 96}, {"steps_per_clip": 32, "adjoint": True}):
        code = 2 * leaf  # as an encoder would give it: not a leaf of the graph
        values = with_settings(flow, **settings).roll_out(start, scene_code=code).values
        values = values[:: len(values) // 32]
        gradients.append(torch.autograd.grad((values * weights).sum(), inputs))
    for a, b in zip(*gradients, strict=True):
        assert 0 < (a - b).norm() <= 1e-4 * a.norm()  # equal to the last bit, it would not be the adjoint


def test_adjoint_gives_the_gradient_before_the_clip() -> None:
    flow, start = make_flow(T, scene_code_dim=3), torch.randn(4, dtype=T)
    code = torch.randn(3, dtype=T, requires_grad=True)
    inputs, gradients = [code, *flow.backward_field.parameters()], []
    for settings in ({"steps_per_clip": 96}, {"steps_per_clip": 32, "adjoint": True}):
        path = with_settings(flow, **settings).roll_out(start, -1, 1, code)
        gradients.append(torch.autograd.grad(path.values[0].square().sum(), inputs))
    for a, b in zip(*gradients, strict=True):
        assert 0 < (a - b).norm() <= 1e-4 * a.norm()


def test_paths_before_the_clip_know_the_scene_too() -> None:
    flow, start = make_flow(scene_code_dim=3), torch.randn(4)
    one, two = (flow.roll_out(start, -1, 1, torch.randn(3)) for _ in range(2))
    assert (one.values[0] - two.values[0]).norm() > 0.01
    assert (one.values[-1] - two.values[-1]).norm() > 0.01


@pytest.mark.parametrize("adjoint", [False, True])
def test_scenes_share_a_flow_and_leak_nothing_into_each_other(adjoint: bool) -> None:
    """Solved again after another scene, a path is the same to the last bit, and so is its gradient."""
    flow = make_flow(scene_code_dim=3, adjoint=adjoint, steps_per_clip=8)
    a, b = (make_latent(code_dim=3) for _ in range(2))
    before = {name: value.clone() for name, value in flow.state_dict().items()}

    def solved(motion: MotionCode) -> list[torch.Tensor]:
        start, code = (x.clone().requires_grad_() for x in (motion.start, motion.scene_code))
        path = flow.solve(replace(motion, start=start, scene_code=code), -1.0, 2.0)
        assert isinstance(path, Trajectory)
        return [path.values, path.slopes, *torch.autograd.grad(path.values.square().sum(), [start, code])]

    first, other, again = solved(a.motion), solved(b.motion), solved(a.motion)
    for x, y, z in zip(first, other, again, strict=True):
        assert torch.equal(x, z)
        assert not torch.allclose(x, y)
    for name, value in flow.state_dict().items():
        assert torch.equal(value, before[name])
    only_code = replace(a.motion, scene_code=b.motion.scene_code)
    assert (solved(only_code)[0][-1] - first[0][-1]).norm() > 0.01


def test_a_path_is_of_the_start_that_is_asked_for() -> None:
    flow, latent = make_flow(), make_latent()
    other = replace(latent, motion=replace(latent.motion, start=latent.motion.start + 1))
    alone = poses_at(make_copy(flow), other, 0.7)[1]
    of_latent = poses_at(flow, latent, 0.7)[1]
    torch.testing.assert_close(poses_at(flow, other, 0.7)[1], alone)
    assert (of_latent - alone).norm() > 0.01


def test_a_path_is_of_the_field_as_it_is_now() -> None:
    """Nothing that was solved is kept, neither where training goes on nor where other weights are loaded."""
    flow, latent = make_flow(), make_latent()
    with torch.no_grad():
        before = poses_at(flow, latent, 0.7)[1]
        other = make_copy(flow)
        flow.vector_field.linear.bias.add_(1.0)
        after = poses_at(flow, latent, 0.7)[1]
        assert (after - before).norm() > 0.01
        flow.load_state_dict(other.state_dict())
        assert torch.equal(poses_at(flow, latent, 0.7)[1], before)


def test_no_flow_leaves_the_surroundings_of_the_path() -> None:
    """Even where the learned part grows without end."""
    flow = LatentFlow(LatentFlowConfig(state_dim=2, steps_per_clip=64))
    flow.vector_field.restart(smooth_trajectory(circle()))
    flow.vector_field.linear.weight.data.copy_(2 * torch.eye(2))
    inside, outside = torch.tensor([0.5, 0.0]), torch.tensor([100.0, 0.0])
    assert flow.roll_out(inside, 0, 5).values.norm(dim=1).max() > 1  # it does grow
    for start in (inside, outside):
        assert flow.roll_out(start, 0, 5).values[-1].norm() < 10


def test_what_strays_returns_to_the_path() -> None:
    """A field that was fitted to a circle attracts; `tube_loss` says so, and says when it does not."""
    torch.manual_seed(0)
    path, vector_field = smooth_trajectory(circle()), VectorField(2, 32)
    vector_field.restart(path)
    vector_field.tube.fill_(0.5)
    before = vector_field.tube_loss(path, 10.0).item()
    vector_field.fit(path, 0.5, 10.0, 500)
    assert vector_field.tube_loss(path, 10.0).item() < 0.8 * before
    flow = LatentFlow(LatentFlowConfig(state_dim=2))
    flow.vector_field = vector_field
    end = flow.roll_out(torch.tensor([1.2, 0.0])).values[-1]
    assert end.norm().item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("code_dim", [0, 3])
def test_attraction_loss_reaches_both_fields_and_not_the_path(code_dim: int) -> None:
    flow, code = make_flow(scene_code_dim=code_dim), torch.randn(code_dim, requires_grad=True)
    start = torch.randn(4, requires_grad=True)
    flow.attraction_loss(flow.roll_out(start, scene_code=code), 10.0, code).backward()
    assert start.grad is None
    for vector_field in (flow.vector_field, flow.backward_field):
        grad = vector_field.linear.weight.grad
        assert grad is not None
        assert grad.norm() > 0
    if code_dim:
        assert code.grad is not None
        assert code.grad.norm() > 0


def test_odd_states_are_refused() -> None:
    with pytest.raises(ValueError, match="must be even"):
        LatentFlow(LatentFlowConfig(state_dim=5))


def make_copy(flow: LatentFlow) -> LatentFlow:
    copy = LatentFlow(flow.config)
    copy.load_state_dict(flow.state_dict())
    return copy
