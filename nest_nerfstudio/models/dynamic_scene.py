"""One dynamic scene: what it is made of, how it is shown, and how it starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from nerfstudio.cameras.camera_optimizers import CameraOptimizer
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from nest_nerfstudio.dynamics.base import Dynamics
from nest_nerfstudio.dynamics.deformation_mlp import DeformationMLP
from nest_nerfstudio.fields.bound_gaussians import COLOR_DIM, BoundGaussians
from nest_nerfstudio.losses.motion import MotionLosses
from nest_nerfstudio.models.decoded_scene import DecodedScene
from nest_nerfstudio.models.gaussian_model import GaussianModel
from nest_nerfstudio.models.latent_parameters import LatentParameters, still_latent
from nest_nerfstudio.models.nest_dynamic_config import NestDynamicModelConfig
from nest_nerfstudio.training.coverage import Coverage
from nest_nerfstudio.training.curriculum import Curriculum
from nest_nerfstudio.training.densification import Densification
from nest_nerfstudio.training.exposure import Exposure
from nest_nerfstudio.training.hand_over import HandOver
from nest_nerfstudio.training.initialization import (
    bounds_of,
    most_gaussians,
    starting_points,
    token_positions,
)
from nest_nerfstudio.training.still_background import StillBackground
from nest_nerfstudio.types import Gaussians, Points, Views
from nest_nerfstudio.viewer.controls import DynamicViewerControls


class DynamicScene(GaussianModel):
    """Gaussians at rest that follow posed tokens, with what their training keeps."""

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
        self.densification = Densification(config.densification, config.strategy, config.max_gs_num or 0)
        self.curriculum = Curriculum(config.curriculum)
        self.coverage, self.handing_over = Coverage(), HandOver()
        self.still_background = StillBackground(config.curriculum.canonical_time)
        self.camera_optimizer: CameraOptimizer = config.camera_optimizer.setup(
            num_cameras=self.num_train_data, device="cpu"
        )
        self.exposure = Exposure(self.num_train_data) if config.exposure else None
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
        stands_still: bool = False,
    ) -> None:
        """Set the Gaussians and tokens at the start.

        Args:
            views: training views from around the canonical time, with images; alphas only serve the start.
            seed_points: points of the data, if it has any.
            cameras: all training views, with masks but without images; None: `views` are all.
            num_times: how many different times they have.
            stands_still: all stands still but what will be found to move.
        """
        config = self.config
        assert config.num_random is not None
        cameras = views if cameras is None else cameras
        if config.max_gs_num is None:
            pixels = cameras[0].width * cameras[0].height if len(cameras) else 0
            self.densification.max_gs_num = most_gaussians(views, pixels, self.device.type)
            CONSOLE.log(f"At most {self.densification.max_gs_num} Gaussians (--pipeline.model.max-gs-num).")
        box = self.scene_box.aabb.to(self.device)
        points, hull_is_empty = starting_points(
            views, box, seed_points, config.num_random, config.num_tokens, config.hull_tolerance
        )
        self.bounds.copy_(bounds_of(box, points.positions))
        self.coverage.start(points.positions, cameras, hull_is_empty)
        self.field.initialize(points.positions, points.rgb, opacity=0.5 if config.strategy == "mcmc" else 0.1)
        if stands_still:
            self.field.stand_still()
            self.latent.add_world()
            self.curriculum.stand_still()
        self.num_times.fill_(num_times)
        silhouettes = any(view.alphas is not None for view in views)
        self.densification.start(self.field, cameras, silhouettes)
        self.place_tokens()

    @torch.no_grad()
    def start_from(self, decoded: DecodedScene, gaussians: Gaussians | None) -> None:
        """Start tokens and motion from a scene of a prior; after `initialize`.

        Tokens stand where they stand in the scene, twice where it has fewer than this one. The ODE leads the
        motion from the first step on.

        Args:
            decoded: the scene, whose flow has the sizes of this one's.
            gaussians: its Gaussians at rest, to start from; None keeps those that are there.
        """
        if gaussians is not None:
            self.field.take(gaussians)
            self.densification.max_log_scale.clamp_(min=float(gaussians.log_scales.quantile(0.99)))
        found = decoded.latent
        rows = torch.arange(self.config.num_tokens, device=self.device) % len(found)
        self.latent.set_poses(found.quats[rows], found.translations[rows])
        self.latent.set_motion(found.select(rows).motion)
        self.flow.load_state_dict(decoded.dynamics.state_dict())
        self.fitter.rolls_out.fill_(True)
        self.fitter.free.start_codes(found.translations[rows])
        self.field.bind(self.latent().poses)
        self.forget_scenes()

    def has_still_background(self, is_object: bool) -> bool:
        """Whether all stands still but what will be found to move.

        Args:
            is_object: images show an object before an empty background: they have alpha, or a plain backdrop.
        """
        if self.config.motion != "ode" or self.config.background == "none":
            return False
        return self.config.background == "still" or not is_object

    @torch.no_grad()
    def place_tokens(self) -> None:
        """Spread the tokens over the Gaussians that can be seen and move, and bind the Gaussians to them; the
        world token stands at a corner, where no selection of moving ones meets it."""
        gaussians, gates = self.field.rest(), self.field.gates()
        if gates is None:
            positions = token_positions(gaussians, self.config.num_tokens)
        else:
            moving = gaussians if (gates == 0).all() else gaussians.select(gates > 0)
            positions = token_positions(moving, self.config.num_tokens - 1)
            positions = torch.cat([positions, self.bounds[:1]])
        self.latent.set_poses(self.latent.base_quats, positions)
        if self.config.motion == "ode":
            self.fitter.free.start_codes(positions)
        self.field.bind(self.latent().poses)
        self.forget_scenes()
