"""Linear blend skinning of Gaussians by posed tokens: plain torch, and compiled kernels on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from nest_nerfstudio.compiled import as_array, fits_kernels
from nest_nerfstudio.geometry.quaternion import (
    quat_conjugate,
    quat_multiply,
    quat_normalize,
    quat_rotate,
    quat_to_rotmat,
)
from nest_nerfstudio.geometry.se3 import Pose
from nest_nerfstudio.geometry.sh import rotate_sh, sh_degree
from nest_nerfstudio.thread_pool import SHARED, even_ranges
from nest_nerfstudio.types import Gaussians


def skin(
    rest: Gaussians,
    poses: Pose,
    bind_poses: Pose,
    log_radii: Float[Tensor, " k"],
    neighbors: Int[Tensor, "n j"],
) -> Gaussians:
    """Move Gaussians by the blended rigid motions of their tokens.

    Token j turned by q_j = p_j b_j* since it was bound, R_j its matrix, and went from b_j to t_j:
    x' = Σ_j w_j (R_j (x − b_j) + t_j), q' = normalise(Σ_j w_j q_j) q, and the spherical harmonics turn by the
    same blended rotation; w are the `skinning_weights`. Gradients flow to everything but `bind_poses`, and
    none from the colours into the rotation: it has the shape to follow, and colours alone would have it turn.

    Args:
        rest: Gaussians before the motion; quaternions of any length are normalised.
        poses: of the tokens, world frame: (unit quats p [K, 4] wxyz, translations t [K, 3]); turns of
            neighbours must not differ in sign, as q and -q cancel when blended.
        bind_poses: those in which the tokens were bound, likewise.
        log_radii: logarithm of each token's reach, world units.
        neighbors: tokens that move each Gaussian.

    Returns:
        Moved Gaussians; scales and opacities are the very tensors of `rest`.

    Raises:
        ValueError: not one pose and radius per token, not one row of neighbours per Gaussian, or not 1, 4, 9
            or 16 coefficients per channel.
        IndexError: a neighbour is not one of the tokens (checked by the compiled kernels).
    """
    if not len(poses[0]) == len(poses[1]) == len(bind_poses[1]) == len(log_radii):
        raise ValueError(
            f"{len(bind_poses[1])} bound tokens need as many radii and poses, "
            f"but there are {len(log_radii)} and {len(poses[0])}"
        )
    if len(neighbors) != len(rest):
        raise ValueError(f"neighbors has {len(neighbors)} rows for {len(rest)} Gaussians; look them up again")
    sh_degree(rest.sh.shape[1])  # or it raises
    if not fits_kernels(rest.means):
        return skin_reference(rest, poses, bind_poses, log_radii, neighbors)
    means, quats, sh = _Skin.apply(neighbors, bind_poses, rest.means, rest.quats, rest.sh, *poses, log_radii)
    return Gaussians(means, quats, rest.scales, rest.opacities, sh)


def skin_reference(
    rest: Gaussians,
    poses: Pose,
    bind_poses: Pose,
    log_radii: Float[Tensor, " k"],
    neighbors: Int[Tensor, "n j"],
) -> Gaussians:
    """`skin` in plain torch, on any device and in any dtype."""
    bind_quats, centres = (x.detach() for x in bind_poses)
    weights = skinning_weights(rest.means, centres, log_radii, neighbors)
    quats = quat_multiply(poses[0], quat_conjugate(bind_quats))
    table = torch.cat([quat_to_rotmat(quats).flatten(1), poses[1] - quat_rotate(quats, centres), quats], 1)
    blended = F.embedding_bag(neighbors, table, per_sample_weights=weights, mode="sum")
    rotmats, shifts, turns = blended[:, :9].view(-1, 3, 3), blended[:, 9:12], blended[:, 12:]
    turns = quat_normalize(turns)
    return Gaussians(
        means=(rotmats @ rest.means[..., None])[..., 0] + shifts,
        quats=quat_multiply(turns, quat_normalize(rest.quats)),
        scales=rest.scales,
        opacities=rest.opacities,
        sh=rotate_sh(rest.sh, quat_to_rotmat(turns.detach())) if sh_degree(rest.sh.shape[1]) else rest.sh,
    )


def skinning_weights(
    means: Float[Tensor, "n 3"],
    bind_translations: Float[Tensor, "k 3"],
    log_radii: Float[Tensor, " k"],
    neighbors: Int[Tensor, "n j"],
) -> Float[Tensor, "n j"]:
    """Shares of the neighbours in each Gaussian's motion: w_j ∝ exp(−‖x − b_j‖² / 2r_j²), of sum one."""
    offsets = means[:, None] - bind_translations[neighbors]
    radii = log_radii[neighbors].exp()
    return (-0.5 * offsets.square().sum(-1) / radii.square()).softmax(-1)


class _Skin(torch.autograd.Function):
    """Means, quaternions and spherical harmonics at rest to moved ones."""

    @staticmethod
    def forward(ctx: Any, neighbors: Tensor, bind_poses: Pose, *inputs: Tensor) -> tuple[Tensor, ...]:
        # numba is slow to import, and nobody else needs it
        from nest_nerfstudio.fields import skinning_kernels as kernels

        means, quats, sh, *tokens = inputs
        if len(neighbors):
            lowest, highest = neighbors.aminmax()
            if lowest < 0 or highest >= len(bind_poses[0]):
                raise IndexError(f"neighbors must be indices of the {len(bind_poses[0])} tokens")
        moved = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (means, quats, sh)]
        weights, turns = means.new_empty(neighbors.shape), torch.empty_like(moved[1])
        ctx.table = kernels.token_table(*map(as_array, (*tokens, *bind_poses)))
        arrays = [as_array(x) for x in (neighbors, means, quats, weights, *moved[:2], turns)]
        harmonics = [as_array(x) for x in (turns, sh, moved[2])]

        def move(first: int, last: int) -> None:
            kernels.skin_forward(first, last, ctx.table, *arrays)
            kernels.turn_sh(first, last, False, *harmonics)

        pieces = min(2 * SHARED.threads, len(means) // _SMALL)
        SHARED.run(move, even_ranges(len(means), pieces))
        ctx.bind_quats = bind_poses[0]
        ctx.save_for_backward(neighbors, weights, turns, *inputs)
        return tuple(moved)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_moved: Tensor, v_turned: Tensor, v_turned_sh: Tensor) -> tuple[Any, ...]:
        from nest_nerfstudio.fields import skinning_kernels as kernels

        neighbors, weights, turns, *inputs = ctx.saved_tensors
        outputs = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in inputs]
        means, quats, *_ = inputs
        v_means, v_quats, v_sh, *v_tokens = outputs
        count = len(means)
        chunks = [(i, min(i + kernels.CHUNK, count)) for i in range(0, count, kernels.CHUNK)]
        sums = np.zeros((len(chunks), len(ctx.table), kernels.GRADS))
        arrays = [
            as_array(x) for x in (neighbors, means, quats, weights, v_moved, v_turned, v_means, v_quats)
        ]
        harmonics = [as_array(x) for x in (turns, v_turned_sh, v_sh)]

        def pull_back(first: int, last: int) -> None:
            kernels.skin_backward(first, last, ctx.table, sums, *arrays)
            kernels.turn_sh(first, last, True, *harmonics)

        SHARED.run(pull_back, chunks)
        kernels.token_backward(ctx.table, as_array(ctx.bind_quats), sums.sum(0), *map(as_array, v_tokens))
        return None, None, *outputs


_SMALL = 256
"""Fewer Gaussians than this are not worth another thread's attention."""
