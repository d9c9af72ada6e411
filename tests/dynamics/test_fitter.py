import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from nest_nerfstudio.dynamics.fitter import FlowFit, LatentFlowFitter, LatentFlowFitterConfig, _gap
from nest_nerfstudio.dynamics.flow import LatentFlow, LatentFlowConfig
from nest_nerfstudio.dynamics.recurrence import ImageErrors
from nest_nerfstudio.dynamics.trajectory import Trajectory
from tests.dynamics.moving_scenes import circle, last_layer, make_flow, make_latent, make_observed, put_path

pytestmark = pytest.mark.slow

# ---------------------------------------------------------------- the ODE fit


@pytest.mark.parametrize("seed", range(4))
def test_fits_motion_and_goes_on_past_its_end(seed: int) -> None:
    """Tokens that go round 1.5 times are learned, and continued by a turn that was never seen."""
    torch.manual_seed(seed)
    fitter, flow = make_observed(1.5, motion="free")
    path, _ = fitter._principal_components(fitter.free.observed_twists(33), 2)
    fit = fitter.fit(flow)
    assert fitter.rolls_out
    assert fit.accepted
    assert fit.gap < 0.1
    assert fit.motion.kind == "free"
    later, times = flow.roll_out(fit.motion.start, -1, 2), torch.tensor([0.1, 0.25, 0.33, 0.6])
    torch.testing.assert_close(later(times), path(times), atol=0.2, rtol=0)
    torch.testing.assert_close(later(times + 4 / 3), path(times), atol=0.3, rtol=0)  # two turns on
    torch.testing.assert_close(later(times - 2 / 3), path(times), atol=0.3, rtol=0)  # one back


@pytest.mark.parametrize("arm", [1.0, 0.05])
def test_the_fit_keeps_the_motion_of_the_tokens(arm: float) -> None:
    """With as many components as the motion has, the linear modes say what the MLP said, at every node."""
    fitter, _ = make_observed(1.5)
    free = fitter.free
    with torch.no_grad():
        before = torch.stack([free.pose_decoder(free.token_codes, z) for z in free.path_values])
    path, modes = fitter._principal_components(fitter.free.observed_twists(33), 24, arm)
    after = torch.einsum("kcd,sd->skc", modes[..., :-1], path.values) + modes[..., -1]
    torch.testing.assert_close(after, before, atol=1e-5, rtol=0)


def test_motion_that_recurs_is_a_closed_curve_of_the_state() -> None:
    """Whatever the free path does, equal poses are equal states."""
    fitter, _ = make_observed(2.0)
    path, _ = fitter._principal_components(fitter.free.observed_twists(33), 2)
    torch.testing.assert_close(
        path.values[:17], path.values[16:], atol=0.05, rtol=0
    )  # one-sided speeds at the ends


def test_turns_count_by_the_way_they_move_what_follows_a_token() -> None:
    """Turns that change from one time to the next hide a cycle, and no longer where they move little."""
    torch.manual_seed(1)
    gaps = {}
    for arm in (1.0, 0.01):
        fitter, flow = make_observed(1.5, state_dim=8, motion="cyclic", period=2 / 3)
        decoder = fitter.free.pose_decoder
        moved, jitter = decoder.forward, {}

        def twists(codes, z, moved=moved, jitter=jitter):
            key = tuple(z.tolist())
            if key not in jitter:
                jitter[key] = 0.3 * torch.randn(len(codes), 3)
            straight, turn = moved(codes, z).split(3, 1)
            return torch.cat([straight, turn + jitter[key]], 1)

        decoder.forward = twists  # type: ignore[method-assign]
        gaps[arm] = fitter.fit(flow, arm).gap
    assert gaps[1.0] > 0.5
    assert gaps[0.01] < 0.2


