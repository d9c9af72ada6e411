"""The index of many scenes: which there are, where they are, and which are held out.

An index holds nothing per frame, so that there may be thousands of scenes; a scene is read when it is needed.
This module must stay importable without nerfstudio's data managers, as `dataparser` must.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig

from nest_nerfstudio.data.transforms import local_path, read_json_list

INDEX_FILE = "scenes.json"
OBJECT_RADIUS = 1.15
"""Radius of the sphere around the origin that objects of rendered data sets fit into, world units."""


@dataclass(frozen=True)
class SceneEntry:
    """A scene in the index; none of its files has been read.

    Attributes:
        name: unique in the index.
        category: group of scenes from which some are held out.
        folder: where its files are; what a nerfstudio parser takes as its `data`.
    """

    name: str
    category: str
    folder: Path


@dataclass(frozen=True)
class ScenesIndex:
    """All scenes, in their order, and which of them are held out.

    Attributes:
        entries: the scenes; a scene's position here is its number everywhere else.
        holdout: one of so many scenes of each category is held out for evaluation; 0 holds out none, 1 all.
        parser: data parser of each scene; None for D-NeRF JSON with edits.
        held_out: parts of names; if there are any, the scenes with one of them are held out, and no others.

    Raises:
        ValueError: a negative holdout, no scene, two scenes of one name, or a part of no name.
    """

    entries: tuple[SceneEntry, ...]
    holdout: int = 5
    parser: DataParserConfig | None = None
    held_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.holdout < 0:
            raise ValueError(f"holdout must be 0 (hold none out) or more, not {self.holdout}")
        if not self.entries:
            raise ValueError("there are no scenes; name at least one")
        for problem in name_problems(self.entries):
            raise ValueError(problem)
        for part in self.held_out:
            if not any(part in entry.name for entry in self.entries):
                raise ValueError(f"held_out: no scene has {part!r} in its name")

    def __len__(self) -> int:
        return len(self.entries)

    def __deepcopy__(self, memo: dict[int, Any]) -> ScenesIndex:
        return self  # immutable, and nerfstudio copies everything in a parser's metadata

    def split(self, split: Literal["train", "val"]) -> list[int]:
        """Numbers of the train scenes, or of those held out: the middle of every `holdout` of a category."""
        counts: dict[str, int] = {}
        chosen = []
        for i, entry in enumerate(self.entries):
            rank = counts[entry.category] = counts.get(entry.category, -1) + 1
            held = self.holdout > 0 and rank % self.holdout == self.holdout // 2
            if self.held_out:
                held = any(part in entry.name for part in self.held_out)
            if held == (split == "val"):
                chosen.append(i)
        return chosen

    def find(self, name: str) -> int:
        """The number of the scene of this name; ValueError if there is none."""
        for i, entry in enumerate(self.entries):
            if entry.name == name:
                return i
        some = ", ".join(entry.name for entry in self.entries[:8])
        raise ValueError(f"there is no scene {name} among {len(self)}; the first are {some}")


def read_index(data: Path, holdout: int = 5) -> ScenesIndex:
    """Read the list of scenes of a folder, `scenes.json`: `{"scenes": [{"name", "category"}, …]}`.

    Args:
        data: the folder, in which every scene has a folder of its name; or its `scenes.json`.
        holdout: see `ScenesIndex`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is broken, lists no scene, or two of one name.
    """
    path = data / INDEX_FILE if data.is_dir() else data
    if path.name != INDEX_FILE or not path.is_file():
        raise FileNotFoundError(
            f"{data} has no {INDEX_FILE}; --data takes a folder with one. Scenes in other formats are named "
            "one by one, with the nerfstudio parser that reads them"
        )
    listed = read_json_list(path, "scenes")["scenes"]
    for problem in list_problems(listed):
        raise ValueError(f"{path}: {problem}")
    return ScenesIndex(list_entries(listed, path.parent), holdout)


def list_problems(listed: Sequence[Any]) -> Iterator[str]:
    """What is wrong with the list of scenes of a `scenes.json`."""
    for i, scene in enumerate(listed):
        if not _has_name(scene):
            yield f'scene {i} is not a table {{"name": …, "category": …}} with a name'


def list_entries(listed: Sequence[Any], folder: Path) -> tuple[SceneEntry, ...]:
    """The scenes of a list that have a name; without a category, it is `scene`."""
    return tuple(
        SceneEntry(scene["name"], str(scene.get("category", "scene")), local_path(folder, scene["name"]))
        for scene in listed
        if _has_name(scene)
    )


def _has_name(scene: Any) -> bool:
    return isinstance(scene, dict) and isinstance(scene.get("name"), str) and bool(scene["name"])


def name_problems(entries: Sequence[SceneEntry]) -> Iterator[str]:
    """Names that two scenes share."""
    folders: dict[str, Path] = {}
    for entry in entries:
        if entry.name in folders:
            yield (
                f"two scenes are named {entry.name}: {folders[entry.name]} and {entry.folder}; "
                "list each scene once, under a name of its own"
            )
        folders[entry.name] = entry.folder


def index_folders(folders: Sequence[Path], parser: DataParserConfig, holdout: int = 5) -> ScenesIndex:
    """Make an index of scenes that a nerfstudio parser reads: name and category are folder and parent folder.

    Args:
        folders: what the parser takes as its `data`, one for each scene.
        parser: settings of the parser.
        holdout: see `ScenesIndex`.

    Raises:
        ValueError: as `ScenesIndex`.
    """
    resolved = [path.resolve() for path in folders]
    entries = tuple(SceneEntry(path.name, path.parent.name or "scene", path) for path in resolved)
    return ScenesIndex(entries, holdout, parser)
