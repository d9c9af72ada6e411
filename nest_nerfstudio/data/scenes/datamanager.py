"""Data manager of many scenes: batches of samples for training, and an evaluation of each held-out scene."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.configs.dataparser_configs import AnnotatedDataParserUnion
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
from nerfstudio.data.utils.dataloaders import FixedIndicesEvalDataloader
from nerfstudio.utils.rich_utils import CONSOLE

from nest_nerfstudio.cameras import downscale_views
from nest_nerfstudio.data.batches import DatasetViews
from nest_nerfstudio.data.datamanager import RenderableDataManager
from nest_nerfstudio.data.dataset import DynamicDataset
from nest_nerfstudio.data.scenes.augmentation import Augmentation
from nest_nerfstudio.data.scenes.dataparser import NestScenes, NestScenesConfig, scenes_of
from nest_nerfstudio.data.scenes.index import ScenesIndex
from nest_nerfstudio.data.scenes.library import SceneLibrary
from nest_nerfstudio.data.scenes.reader import skip_bad_scenes
from nest_nerfstudio.data.scenes.sampling import (
    ContextViews,
    SceneSampleDataset,
    eval_sample,
    load_steps,
    map_views,
    num_context_views,
    step_samples,
)
from nest_nerfstudio.states import SceneSample


@dataclass
class MultiSceneDatamanagerConfig(VanillaDataManagerConfig):
    """Settings of `MultiSceneDatamanager`; nerfstudio's settings for rays are not used."""

    _target: type = field(default_factory=lambda: MultiSceneDatamanager)
    dataparser: AnnotatedDataParserUnion = field(default_factory=NestScenesConfig)
    """Data parser: `nest-scenes`, or any other, whose scene is then the only one."""
    scenes_per_batch: int | None = None
    """Number of scenes of a step, for each process; unset: 1 on a CPU, 4 on CUDA,
    8 for a model whose encoder and decoder do not learn (`--pipeline.model.freeze True`)."""
    num_context: tuple[int, int] = (1, 8)
    """Fewest and most context views of a training sample, drawn log-uniformly; a state that has fewer views
    gives fewer."""
    num_targets: int = 4
    """Number of target views of a training sample, for the state of its context and for each other state."""
    edit_states: int = 0
    """Largest number of other states (edits) of a scene for which a training sample has targets."""
    num_timed: int | None = None
    """Most frames at other times from which the motion of a sample is read (fewest: 4); unset: 16 for a model
    that learns motion (`--pipeline.model.dynamics True`), else 0."""
    sampling_seed: int = 0
    """Random seed of scene and view sampling, and of augmentation."""
    downscale: int = 1
    """Training images are made smaller by this whole number: faster, where time is short."""
    num_workers: int = 0
    """Number of processes that load images ahead; it does not change the samples."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """Augmentation of training samples."""
    cache_megabytes: float = 128.0
    """Size of the decoded images to keep, in all processes of a rank together."""


class MultiSceneDatamanager(RenderableDataManager):
    """Gives samples of a few scenes a step: context views of one state, and other views as targets.

    The batch of a step depends on the seed, the step and the rank only, so a run can resume at any step.

    Args:
        config: settings.
        device: device of samples and cameras.
        test_mode: not used; nerfstudio passes it.
        world_size: number of processes.
        local_rank: rank of this process, where torch.distributed is not in use.

    Attributes:
        library: reads scenes and images, through bounded caches.
        train_dataset: a bounded number of frames of train scenes, for the viewer and ns-render.
        eval_dataset: the same of held-out scenes.
    """

    config: MultiSceneDatamanagerConfig
    includes_time = False

    def __init__(
        self,
        config: MultiSceneDatamanagerConfig,
        device: torch.device | str = "cpu",
        test_mode: Literal["test", "val", "inference"] = "val",
        world_size: int = 1,
        local_rank: int = 0,
        **kwargs: Any,
    ):
        self.config, self.device, self.test_mode, self.test_split = config, device, test_mode, "val"
        self.rank, self.world_size = local_rank, world_size
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            self.rank, self.world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        self.dataparser = _scenes_parser(config)
        self.train_dataparser_outputs = self.dataparser.get_dataparser_outputs(split="train")
        self.train_dataset = DynamicDataset(self.train_dataparser_outputs)
        self.eval_dataset = DynamicDataset(self.dataparser.get_dataparser_outputs(split=self.test_split))
        self.library = SceneLibrary(self.index, config.cache_megabytes / (1 + config.num_workers))
        self._loaded: tuple[int, Iterator[list[SceneSample]]] | None = None
        super().__init__()

    @property
    def scenes_per_batch(self) -> int:
        """Number of scenes of a step, for each process."""
        unset = 4 if torch.device(self.device).type == "cuda" else 1
        return unset if self.config.scenes_per_batch is None else self.config.scenes_per_batch

    @property
    def index(self) -> ScenesIndex:
        """The index of all scenes."""
        return self.dataparser.index

    def setup_train(self) -> None:
        """Nothing is loaded before it is needed."""

    def setup_eval(self) -> None:
        """Nothing is loaded before it is needed."""

    def next_train(self, step: int) -> tuple[list[SceneSample], dict[str, Any]]:
        """The samples of a step, on the device; the dictionary is empty.

        Raises:
            ValueError: a scene has no two views of one state, or its files are broken.
            FileNotFoundError: images are missing.
        """
        batch, process = self.scenes_per_batch, (self.rank, self.world_size)
        numbers = step_samples(step, batch, *process)
        if self.config.num_workers == 0:
            samples = [self._samples[n] for n in numbers]
        else:
            if self._loaded is None or self._loaded[0] != step:
                workers = self.config.num_workers
                self._loaded = step, load_steps(self._samples, step, batch, workers, *process)
            samples = next(self._loaded[1])
            self._loaded = step + 1, self._loaded[1]
        varied = [
            self.config.augmentation(sample, np.random.default_rng((self.config.sampling_seed, 1, n)))
            for n, sample in zip(numbers, samples, strict=True)
        ]
        smaller = [
            map_views(sample, lambda v: downscale_views(v, self.config.downscale)) for sample in varied
        ]
        return [map_views(sample, lambda v: v.to(self.device)) for sample in smaller], {}

    @property
    def held_out(self) -> list[int]:
        """Numbers of the held-out scenes."""
        return scenes_of(self.index, self.test_split)

    def eval_sample(self, number: int, num_context: int) -> SceneSample:
        """The evaluation of one scene, on the device: see `sampling.eval_sample`."""
        config = self.config
        sample = eval_sample(self.library, number, num_context, config.sampling_seed, config.num_timed or 0)
        return map_views(sample, lambda views: views.to(self.device))

    @property
    def contexts(self) -> ContextViews:
        """Context views of the evaluation of each scene, on the device; nothing is read by this property."""
        config = self.config
        return ContextViews(self.library, self.device, config.sampling_seed, config.num_timed or 0)

    def eval_samples(self, num_context: int) -> Iterator[SceneSample]:
        """The evaluation of each held-out scene, in order, on the device: see `eval_sample`.

        Scenes with fewer context views are skipped, and the log says how many.

        Args:
            num_context: number of context views.
        """
        short = 0
        for number in self.held_out:
            with skip_bad_scenes(self.dataparser.config.skip_bad_scenes):
                if num_context_views(self.library, number, self.config.sampling_seed) < num_context:
                    short += 1
                    continue
                yield self.eval_sample(number, num_context)
        if short:
            CONSOLE.log(f"{short} scene(s) with fewer than {num_context} context views are not evaluated.")

    def next_eval(self, step: int) -> tuple[Cameras, dict[str, Any]]:
        return self.next_eval_image(step)

    def next_eval_image(self, step: int) -> tuple[Cameras, dict[str, Any]]:
        """The next evaluation frame: its camera, and a batch with `image` [h, w, 3 or 4]."""
        camera, batch = self.fixed_indices_eval_dataloader[self.eval_count % len(self.eval_dataset)]
        self.eval_count += 1
        return camera, batch

    # Cached, because the viewer reads every plain property of the data manager when it starts.
    @cached_property
    def fixed_indices_eval_dataloader(self) -> DatasetViews:
        """All evaluation frames, in order, each read on demand."""
        return DatasetViews(cast(DynamicDataset, self.eval_dataset), self.device)

    @cached_property
    def eval_dataloader(self) -> FixedIndicesEvalDataloader:
        """The evaluation frames in the form of nerfstudio's ray managers, for `ns-render spiral`."""
        return FixedIndicesEvalDataloader(self.eval_dataset, device=self.device)

    @cached_property
    def _samples(self) -> SceneSampleDataset:
        config = self.config
        return SceneSampleDataset(
            self.library,
            self.index.split("train"),
            num_context=config.num_context,
            num_targets=config.num_targets,
            edit_states=config.edit_states,
            num_timed=config.num_timed or 0,
            seed=config.sampling_seed,
            skip_bad=self.dataparser.config.skip_bad_scenes,
        )

    def get_train_rays_per_batch(self) -> int:
        """Number of target pixels of a step, for nerfstudio's measure of speed."""
        camera, config = self.train_dataset.cameras[0], self.config
        targets = self.scenes_per_batch * config.num_targets * (1 + config.edit_states)
        return targets * int(camera.width) * int(camera.height)

    def get_eval_rays_per_batch(self) -> int:
        return self.get_train_rays_per_batch()

    def get_datapath(self) -> Path:
        return self.dataparser.config.data


def _scenes_parser(config: MultiSceneDatamanagerConfig) -> NestScenes:
    """The parser of many scenes, or of the one scene that another parser reads."""
    parser = config.dataparser if config.data is None else replace(config.dataparser, data=config.data)
    if not isinstance(parser, NestScenesConfig):
        parser = NestScenesConfig(scenes=(parser.data,), scene_parser=parser, holdout=0)
    return cast(NestScenes, parser.setup())
