"""Many scenes: X → h_φ → Z → f_θ → R → Φ_t, pose → Gaussians → π, as a nerfstudio Model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from torch import Tensor
from torch.nn import Parameter

from nest_nerfstudio.dynamics.motion_map import SharedMap
from nest_nerfstudio.edits.base import EditError
from nest_nerfstudio.edits.light import sun_sky_light
from nest_nerfstudio.edits.states import to_state
from nest_nerfstudio.encoders.hull_depth import part_of_hull
from nest_nerfstudio.encoders.inputs import sort_views
from nest_nerfstudio.fields.latent_gaussians import LatentGaussianField
from nest_nerfstudio.losses.images import image_losses
from nest_nerfstudio.losses.multi_task import UncertaintyWeights, by_name
from nest_nerfstudio.models.decoded_scene import DecodedScene
from nest_nerfstudio.models.encoded_scenes import Contexts, ShownScene
from nest_nerfstudio.models.gaussian_model import GaussianModel
from nest_nerfstudio.models.known_scenes import KnownScenes
from nest_nerfstudio.models.latent_optimization import Objective, optimize_latent
from nest_nerfstudio.models.motion_prior import MotionPrior, rest_time
from nest_nerfstudio.models.nest_prior_config import NestPriorModelConfig
from nest_nerfstudio.states import Edit, SceneSample
from nest_nerfstudio.types import Points, Rendering, SceneLatent, Views
from nest_nerfstudio.viewer.scene_controls import SceneViewerControls

TASKS = ("photometric", "edited", "alpha", "occupancy", "depth", "light")
"""Losses: photometric, images of the state of the context; edited, images of other states, by known edits;
alpha, coverage; occupancy, whether voxels in the hull of the context are inside all other silhouettes too;
depth, where it is known; light, the encoded light against the known one; of models that learn motion also
motion, images at other times. Losses of codes, their encoder and rigidity are added unweighed."""


__all__ = ["NestPriorModel", "NestPriorModelConfig"]  # by which config.yml of earlier runs names them


class NestPriorModel(GaussianModel):
    """One encoder and one field for all scenes; a scene is its latent Z, and has no weights of its own.

    Called with `SceneSample`s it gives losses. Called with a camera it draws the scene that the camera
    belongs to (`metadata["scene"]`), else the one that is chosen in the viewer, encoded from its views in
    `contexts`.

    Attributes:
        contexts: context views to encode scenes from, by number of the scene and number of views; the
            pipeline sets it.
    """

    config: NestPriorModelConfig
    field: LatentGaussianField
    viewer_controls: SceneViewerControls

    def populate_modules(self) -> None:
        super().populate_modules()
        config = self.config
        config.resolve()
        self.encoder = config.encoder.setup()
        self.field = config.decoder.setup(geometry_dim=config.encoder.geometry_dim)
        for module in (self.encoder, self.field):
            module.requires_grad_(not config.freeze)
        self.flow = config.flow.setup()
        tasks = (*TASKS, "motion") if config.dynamics else TASKS
        self.weights = UncertaintyWeights(tasks, config.learn_weights)
        self.motion_prior: MotionPrior | None = None
        if config.dynamics:
            self.motion_prior = config.motion.setup(
                flow=self.flow,
                geometry_dim=config.encoder.geometry_dim,
                knows_gravity=config.encoder.group == "azimuth",
                num_clips=len((self.kwargs.get("metadata") or {}).get("scenes", ())),
            )
        self.contexts: Contexts | None = None
        self._known = KnownScenes()
        self._shown: ShownScene | None = None
        self.viewer_controls = SceneViewerControls(self._token_positions, config.shown_refined)
        self.viewer_controls.motion = config.render_motion

    @property
    def shared_motion(self) -> SharedMap | None:
        return None if self.motion_prior is None else SharedMap(self.motion_prior.map, self.flow)

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        groups = {
            "encoder": list(self.encoder.parameters()),
            "decoder": list(self.field.parameters()),
            "weights": list(self.weights.parameters()),
        }
        if self.motion_prior is not None:
            groups["codes"], groups["motion"] = self.motion_prior.codes_and_weights()
            groups["motion"] += self.flow.parameters()
        return groups

    # ---------------------------------------------------------------- training

    def get_outputs(  # type: ignore[override]
        self, camera: Cameras | RayBundle | list[SceneSample]
    ) -> dict[str, Any]:
        if not isinstance(camera, list):
            return super().get_outputs(camera)
        if self._shown is not None:  # what was refined may be shown on: it takes longer than a training step
            self._shown = replace(self._shown, is_stale=True) if self._shown.key[2] else None
        found, errors = zip(*map(self._sample_losses, camera), strict=True)
        losses = by_name(found)
        # over all samples, those without a task included: so the mean of processes is that of their batches
        means = {name: values.sum() / len(camera) for name, values in losses.items()}
        shares = {name: len(values) / len(camera) for name, values in losses.items()}
        return {"losses": self.weights(means, shares), "means": means, "mse": torch.stack(errors).mean()}

    def _sample_losses(self, sample: SceneSample) -> tuple[dict[str, Tensor], Tensor]:
        """Σ_i Σ_j ‖π_j f_θ(edit_i · h_φ(X)) − I_ij‖ by task, and the squared error of the unedited state, at
        other times if it moves."""
        if self.training and self.config.freeze:
            return self._motion_losses(self._known(sample, self._decoded), sample)
        latent, occupancy = self.encoder.encode(*self._input(sample.context), self._training_tokens())
        if self.training:
            self.field.observe(latent)
        losses: list[dict[str, Tensor]] = []
        error = latent.translations.new_zeros(())
        for edit, views in sample.targets:
            reached = self._in_state(latent, sample.edit, edit, views)
            if reached is None:
                continue
            edited, views = reached
            found, mse = self.view_losses(edited, views, self.background(views.alphas is not None))
            if edit == sample.edit:
                error = mse
            else:
                found["edited"] = found.pop("photometric")
            losses.append(found)
        if sample.timed is not None:
            found, error = self._motion_losses(DecodedScene(latent, self.field, self.flow), sample)
            losses.append(found)
        means = {name: values.mean() for name, values in by_name(losses).items()}
        unmoved = [v for e, v in sample.targets if v.alphas is not None and e.pose == sample.edit.pose]
        if occupancy is not None and unmoved:
            means["occupancy"] = occupancy.loss([sample.context, *unmoved])
        if sample.edit.light is not None:
            known = sun_sky_light(sample.edit.light, latent.light)
            means["light"] = (latent.light - known).abs().mean()
        return means, error

    @torch.no_grad()
    def _decoded(self, sample: SceneSample) -> DecodedScene:
        latent = self.encoder.encode(*self._input(sample.context), self._training_tokens())[0]
        self.field.observe(latent)
        return DecodedScene(latent, self.field, self.flow)

    def _motion_losses(self, scene: DecodedScene, sample: SceneSample) -> tuple[dict[str, Tensor], Tensor]:
        """Losses of a scene's images at other times, and their squared error."""
        prior, views = self.motion_prior, sample.timed
        if prior is None or views is None or sample.observed is None:
            nothing = 0 * next(self.flow.parameters()).sum()  # what stands still teaches nothing
            return {"motion": nothing}, nothing.detach()
        own = sample.clip if prior.draws_own(sample.clip) else None
        moving = self.moving(scene.latent, sample.context, sample.observed, own)
        scene = scene.moving_as(moving.motion)
        losses, error = self.scene_losses(scene, views, self.background(views.alphas is not None))
        losses["motion"] = losses.pop("photometric")
        if self.training:
            prior.map.observe(moving.motion)
            losses |= prior.regularizers(scene, views, sample.observed, rest_time(sample.context), own)
        return losses, error

    def _input(self, context: Views) -> tuple[Views | None, Points | None]:
        """What the encoder is given: the views, or with probability `from_points` points in their hull."""
        config, points = self.config.encoder, None
        if self.training and float(torch.rand(())) < self.config.from_points:
            centre, cells = self.encoder.centre(context), config.proposals.cells // 2
            points = part_of_hull(context, centre, config.radius, cells)
        return (context, None) if points is None else (None, points)

    def moving(
        self, latent: SceneLatent, context: Views, frames: Views | None, clip: int | None = None
    ) -> SceneLatent:
        """An encoded scene with the motion that frames at other times show.

        Args:
            latent: encoded from the context.
            context: all at the time at which the scene stands so.
            frames: with images and times; None: the scene stands still.
            clip: number of a training clip that moves by its own code instead.
        """
        if self.motion_prior is None or frames is None:
            return latent
        rest = rest_time(context)
        if clip is not None:
            return self.motion_prior.of_clip(latent, self.flow, rest, clip)
        background = self.shown_background(False)

        def loss(scene: DecodedScene, views: Views) -> Tensor:
            return image_losses(self.draw(scene, views, background), views, background, 0.0)["photometric"]

        return self.motion_prior(latent, self.field, self.flow, frames, rest, loss)

    def _in_state(
        self, latent: SceneLatent, seen_as: Edit, edit: Edit, views: Views
    ) -> tuple[SceneLatent, Views] | None:
        """The latent in another state, and its target views; None where no action leads there.

        A light that is not known is encoded from half of the views, which are then no targets.
        """
        if edit.stretch != seen_as.stretch:
            return None
        different = seen_as.differences(edit)
        is_unknown = "light" in different and edit.light is None
        if self.training and different == ["light"] and len(views) > 1:
            is_unknown |= float(torch.rand(())) < self.config.swap_light
        if is_unknown:
            if len(views) < 2:
                return None
            half = len(views) // 2
            light = self.encoder(views.select(slice(half)), num_tokens=self._training_tokens()).light
            latent, views = replace(latent, light=light), views.select(slice(half, None))
            edit = replace(edit, light=seen_as.light)
        return to_state(latent, self.field, edit, seen_as), views

    def _training_tokens(self) -> int | None:
        if not self.training:
            return None
        fewest, most = self.config.training_tokens
        return round(fewest * (most / fewest) ** torch.rand(()).item())

    def get_loss_dict(self, outputs, batch=None, metrics_dict=None) -> dict[str, Tensor]:  # type: ignore[override]
        return outputs["losses"]

    def get_metrics_dict(self, outputs, batch=None) -> dict[str, Tensor]:  # type: ignore[override]
        unweighted = {f"{name}_loss": loss.detach() for name, loss in outputs["means"].items()}
        return {"psnr": -10 * outputs["mse"].clamp_min(1e-10).log10(), **unweighted}

    # ---------------------------------------------------------------- scenes

    def latent_of(self, scene: int, num_views: int, refined: bool = False) -> SceneLatent:
        """Z of a scene, encoded from so many context views (fewer where it has fewer).

        Args:
            scene: its number in `contexts`.
            num_views: number of context views.
            refined: also optimize the latent on them.

        Raises:
            RuntimeError: no data was given to encode.
        """
        return self._encode((scene, num_views, refined)).latent

    def _encode(self, key: tuple[int, int, bool], or_stale: bool = False) -> ShownScene:
        """A scene, kept until another is asked for or training goes on.

        Args:
            key: arguments of `latent_of`.
            or_stale: what was refined may also be shown after the weights have changed.
        """
        shown = self._shown  # once: the viewer asks from several threads
        if shown is None or shown.key != key or (shown.is_stale and not or_stale):
            if self.contexts is None:
                raise RuntimeError("the model has no scenes to show: its pipeline sets `contexts`")
            context = self.contexts[key[0], key[1]]
            latent = self.encoder(context)
            latent = self.refine(latent, context) if key[2] else latent
            latent = self._moving_as_seen(latent, context, key[0])
            shown = self._shown = ShownScene(key, latent, context.alphas is not None)
        return shown

    def _moving_as_seen(self, latent: SceneLatent, context: Views, number: int) -> SceneLatent:
        """A scene with its motion: by its own code where that was learned, else as its frames show."""
        if self.motion_prior is None or self.contexts is None:
            return latent
        own = number if number in self.motion_prior.clip_codes.learned else None
        return self.moving(latent, context, self.contexts.timed(number), own)

    def latent_named(self, scene: str | None) -> SceneLatent:
        names = () if self.contexts is None else self.contexts.names
        if self.contexts is None or scene not in names:
            some = ", ".join(names[:8])
            raise EditError(f"there is no scene {scene!r} among {len(names)}; the first are {some}")
        number = names.index(scene)
        context = self.contexts[number, self.viewer_controls.num_views]
        return self._moving_as_seen(self.encoder(context), context, number)

    def latent_of_cloud(self, points: Points) -> SceneLatent:
        """Z of a coloured point cloud in the frame of the training scenes (z up, world units).

        Raises:
            ValueError: the model was not trained on clouds, or this one exceeds the size of its scenes.
        """
        if self.config.from_points <= 0:
            raise ValueError(
                "this model was trained on images alone; one that reads clouds too is trained with "
                "--pipeline.model.from-points 0.25"
            )
        points = Points(points.positions.to(self.device), points.rgb.to(self.device))
        radius = self.config.encoder.radius
        reach = (points.positions - self.encoder.centre(None, points)).norm(dim=1).max().item()
        if reach > _TOO_FAR * radius:
            raise ValueError(
                f"the cloud reaches {reach:.3g} units from its centre, and the model knows scenes within "
                f"{radius:.3g}: shift and scale it to the size of the training scenes"
            )
        return self.encoder(None, points)

    def refine(self, latent: SceneLatent, context: Views) -> SceneLatent:
        """The latent, optimized on its context: `refine_steps` for each view beyond the first."""
        generator = torch.Generator().manual_seed(0)

        def loss(z: SceneLatent, views: Views) -> Tensor:
            background = self.shown_background(False)
            if views.alphas is not None:  # by a generator of its own, so that the result is always the same
                background = torch.rand(3, generator=generator).to(background)
            return self.view_losses(z, views, background)[0]["photometric"]

        context = sort_views(context)  # so that their order does not matter, as it does not to the encoder
        steps = self.config.refine_steps * (len(context) - 1)
        return optimize_latent(latent, context, Objective(loss), steps)

    def scene(
        self, number: int, num_views: int, refined: bool = False, or_stale: bool = False
    ) -> DecodedScene:
        """A scene under the model's edit; arguments as for `latent_of` and `_encode`."""
        shown = self._encode((number, num_views, refined), or_stale)
        if shown.scene is None:
            shown.scene = self.decode(shown.latent, self.flow)
        return shown.scene

    def scene_of_cloud(self, points: Points) -> DecodedScene:
        """A coloured point cloud under the model's edit; as `latent_of_cloud`."""
        return self.decode(self.latent_of_cloud(points), self.flow)

    def shown_scene(self, camera: Cameras | None = None) -> DecodedScene:
        metadata = None if camera is None else camera.metadata
        owner, controls = (metadata or {}).get("scene"), self.viewer_controls
        number = controls.scene if owner is None else int(owner.flatten()[0])
        return self.scene(number, controls.num_views, controls.refined, or_stale=owner is None)

    def shows_alpha(self) -> bool:
        return self._shown is None or self._shown.has_alpha

    def _token_positions(self, scene: int, num_views: int, refined: bool) -> Tensor:
        return self.scene(scene, num_views, refined, or_stale=True).poses_at(0.0)[1]

    def render(self, latent: SceneLatent, views: Views) -> Rendering:
        """Renderings of a latent under the model's edit, from the cameras of `views` at their times."""
        background = self.shown_background(views.alphas is not None)
        return self.draw(self.decode(latent, self.flow), views, background)

    def forget_scenes(self, keep_latents: bool = False) -> None:
        shown = self._shown
        self._shown = None if shown is None or not keep_latents else replace(shown, scene=None)

    # ---------------------------------------------------------------- scores

    @torch.no_grad()
    def score(self, latent: SceneLatent, sample: SceneSample) -> list[tuple[Edit, dict[str, float], Tensor]]:
        """Metrics of every target image, with the image and its rendering side by side.

        Images of states that no action on the latent leads to (stretch) are left out, and those without a
        pixel to use.

        Args:
            latent: of the context.
            sample: context and targets.

        Returns:
            For each target: its state, its metrics, and the two images [h, 2 w, 3].
        """
        found = []
        for edit, views in sample.targets:
            reached = self._in_state(latent, sample.edit, edit, views)
            if reached is None:
                continue
            edited, views = reached
            found += [(edit, *scored) for scored in self.score_views(edited, views)]
        return found

    @torch.no_grad()
    def score_views(self, latent: SceneLatent, views: Views) -> list[tuple[dict[str, float], Tensor]]:
        """Metrics of every image with a pixel to use, and the image and its rendering side by side."""
        targets = views.over(self.shown_background(views.alphas is not None))
        masks = [None] * len(views) if views.masks is None else list(views.masks)
        images = self.render(latent, views).rgb.clamp(0, 1)
        return [
            (self.metrics(image, target, mask), torch.cat([target, image], 1))
            for image, target, mask in zip(images, targets, masks, strict=True)
            if mask is None or mask.any()
        ]


_TOO_FAR = 1.5
"""Largest extent of a cloud, in radii of the ball that scenes lie in."""
