"""One scene of a prior: a latent fitted to images, under a field that stays, as a nerfstudio Model."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import torch
import tyro
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor
from torch.nn import Parameter

from nest_nerfstudio.cameras import downscale_views
from nest_nerfstudio.dynamics.motion_map import MotionMap, MotionMapConfig, SharedMap
from nest_nerfstudio.edits.mixing import SharedMotion
from nest_nerfstudio.encoders.latent_encoder import LatentEncoderConfig
from nest_nerfstudio.fields.bound_gaussians import (
    MATERIAL_PARAMETERS,
    BoundGaussians,
    baked,
    without_codes,
)
from nest_nerfstudio.fields.latent_gaussians import LatentGaussianField, LatentGaussianFieldConfig
from nest_nerfstudio.geometry.albedo_cube import NUM_CORNERS
from nest_nerfstudio.geometry.sh import MAX_DEGREE
from nest_nerfstudio.models.camera_search import azimuth_and_distance
from nest_nerfstudio.models.decoded_scene import DecodedScene
from nest_nerfstudio.models.gaussian_model import GaussianModel, GaussianModelConfig
from nest_nerfstudio.models.inversion import InversionConfig, Prior, find_start, latent_prior_for
from nest_nerfstudio.models.latent_optimization import LEARNED, CameraPose
from nest_nerfstudio.models.latent_parameters import LatentParameters, detached, still_latent
from nest_nerfstudio.models.latent_prior import Features
from nest_nerfstudio.models.nest_prior import NestPriorModelConfig
from nest_nerfstudio.types import SceneLatent, Views
from nest_nerfstudio.viewer.controls import DynamicViewerControls


@dataclass
class NestInvertModelConfig(InversionConfig, GaussianModelConfig):
    """Settings of `NestInvertModel`."""

    _target: type = field(default_factory=lambda: NestInvertModel)
    prior: Path | None = None
    """config.yml of a run of nest-prior, whose scenes are like this one. Needed to start and to resume; a
    finished run holds what it needs of it."""
    refine: bool = False
    """After the inversion, bake the scene into Gaussians of its own and fit these to the images too; what the
    images do not show stays as it was decoded. They keep material and light, and lose the codes of the prior.
    """
    refine_from: float = 0.5
    """Fraction of the training after which a scene is refined; before, its latent is fitted."""
    decoded_weight: float = 0.2
    """Weight of the squared distance of refined Gaussians from the decoded ones, beside the photometric error
    of one view; divided by the square of the number of views, as `latent_prior_weight` is."""
    image_size: int = 400
    """Images whose longer side has twice as many pixels or more are made smaller by a whole number."""
    sh_degree: ClassVar[int] = MAX_DEGREE
    """Degree of the colours that a light gives."""
    encoder: tyro.conf.Suppress[LatentEncoderConfig | None] = None
    """That of the prior."""
    decoder: tyro.conf.Suppress[LatentGaussianFieldConfig | None] = None
    """That of the prior."""
    motion_map: tyro.conf.Suppress[MotionMapConfig | None] = None
    """That of the prior, if it has learned how scenes move."""

    def take(self, prior: NestPriorModelConfig) -> None:
        """Take over the settings of a prior by which its latents are decoded, moved and drawn."""
        self.encoder, self.decoder, self.flow = prior.encoder, prior.decoder, prior.flow
        self.motion_map = prior.motion.map if prior.dynamics else None
        self.rasterize_mode = prior.rasterize_mode


class NestInvertModel(GaussianModel):
    """A latent under the field of a prior. In training it is called with `Views` of one camera.

    Field, flow and motion map are copies of the prior's, so that a checkpoint needs no other run; they are
    never trained. The scene stands still; edits can give it a motion that the prior knows.
    """

    config: NestInvertModelConfig
    is_refined: Tensor
    viewer_controls: DynamicViewerControls

    def populate_modules(self) -> None:
        super().populate_modules()
        config = self.config
        if config.encoder is None or config.decoder is None:
            raise ValueError("nest-invert needs a prior: --pipeline.model.prior RUN/config.yml of nest-prior")
        self.decoder = config.decoder.setup(geometry_dim=config.encoder.geometry_dim).requires_grad_(False)
        self.register_buffer("is_refined", torch.tensor(False))
        if config.refine:
            self.bound = BoundGaussians(0, 1, config.decoder.residual_degree, has_material=True)
            self.bound.token_log_radii.requires_grad_(False)
        self.flow = config.flow.setup().requires_grad_(False)
        self.motion_map: MotionMap | None = None
        if config.motion_map is not None:
            self.motion_map = config.motion_map.setup(
                geometry_dim=config.encoder.geometry_dim,
                code_dim=config.flow.scene_code_dim,
                state_dim=config.flow.state_dim,
                knows_gravity=config.encoder.group == "azimuth",
            ).requires_grad_(False)
        self.latent_prior = latent_prior_for(config.encoder)
        empty = still_latent(1, 3 * NUM_CORNERS, 0, geometry_dim=config.encoder.geometry_dim)
        self.latent = LatentParameters.from_latent(empty, LEARNED, albedo=True)
        self.encoded = LatentParameters.from_latent(empty, ())
        self._around: Features | None = None
        self._decoded: dict[str, Tensor] | None = None
        if config.unknown_camera:
            self.camera = CameraPose(torch.eye(4))
        self._shown: DecodedScene | None = None
        self.viewer_controls = DynamicViewerControls(
            lambda time: self.scene().poses_at(time)[1], config.playback_seconds, config.render_motion
        )

    # ---------------------------------------------------------------- start

    def start(self, views: Views, prior: Prior) -> None:
        """Take over the field of a prior, and the latent that the inversion starts from.

        Args:
            views: images, as for `inversion.invert`.
            prior: its model has the settings that this one was built with.
        """
        self.decoder.load_state_dict(prior.model.field.state_dict())
        self.flow.load_state_dict(prior.model.flow.state_dict())
        if self.motion_map is not None and prior.model.motion_prior is not None:
            self.motion_map.load_state_dict(prior.model.motion_prior.map.state_dict())
        if prior.distribution is not None:
            self.latent_prior.load_state_dict(prior.distribution.state_dict())
        start = find_start(views, prior, self.config)
        learned = LatentParameters.from_latent(start.latent, LEARNED, albedo=True).state_dict()
        encoded = LatentParameters.from_latent(start.encoded, ()).state_dict()
        started = {f"latent.{k}": v for k, v in learned.items()} | {
            f"encoded.{k}": v for k, v in encoded.items()
        }
        self.load_state_dict(started, strict=False)
        if self.config.unknown_camera:
            self.camera.viewmat.copy_(start.views.viewmats[0])
            azimuth, distance = azimuth_and_distance(start.views)
            height = float(torch.linalg.inv(start.views.viewmats[0])[2, 3])
            CONSOLE.log(
                f"Camera: {distance:.2f} from the origin, {height:.2f} above it, azimuth {azimuth:.0f}°."
            )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Take over as many tokens as the checkpoint holds, in the parameters that optimizers hold."""
        for name, held in chain(self.named_parameters(), self.named_buffers()):
            stored = state_dict.get(f"{prefix}{name}") if name.startswith(("latent.", "encoded.")) else None
            if stored is not None and stored.shape != held.shape:
                held.data = held.data.new_empty(stored.shape, dtype=held.dtype)
        self._around = self._decoded = None
        super()._load_from_state_dict(state_dict, prefix, *args)

    # ---------------------------------------------------------------- the scene

    @property
    def field(self) -> LatentGaussianField | BoundGaussians:  # type: ignore[override]
        """Decodes the scene: that of the prior, or its own Gaussians after it was baked."""
        return self.bound if self.is_refined else self.decoder

    @property
    def shared_motion(self) -> SharedMotion | None:
        """What the prior knows of motion, while the tokens have their codes."""
        return None if self.motion_map is None or self.is_refined else SharedMap(self.motion_map, self.flow)

    def latent_named(self, scene: str | None) -> SceneLatent:
        latent = super().latent_named(scene)
        return without_codes(detached(latent)) if self.is_refined else latent

    def scene(self) -> DecodedScene:
        """The scene under the model's edit; decoded anew after training or another edit."""
        shown = self._shown  # once: the viewer asks from several threads
        if shown is None:
            with torch.no_grad():
                shown = self._shown = self.decode(self.latent_named(None), self.flow)
        return shown

    def shown_scene(self, camera: Cameras | None = None) -> DecodedScene:
        return self.scene()

    def forget_scenes(self, keep_latents: bool = False) -> None:
        self._shown = None

    # ---------------------------------------------------------------- training

    def set_progress(self, progress: float) -> None:
        """Go over to refinement when it is time; called before every training step."""
        if self.config.refine and progress >= self.config.refine_from and not self.is_refined:
            latent = detached(self.latent())
            self.bound.bake(self.decoder(latent), latent.poses)
            self.is_refined.fill_(True)
            self.forget_scenes()
            CONSOLE.log(
                f"The scene is baked into {len(self.bound)} Gaussians, which are refined from now on."
            )

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        groups = {name: [parameter] for name, parameter in self.latent.named_parameters()}
        if self.config.refine:
            groups |= {name: [self.bound.params[name]] for name in MATERIAL_PARAMETERS}
        return groups | ({"camera": [self.camera.twist]} if self.config.unknown_camera else {})

    def get_outputs(self, camera: Cameras | RayBundle | Views) -> dict[str, Any]:  # type: ignore[override]
        if not isinstance(camera, Views):
            return super().get_outputs(camera)
        views, latent = camera, self.latent_named(None)
        if self.training:
            self.forget_scenes()
            views = downscale_views(views, max(1, max(views.width, views.height) // self.config.image_size))
            views = self.camera(views) if self.config.unknown_camera else views
        losses, mse = self.view_losses(latent, views, self.background(views.alphas is not None))
        return {"photometric": losses["photometric"], "mse": mse, "latent": latent}

    def get_loss_dict(self, outputs, batch=None, metrics_dict=None) -> dict[str, Tensor]:  # type: ignore[override]
        losses, config, num_views = {"photometric": outputs["photometric"]}, self.config, self.num_train_data
        if self.is_refined:
            change = self.bound.deviation(self._decoded_parameters())
            return losses | {"decoded": config.decoded_weight / num_views**2 * change}
        if (weight := config.prior_weight(num_views)) > 0:
            losses["latent_prior"] = weight * self.latent_prior(outputs["latent"], self._features_of_start())
        return losses

    def _features_of_start(self) -> Features | None:
        """What the prior over latents is centred on."""
        if self.config.init == "hybrid" and self._around is None:
            with torch.no_grad():
                self._around = self.latent_prior.features(self.encoded())
        return self._around

    def _decoded_parameters(self) -> dict[str, Tensor]:
        """Of the Gaussians, before any refinement."""
        if self._decoded is None:
            with torch.no_grad():
                latent = self.latent()
                self._decoded = baked(self.decoder(latent), latent.poses)
        return self._decoded

    def get_metrics_dict(self, outputs, batch=None) -> dict[str, Tensor]:  # type: ignore[override]
        return {"psnr": -10 * outputs["mse"].clamp_min(1e-10).log10()}
