"""What pipelines of a single scene share: an image a step, scores of the eval images, its coordinates."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor
from torch.utils.data import Subset

from nest_nerfstudio.cameras import batch_to_views, is_one_moving_camera
from nest_nerfstudio.data.batches import single_camera
from nest_nerfstudio.data.datamanager import DynamicDatamanager
from nest_nerfstudio.data.world import World
from nest_nerfstudio.models.gaussian_model import GaussianModel
from nest_nerfstudio.pipelines.base import NestPipeline
from nest_nerfstudio.types import Views


class SingleScenePipeline(NestPipeline):
    """nerfstudio's pipeline of one scene, whose data manager gives one image a step.

    A batch becomes `Views` here, once, and images reach the model in no other way.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        cast(GaussianModel, self.model).ways = self._ways

    def _ways(self) -> list[Cameras]:
        """Cameras of each split that is the way of one moving camera."""
        splits = self._data.train_dataset.cameras, self._data.eval_dataset.cameras
        return [cameras for cameras in splits if is_one_moving_camera(cameras)]

    @property
    def _data(self) -> DynamicDatamanager:
        return cast(DynamicDatamanager, self.datamanager)

    def to_views(self, camera: Cameras, batch: dict[str, Any]) -> Views:
        """One camera and its batch as views with an image."""
        return batch_to_views(camera, batch)

    def _view(self, index: int) -> Views:
        camera = single_camera(self._data.train_dataset.cameras.to(self.device), index)
        batch = self._data.cached_train[index]
        return self.to_views(camera, {"image": batch["image"], "mask": batch.get("mask")})

    def get_train_loss_dict(self, step: int) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        return self._losses(*self._data.next_train(step))

    @torch.no_grad()
    def get_eval_loss_dict(self, step: int) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        self.eval()
        losses = self._losses(*self._data.next_eval_image(step))
        self.train()
        return losses

    def _losses(self, camera: Cameras, batch: dict[str, Any]) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        outputs = self._model(self.to_views(camera, batch))
        metrics = self.model.get_metrics_dict(outputs, {})
        return outputs, self.model.get_loss_dict(outputs, {}, metrics), metrics

    def get_extra_state(self) -> dict[str, Any]:
        """Which version wrote a checkpoint, and in what coordinates its scene is."""
        world = self._data.world
        return {**super().get_extra_state(), "world": [*world.centre.tolist(), world.scale]}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go over to the coordinates of a checkpoint; that of an earlier version kept those of the data."""
        *centre, scale = state.get("world", (0.0, 0.0, 0.0, 1.0))
        self._data.adopt_world(World(torch.tensor(centre, dtype=torch.float64), scale))

    def get_average_eval_image_metrics(
        self, step: int | None = None, output_path: Path | None = None, get_std: bool = False
    ) -> dict[str, float]:
        """Mean scores of the eval images; under masks, of those that have a pixel to use.

        Args:
            step: not used.
            output_path: folder for images, target and rendering side by side; None for none.
            get_std: also give standard deviations over images, as `psnr_std` and so on.

        Returns:
            Means of what the model gives for an image; under masks also `share_used`, of all their pixels.
        """
        views, dataset = self._data.fixed_indices_eval_dataloader, self._data.eval_dataset
        masks = (dataset.get_mask(i) for i in range(len(views)))
        shares = torch.tensor([1.0 if mask is None else float(mask.float().mean()) for mask in masks])
        used = Subset(views, shares.nonzero().flatten().tolist())  # type: ignore[arg-type]
        scores = self.get_average_image_metrics(used, "eval", step, output_path, get_std)
        if (shares == 1).all():
            return scores
        share = shares[shares > 0].mean().item()
        CONSOLE.log(
            f"Scores are of the pixels that masks leave to use, {share:.1%} of those of {len(used)} of "
            f"{len(views)} images."
        )
        return {**scores, "share_used": share}

    def load_pipeline(self, loaded_state: dict[str, Any], step: int) -> None:
        super().load_pipeline(loaded_state, step)
        model = cast(GaussianModel, self.model)
        if model.edit is not None:
            model.shown_scene()  # what the scene cannot carry is refused now, not by each frame


def in_numbers(values: Tensor) -> str:
    """Values with four digits, for messages."""
    return " ".join(f"{value:.4g}" for value in values.tolist())
