"""Rotations from equivariant vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_TOO_SHORT = 1e-3
"""Norm below which a vector is taken to have no direction."""


def frames_from_vectors(
    first: Float[Tensor, "k 3"], second: Float[Tensor, "k 3"], others: Float[Tensor, "k d 3"]
) -> Float[Tensor, "k 3 3"]:
    """Rotations whose x axis is along `first` and whose y axis lies in the plane of `first` and `second`.

    Gram–Schmidt. Where the two are collinear, the first of `others` that is not, or else a world axis, takes
    the place of the second. Equivariant unless all of `others` are collinear too.

    Args:
        first: any length.
        second: any length.
        others: substitutes, in order of preference.

    Returns:
        Columns are the axes.
    """
    world = torch.eye(3).to(first).expand(len(first), 3, 3)
    substitutes = (*others.unbind(1), *world.unbind(1))
    x = first
    for other in substitutes:
        x = torch.where(x.norm(dim=1, keepdim=True) > _TOO_SHORT, x, other)
    x = F.normalize(x, dim=1)
    y = _reject(second, x)
    for other in substitutes:
        y = torch.where(y.norm(dim=1, keepdim=True) > _TOO_SHORT, y, _reject(other, x))
    y = F.normalize(y, dim=1)
    return torch.stack([x, y, torch.linalg.cross(x, y)], -1)


def _reject(vectors: Float[Tensor, "k 3"], axes: Float[Tensor, "k 3"]) -> Float[Tensor, "k 3"]:
    """The part of the vectors that is perpendicular to unit axes."""
    return vectors - (vectors * axes).sum(1, keepdim=True) * axes
