"""Errors of training images against the scene at other times, in which cycles show."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from nest_nerfstudio.cameras import downscale_views
from nest_nerfstudio.dynamics.recurrence import ImageErrors
from nest_nerfstudio.losses.images import mean_of_used
from nest_nerfstudio.types import Views

MAX_IMAGES = 48
"""Images that are compared, at most."""
_SIZE = 64
"""Pixels of their longer side, at least where they have as many, and at most twice that."""


@torch.no_grad()
def image_errors(
    views: Iterable[Views], render: Callable[[Views, Tensor], Tensor], background: Tensor, num_times: int
) -> ImageErrors:
    """Mean squared errors of images, where their masks use them, against renderings at evenly spaced times.

    Args:
        views: single training views with their times, each with an image.
        render: draws the cameras of views at a clip time, over the background: RGB [1, h, w, 3].
        background: colour behind images that have alpha.
        num_times: how many times, from 0 to 1.
    """
    seen = []
    for view in views:
        halvings = 0
        while max(view.width, view.height) >> halvings > 2 * _SIZE:
            halvings += 1
        seen.append(downscale_views(view, 2**halvings))
    times = [view.times for view in seen if view.times is not None]
    errors = [
        torch.stack([_error(render(view, time), view, background) for view in seen])
        for time in torch.linspace(0, 1, num_times).to(background)
    ]
    return ImageErrors(torch.stack(errors, 1), torch.cat(times))


def _error(rgb: Tensor, view: Views, background: Tensor) -> Tensor:
    return mean_of_used((rgb - view.over(background)).square(), view.masks)
