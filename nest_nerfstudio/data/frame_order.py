"""Cameras and times of frames, from the names of their files.

Known are one camera (`0001.png`), a folder for each camera (`cam00/0001.png`) or for each time
(`0001/cam00.png`), and names that hold both (`cam00_0001.png`, `0001_c00.png`): where a word says which part
is the camera, or frames of the same camera have the same pose, as in a fixed rig.

This module must stay importable without nerfstudio's data managers, as `dataparser` must.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from nest_nerfstudio.data.images import image_suffixes

FrameOrder = Literal["frame-order", "frame-name", "camera-order", "path-order"]
"""How names give times. frame-order: files of one name in several folders, one for each camera, are of one
time, and an error asks where that is not clear; frame-name: as frame-order, unasked; camera-order: the k-th
files of all cameras are of one time; path-order: each file has a time of its own, folder after folder."""
CAMERA_WORD = re.compile(r"(?<![a-z])(?:cam(?:era)?|view)[ _-]?\d+", re.IGNORECASE)
TIME_WORD = re.compile(r"(?:frame|time|t|f)[ _-]?\d+", re.IGNORECASE)
DECIMAL = re.compile(r"(\D*)(\d+(?:\.\d+)?)(\D*)")
SEPARATORS = " _.-"
SPLIT_WORDS = {"train", "val", "valid", "validation", "test", "eval"}
MIN_SHARE = 0.75  # of all moments that a camera must show, else it is unclear whether names mean the same


class Shot(NamedTuple):
    """What the name of a file says.

    Attributes:
        camera: name of the camera; "" where there is one only.
        moment: what names of the same time have in common.
    """

    camera: str
    moment: str


def natural_order(name: str) -> list[tuple[int, str]]:
    """Sort key under which `r_2` comes before `r_10`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def frame_times(
    names: Sequence[str], poses: Float[np.ndarray, "n r 4"], order: FrameOrder = "frame-order"
) -> list[float]:
    """Times of frames, evenly spaced in [0, 1], in the natural order of their names.

    Args:
        names: paths of their files.
        poses: camera to world.
        order: what is taken for one time.

    Raises:
        ValueError: the first of `order_problems`, if the order is "frame-order".
    """
    for problem in order_problems(names, poses) if order == "frame-order" else ():
        raise ValueError(problem)
    if order == "path-order":
        moments = list(names)
    else:
        shots = read_shots(names, poses)
        moments = [shot.moment for shot in shots]
        if order == "camera-order":
            ranks = {camera: _ranks(own) for camera, own in _moments_by_camera(shots).items()}
            moments = [str(ranks[shot.camera][shot.moment]) for shot in shots]
    rank = _ranks(moments)
    return [rank[moment] / max(len(rank) - 1, 1) for moment in moments]


def order_problems(names: Sequence[str], poses: Float[np.ndarray, "n r 4"]) -> Iterator[str]:
    """Whether names of several cameras leave open which frames are of one time."""
    moments = _moments_by_camera(read_shots(names, poses))
    total = len(set().union(*moments.values()))
    unlike = any(len(set(of_one)) < MIN_SHARE * total for of_one in moments.values())
    parts = {part.lower() for camera in moments for part in camera.split("/")}
    if len(moments) > 1 and (unlike or parts & SPLIT_WORDS):
        cameras = sorted(moments, key=natural_order)
        some = [
            f"{camera}: {len(moments[camera])} from {_first_and_last(moments[camera])}"
            for camera in cameras[:2]
        ]
        yield (
            f"the {len(names)} frames are of {len(cameras)} cameras or parts ({', '.join(some)}"
            f"{', …' if len(cameras) > 2 else ''}); which frames are of the same time? Give each a `time`, "
            "or choose in place of frame-order: frame-name (files of one name are of one time), camera-order "
            "(the first files of all cameras are of one time, the second ones, …) or path-order (each file "
            "has its own time, one folder after the other)"
        )


def describe_order(names: Sequence[str], poses: Float[np.ndarray, "n r 4"], times: Sequence[float]) -> str:
    """One line on the times that were taken from names."""
    cameras = sorted({shot.camera for shot in read_shots(names, poses)}, key=natural_order)
    of_cameras = f" of {len(cameras)} cameras ({', '.join(cameras[:3])}{', …' if len(cameras) > 3 else ''})"
    return (
        f"Times from file names: {len(names)} frames{of_cameras if len(cameras) > 1 else ''} at "
        f"{len(set(times))} times, evenly spaced"
    )


# What names say


def read_shots(names: Sequence[str], poses: Float[np.ndarray, "n r 4"]) -> list[Shot]:
    """Camera and moment of each name.

    Args:
        names: paths of files.
        poses: camera to world, which tell the cameras of a fixed rig.
    """
    views = _labels(poses)
    *folders, last = _varying_parts(names)
    if not folders:
        return _one_folder(last, views)
    outer = ["/".join(parts) for parts in zip(*folders, strict=True)]
    by_time = _all(TIME_WORD, outer) or _all(CAMERA_WORD, last) or _is_rig(last, views)
    if by_time and not (_all(CAMERA_WORD, outer) or _is_rig(outer, views)):
        outer, last = last, outer
    own = [
        re.sub(rf"(^|[ _.-]){re.escape(camera)}(?=[ _.-]|$)", "", name)
        for camera, name in zip([o.split("/")[-1] for o in outer], last, strict=True)
    ]
    if all(short != name for short, name in zip(own, last, strict=True)):  # cam00/cam00_0001.png
        last = own
    shots = [Shot(camera, moment) for camera, moment in zip(outer, last, strict=True)]
    if len({shot.camera for shot in shots}) == len(names):  # a folder for each frame
        return [Shot("", f"{shot.camera}/{shot.moment}") for shot in shots]
    return shots


