"""The appearance code of a token: albedo at the corners of a cube that stands in its frame."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from nest_nerfstudio.geometry.quaternion import quat_rotate

NUM_CORNERS = 8
REACH = 0.6
"""Half an edge, in sizes of the token."""
CORNERS = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3)
"""[8, 3], in half edges."""


def corner_positions(
    quats: Float[Tensor, "k 4"], translations: Float[Tensor, "k 3"], sizes: Float[Tensor, " k"]
) -> Float[Tensor, "k 8 3"]:
    """Where the corners are, world frame.

    Args:
        quats: of the tokens, token to world.
        translations: of the tokens.
        sizes: of the tokens, world units.
    """
    offsets = REACH * sizes[:, None, None] * CORNERS.to(sizes)
    return quat_rotate(quats[:, None].expand(-1, NUM_CORNERS, -1), offsets) + translations[:, None]


def albedo_at(appearance: Float[Tensor, "k 24"], offsets: Float[Tensor, "k m 3"]) -> Float[Tensor, "k m 3"]:
    """Trilinear interpolation of the corners' albedo, linear RGB; that of the surface outside of the cube.

    Args:
        appearance: linear RGB of each corner, in the order of `CORNERS`.
        offsets: places in the token's frame, in sizes of the token.
    """
    upper = (offsets / (2 * REACH) + 0.5).clamp(0, 1)[..., None, :]
    shares = torch.where(CORNERS.to(upper) > 0, upper, 1 - upper).prod(-1)
    return shares @ appearance.unflatten(1, (NUM_CORNERS, 3))
