"""Densification on the CPU against the formulas, and its bookkeeping of parameters and optimizers."""

import math
from typing import Literal

import pytest
import torch
from gsplat.strategy import DefaultStrategy, MCMCStrategy

from nest_nerfstudio.rasterizers.numba_cpu import NumbaRasterizer
from nest_nerfstudio.training.strategy import (
    MAX_RATIO,
    AnyDefaultStrategy,
    TorchMCMCStrategy,
    compute_relocation,
    create_strategy,
)
from nest_nerfstudio.types import Gaussians
from tests.rasterizers.raster_cases import make_case

Params = dict[str, torch.nn.Parameter]


def relocate_naively(opacity: float, ratio: int) -> tuple[float, float]:
    """Eq. 9 of arXiv 2404.09591 as it is written: the new opacity and the factor of the scales."""
    new = 1 - (1 - opacity) ** (1 / ratio)
    denominator = 0.0
    for i in range(1, ratio + 1):
        for k in range(i):
            denominator += math.comb(i - 1, k) * (-1) ** k / math.sqrt(k + 1) * new ** (k + 1)
    return new, opacity / denominator


def test_relocation_is_the_formula() -> None:
    opacities = torch.rand(60, dtype=torch.float64) * 0.99
    ratios = torch.randint(1, 20, (60,))
    scales = torch.rand(60, 3, dtype=torch.float64)
    new_opacities, new_scales = compute_relocation(opacities, scales, ratios)
    for i in range(60):
        opacity, factor = relocate_naively(opacities[i].item(), int(ratios[i]))
        assert new_opacities[i].item() == pytest.approx(opacity, rel=1e-9)
        torch.testing.assert_close(new_scales[i], factor * scales[i], rtol=1e-7, atol=0)


def test_relocation_limits_the_ratio_and_keeps_one_as_it_is() -> None:
    opacities, scales = torch.tensor([0.3, 0.3, 0.6, 0.0]), torch.rand(4, 3)
    ratios = torch.tensor([MAX_RATIO, 500, 1, 3])
    new_opacities, new_scales = compute_relocation(opacities, scales, ratios)
    assert new_opacities[0] == new_opacities[1]
    torch.testing.assert_close(new_opacities[2:], opacities[2:])
    torch.testing.assert_close(new_scales[2:], scales[2:])


def training(
    strategy: DefaultStrategy | MCMCStrategy, steps: int, absgrad: bool = False
) -> tuple[Params, dict[str, torch.optim.Optimizer]]:
    """A few steps on an image of other Gaussians."""
    case = make_case(n=60, cameras=1)
    target = make_case(n=60, cameras=1, seed=5)
    rasterizer = NumbaRasterizer()
    views = case.viewmats, case.Ks, case.width, case.height
    image = rasterizer(target.gaussians, *views).rgb
    g = case.gaussians
    opacities = g.opacities.clone()
    opacities[:10] = 1e-3
    params = {
        "means": torch.nn.Parameter(g.means),
        "quats": torch.nn.Parameter(g.quats),
        "scales": torch.nn.Parameter(g.scales.log()),
        "opacities": torch.nn.Parameter(torch.logit(opacities)),
        "sh": torch.nn.Parameter(g.sh),
    }
    optimizers: dict[str, torch.optim.Optimizer] = {
        name: torch.optim.Adam([p], lr=1e-3) for name, p in params.items()
    }
    strategy.check_sanity(params, optimizers)
    state = strategy.initialize_state()
    for step in range(1, steps + 1):
        gaussians = Gaussians(
            params["means"],
            torch.nn.functional.normalize(params["quats"], dim=-1),
            params["scales"].exp(),
            torch.sigmoid(params["opacities"]),
            params["sh"],
        )
        out = rasterizer(gaussians, *views, absgrad=absgrad)
        strategy.step_pre_backward(params, optimizers, state, step, out.info)
        (out.rgb - image).abs().mean().backward()
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad()
        extra = {"lr": 1e-6} if isinstance(strategy, MCMCStrategy) else {}
        strategy.step_post_backward(params, optimizers, state, step, out.info, **extra)
    return params, optimizers


def assert_in_step(params: Params, optimizers: dict[str, torch.optim.Optimizer]) -> None:
    """Parameters, optimizers and their moments still belong together."""
    n = len(params["means"])
    for name, p in params.items():
        assert len(p) == n
        assert p.isfinite().all()
        assert optimizers[name].param_groups[0]["params"] == [p]
        assert optimizers[name].state[p]["exp_avg"].shape == p.shape


