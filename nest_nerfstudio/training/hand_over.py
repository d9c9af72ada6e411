"""When the ODE takes over from the free fit of one scene, and whether that holds."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor, nn

from nest_nerfstudio.dynamics.fitter import FlowFit, LatentFlowFitter
from nest_nerfstudio.dynamics.flow import LatentFlow
from nest_nerfstudio.dynamics.recurrence import ImageErrors
from nest_nerfstudio.geometry.se3 import Pose
from nest_nerfstudio.training.curriculum import Curriculum

_TRIAL = 0.1
"""Fraction of the training after which a cycle that only images showed is judged by them."""
_WORSE = 1.25
"""Ratio of the errors of images after and before, from which on the cycle is taken back."""


class HandOver(nn.Module):
    """Fits the ODE when the free fit has converged; takes a cycle back if images get worse by it.

    Where tracks of tokens do not recur but images do, the cycle may be far from the tracks. It then holds on
    trial: if images fit worse after a tenth of the training than before, motion is free again.

    Attributes:
        judged_at: progress at which a trial ends; infinite if there is none.
        error_before: mean squared error of the images before it.
        is_refuted: a trial ended so; images are not asked again.
    """

    judged_at: Tensor
    error_before: Tensor
    is_refuted: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("judged_at", torch.tensor(math.inf, dtype=torch.float64))
        self.register_buffer("error_before", torch.zeros(()))
        self.register_buffer("is_refuted", torch.tensor(False))

    def step(
        self,
        fitter: LatentFlowFitter,
        flow: LatentFlow,
        curriculum: Curriculum,
        arm: float,
        errors: Callable[[], ImageErrors] | None,
        take_back: Callable[[], None],
        poses: Pose | None = None,
    ) -> FlowFit | None:
        """Hand over, or take it back, if it is time; the log says what was found.

        Args:
            fitter: of the motion; it says whether the ODE has taken over.
            flow: is fitted.
            curriculum: where the training stands.
            arm: as for `LatentFlowFitter.fit`.
            errors: of the images against the scene as it is; None: they are enough to trust the tracks.
            take_back: returns from the ODE to the free fit.
            poses: as for `LatentFlowFitter.fit`.

        Returns:
            What was fitted, if it takes over now.
        """
        progress = curriculum.progress.item()
        if progress >= self.judged_at and errors is not None:
            self._judge(errors().own.mean(), take_back)
        is_due, change = fitter.is_due(progress, curriculum.is_full_size(), arm)
        if not is_due:
            return None
        CONSOLE.log(f"At {progress:.0%} of the training, motion lately changed by {change:.1%} of its size.")
        seen: list[ImageErrors] = []

        def asked() -> ImageErrors:
            assert errors is not None
            seen.append(errors())
            return seen[0]

        fit = fitter.fit(flow, arm, None if errors is None or self.is_refuted else asked, poses)
        CONSOLE.log(f"Motion is {fit.reason}.")
        distance = f"its roll-out is {fit.gap:.1%} of the motion off the free path"
        if not fit.accepted:
            CONSOLE.log(f"[yellow]The ODE does not take over yet; nothing moves beyond the clip: {distance}.")
            return None
        CONSOLE.log(f"The ODE takes over: {distance}.")
        if seen and fit.gap > fitter.config.max_gap:
            self.error_before.copy_(seen[0].own.mean())
            self.judged_at.fill_(min(progress + _TRIAL, 0.5 * (1 + progress)))
        return fit

    def stop_trial(self) -> None:
        """Judge no more, as the motion is forgotten."""
        self.judged_at.fill_(math.inf)

    def _judge(self, error: Tensor, take_back: Callable[[], None]) -> None:
        """End a trial, with the error that images have now."""
        self.stop_trial()
        ratio = (error / self.error_before.clamp_min(1e-12)).item()
        if ratio <= _WORSE:
            CONSOLE.log(f"The cycle holds: errors of images are {ratio:.2f} times those of the free path.")
            return
        self.is_refuted.fill_(True)
        take_back()
        CONSOLE.log(
            f"[yellow]The cycle is taken back, as errors of images grew {ratio:.2f} times by it; motion is "
            "free again."
        )
