"""Data parser of many scenes: the index of all, and a few frames for the viewer and ns-render.

This module must stay importable without nerfstudio's data managers, as `dataparser` must.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import tyro
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from nerfstudio.data.scene_box import SceneBox

from nest_nerfstudio.data.scenes.index import ScenesIndex, index_folders, read_index
from nest_nerfstudio.data.scenes.reader import (
    join_outputs,
    log_once,
    read_scene,
    skip_bad_scenes,
    take_frames,
)
from nest_nerfstudio.spread import spread


@dataclass
class NestScenesConfig(DataParserConfig):
    """Settings of `NestScenes`."""

    _target: type = field(default_factory=lambda: NestScenes)
    data: Path = Path()
    """Folder with `scenes.json` and a folder of each scene that it lists."""
    scenes: tuple[Path, ...] = ()
    """Paths of scenes, instead of those of `scenes.json`, as a nerfstudio parser takes them; relative to
    `data`."""
    scene_format: str = "nerfstudio-data"
    """Name of the nerfstudio data parser that reads `scenes`, as on the command line; its settings are the
    defaults."""
    scene_parser: tyro.conf.Suppress[DataParserConfig | None] = None
    """Settings of the data parser that reads `scenes`, instead of `scene_format`."""
    holdout: int = 5
    """Hold out one of every n scenes of a category for evaluation; 0 holds out none, 1 all."""
    held_out: tuple[str, ...] = ()
    """Parts of names of the scenes to hold out, instead of one of every `holdout`."""
    skip_bad_scenes: bool = False
    """Skip scenes that cannot be used, with a line in the log, instead of stopping."""
    max_frames: int = 64
    """Number of frames of a split, over all its scenes, for the viewer and ns-render."""


@dataclass
class NestScenes(DataParser):
    """Reads many scenes: D-NeRF JSON with edits (`scenes.json`), or scenes in nerfstudio's formats."""

    config: NestScenesConfig
    includes_time: bool = False

    def __init__(self, config: NestScenesConfig):
        super().__init__(config)
        self.config = config

    @cached_property
    def index(self) -> ScenesIndex:
        """The index of all scenes; read once."""
        config = self.config
        if not config.scenes:
            return replace(read_index(config.data, config.holdout), held_out=config.held_out)
        parser = config.scene_parser or parser_named(config.scene_format)
        index = index_folders([config.data / path for path in config.scenes], parser, config.holdout)
        return replace(index, held_out=config.held_out)

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> DataparserOutputs:
        """Parse a few frames of the base state of scenes of a split: train, or any other for the held-out.

        They are the first train frames of train scenes and the first test frames of held-out ones. Cameras
        have `metadata["scene"]` [n, 1], the number of their scene in the index `metadata["scenes"]`.
        """
        if self.config.max_frames < 1:
            raise ValueError(f"max_frames must be 1 or more, not {self.config.max_frames}")
        numbers = scenes_of(self.index, split)
        each = max(1, self.config.max_frames // len(numbers))
        parts, owners = [], []
        for number in spread(numbers, self.config.max_frames):
            with skip_bad_scenes(self.config.skip_bad_scenes):
                scene = read_scene(self.index, number)
                state = scene.base_state
                frames = scene.frames(state, test=split != "train") or scene.frames(state)
                parts.append(take_frames(scene.dataset._dataparser_outputs, frames[:each]))
                owners += [number] * len(parts[-1].image_filenames)
        if not parts:
            raise ValueError(f"none of the scenes of the split {split} can be read; the log says why")
        outputs = join_outputs(parts)
        outputs.cameras.metadata = {"scene": torch.tensor(owners)[:, None]}
        return replace(
            outputs,
            scene_box=SceneBox(aabb=torch.tensor([[-1.5] * 3, [1.5] * 3])),
            metadata={**outputs.metadata, "scenes": self.index},
        )


def scenes_of(index: ScenesIndex, split: str) -> list[int]:
    """Numbers of the train scenes ("train") or held-out ones (any other split); all scenes if it has none."""
    numbers = index.split("train" if split == "train" else "val")
    if not numbers:
        log_once(f"With holdout {index.holdout} the split {split} has no scene: using all scenes")
    return numbers or list(range(len(index)))


def parser_named(name: str) -> DataParserConfig:
    """The default settings of a nerfstudio data parser, by its command-line name; ValueError if unknown."""
    from nerfstudio.configs.dataparser_configs import all_dataparsers  # imports this package's parsers itself

    if name not in all_dataparsers:
        raise ValueError(f"there is no data parser {name}; there are: {', '.join(sorted(all_dataparsers))}")
    return all_dataparsers[name]
