"""Many scenes: X → h_φ → Z → f_θ → π, as a nerfstudio Model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor
from torch.nn import Parameter

from nest_nerfstudio.cameras import cameras_to_views
from nest_nerfstudio.edits.actions import apply_edit, sun_sky_light
from nest_nerfstudio.encoders.latent_encoder import LatentEncoderConfig
from nest_nerfstudio.encoders.lift import hull_points, sort_views
from nest_nerfstudio.fields.latent_gaussians import LatentGaussianFieldConfig
from nest_nerfstudio.losses.multi_task import UncertaintyWeights
from nest_nerfstudio.losses.photometric import depth_loss, photometric_loss
from nest_nerfstudio.models.gaussian_model import GaussianModel, GaussianModelConfig, composite
from nest_nerfstudio.models.latent_optimization import optimize_latent
from nest_nerfstudio.types import Edit, Gaussians, Points, Rendering, SceneLatent, SceneSample, Views
from nest_nerfstudio.viewer.scene_controls import SceneViewerControls

TASKS = ("photometric", "edited", "alpha", "occupancy", "depth", "light")
"""photometric: pictures of the state that the context shows; edited: those of other states, by known edits;
alpha: coverage; occupancy: which places that the context, or one view of it, leaves open stay open in others;
depth: where it is known; light: the encoded one against the one that the edit names."""


@dataclass
class NestPriorModelConfig(GaussianModelConfig):
    """Settings of `NestPriorModel`."""

    _target: type = field(default_factory=lambda: NestPriorModel)
    encoder: LatentEncoderConfig = field(default_factory=LatentEncoderConfig)
    """h_φ."""
    field: LatentGaussianFieldConfig = field(default_factory=LatentGaussianFieldConfig)
    """f_θ."""
    training_tokens: tuple[int, int] = (256, 1024)
    """Fewest and most tokens of a training sample, drawn log-uniformly, so that no number is learned."""
    from_points: float = 0.0
    """Chance to encode a training sample from a coloured cloud in the hull of its context (of three views or
    more), with a random share of its points, in place of the views: for a model that reads clouds too."""
    swap_light: float = 0.0
    """Chance to treat a known light of another state as unknown; it is then told from half of that state's
    pictures, and has to light the others in the latent of the context (swap consistency)."""
    ssim_weight: float = 0.2
    """Share of D-SSIM in the photometric loss."""
    learn_weights: bool = True
    """Weigh the tasks by learned uncertainties; else they are added as they are."""
    shown_scene: str = ""
    """Name of the scene that the viewer and camera paths show at first; empty: the first held-out one."""
    shown_views: int = 4
    """Context views that it is encoded from."""
    refine_steps: int = 25
    """Steps of optimising a latent on its context, for each view beyond the first: more would fit what few
    views leave open. ns-eval scores with (`_refined`) and without; 0: never."""
    shown_refined: bool = False
    """Refine what the viewer and camera paths show; the viewer can switch it. Seconds for each scene."""
    background: Literal["white", "black"] = "white"
    """Behind scenes that have alpha, when shown, …"""
    background_in_training: Literal["random", "white", "black"] = "random"
    """… and in training."""


class NestPriorModel(GaussianModel):
    """One encoder and one field for all scenes; a scene is its latent Z, and has no weights of its own.

    Called with `SceneSample`s it gives losses. Called with a camera it draws the scene that the camera
    belongs to (`metadata["scene"]`), else the one that is chosen in the viewer, from context views that
    `context_of` provides.
    """

    config: NestPriorModelConfig
    viewer_controls: SceneViewerControls
    backdrop: Tensor

    def populate_modules(self) -> None:
        super().populate_modules()
        config = self.config
        self.encoder = config.encoder.setup()
        self.field = config.field.setup(shape_dim=config.encoder.shape_dim)
        self.weights = UncertaintyWeights(TASKS, config.learn_weights)
        self.register_buffer("backdrop", torch.full((3,), float(config.background == "white")))
        self.context_of: Callable[[int, int], Views] | None = None
        self.viewer_controls = SceneViewerControls(self.latent_of, config.shown_refined)
        self._encoded: tuple[tuple[int, int, bool], SceneLatent, bool] | None = None
        self.register_load_state_dict_post_hook(lambda module, _: module.forget_scene())

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        return {
            "encoder": list(self.encoder.parameters()),
            "field": list(self.field.parameters()),
            "weights": list(self.weights.parameters()),
        }

    # ---------------------------------------------------------------- training

    def get_outputs(self, seen: Cameras | list[SceneSample]) -> dict[str, Any]:  # type: ignore[override]
        if isinstance(seen, Cameras):
            return self._show(seen)
        self.forget_scene(keep_refined=True)
        losses: dict[str, list[Tensor]] = {}
        errors = []
        for sample in seen:
            found, error = self._sample_losses(sample)
            for name, loss in found.items():
                losses.setdefault(name, []).append(loss)
            errors.append(error)
        # over all samples, those without a task included: so the mean of processes is that of their batches
        means = {name: torch.stack(values).sum() / len(seen) for name, values in losses.items()}
        shares = {name: len(values) / len(seen) for name, values in losses.items()}
        return {"losses": self.weights(means, shares), "means": means, "mse": torch.stack(errors).mean()}

    def _sample_losses(self, sample: SceneSample) -> tuple[dict[str, Tensor], Tensor]:
        """Σ_i Σ_j ‖π_j f_θ(edit_i · h_φ(X)) − I_ij‖ by task, and the squared error of the unedited state."""
        latent, guess = self.encoder.encode(*self._observed(sample.context), self._training_tokens())
        losses: dict[str, list[Tensor]] = {}
        error = latent.translations.new_zeros(())
        for edit, views in sample.targets:
            reached = self._in_state(latent, sample.edit, edit, views)
            if reached is None:
                continue
            edited, views = reached
            gaussians = self.field(edited)
            found, mse = self._view_losses(gaussians, views, self._training_background())
            if edit == sample.edit:
                error = mse
            else:
                found["edited"] = found.pop("photometric")
            for name, loss in found.items():
                losses.setdefault(name, []).append(loss)
        means = {name: torch.stack(values).mean() for name, values in losses.items()}
        unmoved = [v for e, v in sample.targets if v.alphas is not None and _stands_still(e, sample.edit)]
        if guess is not None and unmoved:
            means["occupancy"] = guess.loss([sample.context, *unmoved])
        if sample.edit.light is not None:
            known = sun_sky_light(sample.edit.light, latent.light)
            means["light"] = (latent.light - known).abs().mean()
        return means, error

    def _observed(self, context: Views) -> tuple[Views | None, Points | None]:
        """What the encoder is given: the views, or now and then points instead."""
        encoder = self.config.encoder
        wanted = self.training and float(torch.rand(())) < self.config.from_points
        if not wanted or len(context) < 3 or context.alphas is None:
            return context, None
        points = hull_points(
            context, self.encoder.centre(context), encoder.radius, encoder.proposals.cells // 2
        )
        kept = torch.rand(len(points), device=points.rgb.device) < 0.1 + 0.9 * torch.rand(()).item()
        if kept.sum() < 64:
            return context, None
        return None, Points(points.positions[kept], points.rgb[kept])

    def _in_state(
        self, latent: SceneLatent, seen_as: Edit, edit: Edit, views: Views
    ) -> tuple[SceneLatent, Views] | None:
        """The latent in another state, and which pictures it has to meet; None where no action leads there.

        A light that is not known is encoded from half of the pictures: nothing else of theirs is used.
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
        return apply_edit(latent, edit, seen_as), views

    def _view_losses(
        self, gaussians: Gaussians, views: Views, backdrop: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        assert views.images is not None
        has_alpha, has_depth = views.alphas is not None, views.depths is not None
        background = backdrop if has_alpha else _NOTHING.to(self.backdrop)
        rendering = self._rasterize(gaussians, views, background, "RGB+ED" if has_depth else "RGB")
        target = composite(views, background)
        pictures = zip(rendering.rgb, target, strict=True)
        losses = {
            "photometric": torch.stack(
                [photometric_loss(shown, seen, self.config.ssim_weight) for shown, seen in pictures]
            ).mean()
        }
        if views.alphas is not None:
            losses["alpha"] = (rendering.alpha - views.alphas).square().mean()
        if views.depths is not None:
            assert rendering.depth is not None
            triples = zip(rendering.depth, views.depths, rendering.alpha, strict=True)
            losses["depth"] = torch.stack([depth_loss(*triple) for triple in triples]).mean()
        return losses, (rendering.rgb.detach() - target).square().mean()

    def _training_tokens(self) -> int | None:
        if not self.training:
            return None
        fewest, most = self.config.training_tokens
        return round(fewest * (most / fewest) ** torch.rand(()).item())

    def _training_background(self) -> Tensor:
        if self.config.background_in_training == "random":
            return torch.rand_like(self.backdrop)
        return torch.full_like(self.backdrop, float(self.config.background_in_training == "white"))

    def get_loss_dict(self, outputs, batch, metrics_dict=None) -> dict[str, Tensor]:  # type: ignore[override]
        return outputs["losses"]

    def get_metrics_dict(self, outputs, batch) -> dict[str, Tensor]:  # type: ignore[override]
        unweighted = {f"{name}_loss": loss.detach() for name, loss in outputs["means"].items()}
        return {"psnr": -10 * outputs["mse"].clamp_min(1e-10).log10(), **unweighted}

    # ---------------------------------------------------------------- showing

    def latent_of(self, scene: int, num_views: int, refined: bool = False) -> SceneLatent:
        """Z of a scene, encoded from so many context views (fewer where it has fewer), and refined on them.

        Raises:
            RuntimeError: no data was given to encode.
        """
        if self.context_of is None:
            raise RuntimeError("the model has no scenes to show: its pipeline sets `context_of`")
        held = self._encoded  # once: the viewer asks from several threads
        if held is None or held[0] != (scene, num_views, refined):
            context = self.context_of(scene, num_views)
            latent = self.encoder(context)
            latent = self.refine(latent, context) if refined else latent
            held = (scene, num_views, refined), latent, context.alphas is not None
            self._encoded = held
        return held[1]

    def latent_of_cloud(self, points: Points) -> SceneLatent:
        """Z of a coloured point cloud in the frame of the scenes that were trained on (z up, world units).

        Raises:
            ValueError: the model has never seen clouds, or this one lies outside of what it knows.
        """
        if self.config.from_points <= 0:
            raise ValueError(
                "this model was trained on pictures alone; one that reads clouds too is trained with "
                "--pipeline.model.from-points 0.25"
            )
        points = Points(points.positions.to(self.device), points.rgb.to(self.device))
        radius = self.config.encoder.radius
        reach = (points.positions - self.encoder.centre(None, points)).norm(dim=1).max().item()
        if reach > _TOO_FAR * radius:
            raise ValueError(
                f"the cloud reaches {reach:.3g} units from the middle, and the model knows scenes within "
                f"{radius:.3g}: shift and scale it to the size of the scenes that it was trained on"
            )
        return self.encoder(None, points)

    def refine(self, latent: SceneLatent, context: Views) -> SceneLatent:
        """The latent, optimised on its context: `refine_steps` for each view beyond the first."""

        generator = torch.Generator().manual_seed(0)

        def loss(z: SceneLatent, views: Views) -> Tensor:
            background = torch.rand(3, generator=generator).to(self.backdrop)
            return self._view_losses(self.field(z), views, background)[0]["photometric"]

        context = sort_views(context)  # so that their order does not matter, as it does not to the encoder
        return optimize_latent(latent, context, loss, self.config.refine_steps * (len(context) - 1))

    def _show(self, camera: Cameras) -> dict[str, Tensor]:
        views = cameras_to_views(camera.to(self.device))
        owner = (camera.metadata or {}).get("scene")
        scene = self.viewer_controls.scene if owner is None else int(owner.flatten()[0])
        controls = self.viewer_controls
        gaussians = self.field(self.latent_of(scene, controls.num_views, controls.refined))
        backdrop = self._backdrop(self._encoded is None or self._encoded[2])
        return self._shown(gaussians, views, backdrop)

    def render(self, latent: SceneLatent, views: Views) -> Rendering:
        """Pictures of a latent, from the cameras of `views`; over the backdrop if those have alpha."""
        return self._rasterize(self.field(latent), views, self._backdrop(views.alphas is not None), "RGB")

    def _backdrop(self, has_alpha: bool) -> Tensor:
        """Behind a scene: black where pictures have no alpha, as what they show has to fill them."""
        return self.backdrop if has_alpha else _NOTHING.to(self.backdrop)

    def forget_scene(self, keep_refined: bool = False) -> None:
        """Encode anew at the next use: the weights have changed.

        Args:
            keep_refined: go on showing what was refined, which takes longer than a training step, until
                something else is chosen.
        """
        if not (keep_refined and self._encoded is not None and self._encoded[0][2]):
            self._encoded = None

    # ---------------------------------------------------------------- scores

    @torch.no_grad()
    def score(self, latent: SceneLatent, sample: SceneSample) -> list[tuple[Edit, dict[str, float], Tensor]]:
        """PSNR, SSIM and, if it is there, LPIPS of every target picture, and it beside what was seen.

        Edits that no action on the latent carries out (stretch) are left out.

        Args:
            latent: of the context.
            sample: context and targets.
        """
        found = []
        for edit, views in sample.targets:
            reached = self._in_state(latent, sample.edit, edit, views)
            if reached is None:
                continue
            edited, views = reached
            shown = self.render(edited, views).rgb.clamp(0, 1)
            for picture, seen in zip(shown, composite(views, self.backdrop), strict=True):
                found.append((edit, self.metrics(picture, seen), torch.cat([seen, picture], 1)))
        return found


_TOO_FAR = 1.5
"""Radii of the ball that scenes lie in."""
_NOTHING = torch.zeros(3)
"""Black, behind pictures that have no alpha."""


def _stands_still(edit: Edit, other: Edit) -> bool:
    """Whether the object is in the same place in two states, so that views of both show one silhouette."""
    return (edit.yaw, edit.translate, edit.stretch) == (other.yaw, other.translate, other.stretch)
