"""Many scenes on disk: which there are, and the frames, states and edits of one of them.

An index costs nothing per frame, so that there may be thousands of scenes; a scene is read when it is needed.
This module must stay importable without nerfstudio's data managers, as `dataparser` must.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig, DataparserOutputs
from nerfstudio.utils.rich_utils import CONSOLE

from nest_nerfstudio.cameras import cameras_to_views
from nest_nerfstudio.data.dataparser import (
    Capture,
    check_files,
    file_paths,
    image_header,
    make_cameras,
    read_frames,
    read_transforms,
)
from nest_nerfstudio.data.dataset import DynamicDataset
from nest_nerfstudio.data.scenes.edits import BASE, read_edits
from nest_nerfstudio.types import Edit, Views

INDEX_FILE = "scenes.json"


class State(NamedTuple):
    """What all pictures of one state of a scene have in common: its edit, by name, and its time."""

    edit: str
    time: float


@dataclass(frozen=True)
class SceneEntry:
    """A scene as the index knows it, with nothing of it read."""

    name: str
    category: str
    folder: Path


@dataclass(frozen=True)
class ScenesIndex:
    """All scenes, in their order, and which of them are held out.

    Attributes:
        entries: the scenes; a scene's place here is its number everywhere else.
        holdout: of every category, one scene in so many is kept for evaluation; 0 keeps none, 1 keeps all.
        parser: how to read each scene; None for D-NeRF JSON with edits.
    """

    entries: tuple[SceneEntry, ...]
    holdout: int = 5
    parser: DataParserConfig | None = None

    def __post_init__(self) -> None:
        if self.holdout < 0:
            raise ValueError(f"holdout must be 0 (hold none out) or more, not {self.holdout}")
        if not self.entries:
            raise ValueError("there are no scenes; name at least one")
        folders: dict[str, Path] = {}
        for entry in self.entries:
            if entry.name in folders:
                raise ValueError(
                    f"two scenes are named {entry.name}: {folders[entry.name]} and {entry.folder}; "
                    "list each scene once, under a name of its own"
                )
            folders[entry.name] = entry.folder

    def __len__(self) -> int:
        return len(self.entries)

    def __deepcopy__(self, memo: dict[int, Any]) -> ScenesIndex:
        return self  # it never changes, and nerfstudio copies all that a parser's metadata hold

    def split(self, split: Literal["train", "val"]) -> list[int]:
        """The scenes to train on, or those held out: the middle one of every `holdout` of a category."""
        counts: dict[str, int] = {}
        chosen = []
        for i, entry in enumerate(self.entries):
            place = counts[entry.category] = counts.get(entry.category, -1) + 1
            held = self.holdout > 0 and place % self.holdout == self.holdout // 2
            if held == (split == "val"):
                chosen.append(i)
        return chosen

    def find(self, name: str) -> int:
        """The number of the scene of this name."""
        for i, entry in enumerate(self.entries):
            if entry.name == name:
                return i
        some = ", ".join(entry.name for entry in self.entries[:8])
        raise ValueError(f"there is no scene {name} among {len(self)}; the first are {some}")


@dataclass(frozen=True)
class Scene:
    """All frames of one scene, its pictures still on disk.

    Attributes:
        name: of the scene.
        category: of the scene.
        dataset: reads pictures and masks, all at one size.
        views: the cameras at that size, with lens distortion not looked at; no images.
        states: what each frame shows.
        is_test: whether each frame is of the test split.
        edits: the edit of each state, by name.
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
        """The frames that show a state: all, those of the test split, or the others."""
        return [i for i, s in enumerate(self.states) if s == state and test in (None, self.is_test[i])]

    @property
    def base_state(self) -> State:
        """The unedited scene, at the time that most train frames show (the first of such times)."""
        base = [s for s, test in zip(self.states, self.is_test, strict=True) if s.edit == BASE and not test]
        if not base:
            raise ValueError(f"scene {self.name} has no train frame of the state `{BASE}`")
        return max(sorted(set(base)), key=base.count)


def read_index(data: Path, holdout: int = 5) -> ScenesIndex:
    """Read the list of scenes of a folder, `scenes.json`: `{"scenes": [{"name", "category"}, …]}`.

    Args:
        data: the folder, in which every scene has a folder of its name; or its `scenes.json`.
        holdout: see `ScenesIndex`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is broken, lists no scene, or one twice.
    """
    path = data / INDEX_FILE if data.is_dir() else data
    if path.name != INDEX_FILE or not path.is_file():
        raise FileNotFoundError(
            f"{data} has no {INDEX_FILE}; --data takes a folder with one. Scenes in other formats are named "
            "one by one, with the nerfstudio parser that reads them"
        )
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))["scenes"]
        entries = [(str(scene["name"]), str(scene.get("category", "scene"))) for scene in listed]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f'{path} is not a list of scenes, {{"scenes": [{{"name": …, "category": …}}]}}: {error!r}'
        ) from error
    if not entries:
        raise ValueError(f"{path} lists no scenes")
    folder = path.parent
    return ScenesIndex(tuple(SceneEntry(name, kind, folder / name) for name, kind in entries), holdout)


