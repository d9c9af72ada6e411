"""One dynamic scene: Z → f_θ → R → Φ_t, pose → Gaussians → π, as a nerfstudio Model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor
from torch.nn import Parameter

from nest_nerfstudio.cameras import downscale_views
from nest_nerfstudio.dynamics.recurrence import ImageErrors
from nest_nerfstudio.fields.rig import pose
from nest_nerfstudio.geometry.se3 import Pose
from nest_nerfstudio.losses.images import image_losses, squared_error
from nest_nerfstudio.losses.photometric import SSIM_WINDOW, photometric_loss
from nest_nerfstudio.models.dynamic_scene import DynamicScene
from nest_nerfstudio.models.nest_dynamic_config import NestDynamicModelConfig
from nest_nerfstudio.rasterizers.base import RenderMode
from nest_nerfstudio.rasterizers.visibility import visible_shares
from nest_nerfstudio.training.camera_refinement import describe_moves, without_drift
from nest_nerfstudio.training.exposure import distance_from_identity
from nest_nerfstudio.training.image_errors import image_errors
from nest_nerfstudio.training.moving_parts import place_parts
from nest_nerfstudio.training.still_background import new_gaussians, shifts_of
from nest_nerfstudio.types import Gaussians, Rendering, SceneLatent, Views

__all__ = ["NestDynamicModel", "NestDynamicModelConfig"]  # by which config.yml of earlier runs names them

_RESTARTS = 3
"""How often a training that draws nothing starts again."""


class NestDynamicModel(DynamicScene):
    """Gaussians at rest that follow posed tokens, whose poses follow an ODE on a small latent state.

    In training it is called with `Views` of one camera, with an image.
    """

    def warm_up(self) -> None:
        """Draw a tiny image, its loss and gradients, so that kernels are compiled before the first frame."""
        eye = torch.eye(4, device=self.device)
        views = Views(viewmats=eye[None], Ks=eye[None, :3, :3], width=SSIM_WINDOW, height=SSIM_WINDOW)
        with torch.enable_grad():
            gaussians = self._training_gaussians(self.latent(), eye.new_tensor(0.5))[0]
            image = self.rasterize(gaussians, views, self.image_background).rgb[0]
            photometric_loss(image, torch.full_like(image, 0.5)).backward()
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
        if self.config.motion != "ode" or self.curriculum.stands_still:
            return
        errors = partial(self._image_errors, images) if self._has_few_times() else None
        arm = self.field.token_log_radii.detach().median().exp().item()  # of Gaussians from their tokens
        stage, take_back = self.curriculum, self._forget_motion
        rest = self._moving_at_rest()
        fit = self.handing_over.step(self.fitter, self.flow, stage, arm, errors, take_back, rest)
        if fit is not None:
            self.latent.set_motion(fit.motion, fit.learn_period)

    def _moving_at_rest(self) -> Pose:
        """Poses at rest, as they were bound, of the tokens that may move."""
        count = self.field.num_moving()
        return self.field.bind_quats[:count], self.field.bind_translations[:count]

    @torch.no_grad()
    def find_motion(self, step: int, progress: float, images: Iterable[Views]) -> None:
        """See now and then what moves while what stands still is fitted; then let it join the scene.

        Args:
            step: of the training.
            progress: fraction of the training.
            images: training views over all of the clip; read only if it is time.
        """
        stage, gates, config = self.curriculum, self.field.gates(), self.config
        if gates is None:
            return
        is_done, opening = stage.is_still_done(step, progress), stage.opening.item()
        is_resumed = not (stage.stands_still or self.still_background.masks)
        if not (is_done or is_resumed or self.still_background.is_due(opening)):
            return
        background = self.shown_background(bool(self.has_alpha))
        still = self._as_trained().gaussians_at(0.0).select(gates == 0)
        images = (replace(views, images=views.over(background), alphas=None) for views in images)

        def draw(gaussians: Gaussians, views: Views, mode: RenderMode) -> Rendering:
            return self.rasterize(gaussians, views, background, mode)

        if not (is_done or is_resumed):
            return self.still_background.look(images, still, draw, opening)
        frames = self.still_background.look_closely(images, still, draw)
        if is_resumed:
            return
        count = max(2 * config.num_tokens, (config.num_random or 0) // 3)
        times = config.curriculum.canonical_time, len(self.fitter.seen_twists)
        parts = place_parts(frames, *times, count)
        stage.move(step, progress)
        CONSOLE.log(self.still_background.describe(parts))
        if not parts:
            return
        self.densification.add(self.field, new_gaussians(self.field, parts, 0.5))
        self.place_tokens()
        shifts = shifts_of(self.latent().translations, parts)
        self.fitter.free.follow(torch.cat([shifts, torch.zeros_like(shifts)], -1))
        self.forget_scenes()

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
        groups = {name: [value] for name, value in self.field.params.items()}
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
        self.camera_optimizer.get_param_groups(groups)
        if self.exposure is not None:
            groups["exposure"] = list(self.exposure.parameters())
        return groups

    @torch.no_grad()
    def keep_world(self, centres: Float[Tensor, "v 3"], progress: float) -> None:
        """Take the drift of the world out of refined cameras and exposures; after each quarter the log says
        how far they are from those of the data.

        Args:
            centres: of the training cameras, before refinement.
            progress: fraction of the training that is about to begin.
        """
        is_next_quarter = int(4 * progress) > int(4 * self.curriculum.progress.item())
        if self.config.camera_optimizer.mode != "off":
            adjustments = self.camera_optimizer.pose_adjustment
            adjustments.copy_(without_drift(adjustments, centres))
            if is_next_quarter:
                CONSOLE.log(describe_moves(adjustments))
        if self.exposure is not None:
            self.exposure.without_drift()
            if is_next_quarter:
                CONSOLE.log(self.exposure.describe())

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
            gaussians, poses = self._training_gaussians(self.latent(), time, views)
        else:
            scene = self._as_trained()
            gaussians, poses = scene.gaussians_at(time), scene.poses_at(time)
        background = self.background(views.alphas is not None)
        mode = "RGB" if views.depths is None else "RGB+ED"
        rendering = self.rasterize(gaussians, views, background, mode)
        if self.training and self.curriculum.stands_still:
            trusted = self.still_background.trusted(rendering, views, background)
            views = replace(views, masks=trusted if views.masks is None else views.masks * trusted)
        if self.training:
            step, info = self.curriculum.step, rendering.info
            self.densification.before_backward(self.field, step, info, views.masks)
        return {"rendering": rendering, "views": views, "background": background, "poses": poses}

    def _training_gaussians(
        self, latent: SceneLatent, time: Tensor, views: Views | None = None
    ) -> tuple[Gaussians, Pose]:
        if views is not None and self.curriculum.stands_still:  # so that no gate learns
            return self.field.rest(), latent.poses
        poses, rigged = latent.poses, self.field(latent)
        gates = self.field.gates()
        if views is not None and gates is not None:
            rigged = replace(rigged, rest=self.still_background.hide(rigged.rest, gates.detach(), views))
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
        if config.motion == "ode" and not self.curriculum.stands_still:
            rest, count = self._moving_at_rest(), self.field.num_moving()
            poses = outputs["poses"][0][:count], outputs["poses"][1][:count]
            others = {"attraction": self.fitter.attraction_loss(self.flow)}
            if self._has_few_times():
                others["roughness"] = self.fitter.roughness()
            losses |= self.motion_losses(poses, rest, self.bounds, **others)
            gates = self.field.gates()
            if gates is not None:
                losses["gates"] = config.gate_weight * gates.mean()
        if config.strategy == "mcmc":
            # Gently while motion is being found: what moves in a way not found yet looks unneeded.
            share = 1.0 if self.curriculum.opening >= 1 else 0.1
            opacities, scales = self.field.params["opacities"].sigmoid(), self.field.params["scales"].exp()
            losses["opacity"] = share * config.opacity_weight * opacities.mean()
            losses["scale"] = share * config.scale_weight * scales.mean()
        self.camera_optimizer.get_loss_dict(losses)
        exposures = outputs["views"].exposures
        if exposures is not None:
            losses["exposure"] = config.exposure_weight * distance_from_identity(exposures)
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
