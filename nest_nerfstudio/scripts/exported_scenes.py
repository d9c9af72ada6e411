"""Scenes of a run, decoded one after the other: what all commands of `nest-export` write."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from nest_nerfstudio.io.point_clouds import read_cloud
from nest_nerfstudio.models.runs import load_run
from nest_nerfstudio.types import Gaussians, Points


@runtime_checkable
class MovingScene(Protocol):
    """A decoded scene, see `models.decoded_scene.DecodedScene`."""

    @property
    def moves(self) -> bool:
        """Whether it differs from one time to another."""
        ...

    def gaussians_at(self, time: float) -> Gaussians:
        """The scene at a clip time, activated values, nerfstudio's world frame."""
        ...


@runtime_checkable
class ManyScenes(Protocol):
    """What a model of many scenes must offer to be exported; one of a single scene has a `scene()`."""

    def scene(self, number: int, num_views: int, refined: bool) -> MovingScene:
        """A scene under the model's edit, encoded from so many of its images."""
        ...

    def scene_of_cloud(self, points: Points) -> MovingScene:
        """A coloured point cloud under the model's edit."""
        ...


@dataclass
class EncodedScenes:
    """Which scenes of a nest-prior run to write, and what to encode them from.

    Attributes:
        names: names of the scenes; without names and clouds, all held-out ones, or all of `data`.
        clouds: files of coloured points to encode too, in the frame and at the scale of the training scenes.
        data: other scenes than those of the run: a folder with `scenes.json`, …
        scene_format: … or one scene that this data parser of nerfstudio reads (`nerfstudio-data`, …).
        num_views: number of images to encode a scene from; fewer where it has fewer.
        refined: also optimize each latent on its images (seconds a scene).
    """

    names: tuple[str, ...] = ()
    clouds: tuple[Path, ...] = ()
    data: Path | None = None
    scene_format: str | None = None
    num_views: int = 8
    refined: bool = True

    def check(self) -> None:
        """ValueError where settings do not go together."""
        if self.num_views < 1:
            raise ValueError(f"--scenes.num-views {self.num_views} must be 1 or more")
        if self.scene_format is not None and self.data is None:
            raise ValueError(
                f"--scenes.scene-format {self.scene_format} says how to read --scenes.data; give that too"
            )

    def change(self, config: Any) -> None:
        """Have a run read the scenes of `data`, if there are any, and hold all of them out."""
        if self.data is None:
            return
        manager = config.pipeline.datamanager
        manager.data = manager.dataparser.data = self.data
        manager.dataparser.holdout, manager.dataparser.scenes, manager.dataparser.scene_parser = 1, (), None
        if self.scene_format is not None:
            manager.dataparser.scenes, manager.dataparser.scene_format = (Path(),), self.scene_format

    def decode(self, pipeline: Any) -> list[tuple[str, Callable[[], MovingScene]]]:
        """Name of each scene, and what encodes and decodes it."""
        model, data = pipeline.model, pipeline.datamanager
        numbers = [data.index.find(name) for name in self.names] or ([] if self.clouds else data.held_out)
        chosen: list[tuple[str, Callable[[], MovingScene]]] = [
            (data.index.entries[i].name, lambda i=i: model.scene(i, self.num_views, self.refined))
            for i in numbers
        ]
        for path in self.clouds:
            points = read_cloud(path)
            chosen.append((path.stem, lambda points=points: model.scene_of_cloud(points)))
        names = [name for name, _ in chosen]
        if len(set(names)) < len(names):
            raise ValueError("two scenes or clouds have one name, so one file; write them into two folders")
        return chosen


@dataclass(frozen=True)
class ExportedRun:
    """A run whose scenes are written.

    Attributes:
        pipeline: of nerfstudio.
        scenes: name of each scene, and what decodes it.
        is_many: whether it is a run of many scenes; the only scene of another has no name of its own.
    """

    pipeline: Any
    scenes: list[tuple[str, Callable[[], Any]]]
    is_many: bool


def open_run(run: Path, scenes: EncodedScenes, name: str) -> ExportedRun:
    """Load a run and find what is to be written of it.

    Args:
        run: its `config.yml`, or its folder.
        scenes: of a nest-prior run: which scenes.
        name: of the scene of another run.

    Raises:
        FileNotFoundError: no such run or cloud.
        ValueError: settings that do not go together, a scene that is not there, or a run of another method.
    """
    scenes.check()
    pipeline = load_run(run, lambda config: _change(config, scenes))
    is_many = isinstance(pipeline.model, ManyScenes)
    if not is_many and scenes != EncodedScenes():
        raise ValueError("--scenes options are for runs of nest-prior; this run has one scene")
    return ExportedRun(
        pipeline, scenes.decode(pipeline) if is_many else [(name, pipeline.model.scene)], is_many
    )


def make_folder_of(output: Path) -> None:
    """Make the folder of a file that is to be written, before anything slow.

    Raises:
        OSError: there is no such folder to write to.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot make the folder of {output}: {error.strerror}") from error
    if not os.access(output.parent, os.W_OK):
        raise OSError(f"cannot write to {output.parent}; choose another folder for --output")


def named_path(output: Path, name: str, count: int) -> Path:
    """File of one scene of several, whose names are added to that of the file; of a single one, the file."""
    added = re.sub(r"[^\w.-]+", "_", name)
    return output if count == 1 else output.with_stem(f"{output.stem}_{added}")


def _change(config: Any, scenes: EncodedScenes) -> None:
    """Have a run of many scenes read those that are to be written; refuse runs without scenes."""
    model = config.pipeline.model._target
    if not hasattr(model, "scene"):
        raise ValueError(f"this does not export {config.method_name}; use nerfstudio's ns-export")
    if issubclass(model, ManyScenes):
        scenes.change(config)
