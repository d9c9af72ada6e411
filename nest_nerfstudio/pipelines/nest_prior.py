"""Pipeline of many scenes: batches of samples in, scores by category and by number of context views out."""

from __future__ import annotations

from collections import defaultdict
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
import torchvision.utils
from nerfstudio.data.datamanagers.base_datamanager import DataManagerConfig
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import track

from nest_nerfstudio.data.scenes.datamanager import MultiSceneDatamanager, MultiSceneDatamanagerConfig
from nest_nerfstudio.models.nest_prior import NestPriorModel, NestPriorModelConfig
from nest_nerfstudio.pipelines.base import NestPipeline, NestPipelineConfig
from nest_nerfstudio.pipelines.prior_run import find_prior, load_prior
from nest_nerfstudio.states import SceneSample


@dataclass
class NestPriorPipelineConfig(NestPipelineConfig):
    """Settings of `NestPriorPipeline`."""

    _target: type = field(default_factory=lambda: NestPriorPipeline)
    datamanager: DataManagerConfig = field(default_factory=MultiSceneDatamanagerConfig)
    model: NestPriorModelConfig = field(default_factory=NestPriorModelConfig)  # type: ignore[assignment]
    num_iterations: ClassVar[dict[str, int]] = {"cpu": 20_000, "cuda": 200_000}
    eval_context: tuple[int, ...] = (1, 2, 4, 8)
    """Numbers of context views to score with."""

    def resolve(self, device_type: str) -> dict[str, Any]:
        data, found = self.datamanager, {}
        if self.model.init is not None:
            self.model.init, start = self.model.init.resolve(), find_prior(self.model.init).model_config
            self.model.encoder, self.model.decoder = deepcopy(start.encoder), deepcopy(start.decoder)
        self.model.resolve()
        if not isinstance(data, MultiSceneDatamanagerConfig):
            return {}
        if data.scenes_per_batch is None:
            few = 4 if device_type == "cuda" else 1  # frozen scenes are kept, so more cost little
            data.scenes_per_batch = found["scenes_per_batch"] = 8 if self.model.freeze else few
        if self.model.freeze:  # what a frozen encoder gives is kept, so only the clip may tell worlds apart
            data.augmentation = replace(
                data.augmentation, scale=1.0, swap_channels=0.0, drop_patches=0.0, jitter=0.0, azimuth=0.0
            )
        if data.num_timed is None and self.model.dynamics:
            data.num_timed = found["num_timed"] = 16
        return found


class NestPriorPipeline(NestPipeline):
    """Trains one encoder and one field on many scenes; scores them on scenes that are held out."""

    config: NestPriorPipelineConfig

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        model, data = cast(NestPriorModel, self.model), cast(MultiSceneDatamanager, self.datamanager)
        model.contexts = data.contexts
        shown = self.config.model.shown_scene
        scene = data.index.find(shown) if shown else data.held_out[0]
        if self.config.model.init is not None and model.is_trained_here:
            start = load_prior(self.config.model.init, self.device, with_latents=False).model
            model.encoder.load_state_dict(start.encoder.state_dict())
            model.field.load_state_dict(start.field.state_dict())
        names = [entry.name for entry in data.index.entries]
        model.viewer_controls.offer(names, scene, self.config.model.shown_views)

    def get_eval_loss_dict(self, step: int) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """Losses on one scene that is held out."""
        data, model = cast(MultiSceneDatamanager, self.datamanager), cast(NestPriorModel, self.model)
        sample = data.eval_sample(data.held_out[step % len(data.held_out)], self.config.eval_context[0])
        self.eval()
        with torch.no_grad():
            outputs = model.get_outputs([sample])
        self.train()
        return outputs, model.get_loss_dict(outputs, None), model.get_metrics_dict(outputs, None)

    @torch.no_grad()
    def get_average_eval_image_metrics(
        self, step: int | None = None, output_path: Path | None = None, get_std: bool = False
    ) -> dict[str, float]:
        """Scores on unseen views of unseen scenes: means over scenes of their means over images.

        Keys: `psnr`, `ssim`, … over all numbers of context views; `psnr/4_views` for one of them,
        `psnr/4_views/fish` for a category, `psnr/4_views/light` for edited latents, by what the edit changes;
        `psnr/4_views/motion` at other times, of scenes that move.
        `psnr_refined` and so on: the same for latents refined on their context. Of scenes with masks, scores
        are of the pixels to use, and `share_used` is their share.

        Args:
            step: not used.
            output_path: folder for images, target and rendering side by side; None for none.
            get_std: also give standard deviations over scenes, as `psnr_std` and so on.
        """
        self.eval()
        data = cast(MultiSceneDatamanager, self.datamanager)
        scores: dict[str, list[float]] = defaultdict(list)
        shares: list[float] = []
        for count in self.config.eval_context:
            for sample in track(data.eval_samples(count), f"Scoring from {count} views", len(data.held_out)):
                for key, value in self._score(sample, count, output_path).items():
                    scores[key].append(value)
                masks = [views.masks for _, views in sample.targets if views.masks is not None]
                shares += [share for mask in masks for share in mask.flatten(1).mean(1).tolist() if share]
        self.train()
        if shares:
            scores["share_used"] = [float(np.mean(shares))]
            CONSOLE.log(
                f"Scores are of the pixels that masks leave to use, {scores['share_used'][0]:.1%} of those "
                "of images that have masks."
            )
        means = {key: float(np.mean(values)) for key, values in scores.items()}
        if not get_std:
            return means
        return means | {f"{key}_std": float(np.std(values)) for key, values in scores.items()}

    def _score(self, sample: SceneSample, count: int, output_path: Path | None) -> dict[str, float]:
        """Means over the images of one scene."""
        found: dict[str, list[float]] = defaultdict(list)
        model = cast(NestPriorModel, self.model)
        latents = {"": model.encoder(sample.context)}
        if model.config.refine_steps > 0:
            latents["_refined"] = model.refine(latents[""], sample.context)
        for kind, latent in latents.items():
            scored: list[tuple[str, dict[str, float], torch.Tensor]] = [
                ("+".join(edit.differences(sample.edit)), scores, image)
                for edit, scores, image in model.score(latent, sample)
            ]
            if sample.timed is not None and sample.observed is not None:
                moving = model.moving(latent, sample.context, sample.observed)
                for scores, image in model.score_views(moving, sample.timed):
                    scored.append(("motion", scores, image))
            for i, (changed, scores, image) in enumerate(scored):
                for name, value in scores.items():
                    metric = name + kind
                    here = f"{metric}/{count}_views"
                    keys = [f"{here}/{changed}"] if changed else [metric, here, f"{here}/{sample.category}"]
                    for key in keys:
                        found[key].append(value)
                if output_path is not None:
                    output_path.mkdir(parents=True, exist_ok=True)
                    name = f"{sample.name}_{count}_views{kind}_{i:02d}_{changed or 'base'}.png"
                    torchvision.utils.save_image(image.permute(2, 0, 1), output_path / name)
        return {key: float(np.mean(values)) for key, values in found.items()}
