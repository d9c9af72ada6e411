"""What is wrong with a data set: all of it, before a training finds the first of it.

A data set is one scene (D-NeRF/Blender split files, or one nerfstudio `transforms.json`) or a folder of
scenes with known edits (`scenes.json`).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.progress import track

from nest_nerfstudio.data.scenes.edits import edit_problems, is_finite
from nest_nerfstudio.synthesis.rendering import OBJECT_RADIUS

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
ROTATION_TOLERANCE = 1e-3  # on R Rᵀ − I


@dataclass
class Report:
    """What a check has found.

    Attributes:
        problems: one line each, `file: what`.
        num_scenes: scenes looked at.
        num_frames: frames looked at.
    """

    problems: list[str] = field(default_factory=list)
    num_scenes: int = 0
    num_frames: int = 0

    def add(self, path: Path, problems: Iterable[str]) -> None:
        """Note problems of a file."""
        self.problems += [f"{path}: {what}" for what in problems]


def check_dataset(folder: Path) -> Report:
    """Look at every file of a data set.

    Args:
        folder: of one scene, or of many with `scenes.json`.

    Raises:
        FileNotFoundError: there is no data set.
    """
    report = Report()
    if (folder / "scenes.json").is_file():
        for scene, category in track(_listed_scenes(folder / "scenes.json", report), "Checking"):
            _check_scene(scene, category, report)
    elif any(folder.glob("transforms*.json")):
        _check_scene(folder, None, report)
    else:
        raise FileNotFoundError(
            f"{folder} holds no data set: no scenes.json, transforms_train.json or transforms.json"
        )
    return report


def _listed_scenes(path: Path, report: Report) -> list[tuple[Path, str]]:
    """Folder and category of every scene that is there."""
    entries = _read_list(path, "scenes", report)[1]
    whole = [e for e in entries if isinstance(e, dict) and _are_texts(e.get("name"), e.get("category"))]
    if len(whole) < len(entries):
        report.add(path, [f"{len(entries) - len(whole)} scene(s) have no `name` or no `category`"])
    scenes = [(path.parent / entry["name"], entry["category"]) for entry in whole]
    report.add(path, (f"scene {scene.name} has no folder" for scene, _ in scenes if not scene.is_dir()))
    report.add(path, _repeated("scenes are named", (scene.name for scene, _ in scenes)))
    return [scene for scene in dict(scenes).items() if scene[0].is_dir()]


def _check_scene(folder: Path, category: str | None, report: Report) -> None:
    """One scene; the category of a scene of many, which has edits, else None."""
    report.num_scenes += 1
    paths = sorted(folder.glob("transforms_*.json")) or [folder / "transforms.json"]
    as_rendered = paths[0].name != "transforms.json"
    train = folder / ("transforms_train.json" if as_rendered else "transforms.json")
    for path in (train, *([folder / "transforms_test.json"] if category else [])):
        if not path.is_file():
            report.add(path, ["is missing"])
    listed: list[tuple[Path, dict[str, Any]]] = []
    for path in paths:
        if not path.is_file():
            continue
        meta, frames = _read_list(path, "frames", report)
        report.num_frames += len(frames)
        if frames and as_rendered:
            report.add(path, _rendered_problems(meta, frames))
        if frames and category:
            report.add(path, _edit_problems(meta, frames, category))
        if path == train:
            report.add(path, _train_problems(frames, moves=as_rendered and category is None))
        for i, frame in enumerate(frames):
            if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str):
                report.add(path, [f"frame {i} has no `file_path`"])
                continue
            report.add(
                path, (f"frame {frame['file_path']}: {what}" for what in _pose_problems(frame, as_rendered))
            )
            listed.append((path, frame))
    report.add(folder, _repeated("frames show", (str(Path(frame["file_path"])) for _, frame in listed)))
    _check_pictures(listed, as_rendered, report)


def _read_list(path: Path, key: str, report: Report) -> tuple[dict[str, Any], list[Any]]:
    """A JSON file and its list under `key`; what is wrong with them is noted and makes an empty list."""
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        report.add(path, [f"is not valid JSON: {error}"])
        return {}, []
    if not isinstance(meta, dict) or not isinstance(meta.get(key), list) or not meta[key]:
        report.add(path, [f"has no list `{key}` with at least one entry"])
        return {}, []
    return meta, meta[key]


def _rendered_problems(meta: dict[str, Any], frames: list[Any]) -> Iterator[str]:
    """What D-NeRF's format asks for: one field of view, and a time in every frame."""
    angle = meta.get("camera_angle_x", math.nan)
    if not (is_finite(angle, ()) and 0 < angle < math.pi):
        yield f"camera_angle_x must be in (0, π) radians, not {angle}"
    timeless = [frame for frame in frames if isinstance(frame, dict) and not is_finite(frame.get("time"), ())]
    if timeless:
        yield f"{len(timeless)} frame(s) have no finite `time`, first {timeless[0].get('file_path')}"