def _one_folder(names: Sequence[str], views: Sequence[int]) -> list[Shot]:
    """Camera and moment of each name of a folder.

    Where poses repeat, or names count two things, but nothing says which of them is the camera, each name is
    a moment of its own, so that `order_problems` asks.
    """
    found = [match for name in names if (match := CAMERA_WORD.search(name))]
    if len(found) == len(names):
        shots = [Shot(m[0], m.string[: m.start()] + m.string[m.end() :]) for m in found]
        if _is_grid(shots):
            return shots
    is_rig = 1 < len(set(views)) <= len(names) / 2
    tokens = [re.split(r"(\d+)", name) for name in names]
    columns = list(zip(*tokens, strict=True)) if len({len(row) for row in tokens}) == 1 else []
    splits = [_split_off(tokens, i) for i in range(len(columns))]
    for i, shots in enumerate(splits):
        is_text = i % 2 == 0
        if _is_rig(columns[i], views) or (is_text and not is_rig and _is_grid(shots)):
            return shots
    is_stamp = any({".", "-"} & {*column} for column in columns[::2])  # decimals or dates
    for shots in splits if not is_rig and not is_stamp else ():
        if _is_grid(shots):
            return [Shot(shot.camera, name) for shot, name in zip(shots, names, strict=True)]
    if is_rig:
        return [Shot(f"pose {view}", name) for view, name in zip(views, names, strict=True)]
    return [Shot("", name) for name in names]


def _split_off(tokens: Sequence[Sequence[str]], column: int) -> list[Shot]:
    """Take one text (even) or number (odd) of each name for the camera, and the others for the moment."""
    word = tokens[0][column - 1].strip(SEPARATORS) if column % 2 else ""
    return [
        Shot(word + row[column].strip(SEPARATORS), "".join([*row[:column], *row[column + 1 :]]))
        for row in tokens
    ]


def _varying_parts(names: Sequence[str]) -> list[tuple[str, ...]]:
    """The parts of paths that are not the same for all: folders from the outside in, and file names."""
    suffix = re.compile(rf"(?:{'|'.join(map(re.escape, image_suffixes()))})$", re.IGNORECASE)
    paths = [suffix.sub("", name.replace("\\", "/").removeprefix("./")).split("/") for name in names]
    if len({len(path) for path in paths}) > 1:
        paths = [["/".join(path[:-1]), path[-1]] for path in paths]
    columns = list(zip(*paths, strict=True))
    return [column for column in columns if len(set(column)) > 1] or columns[-1:]


def _labels(poses: Float[np.ndarray, "n r 4"]) -> list[int]:
    """A number for each pose, the same for equal ones, in order of appearance."""
    numbers: dict[bytes, int] = {}
    return [numbers.setdefault((pose + 0.0).tobytes(), len(numbers)) for pose in np.asarray(poses)]


def _is_rig(labels: Sequence[str], views: Sequence[int]) -> bool:
    """Whether labels name the poses of a fixed rig: several poses, one a label, in several frames each."""
    pairs = set(zip(labels, views, strict=True))
    return 1 < len(pairs) == len(set(labels)) == len(set(views)) <= len(views) / 2


def _is_grid(shots: Sequence[Shot]) -> bool:
    """Whether several cameras show most of several moments, each once."""
    cameras, moments = (len(set(labels)) for labels in zip(*shots, strict=True))
    return min(cameras, moments) > 1 and len(set(shots)) >= MIN_SHARE * cameras * moments


def _all(pattern: re.Pattern[str], names: Sequence[str]) -> bool:
    return all(pattern.fullmatch(name) for name in names)


def _moments_by_camera(shots: Sequence[Shot]) -> dict[str, list[str]]:
    moments: dict[str, list[str]] = defaultdict(list)
    for shot in shots:
        moments[shot.camera].append(shot.moment)
    return moments


def _ranks(names: Sequence[str]) -> dict[str, int]:
    values = _decimals(names)
    ordered = sorted(set(names), key=lambda name: (values.get(name, 0.0), natural_order(name), name))
    return {name: i for i, name in enumerate(ordered)}


def _decimals(names: Sequence[str]) -> dict[str, float]:
    """Values of names that differ in one decimal number alone, each another; else none (`1.9`, `1.10`)."""
    found = {name: DECIMAL.fullmatch(name) for name in names}
    values = {name: float(match[2]) for name, match in found.items() if match}
    around = {(match[1], match[3]) for match in found.values() if match}
    return values if len(around) == 1 and len({*values.values()}) == len(found) else {}


def _first_and_last(names: Sequence[str]) -> str:
    ordered = sorted(names, key=natural_order)
    return f"{ordered[0]} to {ordered[-1]}"
