"""Pipeline of one dynamic scene: starts the model from the data, and keeps both on one schedule."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datamanagers.base_datamanager import DataManagerConfig
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from nest_nerfstudio.cameras import cameras_to_views, downscale_views, join_views
from nest_nerfstudio.data.datamanager import DynamicDatamanager, DynamicDatamanagerConfig
from nest_nerfstudio.geometry.sh import sh_to_rgb
from nest_nerfstudio.models.nest_dynamic import NestDynamicModel
from nest_nerfstudio.models.nest_dynamic_config import NestDynamicModelConfig
from nest_nerfstudio.models.prior_start import (
    MAX_CONTEXT,
    MAX_FRAMES,
    StartFromPrior,
    start_from_prior,
)
from nest_nerfstudio.pipelines.base import NestPipelineConfig
from nest_nerfstudio.pipelines.prior_run import find_prior, load_prior
from nest_nerfstudio.pipelines.single_scene import SingleScenePipeline, in_numbers
from nest_nerfstudio.spread import spread
from nest_nerfstudio.training.backdrop import find_backdrop, with_silhouettes
from nest_nerfstudio.training.image_errors import MAX_IMAGES
from nest_nerfstudio.types import Points, Views

_FEWEST = 8
"""Views of a time window, at least; the nearest in time join where fewer lie in it."""
_MOST = 64
"""Views that a start is found from, at most."""
_START_SIZE = 800
"""Pixels of the longer side of these views, less than twice as many at most."""
_MOST_SOUGHT = 200
"""Views in which motion is sought, at most."""
_NEVER_SET = (math.nan, math.nan)
"""A window unlike any other: a resumed data manager may have been restored with another than is due."""


@dataclass
class NestDynamicPipelineConfig(NestPipelineConfig):
    """Settings of `NestDynamicPipeline`."""

    _target: type = field(default_factory=lambda: NestDynamicPipeline)
    datamanager: DataManagerConfig = field(default_factory=DynamicDatamanagerConfig)
    model: NestDynamicModelConfig = field(default_factory=NestDynamicModelConfig)  # type: ignore[assignment]

    def resolve(self, device_type: str) -> dict[str, Any]:
        if self.model.init is not None:
            self.model.take(find_prior(self.model.init).model_config)
            self.model.init = self.model.init.resolve()
        return self.model.resolve(device_type)


class NestDynamicPipeline(SingleScenePipeline):
    """Starts the model from the training images, and keeps model and data on a schedule by progress."""

    def __init__(
        self,
        config: NestDynamicPipelineConfig,
        device: str | torch.device,
        test_mode: Literal["test", "val", "inference"] = "val",
        *args: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(config, device, test_mode, *args, **kwargs)
        self._window: tuple[float, float] | None = _NEVER_SET  # of the data manager, as far as it is known
        if test_mode == "val":
            self._start_model()
        if self.model.device.type == "cpu":
            with CONSOLE.status("Loading kernels (half a minute once, to compile them)"):
                self.dynamic_model.warm_up()

    @property
    def dynamic_model(self) -> NestDynamicModel:
        """The model, not wrapped for several processes."""
        return cast(NestDynamicModel, self.model)

    @property
    def _train_times(self) -> Tensor:
        """Clip time of each training view."""
        times = self._data.train_dataset.cameras.times
        assert times is not None  # the data manager sees to it
        return times.reshape(-1)

    def _start_model(self) -> None:
        model, parsed = self.dynamic_model, self._data.train_dataparser_outputs
        has_alpha = self._data.cached_train[0]["image"].shape[-1] == 4
        model.set_image_background(has_alpha, None if has_alpha else parsed.alpha_color)
        seed_points = None
        if "points3D_xyz" in parsed.metadata:
            rgb = parsed.metadata["points3D_rgb"].float() / 255
            seed_points = Points(parsed.metadata["points3D_xyz"].float(), rgb)
        views = self._views_in(model.time_window())
        backdrop = None if has_alpha else find_backdrop(views)
        if backdrop is not None and model.may_have_background(backdrop):
            CONSOLE.log(f"All images have RGB {in_numbers(backdrop)} at their borders: it is the background.")
            model.set_image_background(has_alpha, backdrop)
            views = [with_silhouettes(view, backdrop) for view in views]
        stands_still = model.has_still_background(has_alpha or backdrop is not None)
        if stands_still:
            views = self._views_in(None)
        decoded = None if model.config.init is None else self._from_prior(model.config.init)
        if decoded is not None and decoded.known is not None:
            seed_points = Points(decoded.known.means, sh_to_rgb(decoded.known.sh[:, 0]).clamp(0, 1))
        model.initialize(
            views,
            seed_points,
            cameras=_TrainCameras(self._data, self.device),
            num_times=len(self._train_times.unique()),
            stands_still=stands_still,
        )
        if decoded is not None:
            model.start_from(decoded.scene, decoded.known)

    def _from_prior(self, run: Path) -> StartFromPrior:
        """The scene as a prior sees it: from the views of one time, and the others for its motion."""
        prior = load_prior(run, self.device, with_latents=False).model
        times = self._train_times
        found, counts = times.unique(return_counts=True)
        rest = found[counts.argmax()]
        same = (times == rest).nonzero().flatten().tolist()
        others = [i for i in times.argsort().tolist() if times[i] != rest]
        chosen = [spread(same, MAX_CONTEXT), spread(others, MAX_FRAMES)]
        most = prior.config.encoder.image_size
        context, frames = (
            join_views(
                [downscale_views(v, max(1, max(v.width, v.height) // most)) for v in map(self._view, part)]
            )
            for part in chosen
        )
        return start_from_prior(prior, context, frames)

    def _views_in(self, window: tuple[float, float] | None) -> list[Views]:
        """Training views in a span of clip time, one camera each, at a size and number that fit in memory."""
        times = self._train_times
        centre = 0.5 if window is None else 0.5 * sum(window)
        order = (times - centre).abs().argsort()
        inside = len(times) if window is None else int(((times >= window[0]) & (times <= window[1])).sum())
        order = order[: max(_FEWEST, inside)]
        if len(order) > _MOST:  # at random, as any fixed step could always meet the same camera of a rig
            order = order[torch.randperm(len(order), generator=torch.Generator().manual_seed(0))[:_MOST]]
        views = (self._view(int(i)) for i in order)
        return [downscale_views(v, max(1, max(v.width, v.height) // _START_SIZE)) for v in views]

    def views_over_time(self) -> Iterator[Views]:
        """Training views at even steps of their order in time, read one by one."""
        return self._in_order(MAX_IMAGES)

    def _in_order(self, most: int) -> Iterator[Views]:
        order = self._train_times.argsort().tolist()
        return (self._view(i) for i in order[:: math.ceil(len(order) / most)])

    def to_views(self, camera: Cameras, batch: dict[str, Any]) -> Views:
        """As the base; in training, of which all cameras are known by their index, as refined so far."""
        model, index = self.dynamic_model, (camera.metadata or {}).get("cam_idx")
        if not self.training or index is None:
            return super().to_views(camera, batch)
        if model.config.camera_optimizer.mode != "off":
            camera = copy(camera)
            camera.camera_to_worlds = model.camera_optimizer.apply_to_camera(camera)
        views = super().to_views(camera, batch)
        return views if model.exposure is None else replace(views, exposures=model.exposure(index))

    def failure(self) -> str | None:
        return self.dynamic_model.failure()

    def set_progress(self, step: int, progress: float) -> None:
        super().set_progress(step, progress)
        model = self.dynamic_model
        model.keep_world(self._data.train_dataset.cameras.camera_to_worlds[..., 3].to(self.device), progress)
        model.set_progress(step, progress)
        model.find_motion(step, progress, self._in_order(_MOST_SOUGHT))
        model.hand_over(self.views_over_time())
        window = model.time_window()
        if window != self._window:
            self._window = window
            self._data.set_time_window(*(window or (None, None)), min_views=_FEWEST)


class _TrainCameras(Sequence[Views]):
    """All training views without images, with masks where there are any; each is made when it is asked for.

    Args:
        data: has the cameras and masks.
        device: of the views.
    """

    def __init__(self, data: DynamicDatamanager, device: torch.device | str) -> None:
        self._data = data
        self._cameras = data.train_dataset.cameras.to(device)

    def __len__(self) -> int:
        return len(self._cameras)

    def __getitem__(self, index: int) -> Views:  # type: ignore[override]
        i = range(len(self))[index]
        views = cameras_to_views(self._cameras[i : i + 1])
        kept = self._data.cached_train.kept(i)
        mask = self._data.train_dataset.get_mask(i) if kept is None else kept.get("mask")
        return views if mask is None else replace(views, masks=mask[None].to(views.viewmats))
