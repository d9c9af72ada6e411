"""Transforms files (D-NeRF/Blender JSON, nerfstudio's `transforms.json`): their frames.

Each problem is found and worded by one function (`*_problems`, or a reader that raises), so that training,
which stops at the first problem, and `nest-data check`, which lists them all, agree.

This module must stay importable without nerfstudio's data managers, as `dataparser` must.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from nest_nerfstudio.data.images import find_image, missing_file
from nest_nerfstudio.io.point_clouds import read_cloud
from nest_nerfstudio.types import Points

PATH_KEYS = ("file_path", "mask_path", "depth_file_path")


@dataclass(frozen=True)
class Frame:
    """One image of a transforms file.

    Attributes:
        name: its `file_path`, for messages.
        file: transforms file that lists it.
        image: image file.
        mask: file of the pixels to use; None for all.
        depth: file of camera-space z; None if unknown.
        time: as stored, in any unit; None if not stored.
        pose: camera to world, OpenGL axes.
        camera: intrinsics under the names of the format; a frame's own override those of its file.
    """

    name: str
    file: Path
    image: Path
    mask: Path | None
    depth: Path | None
    time: float | None
    pose: Float[np.ndarray, "4 4"]
    camera: dict[str, Any]

    def error(self, problem: str) -> ValueError:
        """The error that reports a problem of this frame."""
        return ValueError(f"{self.file}: frame {self.name}: {problem}")


# Files


def find_transforms(data: Path) -> tuple[dict[str, Path], str]:
    """Find the transforms files of a scene.

    Args:
        data: scene folder, or one of its transforms files.

    Returns:
        The files by split ("" for one `transforms.json`), and the split that `data` names ("" for none).

    Raises:
        FileNotFoundError: there is neither a file of the train split nor a single file.
    """
    if not data.exists():
        raise FileNotFoundError(f"{data} does not exist; --data takes a scene folder or its transforms file")
    folder = data.parent if data.is_file() else data
    by_split = {p.stem.removeprefix("transforms_"): p for p in sorted(folder.glob("transforms_*.json"))}
    named = next((split for split, path in by_split.items() if path == data), "")
    if "train" in by_split and (named or data.is_dir()):
        return by_split, named if named != "train" else ""
    single = data if data.is_file() else folder / "transforms.json"
    if single.is_file():
        return {"": single}, ""
    there = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
    raise FileNotFoundError(
        f"{folder} has neither transforms_train.json nor transforms.json; it has: {there}. "
        "A video or a folder of its frames becomes such a scene with `nest-data video`."
    )


def read_transforms(path: Path) -> dict[str, Any]:
    """Read a transforms file; ValueError if it is not JSON with at least one frame."""
    return read_json_list(path, "frames")


def read_json_list(path: Path, key: str) -> dict[str, Any]:
    """Read a JSON file with a list under a key; in UTF-8, with or without a mark at its start, or UTF-16.

    Raises:
        ValueError: it is not JSON, or has no such list with at least one entry.
    """
    try:
        meta = json.loads(path.read_bytes())
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not in UTF-8: {error}; save it as UTF-8") from error
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(meta, dict) or not isinstance(meta.get(key), list) or not meta[key]:
        raise ValueError(f"{path}: no list `{key}` with at least one entry")
    return meta


def read_seed_points(meta: dict[str, Any], folder: Path) -> Points | None:
    """Read the point cloud that a transforms file names as `ply_file_path`.

    Args:
        meta: contents of the transforms file.
        folder: its folder, where the path starts.

    Returns:
        Points in stored coordinates, float64, grey where they have no colours; None if the file names none.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no points can be read from it.
    """
    if not meta.get("ply_file_path"):
        return None
    try:
        return read_cloud(local_path(folder, meta["ply_file_path"]), grey=True, dtype=torch.float64)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"seed points: {error}; remove `ply_file_path` to start without them") from None


def seed_point_notes(positions: Float[Tensor, "n 3"]) -> Iterator[str]:
    """What is made of seed points that are not finite."""
    count = int((~positions.isfinite().all(1)).sum())
    if count:
        yield f"{count} of {len(positions)} seed points are not finite: they are left out"


# Frames


def read_frames(meta: dict[str, Any], path: Path) -> list[Frame]:
    """Read the frames of a transforms file.

    Args:
        meta: its contents.
        path: the file, where the paths of its frames start.

    Raises:
        ValueError: the first of `entry_problems`, with file and frame.
    """
    frames = []
    for i, entry in enumerate(meta["frames"]):
        for problem in entry_problems(entry):
            raise ValueError(f"{path}: {entry_label(entry, i)}: {problem}")
        frames.append(read_frame(entry, meta, path))
    return frames


def entry_label(entry: Any, index: int) -> str:
    """Name of an entry of the list of frames in messages: its `file_path`, or its index."""
    name = entry.get("file_path") if isinstance(entry, dict) else None
    return f"frame {name}" if isinstance(name, str) else f"frame {index}"


def entry_problems(entry: Any) -> Iterator[str]:
    """What keeps an entry of the list of frames from being read as a `Frame`."""
    if not isinstance(entry, dict):
        yield f"not a table of keys and values, but {entry!r}"
        return
    for key in ("file_path", "transform_matrix"):
        if key not in entry:
            yield f"no `{key}`"
    for key in PATH_KEYS:
        if key in entry and not isinstance(entry[key], str):
            yield f"{key} is {entry[key]!r}, not a path"
    if "transform_matrix" in entry and _pose(entry["transform_matrix"]) is None:
        yield "transform_matrix is not a finite 4×4 matrix"
    if entry.get("time") is not None and number(entry["time"]) is None:
        yield f"time is {entry['time']!r}, not a finite number"


def read_frame(entry: dict[str, Any], meta: dict[str, Any], path: Path) -> Frame:
    """Read one entry of the list of frames that has no `entry_problems`."""
    pose = _pose(entry["transform_matrix"])
    assert pose is not None
    shared = {key: value for key, value in meta.items() if key != "frames"}
    return Frame(
        name=entry["file_path"],
        file=path,
        image=find_image(local_path(path.parent, entry["file_path"])),
        mask=find_image(local_path(path.parent, entry["mask_path"])) if "mask_path" in entry else None,
        depth=find_image(local_path(path.parent, entry["depth_file_path"]))
        if "depth_file_path" in entry
        else None,
        time=number(entry.get("time")),
        pose=pose,
        camera={**shared, **entry},
    )


def _pose(value: Any) -> Float[np.ndarray, "4 4"] | None:
    """A stored 3×4 or 4×4 matrix; None if it is not one or not finite."""
    try:
        pose = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    if pose.shape not in ((3, 4), (4, 4)) or not np.isfinite(pose).all():
        return None
    return np.vstack([pose[:3], [0.0, 0.0, 0.0, 1.0]])


def number(value: Any) -> float | None:
    """A stored number; None if it is not one or not finite."""
    try:
        stored = float(value)
    except (TypeError, ValueError):
        return None
    return stored if math.isfinite(stored) else None


# Files of frames


def local_path(folder: Path, stored: str) -> Path:
    """A path that a file stores, from its folder on; backslashes, as Windows writes them, part folders."""
    path = folder / stored
    return path if "\\" not in stored or path.exists() else folder / plain_name(stored)


def plain_name(stored: str) -> str:
    """A stored path with slashes, and without detours such as `./`."""
    return os.path.normpath(stored.replace("\\", "/")).replace("\\", "/")


def file_paths(frames: Sequence[Frame], kind: Literal["mask", "depth"]) -> list[Path | None] | None:
    """The mask or depth file of each frame, None for those without; None if no frame has one."""
    paths: list[Path | None] = [getattr(frame, kind) for frame in frames]
    return paths if any(paths) else None


def file_notes(frames: Sequence[Frame]) -> Iterator[str]:
    """What is made of frames without a mask or depth file, where others have one."""
    for kind, use in (
        ("mask", "all pixels of the others are used"),
        ("depth", "it is unknown for the others"),
    ):
        count = sum(getattr(frame, kind) is not None for frame in frames)
        if 0 < count < len(frames):
            yield f"{count} of {len(frames)} frames have a {kind} file; {use}"


def listed_files(frames: Sequence[Frame]) -> list[Path]:
    """The files that frames name: images, masks and depths."""
    return [p for frame in frames for p in (frame.image, frame.mask, frame.depth) if p is not None]


def check_files(frames: Sequence[Frame], can_skip: bool = False) -> None:
    """FileNotFoundError, naming the first five, if files of the frames are missing.

    Args:
        frames: of a split.
        can_skip: whether `missing_notes` apply to the reader, and are part of the message.
    """
    paths = listed_files(frames)
    missing = [missing_file(path) for path in paths if not path.is_file()]
    if missing:
        notes = "".join(f"; {note}" for note in missing_notes(frames)) if can_skip else ""
        raise FileNotFoundError(
            f"{len(missing)} of {len(paths)} files are missing: {_first_of(missing, 5)}{notes}"
        )


def missing_notes(frames: Sequence[Frame]) -> Iterator[str]:
    """What can be done about missing images, if there are others."""
    missing = sum(not frame.image.is_file() for frame in frames)
    if 0 < missing < len(frames):
        yield (
            f"`nest-dynamic-data --skip-missing` leaves out the {missing} of {len(frames)} frames whose "
            "image is missing"
        )


def skip_missing(frames: list[Frame]) -> list[Frame]:
    """The frames whose image is there; a line in the log says which were left out."""
    present = [frame for frame in frames if frame.image.is_file()]
    missing = [missing_file(frame.image) for frame in frames if not frame.image.is_file()]
    if missing:
        CONSOLE.log(
            f"Skipping {len(missing)} of {len(frames)} frames of {frames[0].file.name}, whose images are "
            f"missing: {_first_of(missing, 1)}"
        )
    return present


def _first_of(names: Sequence[str], count: int) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return f"{', '.join(names[:count])}{more}"
