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
from nest_nerfstudio.types import Gaussians, RiggedGaussians


def skin(rigged: RiggedGaussians, poses: Pose) -> Gaussians:
    """Move Gaussians by the blended rigid motions of their tokens.

    Token j turned by q_j = p_j b_j* since it was bound, R_j its matrix, and went from b_j to t_j:
    x' = Σ_j w_j (R_j (x − b_j) + t_j), q' = normalise(Σ_j w_j q_j) q, and the spherical harmonics turn by the
    same blended rotation. Gradients flow to all but the bind poses, and none from the colours into the
    rotation: the rotation has the shape to follow, and colours alone would turn it.

    Args:
        rigged: Gaussians at rest and their rig; quaternions at rest may have any length.
        poses: of the tokens, world frame: (unit quats [K, 4] wxyz, translations [K, 3]); rotations of tokens
            that share Gaussians must not differ in sign, as q and −q cancel when blended.

    Returns:
        Moved Gaussians; scales and opacities are the very tensors of `rigged.rest`.

    Raises:
        ValueError: not one pose for each bound token, not one row of tokens and weights for each Gaussian, or
            not 1, 4, 9 or 16 coefficients per colour channel.
        IndexError: a row of the rig is not one of the tokens (checked by the compiled kernels).
    """
    rest, count = rigged.rest, len(rigged.bind_quats)
    if not len(poses[0]) == len(poses[1]) == count:
        raise ValueError(f"{count} bound tokens need as many poses, but there are {len(poses[0])}")
    if not len(rigged.tokens) == len(rigged.weights) == len(rest):
        raise ValueError(f"the rig has {len(rigged.tokens)} rows for {len(rest)} Gaussians")
    sh_degree(rest.sh.shape[1])  # or it raises
    if not fits_kernels(rest.means):
        return skin_reference(rigged, poses)
    bind_poses = rigged.bind_quats, rigged.bind_translations
    moved = _Skin.apply(rigged.tokens, bind_poses, rigged.weights, rest.means, rest.quats, rest.sh, *poses)
    means, quats, sh = moved
    return Gaussians(means, quats, rest.scales, rest.opacities, sh)


def skin_reference(rigged: RiggedGaussians, poses: Pose) -> Gaussians:
    """`skin` in plain torch, on any device and in any dtype."""
    rest, centres = rigged.rest, rigged.bind_translations.detach()
    quats = quat_multiply(poses[0], quat_conjugate(rigged.bind_quats.detach()))
    table = torch.cat([quat_to_rotmat(quats).flatten(1), poses[1] - quat_rotate(quats, centres), quats], 1)
    blended = blend(table, rigged)
    rotmats, shifts, turns = blended[:, :9].view(-1, 3, 3), blended[:, 9:12], blended[:, 12:]
    turns = quat_normalize(turns)
    return Gaussians(
        means=(rotmats @ rest.means[..., None])[..., 0] + shifts,
        quats=quat_multiply(turns, quat_normalize(rest.quats)),
        scales=rest.scales,
        opacities=rest.opacities,
        sh=rotate_sh(rest.sh, quat_to_rotmat(turns.detach())) if sh_degree(rest.sh.shape[1]) else rest.sh,
    )


def blend(of_tokens: Float[Tensor, "k c"], rigged: RiggedGaussians) -> Float[Tensor, "n c"]:
    """Σ_j w_j v_j for each Gaussian, of values of the tokens that it follows."""
    if rigged.tokens.shape[1] == 1:
        return of_tokens[rigged.tokens[:, 0]] * rigged.weights
    return F.embedding_bag(rigged.tokens, of_tokens, per_sample_weights=rigged.weights, mode="sum")


def skinning_weights(
    means: Float[Tensor, "n 3"],
    centres: Float[Tensor, "k 3"],
    log_radii: Float[Tensor, " r"],
    tokens: Int[Tensor, "m j"],
) -> Float[Tensor, "m j"]:
    """Shares of the tokens in each Gaussian's motion: w_j ∝ exp(−‖x − b_j‖² / 2r_j²), of sum one.

    Args:
        means: of the Gaussians at rest, world units.
        centres: positions b of the tokens at rest.
        log_radii: logarithm of each token's reach r.
        tokens: that each Gaussian follows.

    Raises:
        ValueError: not one radius for each token, or not one row of tokens for each Gaussian.
        IndexError: a row is not one of the tokens (checked by the compiled kernels).
    """
    if len(centres) != len(log_radii):
        raise ValueError(f"{len(centres)} tokens need as many radii, but there are {len(log_radii)}")
    if len(tokens) != len(means):
        raise ValueError(f"there are {len(tokens)} rows of tokens for {len(means)} Gaussians")
    if fits_kernels(means):
        return _Weights.apply(tokens, centres, means, log_radii)
    return skinning_weights_reference(means, centres, log_radii, tokens)


