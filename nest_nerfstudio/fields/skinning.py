"""Linear blend skinning of Gaussians by posed tokens: plain torch, and compiled kernels on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from nest_nerfstudio.geometry.quaternion import (
    quat_conjugate,
    quat_multiply,
    quat_normalize,
    quat_rotate,
    quat_to_rotmat,
)
from nest_nerfstudio.geometry.se3 import Pose
from nest_nerfstudio.geometry.sh import rotate_sh, sh_degree
from nest_nerfstudio.thread_pool import SHARED
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
    fused = rest.means.device.type == "cpu" and rest.means.dtype in (torch.float32, torch.float64)
    if not fused:
        return skin_reference(rest, poses, bind_poses, log_radii, neighbors)
    means, quats, turns = _Skin.apply(neighbors, bind_poses, rest.means, rest.quats, *poses, log_radii)
    sh = _TurnSH.apply(rest.sh, turns) if sh_degree(rest.sh.shape[1]) else rest.sh
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
    """Means and quaternions at rest to moved ones, and the rotation of each Gaussian."""

    @staticmethod
    def forward(ctx: Any, neighbors: Tensor, bind_poses: Pose, *inputs: Tensor) -> tuple[Tensor, ...]:
        # numba is slow to import, and nobody else needs it
        from nest_nerfstudio.fields import skinning_kernels as kernels

        means, quats, *pose, log_radii = inputs
        moved, turned, turns = (means.new_empty(len(means), width) for width in (3, 4, 4))
        weights = means.new_empty(neighbors.shape)
        if len(neighbors):
            lowest, highest = neighbors.aminmax()
            if lowest < 0 or highest >= len(log_radii):
                raise IndexError(f"neighbors must be indices of the {len(log_radii)} tokens")
        ctx.bind_quats, centres = map(_array, bind_poses)
        table = kernels.token_table(*map(_array, pose), ctx.bind_quats, centres, _array(log_radii))
        arrays = (neighbors, means, quats, weights, moved, turned, turns)
        SHARED.run(kernels.skin_forward, _chunks(len(means)), table, *map(_array, arrays))
        ctx.table = table
        ctx.save_for_backward(neighbors, weights, *inputs)
        ctx.mark_non_differentiable(turns)
        return moved, turned, turns

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_moved: Tensor, v_turned: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        from nest_nerfstudio.fields import skinning_kernels as kernels

        neighbors, weights, *inputs = ctx.saved_tensors
        outputs = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in inputs]
        means, quats = inputs[:2]
        v_means, v_quats, *v_tokens = outputs
        chunks = _chunks(len(means))
        sums = np.zeros((len(chunks), len(ctx.table), kernels.GRADS))
        arrays = (neighbors, means, quats, weights, v_moved, v_turned, v_means, v_quats)
        SHARED.run(kernels.skin_backward, chunks, ctx.table, sums, *map(_array, arrays))
        kernels.token_backward(ctx.table, ctx.bind_quats, sums.sum(0), *map(_array, v_tokens))
        return None, None, *outputs


class _TurnSH(torch.autograd.Function):
    """Spherical harmonics turned by unit quaternions, to which no gradient flows."""

    @staticmethod
    def forward(ctx: Any, sh: Tensor, turns: Tensor) -> Tensor:
        ctx.save_for_backward(turns)
        return _turned(sh, turns, inverse=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_sh: Tensor) -> tuple[Tensor, None]:
        (turns,) = ctx.saved_tensors
        return _turned(v_sh, turns, inverse=True), None


def _turned(sh: Tensor, turns: Tensor, inverse: bool) -> Tensor:
    from nest_nerfstudio.fields import skinning_kernels as kernels

    out = torch.empty_like(sh, memory_format=torch.contiguous_format)
    SHARED.run(kernels.turn_sh, _chunks(len(sh)), _array(turns), inverse, _array(sh), _array(out))
    return out


def _chunks(count: int) -> list[tuple[int, int]]:
    from nest_nerfstudio.fields.skinning_kernels import CHUNK

    return [(first, min(first + CHUNK, count)) for first in range(0, count, CHUNK)]


def _array(x: Tensor) -> np.ndarray:
    return x.detach().contiguous().numpy()