def test_fits_a_pendulum() -> None:
    """It passes every position in two directions, so the state has to know how fast the tokens are."""
    fitter, flow = make_observed(1.0, fit_iterations=1000, motion="free")
    put_path(fitter, (2 * math.pi * 1.5 * torch.linspace(0, 1, 33)[:, None]).sin())
    assert fitter.fit(flow).accepted
    assert fitter.rolls_out


@pytest.mark.parametrize("seed", [1, 2])
def test_multiple_shooting_finds_the_end_of_a_rest(seed: int) -> None:
    """A leap between two rests: a field that is right almost everywhere may leave at the wrong time."""
    torch.manual_seed(seed)
    fitter, flow = make_observed(1.0, fit_iterations=1200, motion="free")
    times = torch.linspace(0, 1, 33)[:, None]
    put_path(fitter, torch.cat([((times - 0.5) * 12).tanh(), (-(((times - 0.5) * 6) ** 2)).exp()], 1))
    path, _ = fitter._principal_components(fitter.free.observed_twists(33), 2)
    fitter._fit_once(flow.vector_field, path, fitter.config.tube)
    fitter._shoot(flow, flow.vector_field, path)
    assert _gap(flow, flow.vector_field, path) < 0.1  # 0.8 and 1.2 without


def test_tokens_that_stand_still_are_fitted_at_once() -> None:
    fitter, flow = make_observed(1.0, fit_iterations=20)
    torch.nn.init.zeros_(last_layer(fitter).weight)
    fit = fitter.fit(flow)
    assert fitter.rolls_out
    assert fit.gap < 0.05
    assert fit.motion.modes.isfinite().all()


def twists_at(flow: LatentFlow, fit: FlowFit, time: float) -> torch.Tensor:
    """Twists of the tokens at a time, as `fit` found them."""
    latent = replace(make_latent(len(fit.motion.modes)), motion=fit.motion)
    return flow.twists(latent, flow.solve(fit.motion, 0.0, time)(torch.tensor(time)))


@pytest.mark.parametrize("turns", [1.25, 1.5, 2.0])
def test_auto_finds_that_motion_is_cyclic_and_its_period(turns: float) -> None:
    fitter, flow = make_observed(turns, state_dim=8, fit_iterations=300)
    free, times = fitter.free, torch.tensor([0.1, 0.4, 0.7])
    with torch.no_grad():
        before = [free.pose_decoder(free.token_codes, free.solve()(t)) for t in times]
    fit = fitter.fit(flow)
    period = fit.motion.period.item()
    assert fit.motion.kind == "cyclic"
    assert period == pytest.approx(1 / turns, rel=0.01)
    assert f"{1 / turns:.3f} clips a cycle" in fit.reason
    assert fit.learn_period
    for t, twists in zip(times.tolist(), before, strict=True):
        with torch.no_grad():
            torch.testing.assert_close(twists_at(flow, fit, t), twists, atol=0.02, rtol=0)
            later = twists_at(flow, fit, t + 20 * period)
            torch.testing.assert_close(later, twists_at(flow, fit, t), atol=1e-4, rtol=0)


def test_a_single_turn_is_not_called_cyclic() -> None:
    fitter, flow = make_observed(0.9, fit_iterations=300)
    fit = fitter.fit(flow)
    assert fit.reason.startswith("free, as no repetition was found")
    assert fit.motion.kind == "free"