def _train_problems(frames: list[Any], moves: bool) -> Iterator[str]:
    if len(frames) == 1:
        yield "only one view; a scene needs two or more"
    times = {str(frame.get("time")) for frame in frames if isinstance(frame, dict)}
    if moves and len(frames) > 1 and len(times) == 1:
        yield f"all {len(frames)} frames have time {times.pop()}; a moving scene needs different times"


def _edit_problems(meta: dict[str, Any], frames: list[Any], category: str) -> Iterator[str]:
    """The edits of a scene of many, and the frames' use of them."""
    if meta.get("category") != category:
        yield f"category is {meta.get('category')!r}, but {category!r} in scenes.json"
    edits = meta.get("edits")
    if not isinstance(edits, dict) or "base" not in edits:
        yield "no table `edits` with a state `base`"
        return
    for name, values in edits.items():
        yield from (f"edit {name}: {what}" for what in edit_problems(values))
    shown = Counter(str(frame.get("edit")) for frame in frames if isinstance(frame, dict))
    for name in shown.keys() - edits.keys():
        yield f"{shown[name]} frame(s) show the edit {name!r}; there are: {', '.join(edits)}"


def _pose_problems(frame: dict[str, Any], as_rendered: bool) -> Iterator[str]:
    """A pose must be a finite rigid motion, and outside the object where its size is known."""
    matrix = frame.get("transform_matrix")
    if not (is_finite(matrix, (4, 4)) or is_finite(matrix, (3, 4))):
        yield "transform_matrix is not a finite 4×4 matrix"
        return
    pose = np.array(matrix, dtype=np.float64)
    rotation, place = pose[:3, :3], pose[:3, 3]
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > ROTATION_TOLERANCE or np.linalg.det(rotation) < 0:
        yield "transform_matrix holds no rotation: its columns must be orthonormal and right-handed"
    distance = float(np.linalg.norm(place))
    if as_rendered and distance < OBJECT_RADIUS:
        yield (
            f"the camera is inside the object: {distance:.2f} from the origin, which objects fill "
            f"to {OBJECT_RADIUS}"
        )


def _check_pictures(listed: list[tuple[Path, dict[str, Any]]], as_rendered: bool, report: Report) -> None:
    """Pictures and masks: there, readable, with something to see, and in a rendered scene alike."""
    sizes: dict[Path, tuple[int, int]] = {}
    for path, frame in listed:
        picture = _picture_path(path.parent / frame["file_path"])
        opened = _open(picture, report)
        if opened is not None and picture not in sizes:
            sizes[picture] = opened.size
            report.add(picture, _alpha_problems(opened, as_rendered))
        if isinstance(frame.get("mask_path"), str):
            mask = _open(path.parent / frame["mask_path"], report)
            if mask is not None and not np.asarray(mask.convert("L")).any():
                report.add(path.parent / frame["mask_path"], ["the mask is empty: no pixel is to be used"])
    if as_rendered and len(set(sizes.values())) > 1:
        usual = Counter(sizes.values()).most_common(1)[0][0]
        for picture, size in sizes.items():
            if size != usual:
                report.add(picture, ["is {}×{} pixels, but most are {}×{}".format(*size, *usual)])


def _open(path: Path, report: Report) -> Image.Image | None:
    """A decoded picture; None where it is missing or broken, which is noted."""
    if not path.is_file():
        report.add(path, ["is missing"])
        return None
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except (OSError, SyntaxError) as error:  # Pillow raises the latter for broken PNG files
        report.add(path, [f"cannot be read: {error}"])
        return None


def _alpha_problems(image: Image.Image, needed: bool) -> Iterator[str]:
    if "A" not in image.getbands() and "transparency" not in image.info:
        if needed:
            yield "has no alpha channel; pictures of rendered objects need one"
    elif not np.asarray(image.convert("RGBA"))[..., 3].any():
        yield "shows nothing: its alpha is zero everywhere"


def _picture_path(path: Path) -> Path:
    """The picture behind a `file_path`, which D-NeRF stores without its extension."""
    named = [path.with_name(path.name + suffix) for suffix in ("", *SUFFIXES)]
    return next((candidate for candidate in named if candidate.is_file()), named[path.suffix not in SUFFIXES])


def _repeated(what: str, names: Iterable[str]) -> Iterator[str]:
    return (f"{count} {what} {name}" for name, count in Counter(names).items() if count > 1)


def _are_texts(*values: Any) -> bool:
    return all(isinstance(value, str) and value for value in values)
