import math

import pytest
import torch

from nest_nerfstudio.dynamics.trajectory import Trajectory, smooth_trajectory
from nest_nerfstudio.dynamics.vector_field import VectorField, linear_fit, with_one
from tests.dynamics.moving_scenes import circle

T = torch.float64


def make_field(code_dim: int = 0, dtype: torch.dtype = torch.float32) -> VectorField:
    vector_field = VectorField(4, 8, code_dim)
    torch.nn.init.normal_(vector_field.linear.weight, std=0.3)
    torch.nn.init.normal_(vector_field.layers[-1].weight, std=0.3)  # type: ignore[arg-type]
    return vector_field.to(dtype)


@pytest.mark.parametrize("code_dim", [0, 3])
def test_field_is_zero_at_the_start(code_dim: int) -> None:
    vector_field, code = VectorField(4, 8, code_dim), torch.randn(code_dim) if code_dim else None
    assert (vector_field(None, torch.randn(7, 4), code) == 0).all()


def test_states_come_in_any_batch() -> None:
    vector_field, z = make_field(3), torch.randn(2, 5, 4)
    code = torch.randn(3)
    speeds = vector_field(None, z, code)
    assert speeds.shape == z.shape
    torch.testing.assert_close(speeds[1, 2], vector_field(None, z[1, 2], code))


def test_field_does_not_depend_on_the_time() -> None:
    vector_field, z = make_field(), torch.randn(5, 4)
    early, late = (vector_field(torch.tensor(t), z) for t in (0.1, 7.0))
    assert torch.equal(early, late)


def test_scene_code_conditions_the_field() -> None:
    vector_field, z = make_field(3), torch.randn(5, 4)
    one, two = torch.randn(3), torch.randn(3)
    assert (vector_field(None, z, one) - vector_field(None, z, two)).norm() > 0.01
    torch.testing.assert_close(vector_field(None, z), vector_field(None, z, torch.zeros(3)))


def test_the_field_of_a_scene_is_a_function_of_time_and_state() -> None:
    vector_field, z, code = make_field(3), torch.randn(5, 4), torch.randn(3)
    torch.testing.assert_close(vector_field.given(code)(None, z), vector_field(None, z, code))
    assert vector_field.given(None) is vector_field
    alone = make_field()
    assert alone.given(torch.zeros(0)) is alone  # a scene without a code


def test_field_has_a_gradient_with_respect_to_state_and_code() -> None:
    vector_field = make_field(3, T)
    z, code = torch.randn(5, 4, dtype=T, requires_grad=True), torch.randn(3, dtype=T, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z, code: vector_field(None, z, code), (z, code))


def test_outside_the_ball_the_field_is_that_of_the_nearest_point_and_a_pull_back() -> None:
    vector_field = make_field()
    vector_field.centre.copy_(torch.tensor([1.0, 0, 0, 0]))
    vector_field.scale.fill_(2.0)
    vector_field.radius.fill_(3.0)
    direction = torch.nn.functional.normalize(torch.randn(4), dim=0)
    edge, outside = (vector_field.centre + 2.0 * r * direction for r in (3.0, 8.0))
    pull = -vector_field.PULL * (outside - edge)
    torch.testing.assert_close(vector_field(None, outside), vector_field(None, edge) + pull)


def test_the_learned_part_is_bounded_however_far_the_state_is() -> None:
    vector_field = make_field()
    vector_field.radius.fill_(3.0)
    for far in (1e2, 1e4, 1e6):
        z = far * torch.nn.functional.normalize(torch.randn(100, 4), dim=1)
        inward = -(vector_field(None, z) * z).sum(1) / z.norm(dim=1)
        assert (inward > 0.9 * vector_field.PULL * (far - 3)).all()


def test_restart_finds_the_linear_field_of_a_linear_motion() -> None:
    vector_field = VectorField(2, 8).double()
    t = torch.linspace(0, 1, 33, dtype=T)[:, None]
    states = torch.cat([(5 * t).cos(), (5 * t).sin()], 1)
    slopes = 5 * torch.cat([-(5 * t).sin(), (5 * t).cos()], 1)
    vector_field.restart(Trajectory(0.0, 1.0, states, slopes), ridge=1e-12)
    torch.testing.assert_close(vector_field(None, states), slopes)


