"""Running moments of vectors, kept as one matrix: the decaying mean of (x, 1)(x, 1)ᵀ."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

_SHARE = 0.01
"""Share of new vectors in the moments."""


def no_moments(dim: int) -> Float[Tensor, "d1 d1"]:
    """Moments of no vectors of d = `dim` numbers; d1 = d + 1."""
    return torch.zeros(dim + 1, dim + 1)


@torch.no_grad()
def take_in(moments: Float[Tensor, "d1 d1"], vectors: Float[Tensor, "n d"]) -> None:
    """Take vectors into the moments, in place."""
    x = F.pad(vectors, (0, 1), value=1.0)
    moments.lerp_((x.mT @ x / len(x)).to(moments), _SHARE)


@torch.no_grad()
def gaussian_of(
    moments: Float[Tensor, "d1 d1"], part: slice = slice(-1)
) -> tuple[Float[Tensor, " p"], Float[Tensor, "p p"]] | None:
    """Mean, and principal directions as columns, as long as the standard deviations along them, ascending.

    Args:
        moments: of vectors.
        part: numbers of the vectors that are asked for.

    Returns:
        In float64; None if there have been no vectors.
    """
    count = moments[-1, -1]
    if count == 0:
        return None
    moments = (moments / count).double()
    mean = moments[part, -1]
    variances, axes = torch.linalg.eigh(moments[part, part] - mean[:, None] * mean)
    return mean, axes * variances.clamp_min(0).sqrt()
