"""One of many scenes on disk: its frames, states and edits.

This module must stay importable without nerfstudio's data managers, as `dataparser` must.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig, DataparserOutputs
from nerfstudio.utils.rich_utils import CONSOLE

from nest_nerfstudio.cameras import cameras_to_views
from nest_nerfstudio.data.dataset import DynamicDataset
from nest_nerfstudio.data.frame_cameras import camera_notes, make_cameras, stack_poses
from nest_nerfstudio.data.images import alpha_problems, image_header
from nest_nerfstudio.data.scenes.edits import BASE, edit_name_problems, read_edits
from nest_nerfstudio.data.scenes.index import SceneEntry, ScenesIndex
from nest_nerfstudio.data.transforms import (
    Frame,
    check_files,
    file_notes,
    file_paths,
    read_frames,
    read_transforms,
)
from nest_nerfstudio.geometry.convergence import convergence
from nest_nerfstudio.states import Edit
from nest_nerfstudio.types import Views


class State(NamedTuple):
    """State of a scene that some of its images share: the name of its edit, and the time."""

    edit: str
    time: float


@dataclass(frozen=True)
class Scene:
    """All frames of one scene; its images stay on disk.

    Attributes:
        name: name of the scene.
        category: category of the scene.
        dataset: reads images and masks, all at one size.
        views: the pinhole cameras at that size, without images.
        states: state that each frame shows.
        is_test: whether each frame is of the test split.
        edits: the edits by name.
    """

    name: str
    category: str
    dataset: DynamicDataset
    views: Views
    states: tuple[State, ...]
    is_test: tuple[bool, ...]
    edits: dict[str, Edit]

    def __len__(self) -> int:
        return len(self.states)

    def frames(self, state: State, test: bool | None = None) -> list[int]:
        """Numbers of the frames that show a state: all (None), those of the test split, or the others."""
        return [i for i, s in enumerate(self.states) if s == state and test in (None, self.is_test[i])]

    def timed_frames(self, state: State, test: bool | None = None) -> list[int]:
        """Numbers of the frames that show the edit of a state at other times, by `test` as in `frames`."""
        return [
            i
            for i, s in enumerate(self.states)
            if s.edit == state.edit and s.time != state.time and test in (None, self.is_test[i])
        ]

    @property
    def base_state(self) -> State:
        """The unedited scene at the time of most train frames (the earliest of such); ValueError if none."""
        base = [s for s, test in zip(self.states, self.is_test, strict=True) if s.edit == BASE and not test]
        if not base:
            raise ValueError(f"scene {self.name} has no train frame of the state `{BASE}`")
        return max(sorted(set(base)), key=base.count)


def read_scene(index: ScenesIndex, number: int) -> Scene:
    """Read the frames of one scene, and check what can be checked without decoding its images.

    Images of another size than most are resized when loaded, and their cameras with them.

    Args:
        index: index of all scenes.
        number: number of the scene.

    Raises:
        FileNotFoundError: images, or the scene itself, are missing.
        ValueError: broken JSON, poses that are not finite, an unknown edit; the message names the scene.
    """
    entry = index.entries[number]
    try:
        if index.parser is None:
            return _read_edited_scene(entry)
        return _read_parsed_scene(entry, index.parser)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"scene {entry.name}: {error}") from error
    except ValueError as error:
        raise ValueError(f"scene {entry.name}: {error}") from error


def _read_edited_scene(entry: SceneEntry) -> Scene:
    """Read D-NeRF JSON with edits: a train split and, if there is one, a test split."""
    paths = edited_scene_files(entry.folder)
    metas = [read_transforms(path) for path in paths]
    by_split = [read_frames(meta, path) for meta, path in zip(metas, paths, strict=True)]
    frames = [replace(f, time=f.time or 0.0) for split in by_split for f in split]
    for problem in world_problems(by_split[0]):
        raise ValueError(f"{paths[0]}: {problem}")
    check_files(frames)
    headers = [image_header(frame.image) for frame in frames]
    alphas = {frame.image: header.has_alpha for frame, header in zip(frames, headers, strict=True)}
    for path, split in zip(paths, by_split, strict=True):
        for problem in alpha_problems({frame.image: alphas[frame.image] for frame in split}):
            raise ValueError(f"{path}: {problem}")
    for problem in alpha_problems(alphas):
        raise ValueError(problem)
    for note in (*camera_notes(frames, headers), *file_notes(frames)):
        log_once(f"Scene {entry.name}: {note}")
    return _make_scene(
        entry,
        DataparserOutputs(
            image_filenames=[frame.image for frame in frames],
            cameras=make_cameras(frames, headers),
            mask_filenames=cast(list[Path], file_paths(frames, "mask")),
            metadata={
                "depth_filenames": file_paths(frames, "depth"),
                "depth_unit_scale_factor": _depth_unit(frames),
            },
        ),
        names=[str(frame.camera.get("edit", BASE)) for frame in frames],
        num_train=len(by_split[0]),
        # without a table of edits the light is unknown
        edits=read_edits(metas[0]["edits"], str(paths[0]))
        if "edits" in metas[0]
        else {BASE: Edit(light=None)},
    )


def world_problems(train: Sequence[Frame]) -> Iterator[str]:
    """Whether the train views of a scene with edits look elsewhere than at the origin."""
    if train:
        seen = convergence(stack_poses(train)[:, :3])
        away = float(seen.point.norm())
        if seen.is_certain and away > seen.distance:
            yield (
                f"the views converge {away:.3g} from the origin, {seen.distance:.3g} from the cameras; what "
                "edits turn must stand at the origin: subtract the same position from all cameras"
            )


def _depth_unit(frames: Sequence[Frame]) -> float:
    """Metres per unit of depth images; ValueError if the files of a scene do not agree."""
    key = "depth_unit_scale_factor"
    units = {float(frame.camera[key]) for frame in frames if key in frame.camera}
    if len(units) > 1:
        raise ValueError(f"its files name several {key}: {', '.join(map(str, sorted(units)))}")
    return units.pop() if units else 1e-3


def edited_scene_files(folder: Path) -> list[Path]:
    """The transforms files of a scene with edits: train and, if any, test; FileNotFoundError if none."""
    train, test = folder / "transforms_train.json", folder / "transforms_test.json"
    if not train.is_file():
        raise FileNotFoundError(f"{folder} has no transforms_train.json")
    return [train, test] if test.is_file() else [train]


def _read_parsed_scene(entry: SceneEntry, parser: DataParserConfig) -> Scene:
    """Read the train and test split of a scene with a nerfstudio parser; its states differ in time only."""
    reader = replace(parser, data=entry.folder).setup()
    try:
        with _quiet():
            train, test = (reader.get_dataparser_outputs(split=split) for split in ("train", "test"))
    except (AssertionError, LookupError, TypeError) as error:  # what nerfstudio's parsers raise on bad files
        raise ValueError(f"{type(reader).__name__} cannot read {entry.folder}: {error!r}") from error
    names = [BASE] * (len(train.image_filenames) + len(test.image_filenames))
    return _make_scene(
        entry, join_outputs([train, test]), names, len(train.image_filenames), edits={BASE: Edit(light=None)}
    )


def _make_scene(
    entry: SceneEntry, outputs: DataparserOutputs, names: list[str], num_train: int, edits: dict[str, Edit]
) -> Scene:
    for problem in edit_name_problems(names, edits):
        raise ValueError(problem)
    times = outputs.cameras.times
    if times is not None:
        first, last = times[:num_train].aminmax() if num_train else (times.new_zeros(()), times.new_ones(()))
        if first < 0 or last > 1:  # seconds or numbers of frames: the train frames are to span [0, 1]
            outputs.cameras.times = times = (times - first) / (last - first).clamp_min(1e-6)
    at = [0.0] * len(names) if times is None else [round(t, 6) for t in times.flatten().tolist()]
    # An image that both splits list belongs to train: else a target could be in its own context.
    first = {os.path.normpath(path): i for i, path in reversed(list(enumerate(outputs.image_filenames)))}
    kept = sorted(first.values())
    dataset = DynamicDataset(_to_one_size(take_frames(outputs, kept)))
    return Scene(
        name=entry.name,
        category=entry.category,
        dataset=dataset,
        views=cameras_to_views(dataset.cameras),
        states=tuple(State(names[i], at[i]) for i in kept),
        is_test=tuple(i >= num_train for i in kept),
        edits=edits,
    )


def take_frames(outputs: DataparserOutputs, frames: Sequence[int]) -> DataparserOutputs:
    """Select frames of a parsed scene, and of its metadata what a dataset needs to read them."""
    masks, depths = outputs.mask_filenames, outputs.metadata.get("depth_filenames")
    return DataparserOutputs(
        image_filenames=[outputs.image_filenames[i] for i in frames],
        cameras=outputs.cameras[torch.tensor(list(frames))],
        mask_filenames=[masks[i] for i in frames] if masks else None,
        dataparser_scale=outputs.dataparser_scale,
        metadata=_kept_metadata([outputs], [depths[i] for i in frames] if depths else None),
    )


def join_outputs(parts: Sequence[DataparserOutputs]) -> DataparserOutputs:
    """Concatenate the frames of several parsed splits or scenes; depths only if all parts have one unit."""
    units = {(part.metadata.get("depth_unit_scale_factor", 1e-3), part.dataparser_scale) for part in parts}
    depths = (
        [part.metadata.get("depth_filenames") for part in parts] if len(units) == 1 else [None] * len(parts)
    )
    return DataparserOutputs(
        image_filenames=[path for part in parts for path in part.image_filenames],
        cameras=_join_cameras([part.cameras for part in parts]),
        mask_filenames=cast(list[Path], _join_files(parts, [part.mask_filenames for part in parts])),
        dataparser_scale=parts[0].dataparser_scale,
        metadata=_kept_metadata(parts, _join_files(parts, depths)),
    )


def _join_files(
    parts: Sequence[DataparserOutputs], files: Sequence[Sequence[Path | None] | None]
) -> list[Path | None] | None:
    """The files of all parts, None for images of parts that have no such files; None if no part has."""
    if not any(files):
        return None
    return [
        path
        for part, own in zip(parts, files, strict=True)
        for path in (own or [None] * len(part.image_filenames))
    ]


def _kept_metadata(parts: Sequence[DataparserOutputs], depths: list[Path | None] | None) -> dict[str, Any]:
    """The metadata that a dataset needs besides image files and cameras."""
    return {
        **{
            key: any(part.metadata.get(key, False) for part in parts)
            for key in ("resize_on_load", "fill_alpha")
        },
        "depth_filenames": depths,
        "depth_unit_scale_factor": parts[0].metadata.get("depth_unit_scale_factor", 1e-3),
    }


def _join_cameras(parts: list[Cameras]) -> Cameras:
    def joined(name: str) -> Any:
        return torch.cat([getattr(part, name).float() for part in parts])

    lenses = [
        torch.zeros(len(part), 6) if part.distortion_params is None else part.distortion_params
        for part in parts
    ]
    return Cameras(
        **{name: joined(name) for name in ("camera_to_worlds", "fx", "fy", "cx", "cy")},
        width=joined("width").long(),
        height=joined("height").long(),
        camera_type=joined("camera_type").long(),
        distortion_params=torch.cat(lenses) if any(lens.any() for lens in lenses) else None,
        times=None if any(part.times is None for part in parts) else joined("times"),
    )


def _to_one_size(outputs: DataparserOutputs) -> DataparserOutputs:
    """Bring all frames to the most common size: the views of a sample must be of one size."""
    cameras = outputs.cameras
    sizes = torch.cat([cameras.width, cameras.height], dim=-1)
    found, counts = sizes.unique(dim=0, return_counts=True)
    if len(found) == 1:
        return outputs
    size = found[counts.argmax()]
    sx, sy = (size / sizes).split(1, dim=-1)
    cameras.fx, cameras.cx = cameras.fx * sx, cameras.cx * sx
    cameras.fy, cameras.cy = cameras.fy * sy, cameras.cy * sy
    cameras.width, cameras.height = (s.expand_as(cameras.width).clone() for s in size)
    return replace(outputs, metadata={**outputs.metadata, "resize_on_load": True})


@contextmanager
def skip_bad_scenes(enabled: bool) -> Iterator[None]:
    """Run a block that reads a scene; where enabled, its errors are logged and end the block only."""
    try:
        yield
    except (ValueError, OSError) as error:
        if not enabled:
            raise
        log_once(f"Skipping a scene: {error}")


@lru_cache(maxsize=10_000)
def log_once(line: str) -> None:
    """Log a line the first time only."""
    CONSOLE.log(line)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the log lines of a data parser, which would repeat for every scene."""
    before, CONSOLE.quiet = CONSOLE.quiet, True
    try:
        yield
    finally:
        CONSOLE.quiet = before
