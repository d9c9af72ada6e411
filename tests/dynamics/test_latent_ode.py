import math
from dataclasses import replace

import pytest
import torch

from nest_nerfstudio.dynamics.cycle import PictureErrors
from nest_nerfstudio.dynamics.latent_ode import Explanation, LatentODE, LatentODEConfig
from nest_nerfstudio.dynamics.trajectory import Trajectory, smooth_trajectory
from nest_nerfstudio.dynamics.vector_field import VectorField
from nest_nerfstudio.geometry.quaternion import quat_normalize
from nest_nerfstudio.geometry.se3 import se3_exp
from nest_nerfstudio.types import MotionCode, SceneLatent


def make_latent(num_tokens: int = 5, dtype: torch.dtype = torch.float32, state_dim: int = 4) -> SceneLatent:
    def rand(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=dtype)

    return SceneLatent(
        quats=quat_normalize(rand(num_tokens, 4)),
        translations=rand(num_tokens, 3),
        shape=rand(num_tokens, 2),
        appearance=rand(num_tokens, 2),
        light=rand(3, 9),
        motion=MotionCode(
            start=rand(state_dim),
            token_codes=rand(num_tokens, 6),
            token_modes=rand(num_tokens, 6, state_dim + 1),
            scene_code=rand(0),
            time=rand(()),
        ),
    )


def make_moving_ode(dtype: torch.dtype = torch.float32, committed: bool = True) -> LatentODE:
    ode = LatentODE(LatentODEConfig(state_dim=4, token_code_dim=6, hidden_dim=16)).to(dtype)
    for module in (ode.vector_field.layers[-1], ode.pose_decoder.head[-1]):
        torch.nn.init.normal_(module.weight, std=0.3)
    ode.committed.fill_(committed)
    return ode.eval()


class Rotation(VectorField):
    """dz/dt = 2π·turns · J z: known circles."""

    def __init__(self, turns: float) -> None:
        super().__init__(2, 4)
        self.turns = turns

    def forward(self, time, z):
        return 2 * math.pi * self.turns * torch.stack([-z[..., 1], z[..., 0]], -1)


def test_zero_initialised_flow_is_the_identity() -> None:
    ode = LatentODE(LatentODEConfig(state_dim=4, token_code_dim=6))
    latent = make_latent()
    latent.motion.token_modes.zero_()
    for committed in (False, True):
        ode.committed.fill_(committed)
        moved = latent.at(torch.tensor(0.7), ode)
        torch.testing.assert_close(moved.translations, latent.translations)
        torch.testing.assert_close(moved.quats, latent.quats)
        assert moved.motion.time == 0.7


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("committed", [False, True])
def test_flow_commutes_with_rigid_motion(dtype: torch.dtype, tolerance: float, committed: bool) -> None:
    ode, latent = make_moving_ode(dtype, committed), make_latent(dtype=dtype)
    g = tuple(x[0] for x in se3_exp(torch.randn(1, 6, dtype=dtype)))
    time = torch.tensor(0.6, dtype=dtype)
    moved_then_turned = latent.at(time, ode).turn_world(g)
    turned_then_moved = latent.turn_world(g).at(time, ode)
    gap = (moved_then_turned.translations - turned_then_moved.translations).norm()
    assert gap <= tolerance * moved_then_turned.translations.norm()
    assert (moved_then_turned.quats - turned_then_moved.quats).norm() <= tolerance * 5
    assert (latent.at(time, ode).translations - latent.translations).norm() > 0.1  # it does move


def test_flow_commutes_with_permutations() -> None:
    ode, latent, order = make_moving_ode(), make_latent(), torch.randperm(5)
    time = torch.tensor(1.3)
    torch.testing.assert_close(
        latent.at(time, ode).permute(order).translations, latent.permute(order).at(time, ode).translations
    )


def test_roll_out_is_fourth_order_on_an_exact_solution() -> None:
    def error(steps: int) -> float:
        ode = LatentODE(LatentODEConfig(state_dim=2, steps_per_clip=steps)).double()
        ode.vector_field = Rotation(1.5)
        path = ode.roll_out(torch.tensor([1.0, 0.0], dtype=torch.float64))
        angle = 2 * math.pi * 1.5 * torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        exact = torch.stack([angle.cos(), angle.sin()], 1)
        return float((path.values - exact).norm(dim=1).max())

    assert math.log2(error(32) / error(64)) == pytest.approx(4, abs=0.3)


