"""Pipeline of an inversion: a prior and images of one scene in, an ordinary run out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datamanagers.base_datamanager import DataManagerConfig
from nerfstudio.utils.rich_utils import CONSOLE

from nest_nerfstudio.cameras import batch_to_views, downscale_views, join_views
from nest_nerfstudio.data.still_datamanager import StillDatamanagerConfig
from nest_nerfstudio.models.inversion import MAX_ENCODED, view_problems
from nest_nerfstudio.models.latent_optimization import CAMERA_RATE, LatentRates
from nest_nerfstudio.models.nest_invert import NestInvertModel, NestInvertModelConfig
from nest_nerfstudio.models.nest_prior import NestPriorModel
from nest_nerfstudio.pipelines.base import NestPipelineConfig
from nest_nerfstudio.pipelines.prior_run import find_prior, load_prior
from nest_nerfstudio.pipelines.single_scene import SingleScenePipeline, in_numbers
from nest_nerfstudio.spread import spread
from nest_nerfstudio.training.backdrop import find_backdrop, with_silhouettes
from nest_nerfstudio.types import Views

LEARNING_RATES = {**vars(LatentRates()), "camera": CAMERA_RATE}
"""Of the parameters of an inversion, by the names of their optimizers."""
REFINEMENT_RATES = {
    "means": 5e-4,
    "scales": 5e-3,
    "quats": 3e-3,
    "opacities": 2e-2,
    "albedo": 2e-2,
    "transfer": 5e-3,
    "features_rest": 5e-4,
}
"""Of those of a refinement."""


@dataclass
class NestInvertPipelineConfig(NestPipelineConfig):
    """Settings of `NestInvertPipeline`."""

    _target: type = field(default_factory=lambda: NestInvertPipeline)
    datamanager: DataManagerConfig = field(default_factory=StillDatamanagerConfig)
    model: NestInvertModelConfig = field(default_factory=NestInvertModelConfig)  # type: ignore[assignment]

    @property
    def num_iterations(self) -> dict[str, int]:  # type: ignore[override]
        """Of an inversion; twice as many with a refinement."""
        phases = 2 if self.model.refine else 1
        return {"cpu": phases * 300, "cuda": phases * 1000}

    def resolve(self, device_type: str) -> dict[str, Any]:
        """Take over the settings of the prior, so that a run needs it no more; raises as `find_prior`."""
        self.model.take(find_prior(self.model.prior).model_config)
        self.model.prior = cast(Any, self.model.prior).resolve()
        return {}


class NestInvertPipeline(SingleScenePipeline):
    """Starts the model from the training images and the prior; then a step is one of the latent."""

    def __init__(
        self,
        config: NestInvertPipelineConfig,
        device: str | torch.device,
        test_mode: Literal["test", "val", "inference"] = "val",
        *args: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(config, device, test_mode, *args, **kwargs)
        self._backdrop: torch.Tensor | None = None
        if test_mode == "val":
            self._start_model()

    def to_views(self, camera: Cameras, batch: dict[str, Any]) -> Views:
        """One camera and its batch, where the mask of an image without alpha is its silhouette."""
        views = batch_to_views(camera, batch)
        if views.alphas is None and views.masks is not None:
            return replace(views, alphas=views.masks, masks=None)
        return views

    def _start_model(self) -> None:
        model, parsed = cast(NestInvertModel, self.model), self._data.train_dataparser_outputs
        config = model.config
        assert config.prior is not None  # the settings are resolved
        prior = load_prior(config.prior, model.device, config.needs_latents)
        first = self._view(0)
        has_alpha = self._data.cached_train[0]["image"].shape[-1] == 4
        model.set_image_background(has_alpha, None if has_alpha else parsed.alpha_color)
        if first.alphas is None:
            self._backdrop = find_backdrop([self._view(i) for i in self._chosen()])
            if self._backdrop is not None:
                CONSOLE.log(
                    f"All images have RGB {in_numbers(self._backdrop)} at their borders: it is taken away."
                )
                model.set_image_background(has_alpha, self._backdrop)
        self._check(prior.model, config)
        model.start(join_views([self._small(i) for i in self._chosen()]), prior)

    def set_progress(self, step: int, progress: float) -> None:
        super().set_progress(step, progress)
        cast(NestInvertModel, self.model).set_progress(progress)

    def _check(self, prior: NestPriorModel, config: NestInvertModelConfig) -> None:
        """ValueError, with its file, if an image cannot be inverted."""
        for i, path in enumerate(self._data.train_dataset.image_filenames):
            for _, problem in view_problems(self._small(i), prior, config):
                raise ValueError(f"{path} {problem}")

    def _small(self, index: int) -> Views:
        """A train view for the start, with its silhouette."""
        view = self._view(index)
        if self._backdrop is not None:
            view = with_silhouettes(view, self._backdrop)
        most = cast(NestInvertModel, self.model).config.image_size
        return downscale_views(view, max(1, max(view.width, view.height) // most))

    def _chosen(self) -> list[int]:
        """Train views to start from: of the size that most have, evenly spread."""
        cameras = self._data.train_dataset.cameras
        sizes = list(zip(cameras.width.flatten().tolist(), cameras.height.flatten().tolist(), strict=True))
        common = Counter(sizes).most_common(1)[0][0]
        return spread([i for i, size in enumerate(sizes) if size == common], MAX_ENCODED)
