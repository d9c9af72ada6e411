"""Checks of a whole data set, which list every problem before a training stops at the first.

A data set is one scene (D-NeRF/Blender split files, or one nerfstudio `transforms.json`) or a folder of
scenes with known edits (`scenes.json`). Problems that stop a training are found by the reader's functions;
the others are of data that trains, but not well.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.progress import track

from nest_nerfstudio.data.images import has_alpha, open_image
from nest_nerfstudio.data.scenes.edits import BASE, edit_name_problems, edit_table_problems
from nest_nerfstudio.data.scenes.index import (
    INDEX_FILE,
    OBJECT_RADIUS,
    SceneEntry,
    list_entries,
    list_problems,
    name_problems,
)
from nest_nerfstudio.data.scenes.reader import edited_scene_files
from nest_nerfstudio.data.splits import (
    frame_order_problems,
    listed_splits,
    motion_problems,
    split_problems,
    time_problems,
)
from nest_nerfstudio.data.transforms import (
    Frame,
    camera_problems,
    entry_label,
    entry_problems,
    file_problems,
    find_transforms,
    listed_files,
    read_frame,
    read_json_list,
    read_seed_points,
    read_transforms,
)

ROTATION_TOLERANCE = 1e-3  # on R Rᵀ − I

Size = tuple[int, int]


@dataclass
class Report:
    """Result of a check.

    Attributes:
        problems: one line each, `file: problem`.
        num_scenes: number of scenes that were checked.
        num_frames: number of frames that were checked.
    """

    problems: list[str] = field(default_factory=list)
    num_scenes: int = 0
    num_frames: int = 0

    def add(self, path: Path, problems: Iterable[str]) -> None:
        """Add problems of a file."""
        self.problems += [f"{path}: {problem}" for problem in problems]

    def add_frames(self, path: Path, problems: Iterable[tuple[str, str]]) -> None:
        """Add problems of frames of a file, each problem once for all frames that have it.

        Args:
            path: transforms file.
            problems: label of a frame, and its problem.
        """
        labels: dict[str, list[str]] = defaultdict(list)
        for label, problem in problems:
            labels[problem].append(label)
        self.add(path, (f"{who[0]}{_and_more(len(who) - 1)}: {what}" for what, who in labels.items()))

    def add_error(self, error: Exception) -> None:
        """Add an error of the reader, which names its file."""
        self.problems.append(str(error))


def check_dataset(folder: Path) -> Report:
    """Check every file of a data set.

    Args:
        folder: folder of one scene, or of many with `scenes.json`.

    Raises:
        FileNotFoundError: the folder holds no data set.
    """
    report = Report()
    if (folder / INDEX_FILE).is_file():
        for entry in track(_check_list(folder / INDEX_FILE, report), "Checking"):
            _check_edited_scene(entry, report)
    elif any(folder.glob("transforms*.json")):
        _check_scene(folder, report)
    else:
        raise FileNotFoundError(
            f"{folder} holds no data set: no {INDEX_FILE}, transforms_train.json or transforms.json"
        )
    return report


def _check_list(path: Path, report: Report) -> list[SceneEntry]:
    """Check the list of scenes; returns the scenes that have a folder, each once."""
    try:
        listed = read_json_list(path, "scenes")["scenes"]
    except ValueError as error:
        report.add_error(error)
        return []
    entries = list_entries(listed, path.parent)
    report.add(path, list_problems(listed))
    report.add(path, name_problems(entries))
    report.add(path, (f"scene {entry.name} has no folder" for entry in entries if not entry.folder.is_dir()))
    return [entry for entry in {entry.name: entry for entry in entries}.values() if entry.folder.is_dir()]


def _check_scene(folder: Path, report: Report) -> None:
    """Check one dynamic scene."""
    try:
        files = find_transforms(folder)[0]
    except FileNotFoundError as error:
        report.add_error(error)
        files = _split_files(folder)
    metas, splits = _check_frames(files, "" not in files, report)
    for split, frames in splits.items():
        if split or any(frame.time is not None for frame in frames):
            report.add(files[split], time_problems(frames, can_order=not split))
        elif frames:  # a single file may have no times at all, if names give them
            report.add(files[split], frame_order_problems(frames))
    if "" in splits:
        splits = _check_split_lists(splits[""], metas[""], files[""], report)
    if splits.get("train"):
        report.add(splits["train"][0].file, motion_problems(splits["train"], can_order=len(files) == 1))
    for frames in splits.values():
        _check_kinds(frames, report)
    try:
        read_seed_points(metas.get("train") or metas.get("") or {}, folder)
    except (FileNotFoundError, ValueError) as error:
        report.add(folder, [str(error)])


def _check_edited_scene(entry: SceneEntry, report: Report) -> None:
    """Check one scene with edits, of a folder of many."""
    try:
        edited_scene_files(entry.folder)
    except FileNotFoundError as error:
        report.add_error(error)
    files = _split_files(entry.folder)
    if "test" not in files:
        report.add(entry.folder, ["no transforms_test.json, so the scene cannot be evaluated"])
    metas, splits = _check_frames(files, True, report)
    edits = metas.get("train", {}).get("edits")
    for split, frames in splits.items():
        report.add(files[split], _edit_problems(metas[split], entry.category))
        report.add(files[split], time_problems(frames))
        if isinstance(edits, dict):
            shown = (str(frame.camera.get("edit", BASE)) for frame in frames)
            report.add(files[split], edit_name_problems(shown, [*edits, *({BASE} - edits.keys())]))
    if splits.get("train"):
        report.add(files["train"], motion_problems(splits["train"], moves=False))
    _check_kinds([frame for frames in splits.values() for frame in frames], report)


def _split_files(folder: Path) -> dict[str, Path]:
    return {path.stem.removeprefix("transforms_"): path for path in sorted(folder.glob("transforms_*.json"))}


def _check_frames(
    files: Mapping[str, Path], rendered: bool, report: Report
) -> tuple[dict[str, dict[str, Any]], dict[str, list[Frame]]]:
    """Check the transforms files of a scene and the files that they name.

    Args:
        files: transforms files by split.
        rendered: whether the images are of an object, with alpha, on a known scale.
        report: where problems are added.

    Returns:
        Contents and frames of the transforms files, as far as they can be read, by split.
    """
    report.num_scenes += 1
    metas: dict[str, dict[str, Any]] = {}
    splits: dict[str, list[Frame]] = {}
    for split, path in files.items():
        try:
            metas[split] = read_transforms(path)
        except ValueError as error:
            report.add_error(error)
        else:
            splits[split] = _check_entries(metas[split], path, rendered, report)
            report.num_frames += len(metas[split]["frames"])
    frames = [frame for split in splits.values() for frame in split]
    repeated = Counter(os.path.normpath(frame.name) for frame in frames)
    for path in {file.parent for file in files.values()}:
        report.add(path, (f"{count} frames show {name}" for name, count in repeated.items() if count > 1))
    sizes = _check_files(frames, rendered, report)
    for split, path in files.items():
        problems = [
            (f"frame {frame.name}", problem)
            for frame in splits.get(split, [])
            for problem in camera_problems(frame, sizes.get(frame.image))
        ]
        report.add_frames(path, problems)
    return metas, splits


def _check_entries(meta: dict[str, Any], path: Path, rendered: bool, report: Report) -> list[Frame]:
    """Check the list of frames of a transforms file; returns those that can be read."""
    frames, problems = [], []
    for i, entry in enumerate(meta["frames"]):
        found = list(entry_problems(entry))
        if not found:
            frames.append(read_frame(entry, meta, path))
            found = list(_pose_problems(frames[-1], rendered))
        problems += [(entry_label(entry, i), problem) for problem in found]
    report.add_frames(path, problems)
    return frames


def _check_split_lists(
    frames: list[Frame], meta: dict[str, Any], path: Path, report: Report
) -> dict[str, list[Frame]]:
    """Check the split lists of a `transforms.json`; returns the splits, none if they cannot be told."""
    if len(frames) < len(meta["frames"]):
        return {}
    problems = list(split_problems(frames, meta))
    report.add(path, problems)
    return {} if problems else listed_splits(frames, meta, path)


def _edit_problems(meta: dict[str, Any], category: str) -> Iterator[str]:
    """Problems of the category and the edits of a scene of many."""
    if meta.get("category") != category:
        yield f"category is {meta.get('category')!r}, but {category!r} in {INDEX_FILE}"
    edits = meta.get("edits")
    if not isinstance(edits, dict) or BASE not in edits:
        yield f"no table `edits` with a state `{BASE}`"
    else:
        yield from edit_table_problems(edits)


def _pose_problems(frame: Frame, rendered: bool) -> Iterator[str]:
    """Whether a pose is a rigid motion, and outside the object where the scale is known."""
    rotation, position = frame.pose[:3, :3], frame.pose[:3, 3]
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > ROTATION_TOLERANCE or np.linalg.det(rotation) < 0:
        yield "transform_matrix holds no rotation: its columns must be orthonormal and right-handed"
    distance = float(np.linalg.norm(position))
    if rendered and distance < OBJECT_RADIUS:
        yield (
            f"the camera is inside the object: {distance:.2f} from the origin, which objects fill "
            f"to {OBJECT_RADIUS}"
        )


def _check_kinds(frames: Sequence[Frame], report: Report) -> None:
    """Check that all frames of a split or none have masks, and depths."""
    if frames:
        report.add(frames[0].file, (*file_problems(frames, "mask"), *file_problems(frames, "depth")))


def _check_files(frames: Sequence[Frame], rendered: bool, report: Report) -> dict[Path, Size]:
    """Check the images, masks and depths of frames; returns the size of each image, pixels."""
    masks = {frame.mask for frame in frames}
    depths = {frame.depth for frame in frames}
    sizes: dict[Path, Size] = {}
    for path in dict.fromkeys(listed_files(frames)):
        if not path.is_file():
            report.add(path, ["is missing"])
        elif path not in depths:
            try:
                with open_image(path, "mask" if path in masks else "image") as image:
                    image.load()
            except ValueError as error:
                report.add_error(error)
                continue
            if path in masks:
                report.add(path, _mask_problems(image))
            else:
                sizes[path] = image.size
                report.add(path, _alpha_problems(image, rendered))
    if rendered and len(set(sizes.values())) > 1:
        usual = Counter(sizes.values()).most_common(1)[0][0]
        for path, size in sizes.items():
            report.add(
                path, ["is {}×{} pixels, but most are {}×{}".format(*size, *usual)] if size != usual else []
            )
    return sizes


def _mask_problems(mask: Image.Image) -> Iterator[str]:
    if not np.asarray(mask.convert("L")).any():
        yield "the mask is empty: no pixel is to be used"


def _alpha_problems(image: Image.Image, needed: bool) -> Iterator[str]:
    if not has_alpha(image):
        if needed:
            yield "has no alpha channel; images of rendered objects need one"
    elif not np.asarray(image.convert("RGBA"))[..., 3].any():
        yield "shows nothing: its alpha is zero everywhere"


def _and_more(count: int) -> str:
    return f" and {count} more" if count else ""
