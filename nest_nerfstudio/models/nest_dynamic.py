"""One dynamic scene: Z → f_θ → R → Φ_t, pose → Gaussians → π, as a nerfstudio Model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor
from torch.nn import Parameter

from nest_nerfstudio.cameras import downscale_views
from nest_nerfstudio.dynamics.base import Dynamics
from nest_nerfstudio.dynamics.deformation_mlp import DeformationMLP
from nest_nerfstudio.dynamics.fitter import LatentFlowFitterConfig
from nest_nerfstudio.dynamics.recurrence import ImageErrors
from nest_nerfstudio.fields.bound_gaussians import COLOR_DIM, PARAMETERS, BoundGaussians
from nest_nerfstudio.fields.rig import pose
from nest_nerfstudio.geometry.se3 import Pose
from nest_nerfstudio.losses.images import image_losses, squared_error
from nest_nerfstudio.losses.motion import MotionLosses, MotionWeights
from nest_nerfstudio.models.decoded_scene import DecodedScene
from nest_nerfstudio.models.gaussian_model import GaussianModel, GaussianModelConfig
from nest_nerfstudio.models.latent_parameters import LatentParameters, still_latent
from nest_nerfstudio.rasterizers.visibility import visible_shares
from nest_nerfstudio.training.coverage import Coverage
from nest_nerfstudio.training.curriculum import Curriculum, CurriculumConfig
from nest_nerfstudio.training.densification import Densification, DensificationConfig
from nest_nerfstudio.training.hand_over import HandOver
from nest_nerfstudio.training.image_errors import image_errors
from nest_nerfstudio.training.initialization import bounds_of, starting_points, token_positions
from nest_nerfstudio.types import Gaussians, Points, SceneLatent, Views
from nest_nerfstudio.viewer.controls import DynamicViewerControls

_RESTARTS = 3
"""How often a training that draws nothing starts again."""


@dataclass
class NestDynamicModelConfig(GaussianModelConfig):
    """Settings of `NestDynamicModel`. Fractions are of the whole training, by steps or by time."""

    _target: type = field(default_factory=lambda: NestDynamicModel)
    motion: Literal["ode", "mlp", "static"] = "ode"
    """What moves the scene: tokens on a latent ODE; or, as baselines, a time-conditioned deformation MLP or
    nothing."""
    flow_fit: LatentFlowFitterConfig = field(default_factory=LatentFlowFitterConfig)
    """How the latent ODE is fitted."""
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    """Which times and image sizes are trained on when."""
    densification: DensificationConfig = field(default_factory=DensificationConfig)
    """When Gaussians are added and removed."""
    num_tokens: int = 512
    """Number of tokens (control points) that carry the motion."""
    tokens_per_gaussian: int = 4
    """Number of nearest tokens that each Gaussian follows."""
    num_random: int | None = None
    """Number of Gaussians at the start, on seed points, in the visual hull or at random; unset: 8,000 on a
    CPU, 20,000 on CUDA."""
    max_gs_num: int | None = None
    """Largest number of Gaussians (strategy "mcmc"); unset: 20,000 on a CPU, 200,000 on CUDA."""
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
    opacity_weight: float = 0.01
    """Weight of the mean opacity ("mcmc"); empties Gaussians that are not needed, to be used again."""
    scale_weight: float = 0.03
    """Weight of the mean scale ("mcmc"), for the same purpose."""

    def resolve(self, device_type: str) -> dict[str, int]:
        """Give settings that are unset their values for a kind of device; returns those that were set."""
        values = (20_000, 200_000, 3) if device_type == "cuda" else (8000, 20_000, 1)
        defaults = zip(("num_random", "max_gs_num", "sh_degree"), values, strict=True)
        unset = {name: value for name, value in defaults if getattr(self, name) is None}
        for name, value in unset.items():
            setattr(self, name, value)
        return unset


class NestDynamicModel(GaussianModel):
    """Gaussians at rest that follow posed tokens, whose poses follow an ODE on a small latent state.

    In training it is called with `Views` of one camera, with an image.
    """

    config: NestDynamicModelConfig
    field: BoundGaussians
    viewer_controls: DynamicViewerControls
    num_times: Tensor
    bounds: Tensor

    def populate_modules(self) -> None:
        super().populate_modules()
        config = self.config
        config.resolve(torch.device(self.kwargs.get("device", "cpu")).type)
        assert config.num_random is not None
        assert config.max_gs_num is not None
        assert config.sh_degree is not None
        flow = config.flow
        start = still_latent(config.num_tokens, COLOR_DIM, flow.state_dim, flow.scene_code_dim)
        self.latent = LatentParameters.from_latent(start, ("motion",) if config.motion == "ode" else ())
        self.flow = config.flow.setup()
        if config.motion == "ode":
            self.fitter = config.flow_fit.setup(flow=flow, num_tokens=config.num_tokens)
        self.field = BoundGaussians(
            config.num_random, config.num_tokens, config.sh_degree, config.tokens_per_gaussian
        )
        if config.motion == "mlp":
            self.deformation = DeformationMLP()
        self.densification = Densification(config.densification, config.strategy, config.max_gs_num)
        self.curriculum = Curriculum(config.curriculum)
        self.coverage, self.handing_over = Coverage(), HandOver()
        self.register_buffer("num_times", torch.tensor(1))
        self.register_buffer("bounds", self.scene_box.aabb.clone())
        self._shown: DecodedScene | None = None
        self.motion_losses = MotionLosses(config.motion_weights)
        self.viewer_controls = DynamicViewerControls(
            self._token_positions, config.playback_seconds, config.render_motion
        )

    # ---------------------------------------------------------------- the scene

    def scene(self) -> DecodedScene:
        """The scene under the model's edit; decoded anew after training or another edit."""
        shown = self._shown  # once: the viewer asks from several threads
        if shown is None:
            shown = self._shown = self.decode(self.latent(), self._dynamics, self._deform)
        return shown

    def gaussians_at(self, time: float | Tensor) -> Gaussians:
        """The scene as Gaussians, world frame, at a clip time; outside [0, 1] it is extrapolated."""
        return self.scene().gaussians_at(time)

    def shown_scene(self, camera: Cameras | None = None) -> DecodedScene:
        return self.scene()

    def forget_scenes(self, keep_latents: bool = False) -> None:
        self._shown = None

    def _as_trained(self) -> DecodedScene:
        """The scene without the edit, as it is now."""
        return DecodedScene(self.latent(), self.field, self._dynamics, self._deform)

    @property
    def _dynamics(self) -> Dynamics:
        return self.fitter.dynamics(self.flow) if self.config.motion == "ode" else self.flow

    def _token_positions(self, time: float) -> Float[Tensor, "k 3"]:
        return self.scene().poses_at(time)[1]

    @property
    def _deform(self) -> Callable[[Gaussians, Tensor], Gaussians] | None:
        return self.deformation if self.config.motion == "mlp" else None

    # ---------------------------------------------------------------- start

    @torch.no_grad()
    def initialize(
        self,
        views: list[Views],
        seed_points: Points | None = None,
        cameras: Sequence[Views] | None = None,
        num_times: int = 1,
    ) -> None:
        """Set the Gaussians and tokens at the start.

        Args:
            views: training views from around the canonical time, with images; alphas only serve the start.
            seed_points: points of the data, if it has any.
            cameras: all training views, with masks but without images; None: `views` are all.
            num_times: how many different times they have.
        """
        config = self.config
        assert config.num_random is not None
        box = self.scene_box.aabb.to(self.device)
        points, hull_is_empty = starting_points(
            views, box, seed_points, config.num_random, config.num_tokens, config.hull_tolerance
        )
        self.bounds.copy_(bounds_of(box, points.positions))
        self.coverage.start(points.positions, views if cameras is None else cameras, hull_is_empty)
        self.field.initialize(points.positions, points.rgb, opacity=0.5 if config.strategy == "mcmc" else 0.1)
        self.num_times.fill_(num_times)
        silhouettes = any(view.alphas is not None for view in views)
        self.densification.start(self.field, views if cameras is None else cameras, silhouettes)
        self.place_tokens()

    @torch.no_grad()
    def place_tokens(self) -> None:
        """Spread the tokens over the Gaussians that can be seen, and bind the Gaussians to them."""
        positions = token_positions(self.field.rest(), self.config.num_tokens)
        self.latent.set_poses(self.latent.base_quats, positions)
        if self.config.motion == "ode":
            self.fitter.free.start_codes(positions)
        self.field.bind(self.latent().poses)
        self.forget_scenes()

    def warm_up(self) -> None:
        """Draw a tiny image and its gradients, so that kernels are compiled before the first frame."""
        eye = torch.eye(4, device=self.device)
        views = Views(viewmats=eye[None], Ks=eye[None, :3, :3], width=8, height=8)
        with torch.enable_grad():
            gaussians = self._training_gaussians(self.latent(), eye.new_tensor(0.5))[0]
            self.rasterize(gaussians, views, self.image_background).rgb.sum().backward()
        self.zero_grad(set_to_none=True)

    # ---------------------------------------------------------------- schedule

    def set_progress(self, step: int, progress: float) -> None:
        """Move the schedule on: called before every training step, with a fraction in [0, 1]."""
        warning = self.coverage.warning(self.curriculum.progress.item(), progress)
        if warning is not None and self.config.motion != "static":
            CONSOLE.log(warning)
        if step % 10 == 0 and self.coverage.is_lost and self.coverage.times_lost < _RESTARTS:
            self._restart()
        self.curriculum.advance(step, progress)
        if step % 100 == 0:
            self.field.forget_neighbors()

    def _restart(self) -> None:
        """Try again, without motion, after nothing was drawn for long."""
        CONSOLE.log(f"[yellow]Nothing is drawn: {self._why_lost()}. Starting again, without motion.")
        self.coverage.start_again()
        self.handing_over.stop_trial()
        self._forget_motion(stand_still=True)
        self.field.make_solid()
        self.field.bring_back(self.bounds, self.coverage.starting_positions)
        self.place_tokens()

    def failure(self) -> str | None:
        """Why nothing is drawn, if it is so; for the end of a training."""
        return f"nothing is drawn: {self._why_lost()}." if self.coverage.has_failed else None

    def _why_lost(self) -> str:
        scene = self._as_trained()
        return self.coverage.why_lost(lambda time: scene.gaussians_at(time).means)

    def _forget_motion(self, stand_still: bool = False) -> None:
        """From the ODE back to the free fit, or to a scene that stands still."""
        if self.config.motion == "ode":
            self.fitter.take_back(self.curriculum.progress.item(), stand_still)
            self.latent.stand_still()
        elif self.config.motion == "mlp":
            self.deformation.zero_head()

    def time_window(self) -> tuple[float, float] | None:
        """Span of clip times to train on now; None for all."""
        return None if self.config.motion == "static" else self.curriculum.time_window()

    def hand_over(self, images: Iterable[Views]) -> None:
        """Let the ODE take over from the free fit if it is time; the log says what was found.

        Args:
            images: training views over all of the clip, in order of time; read only if they are needed.
        """
        if self.config.motion != "ode":
            return
        errors = partial(self._image_errors, images) if self._has_few_times() else None
        arm = self.field.token_log_radii.detach().median().exp().item()  # of Gaussians from their tokens
        stage, take_back = self.curriculum, self._forget_motion
        fit = self.handing_over.step(self.fitter, self.flow, stage, arm, errors, take_back)
        if fit is not None:
            self.latent.set_motion(fit.motion, fit.learn_period)

    def _image_errors(self, images: Iterable[Views]) -> ImageErrors:
        background = self.shown_background(bool(self.has_alpha))
        scene, nodes = self._as_trained(), len(self.fitter.seen_twists)

        def render(views: Views, time: Tensor) -> Tensor:
            return self.rasterize(scene.gaussians_at(time), views, background).rgb

        return image_errors(images, render, background, 2 * nodes - 1)

    def _has_few_times(self) -> bool:
        """Whether images are too few to tell what is between them: fewer than two for each node."""
        return int(self.num_times) < 2 * len(self.fitter.seen_twists)

    def _sh_degree(self) -> int:
        return self.curriculum.sh_degree(self.config.sh_degree or 0)

    # ---------------------------------------------------------------- training

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        groups = {name: [self.field.params[name]] for name in PARAMETERS}
        if self.config.motion == "ode":
            latent = dict(self.latent.named_parameters())
            free = self.fitter.free
            groups["motion"] = [
                *free.pose_decoder.parameters(),
                free.token_codes,
                latent["modes"],
                self.field.token_log_radii,
            ]
            groups["path"] = [free.path_values]
            groups["flow"] = [*self.flow.parameters(), latent["start"]]
            groups["period"] = [latent["log_period"]]
        elif self.config.motion == "mlp":
            groups["motion"] = list(self.deformation.parameters())
        return groups

    def get_training_callbacks(self, attributes: TrainingCallbackAttributes) -> list[TrainingCallback]:
        assert attributes.optimizers is not None
        self.densification.attach(attributes.optimizers.optimizers, self.device)
        return [TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], self._densify)]

    def _densify(self, step: int) -> None:
        stage = self.curriculum
        self.densification.after_step(
            self.field, step, stage.progress.item(), stage.is_full_size(), self.visible_shares()
        )
        self.forget_scenes()

    def visible_shares(self) -> Callable[[Views], Float[Tensor, "v n"]]:
        """What gives the share of each Gaussian's light that reaches the cameras of views, at their times."""
        scene = cache(self._as_trained)  # one roll-out for all, and only if it is asked for
        antialiased = self.config.rasterize_mode == "antialiased"

        @torch.no_grad()
        def shares(views: Views) -> Tensor:
            assert views.times is not None
            return visible_shares(self._rasterizer, scene().gaussians_at(views.times[0]), views, antialiased)

        return shares

    def get_outputs(self, camera: Cameras | RayBundle | Views) -> dict[str, Any]:  # type: ignore[override]
        if not isinstance(camera, Views):
            return super().get_outputs(camera)
        assert camera.times is not None
        views, time = camera, camera.times[0]
        if self.training:
            self.forget_scenes()
            views = downscale_views(views, self.curriculum.downscale(views))
            gaussians, poses = self._training_gaussians(self.latent(), time)
        else:
            scene = self._as_trained()
            gaussians, poses = scene.gaussians_at(time), scene.poses_at(time)
        background = self.background(views.alphas is not None)
        mode = "RGB" if views.depths is None else "RGB+ED"
        rendering = self.rasterize(gaussians, views, background, mode)
        if self.training:
            step, info = self.curriculum.step, rendering.info
            self.densification.before_backward(self.field, step, info, views.masks)
        return {"rendering": rendering, "views": views, "background": background, "poses": poses}

    def _training_gaussians(self, latent: SceneLatent, time: Tensor) -> tuple[Gaussians, Pose]:
        poses, rigged = latent.poses, self.field(latent)
        if self.config.motion == "ode":
            poses = self._dynamics.poses(latent, self.fitter.path(self.flow, latent.motion), time)
        if self._deform is not None:
            rigged = replace(rigged, rest=self._deform(rigged.rest, time))
        return pose(rigged, poses, latent.light), poses

    def get_loss_dict(self, outputs, batch=None, metrics_dict=None) -> dict[str, Tensor]:  # type: ignore[override]
        config = self.config
        found = image_losses(
            outputs["rendering"], outputs["views"], outputs["background"], config.ssim_lambda
        )
        losses = {"photometric": found["photometric"]}
        if "depth" in found:
            losses["depth"] = config.depth_weight * found["depth"]
        if config.motion == "ode":
            bind_poses = self.field.bind_quats, self.field.bind_translations
            others = {"attraction": self.fitter.attraction_loss(self.flow)}
            if self._has_few_times():
                others["roughness"] = self.fitter.roughness()
            losses |= self.motion_losses(outputs["poses"], bind_poses, self.bounds, **others)
        if config.strategy == "mcmc":
            # Gently while motion is being found: what moves in a way not found yet looks unneeded.
            share = 1.0 if self.curriculum.opening >= 1 else 0.1
            opacities, scales = self.field.params["opacities"].sigmoid(), self.field.params["scales"].exp()
            losses["opacity"] = share * config.opacity_weight * opacities.mean()
            losses["scale"] = share * config.scale_weight * scales.mean()
        return losses

    def get_metrics_dict(self, outputs, batch=None) -> dict[str, Tensor]:  # type: ignore[override]
        rendering, views = outputs["rendering"], outputs["views"]
        mse = squared_error(rendering, views, outputs["background"])
        psnr, count = -10 * mse.clamp_min(1e-10).log10(), torch.tensor(len(self.field))
        metrics = {"psnr": psnr, "gaussian_count": count}
        if self.training:
            drawn = rendering.alpha.detach()
            metrics["missing"] = self.coverage.update(drawn, views.alphas, views.masks)
        motion = self.latent().motion
        if motion.kind == "cyclic":
            metrics["period"] = motion.period.detach()
        return metrics
