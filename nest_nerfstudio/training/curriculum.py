"""What is trained on when: from a part of the clip to all of it, from small images to full size."""

from __future__ import annotations

from dataclasses import dataclass

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
        if opening >= 1:
            return None
        widest = max(self.canonical_time, 1 - self.canonical_time)
        half = 0.5 * self.first_window + opening * widest
        return round(self.canonical_time - half, 2), round(self.canonical_time + half, 2)

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
        return min(highest, int(opening * (highest + 1)))


class Curriculum(nn.Module):
    """Where a training stands in its curriculum; part of its checkpoint.

    Attributes:
        step: of the training; not part of the checkpoint, whose name has it.
        progress: fraction of the training.
        opening: see `CurriculumConfig.opening`.
    """

    progress: Tensor
    opening: Tensor

    def __init__(self, config: CurriculumConfig) -> None:
        super().__init__()
        self.config, self.step = config, 0
        self.register_buffer("progress", torch.zeros((), dtype=torch.float64))
        self.register_buffer("opening", torch.zeros((), dtype=torch.float64))

    def advance(self, step: int, progress: float) -> None:
        """Go on to this step, before it."""
        self.step = step
        self.progress.fill_(progress)
        self.opening.fill_(self.config.opening(step, progress))

    def time_window(self) -> tuple[float, float] | None:
        """Span of clip times to train on now; None for all."""
        return self.config.time_window(self.opening.item())

    def is_full_size(self) -> bool:
        """Whether all times are in use, and images at full size."""
        return self.config.is_full_size(self.opening.item())

    def downscale(self, views: Views) -> int:
        """Factor by which training images are smaller now than they are stored."""
        return self.config.downscale(self.opening.item(), views)

    def sh_degree(self, highest: int) -> int:
        """Highest degree of the colours to train now."""
        return self.config.sh_degree(self.opening.item(), highest)
