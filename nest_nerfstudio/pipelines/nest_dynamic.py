"""Pipeline of one dynamic scene: starts the model from the data, and keeps both on one schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from nerfstudio.data.datamanagers.base_datamanager import DataManagerConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from nest_nerfstudio.cameras import cameras_to_views
from nest_nerfstudio.data.datamanager import DynamicDatamanager, DynamicDatamanagerConfig
from nest_nerfstudio.models.nest_dynamic import NestDynamicModel, NestDynamicModelConfig
from nest_nerfstudio.pipelines.base import NestPipeline
from nest_nerfstudio.types import Views


@dataclass
class NestDynamicPipelineConfig(VanillaPipelineConfig):
    """Settings of `NestDynamicPipeline`."""

    _target: type = field(default_factory=lambda: NestDynamicPipeline)
    datamanager: DataManagerConfig = field(default_factory=DynamicDatamanagerConfig)
    model: NestDynamicModelConfig = field(default_factory=NestDynamicModelConfig)  # type: ignore[assignment]


class NestDynamicPipeline(NestPipeline):
    """nerfstudio's pipeline, plus a start from the training images and a schedule by progress."""

    def __init__(
        self,
        config: NestDynamicPipelineConfig,
        device: str | torch.device,
        test_mode: Literal["test", "val", "inference"] = "val",
        *args: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(config, device, test_mode, *args, **kwargs)
        self._window: tuple[float, float] | None = None
        if test_mode == "val":
            self._start_model()
        if self.model.device.type == "cpu":
            with CONSOLE.status("Loading kernels (half a minute once, to compile them)"):
                self.dynamic_model.warm_up()

    @property
    def dynamic_model(self) -> NestDynamicModel:
        return cast(NestDynamicModel, self.model)

    @property
    def _train_times(self) -> Tensor:
        """Clip time of each training view."""
        times = cast(DynamicDatamanager, self.datamanager).train_dataset.cameras.times
        assert times is not None  # the data manager sees to it
        return times.reshape(-1)

    def _start_model(self) -> None:
        datamanager, model = cast(DynamicDatamanager, self.datamanager), self.dynamic_model
        parsed, first = datamanager.train_dataparser_outputs, datamanager.cached_train[0]
        has_alpha = first["image"].shape[-1] == 4
        backdrop = None if has_alpha else parsed.alpha_color
        model.describe_images(has_alpha, "depth_image" in first, backdrop, len(self._train_times.unique()))
        model.training_views = self._views_over_time
        seed_points = None
        if "points3D_xyz" in parsed.metadata:
            seed_points = parsed.metadata["points3D_xyz"], parsed.metadata["points3D_rgb"]
        cameras = datamanager.train_dataset.cameras.to(self.device)
        model.initialize(
            self._views_in(model.time_window()),
            seed_points,
            cameras=[cameras_to_views(cameras[i : i + 1]) for i in range(len(cameras))],
        )

    def _views_in(self, window: tuple[float, float] | None) -> list[Views]:
        """Training views in a span of clip time, one camera each; at least eight, or all there are."""
        times = self._train_times
        centre = 0.5 if window is None else 0.5 * sum(window)
        order = (times - centre).abs().argsort()
        inside = len(times) if window is None else int(((times >= window[0]) & (times <= window[1])).sum())
        return [self._view(int(i)) for i in order[: max(8, inside)]]

    def _views_over_time(self, most: int) -> list[Views]:
        """Training views at even places of their order in time."""
        order = self._train_times.argsort().tolist()
        return [self._view(i) for i in order[:: math.ceil(len(order) / most)]]

    def _view(self, index: int) -> Views:
        datamanager = cast(DynamicDatamanager, self.datamanager)
        views = cameras_to_views(datamanager.train_dataset.cameras[index : index + 1].to(self.device))
        image = datamanager.cached_train[index]["image"].to(self.device)
        image = image.float() / 255 if image.dtype == torch.uint8 else image
        return Views(
            viewmats=views.viewmats,
            Ks=views.Ks,
            width=views.width,
            height=views.height,
            times=views.times,
            images=image[None, ..., :3],
            alphas=image[None, ..., 3:] if image.shape[-1] == 4 else None,
        )

    @property
    def progress(self) -> float:
        return self.dynamic_model.progress.item()

    def set_progress(self, step: int, progress: float) -> None:
        self.dynamic_model.set_progress(step, progress)
        window = self.dynamic_model.time_window()
        if window != self._window:
            self._window = window
            cast(DynamicDatamanager, self.datamanager).set_time_window(*(window or (None, None)), min_views=8)
