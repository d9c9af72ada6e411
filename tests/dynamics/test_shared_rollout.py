import pytest
import torch

from nest_nerfstudio.dynamics.shared_rollout import SharedRollout
from nest_nerfstudio.dynamics.trajectory import Trajectory
from tests.dynamics.moving_scenes import make_flow

T = torch.float64
TIMES = (0.1, 0.4, 0.8, 0.95, 0.2, 0.5, 0.6, 0.0)


def loss(path: Trajectory, time: float) -> torch.Tensor:
    return path(torch.tensor(time, dtype=T)).square().sum()


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("block", [1, 4, 8])
def test_shared_roll_out_gives_the_gradient_of_separate_ones(block: int, adjoint: bool) -> None:
    """Steps that share solves give the sum of the gradients of a solve each."""
    flow, shared = make_flow(T, scene_code_dim=2, adjoint=adjoint, steps_per_clip=8), SharedRollout()
    start, code = (torch.randn(n, dtype=T, requires_grad=True) for n in (4, 2))
    inputs = [start, code, *flow.vector_field.layers.parameters()]

    def solve() -> Trajectory:
        return flow.roll_out(start, scene_code=code)

    for time in TIMES:
        loss(shared.next(solve, block)[0], time).backward()
    found = [x.grad.clone() for x in inputs if x.grad is not None]
    expected = torch.autograd.grad(torch.stack([loss(solve(), time) for time in TIMES]).sum(), inputs)
    assert len(found) == len(inputs)
    torch.testing.assert_close(found, list(expected))


def test_four_steps_of_a_block_have_the_gradient_of_four_solves() -> None:
    flow, shared = make_flow(T), SharedRollout()
    start = torch.randn(4, dtype=T, requires_grad=True)
    inputs = [start, *flow.vector_field.layers.parameters()]
    for time in TIMES[:4]:
        loss(shared.next(lambda: flow.roll_out(start), 4)[0], time).backward()
    found = [x.grad.clone() for x in inputs if x.grad is not None]
    total = torch.stack([loss(flow.roll_out(start), time) for time in TIMES[:4]]).sum()
    torch.testing.assert_close(found, list(torch.autograd.grad(total, inputs)))


def test_a_block_solves_at_its_begin_and_at_its_end() -> None:
    flow, shared, solved = make_flow(T), SharedRollout(), []
    start = torch.randn(4, dtype=T, requires_grad=True)

    def solve() -> Trajectory:
        solved.append(torch.is_grad_enabled())
        return flow.roll_out(start)

    steps = [shared.next(solve, 3) for _ in range(6)]
    assert [is_live for _, is_live in steps] == [False, False, True] * 2
    assert solved == [False, True] * 2
    assert steps[0][0] is steps[1][0]
    assert steps[3][0] is not steps[0][0]
    for path, _ in steps:
        torch.testing.assert_close(path.values, steps[2][0].values)


def test_steps_before_the_last_leave_the_solver_alone() -> None:
    flow, shared = make_flow(T), SharedRollout()
    start = torch.randn(4, dtype=T, requires_grad=True)
    loss(shared.next(lambda: flow.roll_out(start), 2)[0], 0.4).backward()
    assert start.grad is None
    loss(shared.next(lambda: flow.roll_out(start), 2)[0], 0.4).backward()
    assert start.grad is not None
    assert start.grad.norm() > 0


def test_a_block_whose_steps_read_nothing_adds_nothing() -> None:
    """As of a step whose loss does not reach the path."""
    flow, shared = make_flow(T), SharedRollout()
    start = torch.randn(4, dtype=T, requires_grad=True)
    shared.next(lambda: flow.roll_out(start), 2)
    loss(shared.next(lambda: flow.roll_out(start), 2)[0], 0.4).backward()
    torch.testing.assert_close(start.grad, torch.autograd.grad(loss(flow.roll_out(start), 0.4), start)[0])


@pytest.mark.parametrize("saved_after", [1, 3, 4])
def test_a_block_that_was_interrupted_goes_on(saved_after: int) -> None:
    """Its state in a checkpoint holds the gradients that were collected by then."""
    flow = make_flow(T)
    start = torch.randn(4, dtype=T, requires_grad=True)
    inputs = [start, *flow.vector_field.layers.parameters()]

    def gradients(interrupted: bool) -> list[torch.Tensor]:
        shared = SharedRollout()
        for x in inputs:
            x.grad = None
        for step, time in enumerate(TIMES):
            if interrupted and step == saved_after:
                state, shared = shared.state(), SharedRollout()
                shared.load(state, torch.device("cpu"))
            loss(shared.next(lambda: flow.roll_out(start), 4)[0], time).backward()
        return [x.grad.clone() for x in inputs if x.grad is not None]

    torch.testing.assert_close(gradients(True), gradients(False))
