"""Data manager of one dynamic scene: whole images with their cameras and times, from a time window."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.configs.dataparser_configs import AnnotatedDataParserUnion
from nerfstudio.data.datamanagers.base_datamanager import DataManager, VanillaDataManager
from nerfstudio.data.datamanagers.full_images_datamanager import (
    FullImageDatamanager,
    FullImageDatamanagerConfig,
)
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.utils.dataloaders import FixedIndicesEvalDataloader
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from nest_nerfstudio.data.batches import CachedBatches, DatasetViews, View, batch_to_device, single_camera
from nest_nerfstudio.data.coordinates import is_far
from nest_nerfstudio.data.dataparser import NestDynamicDataParser, NestDynamicDataParserConfig
from nest_nerfstudio.data.dataset import DynamicDataset
from nest_nerfstudio.data.frame_order import FrameOrder, describe_order, frame_times
from nest_nerfstudio.data.images import alpha_problems, image_header
from nest_nerfstudio.data.splits import motion_problems
from nest_nerfstudio.data.transforms import seed_point_notes
from nest_nerfstudio.data.world import World, find_world


@dataclass
class DynamicDatamanagerConfig(FullImageDatamanagerConfig):
    """Settings of `DynamicDatamanager`."""

    _target: type = field(default_factory=lambda: DynamicDatamanager)
    dataparser: AnnotatedDataParserUnion = field(default_factory=NestDynamicDataParserConfig)
    missing_times: Literal["error", "static"] | FrameOrder = "error"
    """Times of a data parser that gives none: error stops; static sets all times to 0; the others take the
    order of the file names, evenly spaced, as the `time_from` of nest-dynamic-data does."""
    time_scale: Literal["auto", "none"] = "auto"
    """Times of other data parsers than nest-dynamic-data, which has this setting itself. auto: they are
    mapped so that the train times span [0, 1]. none: they stay as they are."""
    cache_images_type: Literal["uint8", "float32"] = "uint8"
    """Type of the train images in memory: uint8 takes a quarter of the memory of float32."""
    cache_megabytes: float = 1000.0
    """Memory for decoded train images, with their masks and depths. Images beyond it are read from disk when
    they are needed, ahead of the training. Evaluation images always are."""


class RenderableDataManager(VanillaDataManager):
    """Base of data managers that `ns-render spiral`, which tests for nerfstudio's ray managers, accepts."""

    def __init__(self) -> None:
        DataManager.__init__(self)

    @cached_property  # the viewer reads every plain property
    def train_pixel_sampler(self) -> None:  # type: ignore[override]
        """What nerfstudio's point clouds and meshes are sampled by; NotImplementedError."""
        raise NotImplementedError(
            "Gaussians are not sampled by rays. In place of ns-export's point clouds and meshes, "
            "`nest-export splat` writes the scene"
        )


