"""Scenes before one plain colour, of images without alpha: the colour, and silhouettes against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from nest_nerfstudio.types import Views

_NOISE = 0.03
"""Difference of colours, of the channel that differs the most, that a plain backdrop may have."""
_SHARE = 0.9
"""Share of the pixels at the borders of the images that show the backdrop, at least."""
_OBJECT = 0.08
"""Difference of colours from which on a pixel shows something else."""


def find_backdrop(views: Sequence[Views]) -> Float[Tensor, " 3"] | None:
    """The colour that the borders of all images have; None where they have not one.

    Args:
        views: with images; pixels that are masked out do not count.
    """
    borders = torch.cat([_border(view) for view in views]) if views else torch.zeros(0, 3)
    if not len(borders):
        return None
    color = borders.median(0).values
    plain = (borders - color).abs().amax(1) <= _NOISE
    return color if plain.float().mean() >= _SHARE else None


def with_silhouettes(views: Views, backdrop: Float[Tensor, " 3"]) -> Views:
    """Views whose alphas are 1 where their images differ from the backdrop; for a start, not to train on."""
    assert views.images is not None
    differs = (views.images - backdrop).abs().amax(-1, keepdim=True) > _OBJECT
    return replace(views, alphas=differs.float())


def _border(view: Views) -> Float[Tensor, "n 3"]:
    """Colours of the pixels along the sides of images."""
    assert view.images is not None
    inside = torch.zeros(view.height, view.width, dtype=torch.bool, device=view.images.device)
    inside[1:-1, 1:-1] = True
    used = (~inside).expand(len(view), -1, -1)
    if view.masks is not None:
        used = used & (view.masks[..., 0] > 0.5)
    return view.images[used]