@pytest.mark.parametrize("absgrad", [False, True])
def test_default_strategy_steps(absgrad: bool) -> None:
    settings = {"refine_start_iter": 2, "refine_every": 3, "reset_every": 1000, "grow_grad2d": 1e-6}
    strategy = create_strategy("default", "cpu", absgrad=absgrad, **settings)
    assert isinstance(strategy, DefaultStrategy)
    params, optimizers = training(strategy, 4, absgrad)
    assert len(params["means"]) > 60
    assert (torch.sigmoid(params["opacities"]) >= strategy.prune_opa).all()
    assert_in_step(params, optimizers)


def test_mcmc_strategy_steps() -> None:
    settings = {"refine_start_iter": 2, "refine_every": 3, "cap_max": 62, "noise_lr": 10.0}
    strategy = create_strategy("mcmc", "cpu", **settings)
    assert isinstance(strategy, TorchMCMCStrategy)
    params, optimizers = training(strategy, 4)
    assert len(params["means"]) == 62
    assert (torch.sigmoid(params["opacities"]) > 0.99 * strategy.min_opacity).all()
    assert_in_step(params, optimizers)


def test_mcmc_relocates_transparent_gaussians_to_opaque_ones() -> None:
    """One opaque Gaussian, three transparent ones: all four become parts of the first."""
    params: Params = {
        "means": torch.nn.Parameter(torch.arange(12.0).reshape(4, 3)),
        "quats": torch.nn.Parameter(torch.tensor([[1.0, 0, 0, 0]]).repeat(4, 1)),
        "scales": torch.nn.Parameter(torch.zeros(4, 3)),
        "opacities": torch.nn.Parameter(torch.tensor([2.0, -20, -20, -20])),
    }
    optimizers: dict[str, torch.optim.Optimizer] = {name: torch.optim.Adam([p]) for name, p in params.items()}
    strategy = TorchMCMCStrategy(refine_start_iter=0, refine_every=1, cap_max=4)
    strategy.step_post_backward(params, optimizers, strategy.initialize_state(), 1, {}, lr=0.0)
    opacity, factor = relocate_naively(torch.sigmoid(torch.tensor(2.0)).item(), 4)
    torch.testing.assert_close(params["means"].detach(), torch.tensor([[0.0, 1, 2]]).repeat(4, 1))
    torch.testing.assert_close(torch.sigmoid(params["opacities"].detach()), torch.full((4,), opacity))
    torch.testing.assert_close(params["scales"].detach().exp(), torch.full((4, 3), factor))


def test_mcmc_without_opaque_gaussians_changes_nothing() -> None:
    values = {
        "means": torch.randn(4, 3),
        "quats": torch.randn(4, 4),
        "scales": torch.randn(4, 3),
        "opacities": torch.full((4,), -20.0),
    }
    params = {name: torch.nn.Parameter(value.clone()) for name, value in values.items()}
    optimizers: dict[str, torch.optim.Optimizer] = {name: torch.optim.Adam([p]) for name, p in params.items()}
    strategy = TorchMCMCStrategy(refine_start_iter=0, refine_every=1, cap_max=4)
    strategy.step_post_backward(params, optimizers, strategy.initialize_state(), 1, {}, lr=0.0)
    for name, value in values.items():
        assert torch.equal(params[name].detach(), value)


def test_noise_follows_the_covariance_and_leaves_opaque_gaussians() -> None:
    n = 20000
    params: Params = {
        "means": torch.nn.Parameter(torch.zeros(n, 3)),
        "quats": torch.nn.Parameter(torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(n, 1)),
        "scales": torch.nn.Parameter(torch.tensor([[1.0, 2.0, 0.5]]).log().repeat(n, 1)),
        "opacities": torch.nn.Parameter(torch.full((n,), -30.0)),
    }
    params["quats"].data[: n // 4] = torch.tensor([1.0, 0.0, 0.0, 1.0])  # a quarter turn about z
    params["opacities"].data[n // 2 :] = 5.0
    strategy = TorchMCMCStrategy(noise_lr=1.0)
    strategy.step_post_backward(params, {}, strategy.initialize_state(), 1, {}, lr=1.0)
    turned, upright, opaque = params["means"].detach().tensor_split([n // 4, n // 2])
    for moved, expected in ((turned, [4.0, 1.0, 0.25]), (upright, [1.0, 4.0, 0.25])):
        spread = moved.std(0) / torch.sigmoid(torch.tensor(0.5))
        torch.testing.assert_close(spread, torch.tensor(expected), rtol=0.05, atol=0)
    assert opaque.abs().max() < 1e-6


@pytest.mark.parametrize("name", ["default", "mcmc"])
def test_cuda_takes_gsplats_own(name: Literal["default", "mcmc"]) -> None:
    assert type(create_strategy(name, "cuda")) is {"default": AnyDefaultStrategy, "mcmc": MCMCStrategy}[name]


def test_unknown_settings_are_errors() -> None:
    with pytest.raises(TypeError, match="no_such"):
        create_strategy("mcmc", "cpu", no_such=1)