def images_of_turns(turns: float) -> ImageErrors:
    """Of a point that goes round, 15 of them."""
    angles = 2 * math.pi * turns * torch.linspace(0, 1, 65)
    errors = 1 - (angles[:: 64 // 14][:15, None] - angles).cos()
    return ImageErrors(errors, torch.linspace(0, 1, 65)[:: 64 // 14][:15])


@pytest.mark.parametrize("images", [None, lambda: images_of_turns(1.6)])
def test_images_tell_of_a_cycle_that_tracks_do_not_show(images: Callable[[], ImageErrors] | None) -> None:
    """Tokens come back to other positions, as few images leave these open, and all images say a cycle."""
    fitter, flow = make_observed(1.6, state_dim=8, fit_iterations=50)
    put_path(fitter, torch.cat([circle(1.6), 4 * torch.linspace(0, 1, 33)[:, None]], 1))
    fit = fitter.fit(flow, image_errors=images)
    assert fit.motion.kind == ("free" if images is None else "cyclic")
    assert fit.reason.startswith("free" if images is None else "cyclic")
    if images is not None:
        assert fit.motion.period.item() == pytest.approx(1 / 1.6, rel=0.02)
        assert fit.accepted
        assert fitter.rolls_out
        assert fit.learn_period
        assert fit.gap > fitter.config.max_gap


def test_images_tell_of_rest_that_tracks_do_not_show() -> None:
    t = torch.linspace(0, 1, 65)
    height = (-(((t - 0.5) / 0.15) ** 2)).exp()
    seen = ImageErrors((height[::4, None] - height).square(), t[::4])
    fitter, flow = make_observed(0.6, state_dim=8, fit_iterations=50)
    fit = fitter.fit(flow, image_errors=lambda: seen)
    assert fit.motion.kind == "cyclic"
    assert fit.motion.period == 1.0
    assert not fit.learn_period
    assert "at rest" in fit.reason


def test_images_are_not_asked_where_tracks_show_a_cycle() -> None:
    fitter, flow = make_observed(1.5, state_dim=8, fit_iterations=50)

    def fail() -> ImageErrors:
        raise AssertionError

    assert fitter.fit(flow, image_errors=fail).motion.period.item() == pytest.approx(1 / 1.5, rel=0.01)


def test_a_cycle_that_fades_is_left_to_the_field() -> None:
    """It recurs, but where it was held out a repetition is wrong and a spiral is right."""
    fitter, flow = make_observed(1.0, fit_iterations=1000)
    put_path(fitter, (-2 * torch.linspace(0, 1, 33)[:, None]).exp() * circle(2.5))
    fit = fitter.fit(flow)
    assert fit.reason.startswith("free")
    assert fit.motion.kind == "free"


def test_cyclic_motion_takes_the_period_it_is_given() -> None:
    fitter, flow = make_observed(0.8, motion="cyclic", period=1.25)
    fit = fitter.fit(flow)
    assert fit.motion.kind == "cyclic"
    assert fit.motion.period.item() == pytest.approx(1.25)
    assert fit.reason == "cyclic, 1.250 clips a cycle, as given"
    assert not fit.learn_period  # what is given is kept


def test_a_given_period_longer_than_the_clip_is_taken() -> None:
    fitter, flow = make_observed(0.6, period=1.7)
    assert fitter.fit(flow).reason == "cyclic, 1.700 clips a cycle, as given"


def test_accepts_only_a_roll_out_that_stays_near_the_path() -> None:
    fitter, flow = make_observed(1.0, fit_iterations=1, fit_attempts=1)
    put_path(fitter, torch.randn(33, 2))  # no field without time can do this in a plane
    fit = fitter.fit(flow)
    assert fit.gap > fitter.config.max_gap
    assert not fit.accepted
    assert not fitter.rolls_out


def test_fits_only_once() -> None:
    fitter, flow = make_observed(1.5, motion="free", fit_iterations=500)
    fitter.fit(flow)
    with pytest.raises(RuntimeError, match="taken over already"):
        fitter.fit(flow)


def test_ten_thousand_steps_leave_poses_rigid_and_near() -> None:
    fitter, flow = make_observed(0.8, fit_iterations=500, motion="free")
    latent = replace(make_latent(5), motion=fitter.fit(flow).motion)
    with torch.no_grad():
        path = flow.solve(latent.motion, 0.0, 320.0)
        quats, _ = flow.poses(latent, path, torch.tensor(320.0))
    assert isinstance(path, Trajectory)
    assert path.values.shape[0] > 10_000
    assert (quats.norm(dim=1) - 1).abs().max() < 1e-6
    reach = fitter.free.path_values.norm(dim=1).max()
    assert path.values[-1].norm() < 3 * reach


@pytest.mark.parametrize("motion", ["free", "cyclic"])
def test_fits_a_flow_that_scenes_share(motion: str) -> None:
    """The scene that is fitted has the zero code; others differ from it."""
    fitter, _ = make_observed(1.5, motion=motion, period=2 / 3, fit_iterations=300)
    flow = LatentFlowConfig(state_dim=2, hidden_dim=32, scene_code_dim=3).setup()
    fit = fitter.fit(flow)
    assert fit.accepted
    assert (fit.motion.scene_code == torch.zeros(3)).all()
    assert fit.motion.kind == motion


# ---------------------------------------------------------------- in every training step


def make_rolling(**settings) -> tuple[LatentFlowFitter, LatentFlow]:
    """A fitter whose ODE has taken over, and a flow with random fields."""
    fitter = LatentFlowFitter(
        LatentFlowFitterConfig(token_code_dim=6, **settings), LatentFlowConfig(state_dim=4), 5
    )
    fitter.rolls_out.fill_(True)
    flow = make_flow()
    for vector_field in (flow.vector_field, flow.backward_field):
        vector_field.tube.fill_(0.5)
    return fitter, flow


def test_free_fit_and_roll_out_have_their_own_dynamics_and_path() -> None:
    fitter, flow = make_rolling()
    motion = make_latent().motion
    assert fitter.dynamics(flow) is flow
    torch.testing.assert_close(fitter.path(flow, motion)(torch.tensor(0.0)), motion.start)
    fitter.rolls_out.fill_(False)
    assert fitter.dynamics(flow) is fitter.free
    path = fitter.path(flow, motion)
    assert isinstance(path, Trajectory)
    assert path.values is fitter.free.path_values


def test_both_fields_attract_to_a_roll_out_only_where_it_was_solved_for() -> None:
    fitter, flow = make_rolling(solve_every=2)
    losses = []
    for _ in range(4):
        fitter.path(flow, make_latent().motion)
        losses.append(fitter.attraction_loss(flow))
    assert [loss.item() > 0 for loss in losses] == [False, True, False, True]
    losses[-1].backward()
    for vector_field in (flow.vector_field, flow.backward_field):
        grad = vector_field.linear.weight.grad
        assert grad is not None
        assert grad.norm() > 0


def test_free_fit_and_cycles_need_no_attraction() -> None:
    fitter, flow = make_rolling(solve_every=1)
    fitter.path(flow, make_latent(kind="cyclic").motion)
    assert fitter.attraction_loss(flow) == 0
    fitter.rolls_out.fill_(False)
    fitter.path(flow, make_latent().motion)
    assert fitter.attraction_loss(flow) == 0


def test_four_steps_share_a_solve_and_have_the_gradient_of_four() -> None:
    fitter, flow = make_rolling(solve_every=4)
    flow, motion = (
        make_flow(torch.float64, scene_code_dim=3),
        make_latent(dtype=torch.float64, code_dim=3).motion,
    )
    inputs = [motion.start.requires_grad_(), motion.scene_code.requires_grad_()]
    inputs += flow.vector_field.layers.parameters()
    times = [torch.tensor(t, dtype=torch.float64) for t in (0.1, 0.4, 0.8, 0.95)]
    for t in times:
        fitter.path(flow, motion)(t).square().sum().backward()
    shared = [x.grad.clone() for x in inputs if x.grad is not None]
    path = flow.roll_out(motion.start, scene_code=motion.scene_code)
    separate = torch.autograd.grad(torch.stack([path(t).square().sum() for t in times]).sum(), inputs)
    torch.testing.assert_close(shared, list(separate))


def test_what_is_asked_without_gradients_does_not_disturb_a_block() -> None:
    """As the viewer does between training steps."""
    fitter, flow = make_rolling(solve_every=2)
    motion = make_latent().motion
    fitter.path(flow, motion)
    with torch.no_grad():
        shown = fitter.path(flow, motion)
        torch.testing.assert_close(shown(torch.tensor(0.7)), flow.solve(motion)(torch.tensor(0.7)))
    fitter.path(flow, motion)
    assert fitter.attraction_loss(flow) > 0


def test_attraction_is_of_the_scene_whose_path_was_solved() -> None:
    fitter, _ = make_rolling(solve_every=1)
    flow = make_flow(scene_code_dim=3)
    motion = make_latent(code_dim=3).motion
    path = fitter.path(flow, motion)
    assert isinstance(path, Trajectory)
    torch.manual_seed(1)
    loss = fitter.attraction_loss(flow)
    torch.manual_seed(1)
    torch.testing.assert_close(loss, flow.attraction_loss(path, 30.0, motion.scene_code))
    torch.manual_seed(1)
    assert (flow.attraction_loss(path, 30.0) - loss).abs() > 1e-6


def test_roughness_is_of_the_free_path_alone() -> None:
    fitter, _ = make_observed(1.0)
    put_path(fitter, torch.linspace(0, 1, 33)[:, None] * torch.ones(2))
    assert fitter.roughness() < 1e-6
    with torch.no_grad():
        fitter.free.path_values[::2] += 1.0
    assert fitter.roughness() > 1
    fitter.rolls_out.fill_(True)
    assert fitter.roughness() == 0


# ---------------------------------------------------------------- when to fit the ODE


def stir(fitter: LatentFlowFitter, amount: float) -> None:
    with torch.no_grad():
        fitter.free.path_values.mul_(1 + amount)


def test_the_fit_is_due_when_motion_has_settled() -> None:
    fitter, _ = make_observed(1.5)
    assert fitter.is_due(0.10, False, 1.0) == (False, math.inf)  # not in use yet: all times, full size
    assert fitter.is_due(0.10, True, 1.0) == (False, math.inf)  # nothing to compare with
    stir(fitter, 2.0)
    assert fitter.is_due(0.11, True, 1.0) == (False, math.inf)  # a fortieth has not passed
    is_due, change = fitter.is_due(0.13, True, 1.0)
    assert not is_due
    assert fitter.config.settled_change < change < math.inf
    stir(fitter, 0.01)
    is_due, change = fitter.is_due(0.16, True, 1.0)
    assert is_due
    assert 0 < change < fitter.config.settled_change


def test_the_fit_is_due_in_the_end_whatever_moves() -> None:
    fitter, _ = make_observed(1.5)
    assert fitter.is_due(0.70, False, 1.0) == (True, math.inf)
    assert fitter.is_due(0.71, False, 1.0) == (False, math.inf)
    stir(fitter, 2.0)
    is_due, change = fitter.is_due(0.73, False, 1.0)
    assert is_due
    assert change > fitter.config.settled_change


def test_no_fit_is_due_once_the_ode_has_taken_over() -> None:
    fitter, _ = make_observed(1.5)
    fitter.rolls_out.fill_(True)
    assert fitter.is_due(0.9, True, 1.0) == (False, math.inf)


def test_change_counts_rotations_by_the_way_they_move_gaussians() -> None:
    changes = []
    for arm in (1.0, 1e-3):
        fitter, _ = make_observed(1.5)
        fitter.is_due(0.1, True, arm)
        with torch.no_grad():
            last_layer(fitter).weight[3:] += 1.0  # rotations alone
        changes.append(fitter.is_due(0.2, True, arm)[1])
    assert changes[1] < 0.05 * changes[0]


def test_a_fit_that_is_not_accepted_is_tried_again_later() -> None:
    fitter, flow = make_observed(1.0, fit_iterations=1, fit_attempts=1)
    put_path(fitter, torch.randn(33, 2))
    assert fitter.is_due(0.75, True, 1.0)[0]
    assert not fitter.fit(flow).accepted
    assert not fitter.is_due(0.75 + 1.5 / 40, True, 1.0)[0]
    assert fitter.is_due(0.75 + 2.01 / 40, True, 1.0)[0]


def tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Those of its state dict; the block of shared roll-outs, empty here, is none."""
    return {name: value for name, value in module.state_dict().items() if isinstance(value, torch.Tensor)}


def test_all_that_decides_the_hand_over_is_in_the_state_dict() -> None:
    fitter, _ = make_observed(1.5)
    before = {name: value.clone() for name, value in tensors(fitter).items()}
    fitter.is_due(0.3, True, 1.0)
    after = tensors(fitter)
    assert {"next_check", "seen_twists", "has_seen_twists", "rolls_out"} <= set(after)
    assert {name for name in after if not torch.equal(after[name], before[name])} == {
        "next_check",
        "seen_twists",
        "has_seen_twists",
    }


def loaded(fitter: LatentFlowFitter, flow: LatentFlow) -> tuple[LatentFlowFitter, LatentFlow]:
    """Fresh ones that load the state of these."""
    other = LatentFlowFitter(fitter.config, flow.config, len(fitter.free.token_codes))
    other.load_state_dict(fitter.state_dict())
    same_flow = LatentFlow(flow.config)
    same_flow.load_state_dict(flow.state_dict())
    return other, same_flow


@pytest.mark.parametrize("checks", [0, 1, 2])
@pytest.mark.parametrize("motion", ["free", "auto"])
def test_a_resumed_fitter_decides_and_fits_as_the_one_that_was_saved(checks: int, motion: str) -> None:
    """Saved before its first check, or after some."""
    fitter, flow = make_observed(1.5, motion=motion, fit_iterations=30, fit_attempts=1, max_gap=10.0)
    progresses = [0.3, 0.33, 0.34, 0.36, 0.39]
    for progress in progresses[:checks]:
        fitter.is_due(progress, True, 0.5)
        stir(fitter, 0.5)
    pairs = [(fitter, flow), loaded(fitter, flow)]
    answers = []
    for one, _ in pairs:
        answers.append([])
        for progress in progresses[checks:]:
            answers[-1].append(one.is_due(progress, True, 0.5))
            stir(one, 0.1)
    assert answers[0] == answers[1]
    assert any(is_due for is_due, _ in answers[0])
    fits = []
    for one, its_flow in pairs:
        torch.manual_seed(3)
        fits.append(one.fit(its_flow, 0.5))
    first, second = fits
    assert (first.gap, first.reason, first.accepted, first.learn_period) == (
        second.gap,
        second.reason,
        second.accepted,
        second.learn_period,
    )
    assert first.motion.kind == second.motion.kind
    for name in ("start", "modes", "scene_code", "period", "phase"):
        assert torch.equal(getattr(first.motion, name), getattr(second.motion, name)), name
    for module, other in zip(*pairs, strict=True):
        state = tensors(other)
        for name, value in tensors(module).items():
            assert torch.equal(value, state[name]), name


def test_a_resumed_fitter_knows_that_the_ode_has_taken_over() -> None:
    fitter, flow = make_observed(1.5, motion="cyclic", period=2 / 3)
    fitter.fit(flow)
    resumed, _ = loaded(fitter, flow)
    assert resumed.rolls_out
    assert resumed.dynamics(flow) is flow
    with pytest.raises(RuntimeError, match="taken over already"):
        resumed.fit(flow)


def test_a_cycle_that_is_asked_for_but_not_found_is_told() -> None:
    fitter, flow = make_observed(0.4, motion="cyclic", fit_iterations=20, fit_attempts=1)
    fit = fitter.fit(flow)
    assert fit.motion.kind == "free"
    assert "no cycle was found, although one was asked for" in fit.reason
