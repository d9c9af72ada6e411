"""What is trained on when: from a part of the clip to all of it, from small images to full size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nest_nerfstudio.types import Views

SMALLEST = 32
"""Pixels, of the shorter side of images that are still halved to this size."""


@dataclass
class CurriculumConfig:
    """Settings of the curriculum of one scene. Fractions are of the whole training, by steps or by time.

    All are functions of `opening`, which passes 1 when all times are in use; see docs/notes/curriculum.md.
    """

    canonical_time: float = 0.5
    """Clip time that training starts around."""
    first_window: float = 0.1
    """Span of clip times that training starts with."""
    widen_until: float = 0.3
    """Fraction of the training at which all times are in use, or `widen_steps`, whichever is sooner."""
    widen_steps: int = 1000
    """Number of steps after which all times are in use: with more time on a part of the clip, what moves in
    the rest is lost."""
    still_until: float = 0.25
    """Fraction of the training, or `still_steps`, whichever is sooner, for which a scene with a background
    that stands still is fitted to all times as if nothing moved; then motion is sought where that fails."""
    still_steps: int = 3000
    """See `still_until`."""
    num_downscales: int = 2
    """Number of times that images are halved at first, so that motion is found coarse to fine. They double
    when all times are in use, then once more after each further span of the same length."""

    def opening(self, step: int, progress: float) -> float:
        """How far the clip is opened: 1 when all times are in use; it grows on.

        Args:
            step: of the training.
            progress: fraction of the training.
        """
        return max(progress / self.widen_until, step / self.widen_steps)

    def time_window(self, opening: float) -> tuple[float, float] | None:
        """Span of clip times to train on, in hundredths; None for all."""
        if opening >= 1 or opening < 0:
            return None
        widest = max(self.canonical_time, 1 - self.canonical_time)
        half = 0.5 * self.first_window + opening * widest
        return round(self.canonical_time - half, 2), round(self.canonical_time + half, 2)

    def still_opening(self, step: int, progress: float) -> float:
        """How far the fit of what stands still is, from -1 to 0, in place of `opening`."""
        return max(progress / self.still_until, step / self.still_steps) - 1

    def is_full_size(self, opening: float) -> bool:
        """Whether all times are in use, and images at full size."""
        return opening >= max(1, self.num_downscales)

    def downscale(self, opening: float, views: Views) -> int:
        """Factor by which training images are smaller than they are stored."""
        halvings = max(0, self.num_downscales - int(opening))
        while halvings and min(views.width, views.height) >> halvings < SMALLEST:
            halvings -= 1
        return 2**halvings

    def sh_degree(self, opening: float, highest: int) -> int:
        """Highest degree of the colours to train."""
        return min(highest, max(0, int(opening * (highest + 1))))


class Curriculum(nn.Module):
    """Where a training stands in its curriculum; part of its checkpoint.

    Attributes:
        step: of the training; not part of the checkpoint, whose name has it.
        progress: fraction of the training.
        opening: see `CurriculumConfig.opening`; below 0 while what stands still is fitted.
        motion_from: fraction of the training, and step, from which the scene moves; negative while it is
            fitted as if nothing moved.
    """

    progress: Tensor
    opening: Tensor
    motion_from: Tensor

    def __init__(self, config: CurriculumConfig) -> None:
        super().__init__()
        self.config, self.step = config, 0
        self.register_buffer("progress", torch.zeros((), dtype=torch.float64))
        self.register_buffer("opening", torch.zeros((), dtype=torch.float64))
        self.register_buffer("motion_from", torch.zeros(2, dtype=torch.float64))

    def advance(self, step: int, progress: float) -> None:
        """Go on to this step, before it."""
        self.step = step
        self.progress.fill_(progress)
        if self.stands_still:
            self.opening.fill_(min(self.config.still_opening(step, progress), -1e-9))
        else:
            start, first = self.motion_from.tolist()
            self.opening.fill_(self.config.opening(step - int(first), progress - start))

    @property
    def stands_still(self) -> bool:
        """Whether the scene is fitted as if nothing moved."""
        return bool(self.motion_from[0] < 0)

    def stand_still(self) -> None:
        """Fit the scene as if nothing moved, until `move`."""
        self.motion_from.fill_(-1.0)

    def is_still_done(self, step: int, progress: float) -> bool:
        """Whether it is time for motion."""
        return self.stands_still and self.config.still_opening(step, progress) >= 0

    def move(self, step: int, progress: float) -> None:
        """Let the scene move from here on."""
        self.motion_from.copy_(torch.tensor([progress, step]))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """A checkpoint without `motion_from` is of a scene that moved from the start."""
        state_dict.setdefault(f"{prefix}motion_from", torch.zeros_like(self.motion_from))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def time_window(self) -> tuple[float, float] | None:
        """Span of clip times to train on now; None for all."""
        return self.config.time_window(self.opening.item())

    def is_full_size(self) -> bool:
        """Whether all times are in use, and images at full size."""
        return self.config.is_full_size(self._size_opening())

    def downscale(self, views: Views) -> int:
        """Factor by which training images are smaller now than they are stored."""
        return self.config.downscale(self._size_opening(), views)

    def _size_opening(self) -> float:
        """The opening that image sizes follow: they double halfway through the fit of what stands still."""
        opening = self.opening.item()
        if not self.motion_from[0]:
            return opening
        return 2 * opening + 2 if opening < 0 else opening + 1

    def sh_degree(self, highest: int) -> int:
        """Highest degree of the colours to train now."""
        return self.config.sh_degree(self.opening.item(), highest)