def test_rolls_out_before_and_after_the_clip() -> None:
    ode = LatentODE(LatentODEConfig(state_dim=2, steps_per_clip=64)).double()
    ode.vector_field, ode.backward_field = Rotation(1.0), Rotation(-1.0)
    path = ode.roll_out(torch.tensor([1.0, 0.0], dtype=torch.float64), -1, 3)
    times = torch.tensor([-0.75, 0.0, 0.25, 2.5], dtype=torch.float64)
    exact = torch.stack([(2 * math.pi * times).cos(), (2 * math.pi * times).sin()], 1)
    torch.testing.assert_close(path(times), exact, atol=1e-4, rtol=0)


def test_gradient_matches_finite_differences() -> None:
    ode = make_moving_ode(torch.float64)
    ode.config = replace(ode.config, steps_per_clip=4)
    weights = torch.randn(5, 4, dtype=torch.float64)
    start = torch.randn(4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: (ode.roll_out(z).values * weights).sum(), start)


@pytest.mark.parametrize("attraction", [0.0, 20.0])
def test_adjoint_gives_the_gradient(attraction: float) -> None:
    """Of the start and of F, against that of a solver with steps as fine, where F is stiff too."""
    ode = make_moving_ode(torch.float64)
    ode.vector_field.linear.weight.data.sub_(attraction * torch.eye(4))
    weights = torch.randn(33, 4, dtype=torch.float64)
    start = torch.randn(4, dtype=torch.float64, requires_grad=True)
    inputs = [start, *ode.vector_field.parameters()]
    gradients, configs = [], [{"steps_per_clip": 96}, {"steps_per_clip": 32, "adjoint": True}]
    for settings in configs:
        ode.config = replace(ode.config, **settings)
        values = ode.roll_out(start).values
        values = values[:: len(values) // 32]
        gradients.append(torch.autograd.grad((values * weights).sum(), inputs))
    for a, b in zip(*gradients, strict=True):
        assert 0 < (a - b).norm() <= 1e-4 * a.norm()  # equal to the last bit, it would not be the adjoint


def test_shared_roll_out_gives_the_gradient_of_separate_ones() -> None:
    """Four steps that share one solve give the sum of four solves' gradients."""
    ode, latent = make_moving_ode(torch.float64).train(), make_latent(dtype=torch.float64)
    ode.config = replace(ode.config, solve_every=4)
    start = latent.motion.start.requires_grad_()
    times = [torch.tensor(t, dtype=torch.float64) for t in (0.1, 0.4, 0.8, 0.95)]

    def loss(path, t):
        return path(t).square().sum()

    for t in times:
        loss(ode.trajectory(latent), t).backward()
    shared = [p.grad.clone() for p in ode.vector_field.layers.parameters()], start.grad.clone()
    ode.zero_grad()
    start.grad = None
    sum(loss(ode.roll_out(start), t) for t in times).backward()
    torch.testing.assert_close(shared[0], [p.grad for p in ode.vector_field.layers.parameters()])
    torch.testing.assert_close(shared[1], start.grad)


def make_observed(turns: float, state_dim: int = 2, **settings) -> tuple[LatentODE, torch.Tensor]:
    """An ODE whose free path has been fitted to tokens that go round, and the tokens' codes."""
    ode = LatentODE(LatentODEConfig(state_dim=state_dim, token_code_dim=6, hidden_dim=32, **settings))
    angle = 2 * math.pi * turns * torch.linspace(0, 1, 33)[:, None]
    put_path(ode, torch.cat([angle.cos(), angle.sin()], 1))
    torch.nn.init.normal_(ode.pose_decoder.head[-1].weight, std=0.1)
    return ode, make_latent(state_dim=state_dim).motion.token_codes


def put_path(ode: LatentODE, values: torch.Tensor) -> None:
    with torch.no_grad():
        ode.path_values.zero_()
        ode.path_values[:, : values.shape[1]] = values


@pytest.mark.parametrize("seed", range(4))
def test_explains_motion_and_goes_on_past_its_end(seed: int) -> None:
    """Tokens that go round 1.5 times are learned, and continued by a turn that was never seen."""
    torch.manual_seed(seed)
    ode, codes = make_observed(1.5, motion="free")
    path, _ = ode._principal_components(codes)
    found = ode.explain(codes)
    assert ode.committed
    assert found.gap < 0.1
    later, times = ode.roll_out(found.start, -1, 2), torch.tensor([0.1, 0.25, 0.33, 0.6])
    torch.testing.assert_close(later(times), path(times), atol=0.2, rtol=0)
    torch.testing.assert_close(later(times + 4 / 3), path(times), atol=0.3, rtol=0)  # two turns on
    torch.testing.assert_close(later(times - 2 / 3), path(times), atol=0.3, rtol=0)  # one back


@pytest.mark.parametrize("arm", [1.0, 0.05])
def test_explaining_keeps_the_motion_of_the_tokens(arm: float) -> None:
    """With as many components as the motion has, the linear modes say what the MLP said, at every node."""
    ode, codes = make_observed(1.5)
    ode.config = replace(ode.config, state_dim=24)
    with torch.no_grad():
        before = torch.stack([ode.pose_decoder(codes, z) for z in ode.path_values])
    path, modes = ode._principal_components(codes, arm)
    after = torch.einsum("kcd,sd->skc", modes[..., :-1], path.values) + modes[..., -1]
    torch.testing.assert_close(after, before, atol=1e-5, rtol=0)


def test_motion_that_recurs_is_a_closed_curve_of_the_state() -> None:
    """Whatever the free path does, equal poses are equal states."""
    ode, codes = make_observed(2.0)
    path, _ = ode._principal_components(codes)
    torch.testing.assert_close(
        path.values[:17], path.values[16:], atol=0.05, rtol=0
    )  # one-sided speeds at the ends


def test_turns_count_by_the_way_they_move_what_follows_a_token() -> None:
    """Turns that change from one time to the next hide a cycle, and no longer where they move little."""
    torch.manual_seed(0)
    gaps = {}
    for arm in (1.0, 0.01):
        ode, codes = make_observed(1.5, state_dim=8, motion="cyclic", period=2 / 3)
        moved, jitter = ode.pose_decoder.forward, {}

        def twists(codes, z, moved=moved, jitter=jitter):
            key = tuple(z.tolist())
            if key not in jitter:
                jitter[key] = 0.3 * torch.randn(len(codes), 3)
            straight, turn = moved(codes, z).split(3, 1)
            return torch.cat([straight, turn + jitter[key]], 1)

        ode.pose_decoder.forward = twists  # type: ignore[method-assign]
        gaps[arm] = ode.explain(codes, arm).gap
    assert gaps[1.0] > 0.5
    assert gaps[0.01] < 0.2


def test_explains_a_pendulum() -> None:
    """It passes every place in two directions, so the state has to know how fast the tokens are."""
    ode, codes = make_observed(1.0, explain_iterations=1000, motion="free")
    swing = (2 * math.pi * 1.5 * torch.linspace(0, 1, 33)[:, None]).sin()
    put_path(ode, swing)
    ode.explain(codes)
    assert ode.committed


@pytest.mark.parametrize("seed", [1, 2])
def test_multiple_shooting_finds_the_end_of_a_rest(seed: int) -> None:
    """A leap between two rests: a field that is right almost everywhere may leave at the wrong time."""
    torch.manual_seed(seed)
    ode, codes = make_observed(1.0, explain_iterations=1200, motion="free")
    times = torch.linspace(0, 1, 33)[:, None]
    put_path(ode, torch.cat([((times - 0.5) * 12).tanh(), (-(((times - 0.5) * 6) ** 2)).exp()], 1))
    path, _ = ode._principal_components(codes)
    ode._fit_once(ode.vector_field, path, ode.config.tube)
    ode._shoot(ode.vector_field, path)
    assert ode._gap(ode.vector_field, path) < 0.1  # 0.5 and 1.1 without


def test_tokens_that_stand_still_commit_at_once() -> None:
    ode, codes = make_observed(1.0, explain_iterations=20)
    torch.nn.init.zeros_(ode.pose_decoder.head[-1].weight)
    found = ode.explain(codes)
    assert ode.committed
    assert found.gap < 0.05
    assert found.modes.isfinite().all()


def posed(ode: LatentODE, found: Explanation, codes: torch.Tensor, time: float) -> torch.Tensor:
    """Twists at a time, as `explain` found them."""
    latent = make_latent(len(codes), state_dim=ode.config.state_dim)
    motion = replace(latent.motion, start=found.start, token_codes=codes, token_modes=found.modes)
    path = ode.trajectory(replace(latent, motion=motion), time)
    return ode.twists(motion, path(torch.tensor(time)))


@pytest.mark.parametrize("turns", [1.25, 1.5, 2.0])
def test_auto_finds_that_motion_is_cyclic_and_its_period(turns: float) -> None:
    ode, codes = make_observed(turns, state_dim=8, explain_iterations=300)
    times = torch.tensor([0.1, 0.4, 0.7])
    with torch.no_grad():
        before = [ode.pose_decoder(codes, ode.path()(t)) for t in times]
    found = ode.explain(codes)
    assert ode.period == pytest.approx(1 / turns, rel=0.01)
    assert f"{1 / turns:.3f} clips a cycle" in found.reason
    for t, twists in zip(times.tolist(), before, strict=True):
        with torch.no_grad():
            torch.testing.assert_close(posed(ode, found, codes, t), twists, atol=0.02, rtol=0)
            later = posed(ode, found, codes, t + 20 * ode.period)
            torch.testing.assert_close(later, posed(ode, found, codes, t), atol=1e-4, rtol=0)


def test_a_single_turn_is_not_called_cyclic() -> None:
    ode, codes = make_observed(0.9, explain_iterations=300)
    assert ode.explain(codes).reason.startswith("free, as nothing was found to repeat")
    assert ode.period is None


def pictures_of_turns(turns: float) -> PictureErrors:
    """Of a point that goes round, 15 of them."""
    angles = 2 * math.pi * turns * torch.linspace(0, 1, 65)
    errors = 1 - (angles[:: 64 // 14][:15, None] - angles).cos()
    return PictureErrors(errors, torch.linspace(0, 1, 65)[:: 64 // 14][:15])


def test_pictures_tell_of_a_cycle_that_tracks_do_not_show() -> None:
    """Tokens come back to other places, as few pictures leave these open, and all pictures say a cycle."""
    torch.manual_seed(0)
    for pictures in (None, lambda: pictures_of_turns(1.6)):
        ode, codes = make_observed(1.6, state_dim=8, explain_iterations=50)
        put_path(ode, torch.cat([ode.path_values[:, :2], 4 * torch.linspace(0, 1, 33)[:, None]], 1))
        found = ode.explain(codes, picture_errors=pictures)
        assert bool(ode.cyclic) == (pictures is not None)
        assert found.reason.startswith("free" if pictures is None else "cyclic")
    assert ode.period == pytest.approx(1 / 1.6, rel=0.02)
    assert ode.committed
    assert found.gap > ode.config.largest_gap


def test_pictures_tell_of_rest_that_tracks_do_not_show() -> None:
    t = torch.linspace(0, 1, 65)
    height = (-(((t - 0.5) / 0.15) ** 2)).exp()
    seen = PictureErrors((height[::4, None] - height).square(), t[::4])
    ode, codes = make_observed(0.6, state_dim=8, explain_iterations=50)
    found = ode.explain(codes, picture_errors=lambda: seen)
    assert ode.period == 1.0
    assert ode.oscillator.fixed
    assert "at rest" in found.reason


def test_pictures_are_not_asked_where_tracks_show_a_cycle() -> None:
    ode, codes = make_observed(1.5, state_dim=8, explain_iterations=50)

    def fail() -> PictureErrors:
        raise AssertionError

    ode.explain(codes, picture_errors=fail)
    assert ode.period == pytest.approx(1 / 1.5, rel=0.01)


def test_a_cycle_that_fades_is_left_to_the_field() -> None:
    """It recurs, but where it was held out a repetition is wrong and a spiral is right."""
    ode, codes = make_observed(1.0, explain_iterations=1000)
    t = torch.linspace(0, 1, 33)[:, None]
    angle = 2 * math.pi * 2.5 * t
    put_path(ode, (-2 * t).exp() * torch.cat([angle.cos(), angle.sin()], 1))
    found = ode.explain(codes)
    assert found.reason.startswith("free")
    assert ode.period is None


def test_cyclic_motion_takes_the_period_it_is_given() -> None:
    ode, codes = make_observed(0.8, motion="cyclic", period=1.25)
    found = ode.explain(codes)
    assert ode.period == pytest.approx(1.25)
    assert found.reason == "cyclic, 1.250 clips a cycle, as asked for"


def test_commits_only_to_a_roll_out_that_stays_near_the_path() -> None:
    ode, codes = make_observed(1.0, explain_iterations=1, explain_attempts=1)
    put_path(ode, torch.randn(33, 2))  # no field without time can do this in a plane
    assert ode.explain(codes).gap > ode.config.largest_gap
    assert not ode.committed


def test_restart_finds_the_linear_field_of_a_linear_motion() -> None:
    field_ = VectorField(2, 8).double()
    t = torch.linspace(0, 1, 33, dtype=torch.float64)[:, None]
    circle = torch.cat([(5 * t).cos(), (5 * t).sin()], 1)
    slopes = 5 * torch.cat([-(5 * t).sin(), (5 * t).cos()], 1)
    field_.restart(Trajectory(0.0, 1.0, circle, slopes), ridge=1e-12)
    torch.testing.assert_close(field_(None, circle), slopes)


def test_no_flow_leaves_the_surroundings_of_the_path() -> None:
    """Even where the learned part grows without end."""
    ode = LatentODE(LatentODEConfig(state_dim=2, steps_per_clip=64))
    angle = 2 * math.pi * torch.linspace(0, 1, 33)[:, None]
    circle = smooth_trajectory(torch.cat([angle.cos(), angle.sin()], 1))
    ode.vector_field.restart(circle)
    ode.vector_field.linear.weight.data.copy_(2 * torch.eye(2))
    inside, outside = torch.tensor([0.5, 0.0]), torch.tensor([100.0, 0.0])
    assert ode.roll_out(inside, 0, 5).values.norm(dim=1).max() > 1  # it does grow
    for start in (inside, outside):
        assert ode.roll_out(start, 0, 5).values[-1].norm() < 10


def test_ten_thousand_steps_leave_poses_rigid_and_near() -> None:
    ode, codes = make_observed(0.8, explain_iterations=500, motion="free")
    found = ode.explain(codes)
    latent = make_latent(len(codes))
    motion = replace(latent.motion, start=found.start, token_codes=codes, token_modes=found.modes)
    with torch.no_grad():
        far = replace(latent, motion=motion).at(torch.tensor(320.0), ode.eval())
    assert ode.trajectory(far).values.shape[0] > 10_000
    assert (far.quats.norm(dim=1) - 1).abs().max() < 1e-6
    reach = ode.path_values.norm(dim=1).max()
    assert ode.trajectory(far).values[-1].norm() < 3 * reach


def test_what_strays_returns_to_the_path() -> None:
    """A field that explains a circle attracts; `tube_loss` says so, and says when it does not."""
    torch.manual_seed(0)
    angle = 2 * math.pi * torch.linspace(0, 1, 33)[:, None]
    circle = smooth_trajectory(torch.cat([angle.cos(), angle.sin()], 1))
    field_ = VectorField(2, 32)
    field_.restart(circle)
    field_.tube.fill_(0.5)
    before = field_.tube_loss(circle, 10.0).item()
    field_.fit(circle, 0.5, 10.0, 500)
    assert field_.tube_loss(circle, 10.0).item() < 0.8 * before
    ode = LatentODE(LatentODEConfig(state_dim=2))
    ode.vector_field = field_
    end = ode.roll_out(torch.tensor([1.2, 0.0])).values[-1]
    assert end.norm().item() == pytest.approx(1, abs=0.05)


def test_dense_roll_out_is_of_the_start_that_is_asked_for() -> None:
    ode, latent = make_moving_ode(), make_latent()
    other = replace(latent, motion=replace(latent.motion, start=latent.motion.start + 1))
    time = torch.tensor(0.7)
    alone = other.at(time, make_copy(ode)).translations
    latent.at(time, ode)
    torch.testing.assert_close(other.at(time, ode).translations, alone)
    assert (latent.at(time, ode).translations - alone).norm() > 0.01


def test_what_a_viewer_asks_in_training_is_not_kept() -> None:
    ode, latent, time = make_moving_ode().train(), make_latent(), torch.tensor(0.7)
    with torch.no_grad():
        before = latent.at(time, ode).translations
        ode.vector_field.linear.bias += 1.0
        after = latent.at(time, ode.eval()).translations
    assert (after - before).norm() > 0.01


def test_a_far_range_keeps_the_near_one() -> None:
    """Going to and fro between two times solves once for each, and then no more."""
    ode, latent, solved = make_moving_ode(), make_latent(), []
    original = ode.roll_out
    ode.roll_out = lambda *args: (solved.append(args), original(*args))[1]
    for time in (2.3, -0.2, 2.3, -0.2):
        latent.at(torch.tensor(time), ode)
    assert len(solved) == 2


def test_both_fields_attract_to_a_roll_out_only_where_it_was_solved_for() -> None:
    ode, latent = make_moving_ode().train(), make_latent()
    ode.config = replace(ode.config, solve_every=2)
    for field_ in (ode.vector_field, ode.backward_field):
        field_.tube.fill_(0.5)
    losses = []
    for _ in range(4):
        latent.at(torch.tensor(0.5), ode)
        losses.append(ode.attraction_loss())
    assert [float(loss) > 0 for loss in losses] == [False, True, False, True]
    losses[-1].backward()
    for field_ in (ode.vector_field, ode.backward_field):
        assert field_.linear.weight.grad.norm() > 0


def test_explains_only_once() -> None:
    ode, codes = make_observed(1.5, motion="free", explain_iterations=500)
    ode.explain(codes)
    with pytest.raises(RuntimeError, match="taken over already"):
        ode.explain(codes)


def test_a_given_period_longer_than_the_clip_is_taken() -> None:
    ode, codes = make_observed(0.6, period=1.7)
    assert ode.explain(codes).reason == "cyclic, 1.700 clips a cycle, as asked for"


def test_roughness_is_of_the_free_path_alone() -> None:
    ode = LatentODE(LatentODEConfig(state_dim=2))
    put_path(ode, torch.linspace(0, 1, 33)[:, None] * torch.ones(2))
    assert ode.roughness() < 1e-6
    with torch.no_grad():
        ode.path_values[::2] += 1.0
    assert ode.roughness() > 1
    ode.committed.fill_(True)
    assert ode.roughness() == 0


def test_a_loaded_ode_is_rolled_out_anew() -> None:
    ode, latent, time = make_moving_ode(), make_latent(), torch.tensor(0.7)
    before = latent.at(time, ode).translations
    other = make_copy(ode)
    with torch.no_grad():
        other.vector_field.linear.bias += 1.0
    ode.load_state_dict(other.state_dict())
    assert (latent.at(time, ode).translations - before).norm() > 0.01


def make_copy(ode: LatentODE) -> LatentODE:
    copy = LatentODE(ode.config)
    copy.load_state_dict(ode.state_dict())
    return copy.eval()


def test_dense_roll_out_is_reused_until_training_goes_on() -> None:
    ode, latent = make_moving_ode(), make_latent()
    calls = 0
    original = ode.roll_out

    def counted(*args):
        nonlocal calls
        calls += 1
        return original(*args)

    ode.roll_out = counted
    for t in (0.1, 0.9, 1.0):
        latent.at(torch.tensor(t), ode)
    assert calls == 1
    latent.at(torch.tensor(2.5), ode)
    latent.at(torch.tensor(2.9), ode)
    assert calls == 2
    latent.at(torch.tensor(0.5), ode.train().eval())  # as the viewer does for every frame
    assert calls == 2
    latent.at(torch.tensor(0.5), ode.train())
    calls = 0
    latent.at(torch.tensor(0.5), ode.eval())
    assert calls == 1
