"""Densification: gsplat's strategies to add, relocate and prune Gaussians, with MCMC also on the CPU.

As in gsplat, `params` holds at least "means", "quats", "scales" (logarithms) and "opacities" (logits), and
`optimizers` holds one optimizer of the same name for each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from gsplat.strategy import DefaultStrategy, MCMCStrategy
from gsplat.strategy.ops import _multinomial_sample, _update_param_with_optimizer
from jaxtyping import Float, Int
from torch import Tensor

from nest_nerfstudio.geometry.quaternion import quat_normalize, quat_rotate
from nest_nerfstudio.host import to_strategy

MAX_RATIO = 51
"""Largest number of copies of one Gaussian in the relocation formula, as in gsplat; more are clamped."""

MIN_NOISE = 1e-3
"""Noise smaller than this is skipped, in standard deviations of the Gaussian."""

Params = dict[str, torch.nn.Parameter] | torch.nn.ParameterDict
Optimizers = dict[str, torch.optim.Optimizer]


def create_strategy(
    name: Literal["default", "mcmc"], device: torch.device | str, **settings: Any
) -> DefaultStrategy | MCMCStrategy:
    """Make a densification strategy that runs on `device`.

    Args:
        name: "default" clones, splits and prunes (3D Gaussian Splatting); "mcmc" relocates Gaussians and adds
            noise to their means (3DGS as MCMC).
        device: device of the Gaussians; on CUDA "mcmc" is gsplat's own class.
        settings: fields of gsplat's `DefaultStrategy` or `MCMCStrategy`.

    Returns:
        A strategy with gsplat's interface.

    Raises:
        ValueError: unknown name.
        TypeError: unknown setting.
    """
    if name == "default":
        return AnyDefaultStrategy(**settings)
    if name == "mcmc":
        return (MCMCStrategy if torch.device(device).type == "cuda" else TorchMCMCStrategy)(**settings)
    raise ValueError(f'unknown strategy "{name}"; choose "default" or "mcmc"')


def compute_relocation(
    opacities: Float[Tensor, " n"], scales: Float[Tensor, "n 3"], ratios: Int[Tensor, " n"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 3"]]:
    """Opacity and scales with which N equal Gaussians at one position look like the one they replace.

    o' = 1 - (1 - o)^(1/N) and Σ' = (o / D)² Σ with
    D = Σ_{i=1}^N Σ_{k=0}^{i-1} C(i-1, k) (-1)^k o'^(k+1) / √(k+1) (3DGS as MCMC, arXiv 2404.09591, Eq. 9).
    Summed over i first, D = Σ_{k=1}^N C(N, k) (-1)^(k-1) o'^k / √k.

    Args:
        opacities: o, in [0, 1).
        scales: standard deviations of the old Gaussians, world units.
        ratios: N, the number of Gaussians that replace each; clamped to 1..MAX_RATIO.

    Returns:
        opacities: o', of each of the N.
        scales: of each of the N, world units.
    """
    old, copies = opacities.double(), ratios.clamp(1, MAX_RATIO)
    new = -torch.expm1(torch.log1p(-old) / copies)
    powers = new[:, None] ** torch.arange(1, MAX_RATIO + 1, device=new.device)
    denominator = (_relocation_weights().to(new.device)[copies] * powers).sum(-1)
    shrink = torch.where(old > 0, old / denominator, 1.0)
    return new.to(opacities.dtype), (shrink[:, None] * scales).to(scales.dtype)


@cache
def _relocation_weights() -> Tensor:
    """Table of C(N, k) (-1)^(k-1) / √k at [N, k - 1]."""
    rows = [
        [math.comb(n, k) * (-1) ** (k - 1) / math.sqrt(k) for k in range(1, MAX_RATIO + 1)]
        for n in range(MAX_RATIO + 1)
    ]
    return torch.tensor(rows, dtype=torch.float64)


class AnyDefaultStrategy(DefaultStrategy):
    """gsplat's `DefaultStrategy`, which takes the `Rendering.info` of any rasterizer, of any version."""

    def step_post_backward(
        self,
        params: Params,
        optimizers: Optimizers,
        state: dict[str, Any],
        step: int,
        info: dict[str, Any],
        packed: bool = False,
    ) -> None:
        """As gsplat's."""
        super().step_post_backward(params, optimizers, state, step, to_strategy(info), packed)


