"""Settings of nest-prior's model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from nest_nerfstudio.encoders.latent_encoder import LatentEncoderConfig
from nest_nerfstudio.fields.latent_gaussians import LatentGaussianFieldConfig
from nest_nerfstudio.geometry.sh import MAX_DEGREE
from nest_nerfstudio.models.gaussian_model import GaussianModelConfig
from nest_nerfstudio.models.motion_prior import MotionPriorConfig


def _model() -> type:
    from nest_nerfstudio.models.nest_prior import NestPriorModel  # which imports this module

    return NestPriorModel


@dataclass
class NestPriorModelConfig(GaussianModelConfig):
    """Settings of `NestPriorModel`."""

    _target: type = field(default_factory=lambda: _model())
    encoder: LatentEncoderConfig = field(default_factory=LatentEncoderConfig)
    """Encoder: images and points to a latent."""
    decoder: LatentGaussianFieldConfig = field(default_factory=LatentGaussianFieldConfig)
    """Field: a latent to Gaussians."""
    training_tokens: tuple[int, int] = (256, 1024)
    """Smallest and largest number of tokens of a training sample, drawn log-uniformly; the model then works
    with any number."""
    from_points: float = 0.0
    """Probability of encoding a training sample from a coloured point cloud in the hull of its context (of
    three views or more), with a random share of its points, in place of the views; > 0 for a model that reads
    point clouds too."""
    swap_light: float = 0.0
    """Probability of treating the known light of another state as unknown; it is then encoded from half of
    that state's images, and has to light the others in the latent of the context (swap consistency)."""
    learn_weights: bool = True
    """Weigh the losses by learned uncertainties; else they are added unweighted."""
    sh_degree: ClassVar[int] = MAX_DEGREE
    """Degree of the colours that a light gives."""
    shown_scene: str = ""
    """Name of the scene that the viewer and camera paths show at first; empty: the first held-out one."""
    shown_views: int = 4
    """Number of context views that it is encoded from."""
    refine_steps: int = 25
    """Steps of optimizing a latent on its context, for each view beyond the first: more would fit what few
    views leave open. ns-eval scores with (`_refined`) and without; 0: never."""
    shown_refined: bool = False
    """Refine the latents that the viewer and camera paths show (the viewer can switch it); takes seconds for
    each scene."""
    init: Path | None = None
    """Start encoder and decoder, with their settings, from those of another run of nest-prior (its
    `config.yml`): so scenes that are known at rest learn to move."""
    freeze: bool = False
    """Leave encoder and decoder as they are, and learn motion alone; with `init`."""
    dynamics: bool = False
    """Learn how scenes move, from their frames at other times: one vector field and one map from a motion
    code to the motion of tokens for all scenes."""
    motion: MotionPriorConfig = field(default_factory=MotionPriorConfig)
    """How motion is learned and read."""

    def resolve(self) -> None:
        """Give the shared vector field a scene code where scenes move; ValueError if nothing is to learn."""
        if self.freeze and (self.init is None or not self.dynamics):
            raise ValueError(
                "--pipeline.model.freeze True learns motion alone: it needs --pipeline.model.dynamics True "
                "and --pipeline.model.init RUN/config.yml"
            )
        if self.dynamics and self.flow.scene_code_dim == 0:
            self.flow.scene_code_dim = 32
