"""Checks of a whole data set, which list every problem before a training stops at the first.

A data set is one scene (D-NeRF/Blender split files, or one nerfstudio `transforms.json`) or a folder of
scenes with known edits (`scenes.json`). Problems that stop a training are found by the reader's functions;
the others are of data that trains, but not well.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.progress import track

from nest_nerfstudio.data.frame_cameras import (
    camera_notes,
    camera_problems,
    stack_poses,
    viewpoint_notes,
)
from nest_nerfstudio.data.images import (
    ImageHeader,
    alpha_problems,
    image_header,
    missing_file,
    read_depth,
    read_image,
    read_mask,
    shape_problems,
)
from nest_nerfstudio.data.scenes.edits import BASE, edit_name_problems, edit_table_problems
from nest_nerfstudio.data.scenes.index import (
    INDEX_FILE,
    OBJECT_RADIUS,
    SceneEntry,
    list_entries,
    list_problems,
    name_problems,
)
from nest_nerfstudio.data.scenes.reader import edited_scene_files, world_problems
from nest_nerfstudio.data.splits import (
    frame_order_problems,
    listed_splits,
    motion_problems,
    split_problems,
    time_problems,
)
from nest_nerfstudio.data.transforms import (
    Frame,
    entry_label,
    entry_problems,
    file_notes,
    find_transforms,
    listed_files,
    missing_notes,
    plain_name,
    read_frame,
    read_json_list,
    read_seed_points,
    read_transforms,
    seed_point_notes,
)
from nest_nerfstudio.geometry.convergence import convergence

OBJECT_SHARE = OBJECT_RADIUS / 4  # radius of an object that cameras look at, as a share of their distance
ROTATION_TOLERANCE = 1e-3  # on R Rᵀ − I


@dataclass
class Report:
    """Result of a check.

    Attributes:
        problems: one line each, `file: problem`.
        notes: one line each, on data that trains and of which something has to be assumed.
        num_scenes: number of scenes that were checked.
        num_frames: number of frames that were checked.
    """

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    num_scenes: int = 0
    num_frames: int = 0

    def add(self, path: Path, problems: Iterable[str]) -> None:
        """Add problems of a file."""
        self.problems += [f"{path}: {problem}" for problem in problems]

    def add_notes(self, path: Path, notes: Iterable[str]) -> None:
        """Add notes on a file."""
        self.notes += [f"{path}: {note}" for note in notes]

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
        times = [frame.time for frame in splits["train"]]
        report.add(splits["train"][0].file, motion_problems(times, can_order=len(files) == 1))
        report.add_notes(splits["train"][0].file, viewpoint_notes(splits["train"]))
    try:
        points = read_seed_points(metas.get("train") or metas.get("") or {}, folder)
    except (FileNotFoundError, ValueError) as error:
        report.add(folder, [str(error)])
    else:
        report.add_notes(folder, [] if points is None else seed_point_notes(points.positions))


def _check_edited_scene(entry: SceneEntry, report: Report) -> None:
    """Check one scene with edits, of a folder of many."""
    try:
        edited_scene_files(entry.folder)
    except FileNotFoundError as error:
        report.add_error(error)
    files = _split_files(entry.folder)
    if "test" not in files:
        report.add(entry.folder, ["no transforms_test.json, so the scene cannot be evaluated"])
    metas, splits = _check_frames(files, True, report, OBJECT_RADIUS)
    edits = metas.get("train", {}).get("edits")
    for split, frames in splits.items():
        report.add(files[split], _edit_problems(metas[split], entry.category))
        report.add(files[split], time_problems(frames))
        if isinstance(edits, dict):
            shown = (str(frame.camera.get("edit", BASE)) for frame in frames)
            report.add(files[split], edit_name_problems(shown, [*edits, *({BASE} - edits.keys())]))
    if splits.get("train"):
        report.add(files["train"], motion_problems([f.time for f in splits["train"]], moves=False))
        report.add(files["train"], world_problems(splits["train"]))


def _split_files(folder: Path) -> dict[str, Path]:
    return {path.stem.removeprefix("transforms_"): path for path in sorted(folder.glob("transforms_*.json"))}


def _check_frames(
    files: Mapping[str, Path], rendered: bool, report: Report, radius: float | None = None
) -> tuple[dict[str, dict[str, Any]], dict[str, list[Frame]]]:
    """Check the transforms files of a scene and the files that they name.

    Args:
        files: transforms files by split.
        rendered: whether the images are of an object, with alpha.
        report: where problems are added.
        radius: of the object, which stands at the origin; None where its place and size are unknown.

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
            splits[split] = _check_entries(metas[split], path, report)
            report.num_frames += len(metas[split]["frames"])
    frames = [frame for split in splits.values() for frame in split]
    repeated = Counter(plain_name(frame.name) for frame in frames)
    for path in {file.parent for file in files.values()}:
        report.add_notes(path, (f"{n} frames show {name}" for name, n in repeated.items() if n > 1))
    headers = _check_files(frames, report)
    if rendered:
        for path in {file.parent for file in files.values()}:
            report.add_notes(path, _render_notes(headers))
    middle = _object_of(frames if rendered else [], radius)
    for split, path in files.items():
        problems = [
            (f"frame {frame.name}", problem)
            for frame in splits.get(split, [])
            for problem in (
                *_inside_problems(frame, *middle),
                *camera_problems(frame, headers.get(frame.image)),
            )
        ]
        report.add_frames(path, problems)
        _check_alike(splits.get(split, []), path, headers, not problems, report)
    if not any(list(alpha_problems(_alphas(frames, headers))) for frames in splits.values()):
        report.problems += alpha_problems(_alphas(frames, headers))
    return metas, splits