@dataclass
class TorchMCMCStrategy(MCMCStrategy):
    """gsplat's `MCMCStrategy` without its CUDA operators, with the same settings and behaviour.

    The one difference: noise below `MIN_NOISE` is skipped, because it costs time on a CPU.
    """

    @torch.no_grad()
    def step_post_backward(
        self,
        params: Params,
        optimizers: Optimizers,
        state: dict[str, Any],
        step: int,
        info: dict[str, Any],
        lr: float,
    ) -> None:
        """Relocate and add Gaussians, and add noise to their means; to be called after the optimizer step.

        Args:
            params: see the module docstring; its entries are replaced.
            optimizers: optimizers of `params`; their state is updated with them.
            state: from `initialize_state`.
            step: training step.
            info: `Rendering.info`; not used.
            lr: learning rate of the means, which scales the noise.
        """
        if self.refine_start_iter < step < self.refine_stop_iter and step % self.refine_every == 0:
            moved = self._relocate_gs(params, optimizers, state["binoms"])
            added = self._add_new_gs(params, optimizers, state["binoms"])
            if self.verbose:
                print(f"Step {step}: {moved} Gaussians relocated, {added} added, now {len(params['means'])}.")
        _add_noise(params, lr * self.noise_lr)

    @torch.no_grad()
    def _relocate_gs(self, params: Params, optimizers: Optimizers, binoms: Tensor) -> int:
        opacities = torch.sigmoid(params["opacities"].flatten())
        dead = torch.nonzero(opacities <= self.min_opacity)[:, 0]
        alive = torch.nonzero(opacities > self.min_opacity)[:, 0]
        if len(dead) == 0 or len(alive) == 0:
            return 0
        chosen = alive[_multinomial_sample(opacities[alive], len(dead), replacement=True)]
        replaced = self._split(params, chosen)

        def update_param(name: str, p: Tensor) -> torch.nn.Parameter:
            p[chosen] = replaced.get(name, p[chosen])
            p[dead] = p[chosen]
            return torch.nn.Parameter(p)

        def update_moment(key: str, moment: Tensor) -> Tensor:
            moment[chosen] = 0
            return moment

        _update_param_with_optimizer(update_param, update_moment, params, optimizers)  # type: ignore[arg-type]
        return len(dead)

    @torch.no_grad()
    def _add_new_gs(self, params: Params, optimizers: Optimizers, binoms: Tensor) -> int:
        count = len(params["means"])
        added = max(0, min(self.cap_max, int(1.05 * count)) - count)
        if added == 0:
            return 0
        chosen = _multinomial_sample(torch.sigmoid(params["opacities"].flatten()), added, replacement=True)
        replaced = self._split(params, chosen)

        def update_param(name: str, p: Tensor) -> torch.nn.Parameter:
            p[chosen] = replaced.get(name, p[chosen])
            return torch.nn.Parameter(torch.cat([p, p[chosen]]))

        def update_moment(key: str, moment: Tensor) -> Tensor:
            return torch.cat([moment, moment.new_zeros(added, *moment.shape[1:])])

        _update_param_with_optimizer(update_param, update_moment, params, optimizers)  # type: ignore[arg-type]
        return added

    def _split(self, params: Params, chosen: Tensor) -> dict[str, Tensor]:
        """Logits and log scales of the chosen Gaussians after each is split into itself and its copies."""
        logits = params["opacities"][chosen]
        opacities, scales = compute_relocation(
            torch.sigmoid(logits.flatten()),
            torch.exp(params["scales"][chosen]),
            torch.bincount(chosen)[chosen] + 1,
        )
        opacities = opacities.clamp(self.min_opacity, 1.0 - torch.finfo(torch.float32).eps)
        return {"opacities": torch.logit(opacities).reshape(logits.shape), "scales": torch.log(scales)}


@torch.no_grad()
def append_gaussians(params: Params, optimizers: Optimizers, new: dict[str, Tensor]) -> None:
    """Add Gaussians at the end, of given parameters by name, with optimizers that start anew on them."""

    def update_param(name: str, p: Tensor) -> torch.nn.Parameter:
        return torch.nn.Parameter(torch.cat([p, new[name].to(p)]))

    def update_moment(key: str, moment: Tensor) -> Tensor:
        return torch.cat([moment, moment.new_zeros(len(new["means"]), *moment.shape[1:])])

    _update_param_with_optimizer(update_param, update_moment, params, optimizers)  # type: ignore[arg-type]


def _add_noise(params: Params, scale: float) -> None:
    """Add noise of each Gaussian's covariance to its mean, less if it is opaque (arXiv 2404.09591, Eq. 8)."""
    opacities = torch.sigmoid(params["opacities"].flatten())
    gate = torch.sigmoid(100.0 * ((1.0 - opacities) - 0.995))
    sizes = torch.exp(params["scales"])
    moved = (gate * scale * sizes.amax(1) > MIN_NOISE).nonzero()[:, 0]
    noise = torch.randn_like(params["means"][moved]) * (gate[moved, None] * scale)  # in the Gaussian's axes
    quats = quat_normalize(params["quats"][moved])
    params["means"].index_add_(0, moved, quat_rotate(quats, sizes[moved].square() * noise))
