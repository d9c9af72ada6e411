"""Adding, moving and removing the Gaussians of one scene while it trains."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.data import Subset

from nest_nerfstudio.cameras import indices_by_pose
from nest_nerfstudio.fields.bound_gaussians import BoundGaussians
from nest_nerfstudio.geometry.multiview import pixel_indices
from nest_nerfstudio.training.strategy import append_gaussians, create_strategy
from nest_nerfstudio.types import Views

_EMPTY = -6.0
"""Logit of an opacity that counts as none: below 1/255, and the 0.005 that strategies take for dead."""


@dataclass
class DensificationConfig:
    """Settings of densification; see docs/notes/start-and-hull.md."""

    refine_until: float = 0.75
    """Fraction of the training after which Gaussians are no longer added or removed."""
    max_scale: float = 1.0
    """Largest standard deviation of a Gaussian at rest where images have alpha, over the median of those at
    the start (the spacing of the points there); 0: no limit. Larger ones extend into space that no training
    view constrains."""
    min_views: int = 3
    """Gaussians seen by fewer training cameras than this (at most a quarter of all) are made transparent; 0:
    none are. They would overfit one or two cameras and occlude the others. Images from one pose count as one
    camera."""
    min_visibility: float = 0.25
    """A camera sees a Gaussian if at least this share of its light reaches it."""


class Densification(nn.Module):
    """gsplat's strategy, and what keeps Gaussians where cameras look and no larger than the start knows.

    What decides its next steps is in the state dict.

    Args:
        config: its settings.
        strategy: "mcmc" or "default", gsplat's.
        max_gs_num: Gaussians at most ("mcmc").
    """

    next_check: Tensor
    max_log_scale: Tensor

    def __init__(
        self, config: DensificationConfig, strategy: Literal["mcmc", "default"], max_gs_num: int
    ) -> None:
        super().__init__()
        self.config, self.max_gs_num = config, max_gs_num
        self.strategy_name: Literal["mcmc", "default"] = strategy
        self.register_buffer("next_check", torch.zeros((), dtype=torch.long))
        self.register_buffer("max_log_scale", torch.tensor(math.inf))
        self.cameras: list[Subset[Views]] = []
        self._state: dict[str, Any] = {}
        self._info: dict[str, Any] = {}

    def start(self, field: BoundGaussians, cameras: Sequence[Views], has_alpha: bool) -> None:
        """Take measure of the start.

        Args:
            field: the Gaussians at the start.
            cameras: all training views, with masks where there are any; images are not needed. Each is read
                anew when it is looked from.
            has_alpha: whether the images have alpha.
        """
        self.cameras = [Subset(cameras, group) for group in indices_by_pose(cameras)]  # type: ignore[arg-type]
        if has_alpha and self.config.max_scale:
            spacing = field.params["scales"].detach().median().exp()
            self.max_log_scale.fill_(math.log(self.config.max_scale * spacing.item()))

    def attach(self, optimizers: dict[str, torch.optim.Optimizer], device: torch.device) -> None:
        """Work with these optimizers of the Gaussians from now on."""
        arguments = {"cap_max": self.max_gs_num} if self.strategy_name == "mcmc" else {}
        self._strategy = create_strategy(self.strategy_name, device, **arguments)
        self._state = {**self._strategy.initialize_state(), **self._state}
        self._optimizers = optimizers

    def add(self, field: BoundGaussians, new: dict[str, Tensor]) -> None:
        """Add Gaussians to the field, parameters by name."""
        append_gaussians(field.params, {name: self._optimizers[name] for name in field.params}, new)
        self._state = self._strategy.initialize_state()
        field.forget_neighbors()

    def before_backward(
        self,
        field: BoundGaussians,
        step: int,
        info: dict[str, Any],
        masks: Float[Tensor, "v h w 1"] | None = None,
    ) -> None:
        """Called with the `info` of a rendering, and the masks of its views, before its gradients are
        computed: what is drawn where no pixel is to be used does not count as seen."""
        self._info = info if masks is None else _unmasked(info, masks)
        self._strategy.step_pre_backward(field.params, self._optimizers, self._state, step, info)

    def after_step(
        self,
        field: BoundGaussians,
        step: int,
        progress: float,
        is_full_size: bool,
        visible: Callable[[Views], Float[Tensor, "v n"]],
    ) -> None:
        """Refine, after the optimizers' step.

        Args:
            field: the Gaussians.
            step: of the training.
            progress: fraction of the training.
            is_full_size: all times and full-size images are in use.
            visible: share of each Gaussian's light that reaches the cameras of views, at their times.
        """
        refines = progress < self.config.refine_until
        self._strategy.refine_stop_iter = 10**9 if refines else 0
        is_mcmc = self.strategy_name == "mcmc"
        arguments = {"lr": self._optimizers["means"].param_groups[0]["lr"]} if is_mcmc else {}
        refine_now = step % self._strategy.refine_every == 0
        if refine_now and refines and is_full_size:
            self.empty_unseen(field, step, visible)
        with torch.no_grad():
            field.params["scales"].clamp_(max=float(self.max_log_scale))
        count = len(field)
        self._strategy.step_post_backward(
            params=field.params,
            optimizers={name: self._optimizers[name] for name in field.params},
            state=self._state,
            step=step,
            info=self._info,
            **arguments,
        )
        if len(field) != count or refine_now:
            field.forget_neighbors()

    @torch.no_grad()
    def empty_unseen(
        self, field: BoundGaussians, step: int, visible: Callable[[Views], Float[Tensor, "v n"]]
    ) -> None:
        """Make Gaussians transparent that hardly a camera sees, for the strategy to reuse just after.

        Rare enough to take about a twentieth of the training's time. Arguments as for `after_step`.
        """
        fewest = min(self.config.min_views, len(self.cameras) // 4)
        if fewest and step >= self.next_check:
            self.next_check.fill_(step + 4 * sum(len(images) for images in self.cameras))
            counts = self.count_seeing(field, visible)
            field.params["opacities"][counts < fewest] = _EMPTY

    def count_seeing(
        self, field: BoundGaussians, visible: Callable[[Views], Float[Tensor, "v n"]]
    ) -> Int[Tensor, " n"]:
        """How many training cameras see each Gaussian. Arguments as for `after_step`."""
        counts = torch.zeros(len(field), dtype=torch.long, device=self.next_check.device)
        for images in self.cameras:
            seen = torch.zeros_like(counts, dtype=torch.bool)
            for views in images:
                seen |= (visible(views) >= self.config.min_visibility).any(0)
            counts += seen
        return counts

    def get_extra_state(self) -> dict[str, Tensor]:
        """Running sums of gsplat's strategy."""
        return {name: value for name, value in self._state.items() if isinstance(value, Tensor)}

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        device = self.next_check.device
        self._state = {**self._state, **{name: value.to(device) for name, value in state.items()}}


def _unmasked(info: dict[str, Any], masks: Float[Tensor, "v h w 1"]) -> dict[str, Any]:
    """The `info` of a rendering, without the Gaussians whose centre falls on a pixel that is masked out."""
    size = masks.new_tensor([masks.shape[2], masks.shape[1]])
    grid = info["means2d"].detach() / size * 2 - 1
    used = masks.flatten(1).gather(1, pixel_indices(grid, masks.shape[1], masks.shape[2])) > 0.5
    return {**info, "radii": info["radii"] * used}
