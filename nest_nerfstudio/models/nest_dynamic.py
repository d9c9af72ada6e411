"""One dynamic scene: Z → Φ_t → f_θ → π, as a nerfstudio Model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import torch
from jaxtyping import Int
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor
from torch.nn import Parameter

from nest_nerfstudio.cameras import cameras_to_views, downscale_views
from nest_nerfstudio.dynamics.base import StaticDynamics
from nest_nerfstudio.dynamics.cycle import PictureErrors
from nest_nerfstudio.dynamics.latent_ode import LatentODE, LatentODEConfig
from nest_nerfstudio.dynamics.motions import Motion, play
from nest_nerfstudio.fields.bound_gaussians import PARAMETERS, BoundGaussians
from nest_nerfstudio.fields.deformation_mlp import DeformedGaussians
from nest_nerfstudio.fields.visual_hull import mean_colors, sample_visual_hull
from nest_nerfstudio.geometry.points import farthest_points
from nest_nerfstudio.geometry.se3 import se3_compose, se3_inverse
from nest_nerfstudio.geometry.sh import rgb_to_sh
from nest_nerfstudio.losses.motion import as_rigid_as_possible_loss, nearest_tokens, smoothness_loss
from nest_nerfstudio.losses.photometric import depth_loss, photometric_loss
from nest_nerfstudio.models.gaussian_model import (
    GaussianModel,
    GaussianModelConfig,
    composite,
    over_background,
)
from nest_nerfstudio.models.trainable_latent import TrainableLatent
from nest_nerfstudio.rasterizers.visibility import visible_shares
from nest_nerfstudio.training.strategy import create_strategy
from nest_nerfstudio.types import Gaussians, SceneLatent, Views
from nest_nerfstudio.viewer.controls import DynamicViewerControls


@dataclass
class NestDynamicModelConfig(GaussianModelConfig):
    """Settings of `NestDynamicModel`. Fractions are of the whole training, by steps or by time."""

    _target: type = field(default_factory=lambda: NestDynamicModel)
    motion: Literal["ode", "mlp", "static"] = "ode"
    """What moves the scene: tokens on a latent ODE; to compare with, a time-conditioned MLP, or nothing."""
    dynamics: LatentODEConfig = field(default_factory=LatentODEConfig)
    """The latent ODE."""
    num_tokens: int = 512
    """K, tokens that carry the motion."""
    tokens_per_gaussian: int = 4
    """Nearest tokens that a Gaussian follows."""
    num_gaussians: int = 8000
    """Gaussians at the start."""
    max_gaussians: int = 20_000
    """Gaussians at most ("mcmc"); "default" grows by gradients instead."""
    strategy: Literal["mcmc", "default"] = "mcmc"
    """gsplat's strategy that adds, moves and removes Gaussians."""
    refine_until: float = 0.75
    """Fraction after which Gaussians are no longer added or removed."""
    sh_degree: int = 1
    """Highest degree of the view-dependent colour; reached in steps over the first third."""
    background: Literal["auto", "random", "white", "black"] = "auto"
    """Behind the scene. auto: where images have alpha, random in training and white otherwise; else black,
    or the colour that the data parser put behind its images."""
    canonical_time: float = 0.5
    """Clip time whose shape the Gaussians start from."""
    hull_tolerance: float = 0.2
    """Share of the first views that may find a point of the visual hull empty; keeps thin parts that move."""
    first_window: float = 0.1
    """Span of clip time that training starts from."""
    widen_until: float = 0.3
    """Fraction at which all times are in use, …"""
    widen_steps: int = 1000
    """… or this many steps, if they are over sooner: with time to settle on a part of the clip, Gaussians
    forget what moves elsewhere."""
    settled_change: float = 0.2
    """The ODE takes over from the free path once that has converged: when the motion changes by less than
    this share of itself in a fortieth of the training, …"""
    commit_at: float = 0.7
    """… and at this fraction in any case."""
    num_downscales: int = 2
    """Training starts on pictures halved this often, so that motion is found coarse to fine; they double once
    all times are in use, and again after as long."""
    ssim_weight: float = 0.2
    """Share of D-SSIM in the photometric loss."""
    depth_weight: float = 0.1
    """Weight of the depth loss, where the data has depth."""
    rigidity_weight: float = 0.001
    """Weight of the as-rigid-as-possible term on tokens."""
    smoothness_weight: float = 0.0001
    """Weight of the token rotation smoothness."""
    roughness_weight: float = 0.001
    """Weight of the free path's roughness, where there are fewer than two training times for each node of
    it: pictures do not tell what is between them, nor does a single one hold all that moves in place."""
    attraction_weight: float = 0.05
    """Weight of the ODE's attraction to its path, where it is a free field; in steps that solve it."""
    opacity_weight: float = 0.01
    """Weight of the mean opacity; empties Gaussians that nothing needs, for "mcmc" to use again."""
    scale_weight: float = 0.03
    """Weight of the mean scale, likewise."""
    max_scale: float = 1.0
    """Largest standard deviation of a Gaussian at rest where images have alpha, over the median of those at
    the start (the spacing of the points there); 0: any. Large ones reach into what no training view shows
    empty."""
    min_views: int = 3
    """Gaussians are emptied that fewer training cameras see than this, or than a quarter of all cameras where
    that is less (0: none are; images from one pose are one camera's). Those close to a camera or two draw
    what these see and stand in the way of all others, …"""
    min_visibility: float = 0.25
    """… and those behind a surface darken what shines through it; other cameras see both. A camera sees a
    Gaussian if at least this share of its light arrives."""
    playback_seconds: float = 3.0
    """Clip length at 24 frames a second, for renders whose cameras have no time (spiral, interpolate)."""
    render_motion: bool = True
    """Also output the magnitude of motion when rendering."""


