"""Albedo of a token: linear RGB at the corners of a cube in the token's frame, interpolated trilinearly."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from nest_nerfstudio.geometry.quaternion import quat_rotate

NUM_CORNERS = 8
HALF_EDGE = 0.6
"""Half the edge of the cube, as a multiple of the token's size."""
CORNERS = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3)
"""[8, 3], positions of the corners in half edges; z varies fastest."""


def corner_positions(
    quats: Float[Tensor, "k 4"], translations: Float[Tensor, "k 3"], sizes: Float[Tensor, " k"]
) -> Float[Tensor, "k 8 3"]:
    """World positions of the corners of each token's cube, in the order of `CORNERS`.

    Args:
        quats: orientations of the tokens, token to world, unit, wxyz.
        translations: positions of the tokens, world units.
        sizes: sizes of the tokens, world units.

    Returns:
        Positions in the world frame.
    """
    offsets = HALF_EDGE * sizes[:, None, None] * CORNERS.to(sizes)
    return quat_rotate(quats[:, None].expand(-1, NUM_CORNERS, -1), offsets) + translations[:, None]


def albedo_at(appearance: Float[Tensor, "k 24"], offsets: Float[Tensor, "k m 3"]) -> Float[Tensor, "k m 3"]:
    """Albedo at M positions in each token's frame: trilinear interpolation of the corners.

    Positions outside the cube take the albedo of the nearest position on its surface.

    Args:
        appearance: linear RGB of each corner, in the order of `CORNERS`.
        offsets: positions in the token's frame, as multiples of the token's size.

    Returns:
        Linear RGB.
    """
    upper = (offsets / (2 * HALF_EDGE) + 0.5).clamp(0, 1)[..., None, :]
    weights = torch.where(CORNERS.to(upper) > 0, upper, 1 - upper).prod(-1)
    return weights @ appearance.unflatten(1, (NUM_CORNERS, 3))


def albedo_logits(albedo: Tensor) -> Tensor:
    """Logits of albedo, of what is nearly 0 or 1 finite ones."""
    return albedo.clamp(0.01, 0.99).logit()
