"""A latent as vectors of fixed size, one for each part of Z, and as vectors on which its groups act linearly.

A scene has any number of tokens in any order, so every number here is a mean over tokens. Means of tensor
powers of positions and of rotation matrices are linear representations of SO(3): turning the scene turns
them, and nothing else.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from nest_nerfstudio.geometry.quaternion import quat_to_rotmat
from nest_nerfstudio.types import SceneLatent

PARTS = ("positions", "frames", "geometry", "appearance", "light", "motion")
"""Parts of Z; poses are positions and frames (rotations)."""


def summarise(latent: SceneLatent) -> dict[str, Float[Tensor, " d"]]:
    """What probes read of each part.

    * positions: centroid, second moments about it (their eigenvectors are the principal frame, of
      arbitrary signs), and the vector mean of x ‖x‖², which tells its ends apart: 12 numbers;
    * frames: mean rotation matrix;
    * geometry, appearance: mean and standard deviation over tokens of each number of the codes;
    * light: its 27 coefficients;
    * motion: start, scene code, mean and standard deviation of the modes and the drift, period and phase; no
      number where the scene is still, as such a code holds none.
    """
    centroid, moments, skew = _position_moments(latent)
    upper = moments[tuple(torch.triu_indices(3, 3))]
    return {
        "positions": torch.cat([centroid, upper, skew]),
        "frames": quat_to_rotmat(latent.quats).mean(0).flatten(),
        "geometry": _mean_and_spread(latent.geometry),
        "appearance": _mean_and_spread(latent.appearance),
        "light": latent.light.flatten(),
        "motion": _motion(latent),
    }


def turning_positions(latent: SceneLatent) -> Float[Tensor, " 6"]:
    """Moments of positions on which turns about z act as rotations by ω = 1 (three pairs, the last by 2).

    Each is a length: first moments, the mean of x ‖x‖² as a cube root of scale, and the traceless part of
    the horizontal second moments.
    """
    x = latent.translations
    square = x.square().sum(1, keepdim=True)
    spread = square.mean().sqrt().clamp_min(1e-9)
    second = torch.stack([x[:, 0] ** 2 - x[:, 1] ** 2, 2 * x[:, 0] * x[:, 1]], 1).mean(0)
    return torch.cat([x[:, :2].mean(0), (x[:, :2] * square).mean(0) / spread**2, second / spread])


def turning_frames(latent: SceneLatent) -> Float[Tensor, " 6"]:
    """Mean axes of the tokens' frames, horizontal components: turns about z rotate each pair."""
    return quat_to_rotmat(latent.quats).mean(0)[:2].T.flatten()


def turning_light(latent: SceneLatent) -> Float[Tensor, " 18"]:
    """Coefficients of the light of order m ≠ 0, on which turns about z act as rotations by ω = m."""
    degrees = [(1, -1), (1, 1), (2, -2), (2, -1), (2, 1), (2, 2)]
    return latent.light[:, [degree * (degree + 1) + order for degree, order in degrees]].flatten()


def chroma(latent: SceneLatent) -> Float[Tensor, " 2"]:
    """Mean over tokens of the plane of RGB across the grey axis, on which shifts of the hue act as rotations.

    Appearance is read as linear RGB, as a prior's is.
    """
    red, green, blue = latent.appearance.unflatten(1, (-1, 3)).mean((0, 1)).unbind()
    return torch.stack([red - (green + blue) / 2, math.sqrt(3) / 2 * (green - blue)])


def _position_moments(latent: SceneLatent) -> tuple[Tensor, Tensor, Tensor]:
    centroid = latent.translations.mean(0)
    x = latent.translations - centroid
    return centroid, x.mT @ x / len(x), (x * x.square().sum(1, keepdim=True)).mean(0)


def _mean_and_spread(codes: Float[Tensor, "k d"]) -> Float[Tensor, " e"]:
    return torch.cat([codes.mean(0), codes.std(0, correction=0)])


def _motion(latent: SceneLatent) -> Float[Tensor, " d"]:
    motion = latent.motion
    if motion.kind == "still":
        return latent.light.new_zeros(0)
    modes = _mean_and_spread(torch.cat([motion.modes.flatten(1), motion.drift], 1))
    return torch.cat([motion.start, motion.scene_code, modes, motion.period[None], motion.phase[None]])
