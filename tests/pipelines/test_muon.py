from copy import deepcopy

import pytest
import torch
from torch import nn

from nest_nerfstudio.pipelines.muon import Muon, MuonConfig, orthogonalize


def orthogonal(n: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(n, n))[0]


@pytest.mark.parametrize("shape", [(16, 16), (12, 40), (40, 12)])
def test_orthogonalize_keeps_directions_and_levels_sizes(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    u, v, r = orthogonal(shape[0]), orthogonal(shape[1]), min(shape)
    found = orthogonalize(u[:, :r] * torch.logspace(0, -1.5, r) @ v[:r])
    sizes = torch.linalg.svdvals(found)
    assert sizes.min() > 0.6
    assert sizes.max() < 1.25
    turned = u[:, :r].mT @ found @ v[:r].mT
    torch.testing.assert_close(turned, turned.diagonal().diag(), atol=1e-4, rtol=0)


def test_vectors_and_small_matrices_step_as_with_adam() -> None:
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape)) for shape in [(20,), (4, 30), (30, 4), ()]]
    theirs = deepcopy(ours)
    optimizers = Muon(ours, lr=0.1), torch.optim.Adam(theirs, lr=0.1)
    for _ in range(5):
        for parameters, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            sum(p.sin().square().sum() for p in parameters).backward()
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


def test_steps_of_matrices_turn_with_their_gradients() -> None:
    """As the least squares of turned inputs and outputs has turned weights; Adam's axes are its own."""
    torch.manual_seed(0)
    inputs, targets, left, right = torch.randn(50, 12), torch.randn(50, 9), orthogonal(9), orthogonal(12)

    def trained(optimizer: type[torch.optim.Optimizer], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        weights = nn.Parameter(torch.zeros(9, 12))
        steps = optimizer([weights], lr=0.01)  # type: ignore[call-arg]
        for _ in range(15):
            steps.zero_grad()
            (x @ weights.mT - y).square().mean().backward()
            steps.step()
        return weights.detach()

    found = trained(Muon, inputs, targets)
    assert (inputs @ found.mT - targets).square().mean() < 0.95 * targets.square().mean()
    turned = trained(Muon, inputs @ right, targets @ left.mT)
    torch.testing.assert_close(turned, left @ found @ right, atol=1e-3, rtol=0)
    of_adam = left @ trained(torch.optim.Adam, inputs, targets) @ right
    assert (trained(torch.optim.Adam, inputs @ right, targets @ left.mT) - of_adam).abs().max() > 0.02


def test_kernels_of_convolutions_are_matrices_too() -> None:
    kernel = nn.Parameter(torch.randn(16, 8, 3, 3, 3))
    before = kernel.detach().clone()
    optimizer = Muon([kernel], lr=1.0)
    kernel.square().sum().backward()
    optimizer.step()
    step = (before - kernel.detach()).flatten(1)
    sizes = torch.linalg.svdvals(step) / (0.2 * 216**0.5)
    assert sizes.min() > 0.6
    assert sizes.max() < 1.25


def test_goes_on_from_its_state_and_leaves_what_has_no_gradient() -> None:
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(8, 8)), nn.Parameter(torch.randn(8)), nn.Parameter(torch.ones(8))]
    copies = deepcopy(parameters)
    config = MuonConfig(lr=0.1, max_norm=1.0)
    optimizer = config.setup(parameters)

    def step(optimizer: torch.optim.Optimizer, ways: list[nn.Parameter]) -> None:
        optimizer.zero_grad()
        (ways[0].sin().sum() + ways[1].cos().sum()).backward()
        optimizer.step()

    step(optimizer, parameters)
    resumed = config.setup(copies)
    with torch.no_grad():
        for copy, parameter in zip(copies, parameters, strict=True):
            copy.copy_(parameter)
    resumed.load_state_dict(deepcopy(optimizer.state_dict()))
    step(optimizer, parameters)
    step(resumed, copies)
    torch.testing.assert_close(copies, parameters)
    torch.testing.assert_close(parameters[2].data, torch.ones(8))


def test_no_gradient_in_a_matrix_is_no_step() -> None:
    parameter = nn.Parameter(torch.randn(8, 8))
    before = parameter.detach().clone()
    optimizer = Muon([parameter], lr=1.0)
    (0 * parameter).sum().backward()
    optimizer.step()
    torch.testing.assert_close(parameter.detach(), before)


def test_the_state_of_another_optimizer_is_refused() -> None:
    parameter = nn.Parameter(torch.randn(8, 8))
    other = torch.optim.Adam([parameter])
    parameter.sum().backward()
    other.step()
    with pytest.raises(ValueError, match="exp_avg, exp_avg_sq of another optimizer than Muon"):
        Muon([parameter], lr=1.0).load_state_dict(other.state_dict())