def skinning_weights_reference(
    means: Float[Tensor, "n 3"],
    centres: Float[Tensor, "k 3"],
    log_radii: Float[Tensor, " k"],
    tokens: Int[Tensor, "n j"],
) -> Float[Tensor, "n j"]:
    """`skinning_weights` in plain torch, on any device and in any dtype."""
    offsets = means[:, None] - centres.detach()[tokens]
    radii = log_radii[tokens].exp()
    return (-0.5 * offsets.square().sum(-1) / radii.square()).softmax(-1)


class _Weights(torch.autograd.Function):
    """Means and log radii to skinning weights."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, centres: Tensor, means: Tensor, log_radii: Tensor) -> Tensor:
        from nest_nerfstudio.fields import skinning_kernels as kernels

        _check_rows(tokens, len(centres))
        weights = means.new_empty(tokens.shape)
        ctx.sharpness = np.exp(-2.0 * as_array(log_radii).astype(np.float64))
        arrays = [*(as_array(x) for x in (tokens, means, centres)), ctx.sharpness, as_array(weights)]
        pieces = min(2 * SHARED.threads, len(means) // _SMALL)
        SHARED.run(kernels.weights_forward, even_ranges(len(means), pieces), *arrays)
        ctx.save_for_backward(tokens, means, centres, log_radii, weights)
        return weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_weights: Tensor) -> tuple[Any, ...]:
        from nest_nerfstudio.fields import skinning_kernels as kernels

        tokens, means, centres, log_radii, weights = ctx.saved_tensors
        v_means = torch.empty_like(means, memory_format=torch.contiguous_format)
        chunks = _chunks(len(means), kernels.CHUNK)
        sums = np.zeros((len(chunks), len(centres)))
        arrays = [as_array(x) for x in (tokens, means, centres)]
        gradients = [as_array(x) for x in (weights, v_weights, v_means)]
        SHARED.run(kernels.weights_backward, chunks, sums, *arrays, ctx.sharpness, *gradients)
        return None, None, v_means, torch.from_numpy(sums.sum(0)).to(log_radii)


class _Skin(torch.autograd.Function):
    """Weights, and means, quaternions and spherical harmonics at rest, to moved ones."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, bind_poses: Pose, *inputs: Tensor) -> tuple[Tensor, ...]:
        # numba is slow to import, and nobody else needs it
        from nest_nerfstudio.fields import skinning_kernels as kernels

        weights, means, quats, sh, *poses = inputs
        _check_rows(tokens, len(bind_poses[0]))
        moved = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (means, quats, sh)]
        turns = torch.empty_like(moved[1])
        ctx.table = kernels.token_table(*map(as_array, (*poses, *bind_poses)))
        arrays = [as_array(x) for x in (tokens, weights, means, quats, *moved[:2], turns)]
        harmonics = [as_array(x) for x in (turns, sh, moved[2])]

        def move(first: int, last: int) -> None:
            kernels.skin_forward(first, last, ctx.table, *arrays)
            kernels.turn_sh(first, last, False, *harmonics)

        pieces = min(2 * SHARED.threads, len(means) // _SMALL)
        SHARED.run(move, even_ranges(len(means), pieces))
        ctx.bind_poses = bind_poses
        ctx.save_for_backward(tokens, turns, *inputs)
        return tuple(moved)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_moved: Tensor, v_turned: Tensor, v_turned_sh: Tensor) -> tuple[Any, ...]:
        from nest_nerfstudio.fields import skinning_kernels as kernels

        tokens, turns, *inputs = ctx.saved_tensors
        outputs = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in inputs]
        weights, means, quats, *_ = inputs
        v_weights, v_means, v_quats, v_sh, *v_poses = outputs
        chunks = _chunks(len(means), kernels.CHUNK)
        sums = np.zeros((len(chunks), len(ctx.table), kernels.BLENDED))
        given = (tokens, weights, means, quats, v_moved, v_turned, v_weights, v_means, v_quats)
        arrays = [as_array(x) for x in given]
        harmonics = [as_array(x) for x in (turns, v_turned_sh, v_sh)]

        def pull_back(first: int, last: int) -> None:
            kernels.skin_backward(first, last, ctx.table, sums, *arrays)
            kernels.turn_sh(first, last, True, *harmonics)

        SHARED.run(pull_back, chunks)
        kernels.token_backward(
            ctx.table, *map(as_array, ctx.bind_poses), sums.sum(0), *map(as_array, v_poses)
        )
        return None, None, *outputs


def _check_rows(tokens: Tensor, count: int) -> None:
    if len(tokens):
        lowest, highest = tokens.aminmax()
        if lowest < 0 or highest >= count:
            raise IndexError(f"the rows of a rig must be indices of its {count} tokens")


def _chunks(count: int, size: int) -> list[tuple[int, int]]:
    return [(i, min(i + size, count)) for i in range(0, count, size)]


_SMALL = 256
"""Fewer Gaussians than this are not worth another thread."""