def index_folders(folders: list[Path], parser: DataParserConfig, holdout: int = 5) -> ScenesIndex:
    """An index of scenes that a nerfstudio parser reads: name and category are folder and parent folder.

    Args:
        folders: what the parser takes as its `data`, one for each scene.
        parser: its settings.
        holdout: see `ScenesIndex`.
    """
    entries = [
        SceneEntry(path.name, path.parent.name or "scene", path) for path in map(Path.resolve, folders)
    ]
    return ScenesIndex(tuple(entries), holdout, parser)


def read_scene(index: ScenesIndex, number: int) -> Scene:
    """Read the frames of one scene, and check all that can be checked without decoding its pictures.

    Pictures of another size than most are resized when loaded, and their cameras with them.

    Args:
        index: of all scenes.
        number: which one.

    Raises:
        FileNotFoundError: pictures, or the scene itself, are missing.
        ValueError: broken JSON, poses that are not finite, an unknown edit; the scene is named.
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
    """Read D-NeRF JSON of a train split and, if there is one, a test split, with edits."""
    train = entry.folder / "transforms_train.json"
    if not train.is_file():
        raise FileNotFoundError(f"{entry.folder} has no transforms_train.json")
    test = entry.folder / "transforms_test.json"
    paths = [train, test] if test.is_file() else [train]
    metas = [read_transforms(path) for path in paths]
    by_split = [read_frames(meta, path) for meta, path in zip(metas, paths, strict=True)]
    frames = [replace(f, time=f.time or 0.0) for split in by_split for f in split]
    check_files(frames)
    sizes = [image_header(frame.image)[0] for frame in frames]
    as_stored = Capture({}, torch.eye(4)[:3], 1.0, False, {}, entry.folder, "")
    return _make_scene(
        entry,
        DataparserOutputs(
            image_filenames=[frame.image for frame in frames],
            cameras=make_cameras(as_stored, frames, sizes, 1.0),
            mask_filenames=file_paths(frames, "mask"),
            metadata={
                "depth_filenames": file_paths(frames, "depth"),
                "depth_unit_scale_factor": float(metas[0].get("depth_unit_scale_factor", 1e-3)),
            },
        ),
        names=[str(frame.camera.get("edit", BASE)) for frame in frames],
        num_train=len(by_split[0]),
        # with no word of edits, the light is any
        edits=read_edits(metas[0]["edits"], str(train)) if "edits" in metas[0] else {BASE: Edit(light=None)},
    )


def _read_parsed_scene(entry: SceneEntry, parser: DataParserConfig) -> Scene:
    """Read the train and test split of a scene with a nerfstudio parser; a state is all frames of a time."""
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
    unknown = sorted(set(names) - set(edits))
    if unknown:
        raise ValueError(f"frames show the edit `{unknown[0]}`, but `edits` has only: {', '.join(edits)}")
    times = outputs.cameras.times
    at = [0.0] * len(names) if times is None else [round(t, 6) for t in times.flatten().tolist()]
    # A picture that both splits list is the train split's: else a target could be in its own context.
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


def take_frames(outputs: DataparserOutputs, frames: list[int]) -> DataparserOutputs:
    """These frames of a parsed scene, with nothing but what a dataset needs to read them."""
    masks, depths = outputs.mask_filenames, outputs.metadata.get("depth_filenames")
    return DataparserOutputs(
        image_filenames=[outputs.image_filenames[i] for i in frames],
        cameras=outputs.cameras[torch.tensor(frames)],
        mask_filenames=[masks[i] for i in frames] if masks else None,
        dataparser_scale=outputs.dataparser_scale,
        metadata=_kept_metadata([outputs], [depths[i] for i in frames] if depths else None),
    )


def join_outputs(parts: list[DataparserOutputs]) -> DataparserOutputs:
    """All frames of several parsed splits or scenes; depths only where all have them.

    Raises:
        ValueError: only some of the parts have masks.
    """
    masks = [path for part in parts for path in part.mask_filenames or []]
    depths = [path for part in parts for path in part.metadata.get("depth_filenames") or []]
    images = [path for part in parts for path in part.image_filenames]
    if masks and len(masks) < len(images):
        raise ValueError(f"only {len(masks)} of {len(images)} frames have a mask file; give all or none")
    return DataparserOutputs(
        image_filenames=images,
        cameras=_join_cameras([part.cameras for part in parts]),
        mask_filenames=masks or None,
        dataparser_scale=parts[0].dataparser_scale,
        metadata=_kept_metadata(parts, depths if len(depths) == len(images) else None),
    )


def _kept_metadata(parts: list[DataparserOutputs], depths: list[Path] | None) -> dict[str, Any]:
    """What a dataset needs to know besides files and cameras."""
    return {
        "resize_on_load": any(part.metadata.get("resize_on_load", False) for part in parts),
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
    """All frames at the size that most have: a sample's views must be of one size."""
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
def bad_scenes_left_out(skip: bool) -> Iterator[None]:
    """Errors of a scene stop the run; with `skip` they end only the block, after a line in the log."""
    try:
        yield
    except (ValueError, OSError) as error:
        if not skip:
            raise
        log_once(f"Left out: {error}")


@lru_cache(maxsize=10_000)
def log_once(line: str) -> None:
    """Write to the log what would otherwise come at every step."""
    CONSOLE.log(line)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps a parser from writing its lines to the log: they would come again and again for every scene."""
    before, CONSOLE.quiet = CONSOLE.quiet, True
    try:
        yield
    finally:
        CONSOLE.quiet = before