class NestDynamicModel(GaussianModel):
    """Canonical Gaussians that follow posed tokens, whose poses follow an ODE on a small latent state.

    Outputs: besides those of every `GaussianModel`, "motion": speed in world units per clip. A camera's
    `times` may lie outside [0, 1]; one that has none shows the next frame of the playing clip.
    """

    config: NestDynamicModelConfig
    viewer_controls: DynamicViewerControls
    progress: Tensor
    opening: Tensor
    backdrop: Tensor
    missing: Tensor

    def populate_modules(self) -> None:
        super().populate_modules()
        config = self.config
        field_class = DeformedGaussians if config.motion == "mlp" else BoundGaussians
        self.latent = TrainableLatent(
            config.num_tokens, config.dynamics.state_dim, config.dynamics.token_code_dim
        )
        self.dynamics = LatentODE(config.dynamics) if config.motion == "ode" else StaticDynamics()
        self.field = field_class(
            config.num_gaussians, config.num_tokens, config.sh_degree, config.tokens_per_gaussian
        )
        self.register_buffer("progress", torch.zeros((), dtype=torch.float64))
        self.register_buffer("opening", torch.zeros((), dtype=torch.float64))
        self.register_buffer("backdrop", torch.ones(3) if config.background == "white" else torch.zeros(3))
        self.register_buffer("missing", torch.zeros(()), persistent=False)
        self.training_views: Callable[[int], list[Views]] | None = None
        """So many training views at most, with pictures, to look for cycles in; None: tracks have to tell."""
        self.shown_motion: Motion | None = None  # in place of what was learned; see dynamics/motions.py
        self._step = 0
        self._info: dict[str, Any] = {}
        self._untimed_frames = 0
        self._look_at = 0.0
        self._graph: tuple[int, Tensor, float] | None = None
        self._has_alpha = False
        self._supervises_depth = False
        self._num_times = 1
        self._cameras: list[list[Views]] = []
        self._next_look = 0
        self._max_log_scale = math.inf
        self.viewer_controls = DynamicViewerControls(
            self.latent_at, config.playback_seconds, config.render_motion
        )

    # ---------------------------------------------------------------- Z → Gaussians

    def latent_at(self, time: float | Tensor) -> SceneLatent:
        """The scene's latent with its tokens posed at a clip time; by `shown_motion`, if there is one."""
        motion = self.shown_motion or play(self.latent(), self.dynamics)
        return motion(self._as_time(time))

    def gaussians_at(self, time: float | Tensor) -> Gaussians:
        """The scene as Gaussians, world frame, at a clip time; outside [0, 1] it is extrapolated."""
        return self.field(self.latent_at(time))

    def _as_time(self, time: float | Tensor) -> Tensor:
        return torch.as_tensor(time, dtype=torch.float32, device=self.device).reshape(())

    # ---------------------------------------------------------------- start

    def describe_images(
        self, has_alpha: bool, has_depth: bool, backdrop: Tensor | None, num_times: int
    ) -> None:
        """Say what the training images hold, at how many times, and the colour that the parser put behind."""
        self._has_alpha, self._supervises_depth, self._num_times = has_alpha, has_depth, num_times
        if self.config.background == "auto":
            color = backdrop if backdrop is not None else torch.full((3,), float(has_alpha))
            self.backdrop.copy_(color)

    @torch.no_grad()
    def initialize(
        self,
        views: list[Views],
        seed_points: tuple[Tensor, Tensor] | None = None,
        cameras: list[Views] | None = None,
    ) -> None:
        """Place Gaussians and tokens on seed points; else in the visual hull; else anywhere in the box.

        Args:
            views: training views from around the canonical time.
            seed_points: positions [P, 3] in world units, and colours [P, 3] in 0…255, if the data has them.
            cameras: all training views, whose pictures are not asked for; None: `views` are all.
        """
        count, box = self.config.num_gaussians, self.scene_box.aabb.to(self.device)
        points = rgb = None
        if seed_points is not None and len(seed_points[0]) >= self.config.num_tokens:
            chosen = torch.randperm(len(seed_points[0]))[:count]
            points = seed_points[0][chosen].to(self.device).float()
            rgb = seed_points[1][chosen].to(self.device).float() / 255
            CONSOLE.log(f"Starting from {len(points)} seed points.")
        elif views and all(view.alphas is not None for view in views):
            points = sample_visual_hull(views, box, count, tolerance=self.config.hull_tolerance)
            if len(points) < self.config.num_tokens:
                CONSOLE.log("[yellow]The visual hull is empty; starting anywhere in the scene box.")
                points = None
            else:
                CONSOLE.log(f"Starting from {len(points)} points in the visual hull.")
        if points is None:
            points = torch.rand(count, 3, device=self.device) * (box[1] - box[0]) + box[0]
        if rgb is None:
            rgb = mean_colors(views, points) if views else torch.full_like(points, 0.5)
        self.field.initialize(points, rgb, opacity=0.5 if self.config.strategy == "mcmc" else 0.1)
        by_pose: dict[tuple, list[Views]] = {}
        for view in views if cameras is None else cameras:
            by_pose.setdefault(tuple(view.viewmats.flatten().tolist()), []).append(view)
        self._cameras = list(by_pose.values())
        if self._has_alpha and self.config.max_scale:
            spacing = self.field.params["scales"].median().exp()
            self._max_log_scale = math.log(self.config.max_scale * spacing.item())
        self.place_tokens()

    @torch.no_grad()
    def place_tokens(self) -> None:
        """Spread the tokens over the Gaussians that can be seen, and bind the Gaussians to them."""
        gaussians = self.field.canonical()
        solid = gaussians.means[gaussians.opacities > 0.3]
        points = solid if len(solid) >= self.config.num_tokens else gaussians.means
        positions = points[farthest_points(points, self.config.num_tokens)]
        self.latent.place_tokens(positions)
        self.field.bind((self.latent.quats, self.latent.translations))

    def warm_up(self) -> None:
        """Draw a tiny picture and take its gradients, so that kernels are there before the first frame."""
        eye = torch.eye(4, device=self.device)
        views = Views(viewmats=eye[None], Ks=eye[None, :3, :3], width=8, height=8)
        with torch.enable_grad():
            gaussians = self.gaussians_at(self.config.canonical_time)
            self._rasterize(gaussians, views, self.backdrop, "RGB").rgb.sum().backward()
        self.zero_grad(set_to_none=True)

    # ---------------------------------------------------------------- training

    def set_progress(self, step: int, progress: float) -> None:
        """Move the schedule on: called before every training step, with a fraction in [0, 1]."""
        if self.progress < _NEARLY_DONE <= progress:
            self._warn_of_missing()
        self._step = step
        self.progress.fill_(progress)
        self.opening.fill_(max(progress / self.config.widen_until, step / self.config.widen_steps))
        if step % 100 == 0:
            self.field.forget_neighbors()
        if isinstance(self.dynamics, LatentODE):
            if progress >= self._look_at and (self._is_full_size() or progress >= self.config.commit_at):
                self._look_at = progress + 1 / 40
                self._commit_if_settled(self.dynamics, progress)
            # No gradients before: the optimizer would count zeros, and then leap.
            self.latent.token_modes.requires_grad_(bool(self.dynamics.committed))

    def _commit_if_settled(self, dynamics: LatentODE, progress: float) -> None:
        if dynamics.committed:
            return
        change = dynamics.motion_change(self.latent().motion.token_codes, self._arm())
        if change <= self.config.settled_change or progress >= self.config.commit_at:
            CONSOLE.log(
                f"At {progress:.0%} of the training, motion changed by {change:.1%} of itself lately."
            )
            self.commit(dynamics)
            if not dynamics.committed:
                self._look_at = progress + 0.05

    def commit(self, dynamics: LatentODE) -> None:
        """Let the ODE take over from the free path, if it stays near it; the log says what was found."""
        pictures = self._picture_errors if self.training_views is not None and self._has_few_times() else None
        found = dynamics.explain(self.latent().motion.token_codes, self._arm(), pictures)
        CONSOLE.log(f"Motion is {found.reason}.")
        distance = f"its roll-out is {found.gap:.1%} of the motion off the free path"
        if not dynamics.committed:
            CONSOLE.log(
                f"[yellow]Not committed to the ODE yet, so nothing moves beyond the clip: {distance}."
            )
            return
        with torch.no_grad():
            self.latent.start.copy_(found.start)
            self.latent.token_modes.copy_(found.modes)
        CONSOLE.log(f"Committed to the ODE: {distance}.")

    @torch.no_grad()
    def _picture_errors(self) -> PictureErrors:
        """Of training pictures, halved until they are small, with the scene as at nodes of the free path and
        between them.
        """
        assert self.training_views is not None
        seen, times = [], []
        for view in self.training_views(_COMPARED):
            assert view.times is not None
            picture, halvings = composite(view, self.backdrop)[0], 0
            while max(view.width, view.height) >> halvings > 2 * _COMPARED_SIZE:
                halvings += 1
            small = downscale_views(view, 2**halvings)
            seen.append((small, _shrink(picture, picture.new_empty(small.height, small.width), "mean")))
            times.append(view.times[0])

        def errors_at(time: Tensor) -> Tensor:
            gaussians = self.gaussians_at(time)
            drawn = [self._rasterize(gaussians, view, self.backdrop, "RGB").rgb[0] for view, _ in seen]
            pairs = zip(drawn, seen, strict=True)
            return torch.stack([(rgb - picture).square().mean() for rgb, (_, picture) in pairs])

        nodes = len(cast(LatentODE, self.dynamics).path_values)
        errors = [errors_at(time) for time in torch.linspace(0, 1, 2 * nodes - 1)]
        return PictureErrors(torch.stack(errors, 1), torch.stack(times))

    def _arm(self) -> float:
        """How far Gaussians lie from their tokens, about: the median radius of skinning, world units."""
        return self.field.token_log_radii.detach().median().exp().item()

    def time_window(self) -> tuple[float, float] | None:
        """Span of clip times to train on now, in hundredths; None for all."""
        config = self.config
        if config.motion == "static" or self._is_open():
            return None
        widest = max(config.canonical_time, 1 - config.canonical_time)
        half = 0.5 * config.first_window + self.opening.item() * widest
        return round(config.canonical_time - half, 2), round(config.canonical_time + half, 2)

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        groups = {name: [self.field.params[name]] for name in PARAMETERS}
        if self.config.motion == "ode":
            assert isinstance(self.dynamics, LatentODE)
            groups["motion"] = [
                *self.dynamics.pose_decoder.parameters(),
                self.latent.token_codes,
                self.latent.token_modes,
                self.field.token_log_radii,
            ]
            groups["path"] = [self.dynamics.path_values]
            groups["flow"] = [
                *self.dynamics.vector_field.parameters(),
                *self.dynamics.backward_field.parameters(),
                self.latent.start,
            ]
            groups["period"] = [*self.dynamics.oscillator.parameters()]
        elif self.config.motion == "mlp":
            assert isinstance(self.field, DeformedGaussians)
            groups["motion"] = list(self.field.deformation.parameters())
        return groups

    def get_training_callbacks(self, attributes: TrainingCallbackAttributes) -> list[TrainingCallback]:
        assert attributes.optimizers is not None
        self._optimizers = attributes.optimizers
        strategy_arguments = {"cap_max": self.config.max_gaussians} if self.config.strategy == "mcmc" else {}
        self._strategy = create_strategy(self.config.strategy, self.device, **strategy_arguments)
        self._strategy_state = self._strategy.initialize_state()
        return [TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], self._densify)]

    def _densify(self, step: int) -> None:
        optimizers = {name: self._optimizers.optimizers[name] for name in PARAMETERS}
        self._strategy.refine_stop_iter = 10**9 if self.progress.item() < self.config.refine_until else 0
        arguments = (
            {"lr": optimizers["means"].param_groups[0]["lr"]} if self.config.strategy == "mcmc" else {}
        )
        if step % self._strategy.refine_every == 0:
            self._empty_unseen(step)
        with torch.no_grad():
            self.field.params["scales"].clamp_(max=self._max_log_scale)
        count = len(self.field)
        self._strategy.step_post_backward(
            params=self.field.params,
            optimizers=optimizers,
            state=self._strategy_state,
            step=step,
            info=self._info,
            **arguments,
        )
        if len(self.field) != count or step % self._strategy.refine_every == 0:
            self.field.forget_neighbors()

    @torch.no_grad()
    def _empty_unseen(self, step: int) -> None:
        """Empty Gaussians that hardly a camera sees (`min_views`), for the strategy to use again.

        To be called just before that does; rare enough to take about a twentieth of the training's time.
        """
        refines = self.progress.item() < self.config.refine_until
        asked_for = min(self.config.min_views, len(self._cameras) // 4)
        if asked_for and step >= self._next_look and refines and self._is_full_size():
            self._next_look = step + 4 * sum(len(images) for images in self._cameras)
            self.field.params["opacities"][self._count_seeing() < asked_for] = _EMPTY

    def _count_seeing(self) -> Int[Tensor, " n"]:
        """How many training cameras see each Gaussian."""
        self.dynamics.eval()  # one roll-out for all
        counts = torch.zeros(len(self.field), dtype=torch.long, device=self.device)
        for images in self._cameras:
            seen = torch.zeros_like(counts, dtype=torch.bool)
            for views in images:
                time = self.config.canonical_time if views.times is None else views.times
                gaussians = self.gaussians_at(time)
                shares = visible_shares(self._rasterizer, gaussians, views, self.config.antialiased)
                seen |= (shares >= self.config.min_visibility).any(0)
            counts += seen
        self.dynamics.train()
        return counts

    def _is_open(self) -> bool:
        """Whether all times are in use."""
        return self.opening.item() >= 1

    def _is_full_size(self) -> bool:
        """Whether all times are in use, on pictures that are not halved any more."""
        return self.opening.item() >= max(1, self.config.num_downscales)

    # ---------------------------------------------------------------- rendering

    def get_outputs(self, camera: Cameras | RayBundle) -> dict[str, Tensor]:  # type: ignore[override]
        if not isinstance(camera, Cameras):
            raise TypeError(
                "nest-dynamic draws whole pictures, not single rays; "
                "leave out --render-nearest-camera, which asks for rays."
            )
        views = cameras_to_views(camera.to(self.device))
        time = self._as_time(self._next_untimed() if views.times is None else views.times[0])
        latent = self.latent_at(time)
        if self.training:
            views = downscale_views(views, self._downscale(views))
            return self._training_outputs(self.field(latent), views, latent)
        return self._eval_outputs(self.field(latent), views, time)

    def _training_outputs(self, gaussians: Gaussians, views: Views, latent: SceneLatent) -> dict[str, Tensor]:
        background = torch.rand(3, device=self.device) if self._random_background() else self.backdrop
        mode = "RGB+ED" if self._supervises_depth else "RGB"
        rendering = self._rasterize(gaussians, views, background, mode)
        self._info, self._posed = rendering.info, latent
        self._strategy.step_pre_backward(
            self.field.params, self._optimizers.optimizers, self._strategy_state, self._step, self._info
        )
        outputs = {"rgb": rendering.rgb[0], "accumulation": rendering.alpha[0], "background": background}
        return outputs if rendering.depth is None else {**outputs, "z": rendering.depth[0]}

    def _eval_outputs(self, gaussians: Gaussians, views: Views, time: Tensor) -> dict[str, Tensor]:
        outputs = self._shown(gaussians, views, self.backdrop)
        if self.viewer_controls.motion:
            outputs["motion"] = self._motion_image(gaussians, views, time)
        return outputs

    def _motion_image(self, gaussians: Gaussians, views: Views, time: Tensor, dt: float = 1 / 256) -> Tensor:
        """Speed ‖dx/dt‖ drawn in place of colour, world units per clip, 0 where nothing is."""
        speed = (self.gaussians_at(time + dt).means - gaussians.means).norm(dim=1, keepdim=True) / dt
        painted = replace(gaussians, sh=rgb_to_sh(speed.expand(-1, 3))[:, None])
        black = torch.zeros_like(self.backdrop)
        return self._rasterize(self._cropped(painted), views, black, "RGB").rgb[0, ..., :1]

    def _sh_degree(self) -> int:
        return min(self.config.sh_degree, int(self.opening.item() * (self.config.sh_degree + 1)))

    def _downscale(self, views: Views) -> int:
        """By what to divide the size of training pictures now; none gets smaller than 32 pixels."""
        halvings = max(0, self.config.num_downscales - int(self.opening.item()))
        while halvings and min(views.width, views.height) >> halvings < 32:
            halvings -= 1
        return 2**halvings

    def _random_background(self) -> bool:
        return self.config.background == "random" or (self.config.background == "auto" and self._has_alpha)

    def _next_untimed(self) -> float:
        """Time of the next frame of a clip that plays forth and back, for cameras that have none."""
        position = self._untimed_frames / (24 * self.config.playback_seconds)
        self._untimed_frames += 1
        return 1 - abs(1 - position % 2)

    # ---------------------------------------------------------------- losses and metrics

    def get_loss_dict(self, outputs, batch, metrics_dict=None) -> dict[str, Tensor]:  # type: ignore[override]
        config = self.config
        target = self._target(batch, outputs)
        mask = batch["mask"].to(self.device).float() if "mask" in batch else None
        if mask is not None:
            mask = _shrink(mask, target, "min")
        losses = {"photometric": photometric_loss(outputs["rgb"], target, config.ssim_weight, mask)}
        if not self.training:
            return losses
        if "z" in outputs:
            depth = _shrink(batch["depth_image"].to(self.device), target, "nearest")
            losses["depth"] = config.depth_weight * depth_loss(outputs["z"], depth, outputs["accumulation"])
        if config.motion == "ode":
            losses.update(self._motion_losses())
        if config.strategy == "mcmc":
            # Gently while motion is looked for: what moves in a way not found yet looks unneeded.
            share = 1.0 if self._is_open() else 0.1
            opacities, scales = self.field.params["opacities"].sigmoid(), self.field.params["scales"].exp()
            losses["opacity"] = share * config.opacity_weight * opacities.mean()
            losses["scale"] = share * config.scale_weight * scales.mean()
        return losses

    def _motion_losses(self) -> dict[str, Tensor]:
        assert isinstance(self.dynamics, LatentODE)
        rest = self.field.bind_translations
        neighbors, spacing = self._token_graph()
        deltas = se3_compose(
            (self._posed.quats, self._posed.translations), se3_inverse((self.field.bind_quats, rest))
        )
        rigidity = as_rigid_as_possible_loss(deltas, rest, neighbors, spacing)
        losses = {
            "rigidity": self.config.rigidity_weight * rigidity,
            "smoothness": self.config.smoothness_weight * smoothness_loss(deltas, neighbors),
            "attraction": self.config.attraction_weight * self.dynamics.attraction_loss(),
        }
        if self._has_few_times():
            losses["roughness"] = self.config.roughness_weight * self.dynamics.roughness()
        return losses

    def _has_few_times(self) -> bool:
        """Whether pictures are too few to tell what is between them: fewer than two for each node."""
        return self._num_times < 2 * len(cast(LatentODE, self.dynamics).path_values)

    def _token_graph(self) -> tuple[Tensor, float]:
        """Nearest tokens of each token and their mean distance; found anew where tokens were placed anew."""
        rest = self.field.bind_translations
        if self._graph is None or self._graph[0] != rest._version:
            neighbors = nearest_tokens(rest, 8)
            spacing = (rest[neighbors] - rest[:, None]).norm(dim=-1).mean().item()
            self._graph = rest._version, neighbors, spacing
        return self._graph[1:]

    def get_metrics_dict(self, outputs, batch) -> dict[str, Tensor]:  # type: ignore[override]
        target = self._target(batch, outputs)
        mse = (outputs["rgb"].detach() - target).square().mean()
        metrics = {
            "psnr": -10 * mse.clamp_min(1e-10).log10(),
            "gaussian_count": torch.tensor(len(self.field)),
        }
        if self.training and batch["image"].shape[-1] == 4:
            metrics["missing"] = self._note_missing(outputs["accumulation"].detach(), batch["image"])
        if isinstance(self.dynamics, LatentODE) and self.dynamics.cyclic:
            metrics["period"] = self.dynamics.oscillator.period.detach()
        return metrics

    def _note_missing(self, drawn: Tensor, image: Tensor) -> Tensor:
        """Share of the silhouettes where hardly anything is drawn, over the last hundred pictures or so."""
        shown = _shrink(image[..., 3:].to(self.device), drawn, "mean") > 0.5
        share = (shown & (drawn < 0.5)).sum() / shown.sum().clamp_min(1)
        return self.missing.lerp_(share, 1 / 100)

    def _warn_of_missing(self) -> None:
        if self.missing > 0.1 and self.config.motion != "static":
            CONSOLE.log(
                f"[yellow]Nothing is drawn on {self.missing:.0%} of what pictures show: it moves too fast "
                "to follow. --pipeline.model.widen-steps 1500 --pipeline.model.widen-until 0.45 give it "
                "more time, --pipeline.model.first-window 0.04 a start with less motion."
            )

    def _target(self, batch, outputs) -> Tensor:
        """What `outputs["rgb"]` should be, at its size."""
        seen = over_background(batch["image"].to(self.device), outputs["background"])
        return _shrink(seen, outputs["rgb"], "mean")


_COMPARED = 48
"""Pictures in which a cycle is looked for, at most, …"""
_COMPARED_SIZE = 64
"""… and pixels of their longer side, at least where they have as many, and at most twice that."""
_NEARLY_DONE = 0.9
"""Fraction of the training by which what the pictures show should be there."""
_EMPTY = -6.0
"""Logit of an opacity that counts as none: below 1/255, and the 0.005 that strategies take for dead."""


def _shrink(image: Tensor, like: Tensor, how: Literal["mean", "min", "nearest"]) -> Tensor:
    """An image [H, W, C] at the size of one that is a whole number of times smaller."""
    factor = image.shape[0] // like.shape[0]
    if factor == 1:
        return image
    blocks = image[: like.shape[0] * factor, : like.shape[1] * factor]
    blocks = blocks.unflatten(0, (-1, factor)).unflatten(2, (-1, factor))
    if how == "nearest":
        return blocks[:, factor // 2, :, factor // 2]
    return blocks.mean((1, 3)) if how == "mean" else blocks.amin((1, 3))
