"""The motion code of a scene from a few frames of it at known times."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from nerfstudio.configs.base_config import InstantiateConfig
from torch import Tensor, nn

from nest_nerfstudio.encoders.image_features import ImageFeatures
from nest_nerfstudio.encoders.inputs import resize_views
from nest_nerfstudio.encoders.layers import mlp
from nest_nerfstudio.encoders.views import rgba_maps, without_masks
from nest_nerfstudio.geometry.multiview import project, sample_maps
from nest_nerfstudio.types import MotionCode, SceneLatent, Views


@dataclass
class MotionEncoderConfig(InstantiateConfig):
    """Settings of `MotionEncoder`."""

    _target: type = field(default_factory=lambda: MotionEncoder)
    image_size: int = 128
    """Frames are resized to this many pixels along their longer side before they are encoded."""
    feature_dim: int = 32
    """Channels of the feature maps of the frames; a multiple of 16."""
    hidden_dim: int = 128
    """Width of the MLPs."""


class MotionEncoder(nn.Module):
    """Scene code, period and phase of a scene that stands at rest in a latent, from frames at other times.

    Each frame is read where the tokens would be at rest, in the camera's frame and along the axes of the
    body, and averaged over the tokens; then it is joined by its time, and averaged over the frames. So the
    result is invariant under SE(3), and neither the order of tokens nor that of frames matters.

    Args:
        config: its settings.
        geometry_dim: size of a token's geometry code.
        code_dim: size of a scene code.
        num_axes: number of axes of the body.
    """

    def __init__(self, config: MotionEncoderConfig, geometry_dim: int, code_dim: int, num_axes: int) -> None:
        super().__init__()
        self.config = config
        hidden = config.hidden_dim
        self.image_features = ImageFeatures(config.feature_dim)
        self.token_mlp = mlp(config.feature_dim + 4 + 3 + num_axes + geometry_dim, hidden, hidden)
        self.frame_mlp = mlp(hidden + 3 * num_axes, hidden, hidden)
        self.time_mlp = mlp(hidden + 1 + 2 * _HARMONICS, hidden, hidden)
        self.head = mlp(hidden, hidden, code_dim + 3)
        for parameter in self.head[-1].parameters():  # all scenes begin with the start
            nn.init.zeros_(parameter)

    def forward(
        self,
        latent: SceneLatent,
        axes: Float[Tensor, "a 3"],
        coordinates: Float[Tensor, "k a"],
        size: Float[Tensor, ""],
        frames: Views,
        rest: float = 0.0,
    ) -> MotionCode:
        """The latent's motion code with scene code, period and phase changed to those of the frames.

        Args:
            latent: at rest, with the code that is changed.
            axes: vectors that turn with the body, world frame.
            coordinates: of the tokens along them.
            size: unit of length, world units.
            frames: at least one, with times.
            rest: time at which the tokens stand so.

        Raises:
            ValueError: frames without times.
        """
        if frames.times is None:
            raise ValueError("frames from which motion is read need times")
        like = latent.geometry
        times = frames.times.to(like) - rest
        frames = resize_views(without_masks(frames), self.config.image_size)
        frames = replace(frames, viewmats=frames.viewmats.to(like), Ks=frames.Ks.to(like))
        rgba = rgba_maps(frames).to(like)
        maps = self.image_features(rgba - 0.5)
        grid, _ = project(frames, latent.translations)
        rotations = frames.viewmats[:, :3, :3]
        centre = latent.translations.mean(0)
        in_camera = ((latent.translations - centre) @ rotations.mT) / size
        known = torch.cat([coordinates, latent.geometry], 1).expand(len(frames), -1, -1)
        seen = [sample_maps(maps, grid), sample_maps(rgba, grid), in_camera, known]
        tokens = self.token_mlp(torch.cat(seen, -1)).mean(1)
        shown = self.frame_mlp(torch.cat([tokens, (axes @ rotations.mT).flatten(1)], 1))
        found = self.head(self.time_mlp(torch.cat([shown, self._waves(times)], 1)).mean(0))
        change, log_period, cos, sin = found.split([len(found) - 3, 1, 1, 1])
        motion = latent.motion
        return replace(
            motion,
            scene_code=motion.scene_code + change,
            period=motion.period * (0.5 * log_period[0].tanh()).exp(),
            phase=motion.phase + torch.atan2(sin[0], 1 + cos[0]) / (2 * math.pi),
        )

    @staticmethod
    def _waves(times: Float[Tensor, " v"]) -> Float[Tensor, "v w"]:
        angles = math.pi * times[:, None] * torch.arange(1, _HARMONICS + 1).to(times)
        return torch.cat([times[:, None], angles.sin(), angles.cos()], 1)


_HARMONICS = 8
"""Half turns in a clip, of the fastest wave of a frame's time."""
