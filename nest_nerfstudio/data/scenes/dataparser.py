"""Many scenes as a nerfstudio data parser: the index of all, and a few frames for the viewer and ns-render.

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


@dataclass
class NestScenesConfig(DataParserConfig):
    """Settings of `NestScenes`."""

    _target: type = field(default_factory=lambda: NestScenes)
    data: Path = Path()
    """Folder with `scenes.json` and a folder for each scene that it lists."""
    scenes: tuple[Path, ...] = ()
    """In place of `scenes.json`: the scenes one by one, each as a nerfstudio parser takes it; paths start at
    `data`."""
    scene_format: str = "nerfstudio-data"
    """The nerfstudio parser that reads `scenes`, by its name on the command line, with default settings."""
    scene_parser: tyro.conf.Suppress[DataParserConfig | None] = None
    """The parser that reads `scenes`, with its settings, in place of `scene_format`."""
    holdout: int = 5
    """Of every category, hold out one scene in so many for evaluation; 0 holds none out, 1 all."""
    skip_bad_scenes: bool = False
    """Go on without a scene that cannot be used, after a line in the log, in place of stopping."""
    max_frames: int = 64
    """Frames of a split, over all its scenes, that the viewer and ns-render get to see."""


@dataclass
class NestScenes(DataParser):
    """Reads many scenes: D-NeRF JSON with edits under `scenes.json`, or a list in nerfstudio's formats."""

    config: NestScenesConfig
    includes_time: bool = False

    def __init__(self, config: NestScenesConfig):
        super().__init__(config)
        self.config = config

    @cached_property
    def index(self) -> ScenesIndex:
        """Which scenes there are; read once."""
        config = self.config
        if not config.scenes:
            return read_index(config.data, config.holdout)
        parser = config.scene_parser or parser_named(config.scene_format)
        return index_folders([config.data / path for path in config.scenes], parser, config.holdout)

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> DataparserOutputs:
        """Some frames of the base state of some scenes of a split: of train, or of those held out.

        They are the first test frames of a held-out scene, and the first train frames of others. Cameras
        carry `metadata["scene"]` [n, 1], the number of the scene in `metadata["scenes"]`, the index.
        """
        if self.config.max_frames < 1:
            raise ValueError(f"max_frames must be 1 or more, not {self.config.max_frames}")
        numbers = scenes_of(self.index, split)
        each = max(1, self.config.max_frames // len(numbers))
        parts, owners = [], []
        for number in _spread(numbers, self.config.max_frames):
            with skip_bad_scenes(self.config.skip_bad_scenes):
                scene = read_scene(self.index, number)
                state = scene.base_state
                frames = scene.frames(state, test=split != "train") or scene.frames(state)
                parts.append(take_frames(scene.dataset._dataparser_outputs, frames[:each]))
                owners += [number] * len(parts[-1].image_filenames)
        if not parts:
            raise ValueError(f"none of the scenes of the split {split} can be used; the log says why")
        outputs = join_outputs(parts)
        outputs.cameras.metadata = {"scene": torch.tensor(owners)[:, None]}
        return replace(
            outputs,
            scene_box=SceneBox(aabb=torch.tensor([[-1.5] * 3, [1.5] * 3])),
            metadata={**outputs.metadata, "scenes": self.index},
        )


def scenes_of(index: ScenesIndex, split: str) -> list[int]:
    """The scenes to train on ("train") or to evaluate (any other split); all where the split has none."""
    numbers = index.split("train" if split == "train" else "val")
    if not numbers:
        log_once(f"With holdout {index.holdout} the split {split} has no scene of its own: taking all")
    return numbers or list(range(len(index)))


def parser_named(name: str) -> DataParserConfig:
    """The default settings of a nerfstudio data parser, by its name on the command line."""
    from nerfstudio.configs.dataparser_configs import all_dataparsers  # imports this package's parsers itself

    if name not in all_dataparsers:
        raise ValueError(f"there is no data parser {name}; there are: {', '.join(sorted(all_dataparsers))}")
    return all_dataparsers[name]


def _spread(numbers: list[int], most: int) -> list[int]:
    """At most so many of the numbers, evenly apart."""
    count = min(most, len(numbers))
    return [numbers[i * len(numbers) // count] for i in range(count)]