def test_restart_forgets_what_was_learned() -> None:
    path, fields = smooth_trajectory(circle()), [VectorField(2, 8, 3), VectorField(2, 8, 3)]
    torch.nn.init.normal_(fields[1].layers[-1].weight)  # type: ignore[arg-type]
    fields[1].restart(smooth_trajectory(5 * circle(2.0)))
    for vector_field in fields:
        vector_field.restart(path)
    z, code = torch.randn(9, 2), torch.randn(3)
    torch.testing.assert_close(fields[0](None, z, code), fields[1](None, z, code))
    torch.testing.assert_close(fields[0](None, z, code), fields[0](None, z))  # linear, for all scenes


def test_restart_keeps_the_path_inside_the_ball() -> None:
    vector_field, path = VectorField(2, 8), smooth_trajectory(circle() * torch.tensor([3.0, 0.2]) + 7)
    vector_field.restart(path)
    reach = ((path.values - vector_field.centre) / vector_field.scale).norm(dim=1).max()
    torch.testing.assert_close(vector_field.radius, vector_field.ROOM * reach)


def test_restart_on_a_path_that_stands_still_is_finite() -> None:
    vector_field = VectorField(2, 8)
    vector_field.restart(smooth_trajectory(torch.ones(33, 2)))
    assert vector_field(None, torch.ones(2)).isfinite().all()


def test_fit_lowers_the_loss_on_a_path_that_is_not_linear() -> None:
    angle = 2 * math.pi * torch.linspace(0, 1, 33)[:, None]
    path = smooth_trajectory(torch.cat([angle.cos(), (2 * angle).sin()], 1))
    vector_field = VectorField(2, 32)
    vector_field.restart(path)
    vector_field.tube.fill_(0.1)
    before = vector_field.tube_loss(path, 10.0, count=1000).item()
    vector_field.fit(path, 0.1, 10.0, 300)
    assert vector_field.tube.item() == pytest.approx(0.1)
    assert vector_field.tube_loss(path, 10.0, count=1000).item() < 0.5 * before


def test_fit_minimises_a_further_loss_too() -> None:
    vector_field, path, fractions = VectorField(2, 8), smooth_trajectory(circle()), []
    vector_field.restart(path)

    def beside(progress: float) -> torch.Tensor:
        fractions.append(progress)
        return 100 * vector_field(None, torch.zeros(2)).square().sum()

    torch.nn.init.ones_(vector_field.linear.bias)
    before = beside(0.0).item()
    vector_field.fit(path, 0.5, 10.0, 40, lr=1e-2, beside=beside)
    assert beside(1.0).item() < 0.5 * before
    assert fractions[1:-1] == [i / 40 for i in range(40)]


def test_tube_loss_is_zero_where_the_field_attracts_to_the_path() -> None:
    """z ↦ −κ (z − z(t)) on a path that stands still."""
    vector_field, path = VectorField(2, 8).double(), smooth_trajectory(torch.zeros(33, 2, dtype=T))
    vector_field.tube.fill_(0.5)
    vector_field.linear.weight.data.copy_(-10 * torch.eye(2))
    assert vector_field.tube_loss(path, 10.0).item() < 1e-20
    assert vector_field.tube_loss(path, 5.0).item() > 0.01


def test_tube_loss_is_of_the_scene_that_it_is_asked_for() -> None:
    vector_field, path = make_field(3), smooth_trajectory(torch.randn(33, 4))
    code = torch.randn(3, requires_grad=True)
    losses = []
    for c in (None, torch.zeros(3), code):
        torch.manual_seed(1)
        losses.append(vector_field.tube_loss(path, 10.0, c))
    torch.testing.assert_close(losses[0], losses[1])
    assert (losses[2] - losses[1]).abs() > 1e-4
    losses[2].backward()
    assert code.grad is not None
    assert code.grad.norm() > 0


def test_linear_fit_finds_an_affine_map() -> None:
    states, weight = torch.randn(30, 4, dtype=T), torch.randn(5, 3, dtype=T)
    torch.testing.assert_close(linear_fit(states, with_one(states) @ weight), weight)


def test_ridge_leaves_the_constant_free() -> None:
    states = torch.randn(30, 4, dtype=T)
    states = states - states.mean(0)
    solution = linear_fit(states, torch.full((30, 1), 7.0, dtype=T), ridge=100.0)
    torch.testing.assert_close(solution[-1], torch.tensor([7.0], dtype=T))
    shrunk = linear_fit(states, states[:, :1] + 7, ridge=100.0)
    assert shrunk[0, 0].abs() < 0.1