def _check_alike(
    frames: Sequence[Frame], path: Path, headers: Mapping[Path, ImageHeader], fit: bool, report: Report
) -> None:
    """Check what differs among the frames of a transforms file; `fit`: their cameras have no problems."""
    report.add(path, alpha_problems(_alphas(frames, headers)))
    report.add_notes(path, (*file_notes(frames), *missing_notes(frames)))
    readable = [frame for frame in frames if frame.image in headers]
    if fit and readable:
        report.add_notes(path, camera_notes(readable, [headers[frame.image] for frame in readable]))


def _alphas(frames: Iterable[Frame], headers: Mapping[Path, ImageHeader]) -> dict[Path, bool]:
    return {frame.image: headers[frame.image].has_alpha for frame in frames if frame.image in headers}


def _check_entries(meta: dict[str, Any], path: Path, report: Report) -> list[Frame]:
    """Check the list of frames of a transforms file; returns those that can be read."""
    frames, problems = [], []
    for i, entry in enumerate(meta["frames"]):
        found = list(entry_problems(entry))
        if not found:
            frames.append(read_frame(entry, meta, path))
            found = list(_pose_problems(frames[-1]))
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


def _pose_problems(frame: Frame) -> Iterator[str]:
    """Whether a pose is a rigid motion."""
    rotation = frame.pose[:3, :3]
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > ROTATION_TOLERANCE or np.linalg.det(rotation) < 0:
        yield "transform_matrix holds no rotation: its columns must be orthonormal and right-handed"


def _object_of(frames: Sequence[Frame], radius: float | None) -> tuple[np.ndarray, float]:
    """Centre and radius of the object that frames show.

    Args:
        frames: of all splits of a scene.
        radius: of an object at the origin; None if it is to be told from where the views converge.

    Returns:
        A radius of 0 where it cannot be told.
    """
    if radius is not None or not frames:
        return np.zeros(3), radius or 0.0
    seen = convergence(stack_poses(frames)[:, :3])
    return seen.point.numpy(), OBJECT_SHARE * seen.distance if seen.is_certain else 0.0


def _inside_problems(frame: Frame, centre: np.ndarray, radius: float) -> Iterator[str]:
    """Whether a camera is inside the object."""
    distance = float(np.linalg.norm(frame.pose[:3, 3] - centre))
    if distance < radius:
        yield (
            f"the camera is inside the object: {distance:.3g} from its middle, and objects are taken to fill "
            f"{radius:.3g} around it"
        )


def _check_files(frames: Sequence[Frame], report: Report) -> dict[Path, ImageHeader]:
    """Check the images, masks and depths of frames; returns the headers of the images."""
    masks = {frame.mask for frame in frames}
    depths = {frame.depth for frame in frames}
    headers: dict[Path, ImageHeader] = {}
    shapes: dict[Path, tuple[int, ...]] = {}  # of masks and depths
    for path in dict.fromkeys(listed_files(frames)):
        try:
            if not path.is_file():
                report.problems.append(f"{missing_file(path)}: is missing")
            elif path in depths:
                shapes[path] = read_depth(path).shape
            elif path in masks:
                mask = read_mask(path)
                shapes[path] = mask.shape
                report.add(path, [] if mask.any() else ["the mask is empty: no pixel is to be used"])
            else:
                header, image = image_header(path), read_image(path)
                headers[path] = header
                report.add(path, _content_problems(image))
        except ValueError as error:
            report.add_error(error)
    pairs = {
        (path, headers[frame.image].size): None
        for frame in frames
        for path in (frame.mask, frame.depth)
        if path is not None and path in shapes and frame.image in headers
    }
    for path, size in pairs:
        height, width = shapes[path]
        report.add(path, shape_problems((width, height), size))
    return headers


def _render_notes(headers: Mapping[Path, ImageHeader]) -> Iterator[str]:
    """What images of a rendered object usually have, and these have not: one size, and alpha."""
    sizes = Counter(header.size for header in headers.values()).most_common()
    for size, count in sizes[1:]:
        first = next(path for path, header in headers.items() if header.size == size)
        yield (
            "{} of {} images are of {}×{} pixels (first: {}), but most of {}×{}".format(
                count, len(headers), *size, first.name, *sizes[0][0]
            )
        )
    if headers and not any(header.has_alpha for header in headers.values()):
        yield (
            f"none of the {len(headers)} images has alpha: what they show is learned whole, but for a plain "
            "backdrop"
        )


def _content_problems(image: Image.Image) -> Iterator[str]:
    if image.mode == "RGBA" and not image.getchannel("A").getbbox():
        yield "shows nothing: its alpha is zero everywhere"


def _and_more(count: int) -> str:
    return f" and {count} more" if count else ""