class DynamicDatamanager(FullImageDatamanager[DynamicDataset], RenderableDataManager):  # pyright: ignore
    """Gives one train image a step, in shuffled passes over the cameras of a time window.

    Works with every nerfstudio data parser, and with or without CUDA. The state of the sampling is part of a
    checkpoint, so a resumed training sees the images that it would have seen without the interruption.

    Args:
        config: settings.
        device: device of cameras and batches.
        test_mode: "val" and "test" evaluate on these splits; "inference" needs cameras only.
        world_size: number of processes.
        local_rank: rank of this process.

    Raises:
        ValueError: the data parser gives no times, and `config.missing_times` is "error"; train times that
            do not differ; only some of the images have alpha.
    """

    config: DynamicDatamanagerConfig
    includes_time = True

    def __init__(
        self,
        config: DynamicDatamanagerConfig,
        device: torch.device | str = "cpu",
        test_mode: Literal["test", "val", "inference"] = "val",
        world_size: int = 1,
        local_rank: int = 0,
        **kwargs: Any,
    ):
        self._window: list[int] | None = None  # cameras of the time window; None for all
        super().__init__(config, device, test_mode, world_size, local_rank, **kwargs)
        self.includes_time = True
        if not hasattr(self, "random_generator"):  # nerfstudio makes it for random sampling only
            self.random_generator = random.Random(config.train_cameras_sampling_seed)
        if self.train_dataset.cameras.times is None:
            self._fill_times()
        if not isinstance(self.dataparser, NestDynamicDataParser):
            self._check_times()
            if config.time_scale == "auto":
                self._scale_times()
        if test_mode != "inference":
            self._check_alpha()

    def create_train_dataset(self) -> DynamicDataset:
        """The train images, in the coordinates of training (`world.find_world`)."""
        if is_far(self.train_dataparser_outputs.cameras.camera_to_worlds):
            CONSOLE.log(
                f"The cameras of {type(self.dataparser).__name__} are too far from the origin for its single "
                "precision: images will be blurred. Use nest-dynamic-data, or move the poses to the origin"
            )
        self.train_dataparser_outputs = _with_finite_points(self.train_dataparser_outputs)
        self.world = find_world(self.train_dataparser_outputs)
        self.train_dataparser_outputs = self.choose_train(self.world.apply(self.train_dataparser_outputs))
        if not self.world.is_as_parsed:
            CONSOLE.log(self.world.describe())
        return super().create_train_dataset()

    def adopt_world(self, world: World) -> None:
        """Go over to the coordinates that a checkpoint was trained in, whatever the data at hand suggest."""
        change, self.world = self.world.until(world), world
        if change.is_as_parsed:
            return
        self.train_dataparser_outputs = change.apply(self.train_dataparser_outputs)
        for dataset in (self.train_dataset, self.eval_dataset):
            dataset.move(change)
        for name in ("_train_cameras", "cached_train", "cached_eval", "fixed_indices_eval_dataloader"):
            self.__dict__.pop(name, None)

    def choose_train(self, outputs: DataparserOutputs) -> DataparserOutputs:
        """The train frames to use, in the coordinates of training; all of them."""
        return outputs

    def create_eval_dataset(self) -> DynamicDataset:
        """The images of the eval split, in the same coordinates."""
        return self.read_split(self.test_split)

    def read_split(self, split: str) -> DynamicDataset:
        """The images of any split, in the coordinates of training."""
        outputs = self.world.apply(self.dataparser.get_dataparser_outputs(split=split))
        return self.dataset_type(dataparser_outputs=outputs, scale_factor=self.config.camera_res_scale_factor)

    def set_time_window(self, lo: float | None = None, hi: float | None = None, min_views: int = 1) -> None:
        """Draw train views from a span of the clip only, from the next step on.

        The current pass goes on: its remaining views inside the window stay, and views that enter join them.

        Args:
            lo: first time; None for no lower end.
            hi: last time; None for no upper end.
            min_views: where fewer views lie inside, the nearest in time are added.

        Raises:
            ValueError: lo > hi.
        """
        lo, hi = -torch.inf if lo is None else lo, torch.inf if hi is None else hi
        if lo > hi:
            raise ValueError(f"the time window [{lo:g}, {hi:g}] is empty")
        times = self._train_times
        outside = (lo - times).clamp(min=0) + (times - hi).clamp(min=0)
        count = max(int((outside == 0).sum()), min(min_views, len(times)))
        window = outside.argsort(stable=True)[:count].tolist()
        if window == self._window:
            return
        remaining = set(self.train_unseen_cameras)
        before = set(self._all_train if self._window is None else self._window)
        self._window = window
        self.train_unseen_cameras = self._shuffled(i for i in window if i in remaining or i not in before)

    def get_extra_state(self) -> dict[str, Any]:
        """The state of the sampling of train views, for a checkpoint.

        Returns:
            `num_cameras`; `random_state` [626], version and words of the random generator;
            `remaining_cameras`, those of the current pass, last one first; `window`, the cameras of the time
            window, or None.
        """
        version, words, _ = self.random_generator.getstate()
        return {
            "num_cameras": len(self.train_dataset),
            "random_state": torch.tensor([version, *words]),
            "remaining_cameras": list(self.train_unseen_cameras),
            "window": None if self._window is None else list(self._window),
        }

    def set_extra_state(self, state: Any) -> None:
        """Continue the sampling of a checkpoint; a state of another number of train cameras is ignored."""
        if not isinstance(state, dict) or state.get("num_cameras") != len(self.train_dataset):
            return
        version, *words = state["random_state"].tolist()
        self.random_generator.setstate((version, tuple(words), None))
        self.train_unseen_cameras = list(state["remaining_cameras"])
        self._window = None if state["window"] is None else list(state["window"])

    def sample_train_cameras(self) -> list[int]:
        """Draw the order of one pass over the train cameras of the time window; the last one comes first."""
        if self._window is None:
            return super().sample_train_cameras()
        return self._shuffled(self._window)

    def next_train(self, step: int) -> View:
        """The next train view: one camera, and its batch with `image` as float32 [h, w, 3 or 4]."""
        if not self.train_unseen_cameras:
            self.train_unseen_cameras = self.sample_train_cameras()
        index = self.train_unseen_cameras.pop()
        batch = self.cached_train[index]
        self.cached_train.read_ahead(reversed(self.train_unseen_cameras))
        return copy(self._train_cameras[index]), batch_to_device(batch, self.device)

    def next_eval_image(self, step: int) -> View:
        """The next view of the eval split, in its own order."""
        if not self.eval_unseen_cameras:
            self.eval_unseen_cameras = list(range(len(self.eval_dataset)))
        return self.fixed_indices_eval_dataloader[self.eval_unseen_cameras.pop(0)]

    # Cached, because the viewer reads every plain property of the data manager when it starts.
    @cached_property
    def fixed_indices_eval_dataloader(self) -> DatasetViews:
        """All views of the eval split, in order, each read on demand."""
        return DatasetViews(self.eval_dataset, self.device)

    @cached_property
    def eval_dataloader(self) -> FixedIndicesEvalDataloader:
        """The eval split in the form of nerfstudio's ray managers, for `ns-render spiral`."""
        return FixedIndicesEvalDataloader(self.eval_dataset, device=self.device)

    @cached_property
    def train_views_times(self) -> Float[Tensor, " v"]:
        """Times of the train views in ascending order, with repetitions, on the device."""
        return self._train_times.sort().values.to(self.device)

    @cached_property
    def _train_times(self) -> Float[Tensor, " v"]:
        times = self.train_dataset.cameras.times
        assert times is not None
        return times.flatten().cpu()

    # Sliced once: slicing cameras at every step would slow the training.
    @cached_property
    def _train_cameras(self) -> list[Cameras]:
        cameras = self.train_dataset.cameras.to(self.device)
        return [single_camera(cameras, i) for i in range(len(cameras))]

    @property
    def _all_train(self) -> range:
        return range(len(self.train_dataset))

    def _shuffled(self, indices: Iterable[int]) -> list[int]:
        order = sorted(indices)
        self.random_generator.shuffle(order)
        return order

    @cached_property
    def cached_train(self) -> CachedBatches:  # type: ignore[override]
        """The train images; all are read, and as many kept as fit, when this is first used."""
        return self._load_images("train", self.config.cache_images)

    @cached_property
    def cached_eval(self) -> CachedBatches:  # type: ignore[override]
        """The eval images, as `cached_train`; nothing of ours uses them."""
        return self._load_images("eval", self.config.cache_images)

    def _load_images(  # type: ignore[override]
        self, split: Literal["train", "eval"], cache_images_device: Literal["cpu", "gpu"]
    ) -> CachedBatches:
        def place(batch: dict[str, Any]) -> dict[str, Any]:
            """On CUDA: to the device, or to memory that it can read."""
            if torch.device(self.device).type != "cuda":
                return batch
            move = (
                (lambda x: x.to(self.device)) if cache_images_device == "gpu" else (lambda x: x.pin_memory())
            )
            return {key: move(value) if torch.is_tensor(value) else value for key, value in batch.items()}

        config = self.config
        batches = CachedBatches(
            self.train_dataset if split == "train" else self.eval_dataset,
            config.cache_images_type,
            int(config.cache_megabytes * 2**20),
            config.max_thread_workers or min(4, os.cpu_count() or 1),
            place,
        )
        batches.load(split)
        return batches

    def _check_alpha(self) -> None:
        """ValueError if only some of the train and eval images have alpha, and no setting says what it means.

        The `alpha_color` of other parsers is a default: it need not be the colour behind the opaque images.
        """
        parser = self.dataparser_config
        is_nest = isinstance(parser, NestDynamicDataParserConfig)
        if is_nest and (parser.alpha_color is not None or parser.missing_alpha == "opaque"):
            return
        files = [path for data in (self.train_dataset, self.eval_dataset) for path in data.image_filenames]
        for problem in alpha_problems({path: image_header(path).has_alpha for path in files}):
            raise ValueError(problem)

    def _fill_times(self) -> None:
        """Set the times of cameras whose data parser gives none; ValueError where the settings forbid it."""
        if self.config.missing_times == "error":
            raise ValueError(
                f"the data parser {type(self.dataparser).__name__} gives no times. Use `nest-dynamic-data`, "
                "with --time-from frame-order for a video without time stamps, or set "
                "--pipeline.datamanager.missing-times to frame-order or static."
            )
        datasets = (self.train_dataset, self.eval_dataset)
        views = {
            str(name): pose
            for frames in (*datasets, *self._other_split())
            for name, pose in zip(frames.image_filenames, frames.cameras.camera_to_worlds, strict=True)
        }
        if self.config.missing_times == "static":
            rank = dict.fromkeys(views, 0.0)
        else:
            names, poses = list(views), torch.stack(list(views.values())).numpy()
            times = frame_times(names, poses, self.config.missing_times)
            CONSOLE.log(describe_order(names, poses, times))
            rank = dict(zip(names, times, strict=True))
        for dataset in datasets:
            times = [rank[str(name)] for name in dataset.image_filenames]
            dataset.cameras.times = torch.tensor(times)[:, None]

    def _other_split(self) -> list[DataparserOutputs]:
        """The split of val and test that is not loaded, if there is one: it has a say in the times of all."""
        split = "val" if self.test_split == "test" else "test"
        try:
            return [self.world.apply(self.dataparser.get_dataparser_outputs(split=split))]
        except Exception:  # whatever a parser raises of a split that the data have not
            return []

    def _check_times(self) -> None:
        """ValueError if train times are equal, or so large that single precision hardly tells them apart."""
        times = self._train_times.tolist()
        last = max(map(abs, times))
        step = torch.finfo(torch.float32).eps * last
        if self.config.missing_times == "static" or max(times) - min(times) > 1000 * step:
            return
        same = next(motion_problems(times), f"train times up to {last:g} are {step:.2g} apart, or equal")
        raise ValueError(
            f"{type(self.dataparser).__name__}: {same}. If they differ in the data, the single precision "
            "of this parser has rounded them: use nest-dynamic-data, or subtract the first time from all. If "
            "nothing moves: --pipeline.datamanager.missing-times static"
        )

    def _scale_times(self) -> None:
        """Map all times so that the train times span [0, 1]."""
        first, last = self._train_times.aminmax()
        if first < last and (first, last) != (0, 1):
            CONSOLE.log(f"Times: {first:g} … {last:g} of the train frames becomes 0 … 1")
            for dataset in (self.train_dataset, self.eval_dataset):
                assert dataset.cameras.times is not None
                times = dataset.cameras.times.double()
                dataset.cameras.times = ((times - first) / (last - first)).float()
            del self._train_times  # cached


def _with_finite_points(outputs: DataparserOutputs) -> DataparserOutputs:
    """What a data parser gave, without seed points that are not finite; a line in the log says how many."""
    points = outputs.metadata.get("points3D_xyz")
    if points is None or points.isfinite().all():
        return outputs
    for note in seed_point_notes(points):
        CONSOLE.log(note)
    finite = points.isfinite().all(1)
    kept = {key: outputs.metadata[key][finite] for key in ("points3D_xyz", "points3D_rgb")}
    return replace(outputs, metadata={**outputs.metadata, **kept})
