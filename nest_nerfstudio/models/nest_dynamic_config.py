"""Settings of nest-dynamic's model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig

from nest_nerfstudio.dynamics.fitter import LatentFlowFitterConfig
from nest_nerfstudio.losses.motion import MotionWeights
from nest_nerfstudio.models.gaussian_model import GaussianModelConfig
from nest_nerfstudio.training.curriculum import CurriculumConfig
from nest_nerfstudio.training.densification import DensificationConfig

if TYPE_CHECKING:
    from nest_nerfstudio.models.nest_prior_config import NestPriorModelConfig


def _model() -> type:
    from nest_nerfstudio.models.nest_dynamic import NestDynamicModel  # which imports this module

    return NestDynamicModel


@dataclass
class NestDynamicModelConfig(GaussianModelConfig):
    """Settings of `NestDynamicModel`. Fractions are of the whole training, by steps or by time."""

    _target: type = field(default_factory=lambda: _model())
    motion: Literal["ode", "mlp", "static"] = "ode"
    """What moves the scene: tokens on a latent ODE; or, as baselines, a time-conditioned deformation MLP or
    nothing."""
    init: Path | None = None
    """config.yml of a run of nest-prior that has learned motion (`dynamics`), from which Gaussians, tokens
    and motion start. Needed to start and to resume."""
    background: Literal["auto", "still", "none"] = "auto"
    """still: all stands still but what is found to move; none: everything may move, as an object before an
    empty background. auto: still where images have no alpha and no plain backdrop."""
    flow_fit: LatentFlowFitterConfig = field(default_factory=LatentFlowFitterConfig)
    """How the latent ODE is fitted."""
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    """Which times and image sizes are trained on when."""
    densification: DensificationConfig = field(default_factory=DensificationConfig)
    """When Gaussians are added and removed."""
    camera_optimizer: CameraOptimizerConfig = field(default_factory=CameraOptimizerConfig)
    """Refinement of the poses of training cameras. mode off: poses are exact, as those of rendered data and
    good ones of structure from motion; SO3xR3: images blur, or log and checks say that poses are rough."""
    exposure: bool = False
    """Fit an affine change of colour to each training image, for cameras that adapt exposure or white
    balance; other images are drawn, and scored, with the mean one."""
    num_tokens: int = 512
    """Number of tokens (control points) that carry the motion."""
    tokens_per_gaussian: int = 4
    """Number of nearest tokens that each Gaussian follows."""
    num_random: int | None = None
    """Number of Gaussians at the start, on seed points, in the visual hull or at random; unset: 8,000 on a
    CPU, 20,000 on CUDA."""
    max_gs_num: int | None = None
    """Largest number of Gaussians (strategy "mcmc"); unset: one for each 10 pixels of an image that show the
    scene, 20,000 to 60,000, on a CPU, and for each 4 pixels, 200,000 to 1,000,000, on CUDA."""
    sh_degree: int | None = None
    """Spherical harmonics degree of view-dependent colour, reached in steps; unset: 1 on a CPU, 3 on CUDA."""
    strategy: Literal["mcmc", "default"] = "mcmc"
    """gsplat's strategy that adds, moves and removes Gaussians."""
    hull_tolerance: float = 0.2
    """Share of the first views that may find a point of the visual hull empty; keeps thin parts that move."""
    depth_weight: float = 0.1
    """Weight of the depth loss, where the data has depth."""
    motion_weights: MotionWeights = field(default_factory=MotionWeights)
    """Weights of the losses that regularise motion."""
    gate_weight: float = 0.01
    """Weight of the mean gate, where a background stands still; shuts the gates of Gaussians that need not
    move, as a group (sparse)."""
    opacity_weight: float = 0.01
    """Weight of the mean opacity ("mcmc"); empties Gaussians that are not needed, to be used again."""
    exposure_weight: float = 0.1
    """Weight of the mean square of what `exposure` changes."""
    scale_weight: float = 0.03
    """Weight of the mean scale ("mcmc"), for the same purpose."""

    def take(self, prior: NestPriorModelConfig) -> None:
        """Take over the settings of a prior by which its scenes move, and open all of the clip at once.

        Raises:
            ValueError: the prior has learned no motion, or this scene is not to move by an ODE.
        """
        if not prior.dynamics:
            raise ValueError(
                f"the prior {self.init} has learned no motion: train it with --pipeline.model.dynamics True, "
                "or start without --pipeline.model.init"
            )
        if self.motion != "ode":
            raise ValueError(f"--pipeline.model.init starts an ODE, which motion {self.motion} does not use")
        self.flow, self.num_tokens = prior.flow, prior.encoder.num_tokens
        self.curriculum = replace(self.curriculum, num_downscales=0, first_window=2.0)

    def resolve(self, device_type: str) -> dict[str, int]:
        """Give settings that are unset their values for a kind of device; returns those that were set."""
        values = (20_000, 3) if device_type == "cuda" else (8000, 1)
        defaults = zip(("num_random", "sh_degree"), values, strict=True)
        unset = {name: value for name, value in defaults if getattr(self, name) is None}
        for name, value in unset.items():
            setattr(self, name, value)
        return unset
