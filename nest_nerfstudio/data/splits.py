"""Times and splits of a dynamic scene: which frames are trained on, and what part of the clip they span.

This module must stay importable without nerfstudio's data managers, as `dataparser` must.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from nerfstudio.utils.rich_utils import CONSOLE

from nest_nerfstudio.data.frame_order import (
    SPLIT_WORDS,
    FrameOrder,
    describe_order,
    frame_times,
    natural_order,
    order_problems,
    read_shots,
)
from nest_nerfstudio.data.scenes.edits import BASE
from nest_nerfstudio.data.transforms import Frame, plain_name

EVAL_SPLITS = ("val", "test")
FRAME_ORDER_HINT = (
    ", or pass `nest-dynamic-data --time-from frame-order` if the file names are in the order of time"
)
Splits = dict[str, list[Frame]]
"""Frames by the name of their split; `train` is always there."""


def with_times(
    frames: list[Frame], time_from: Literal["auto", "field", "still"] | FrameOrder, files: Sequence[str]
) -> list[Frame]:
    """Give each frame a time.

    Args:
        frames: of one transforms file.
        time_from: the stored times (auto, field), or the order of the file names, evenly spaced in [0, 1];
            still: 0 for all frames of the base state, and the frames of other states are left out.
        files: splits that have a transforms file each; one where a single file lists all frames.

    Raises:
        ValueError: a frame has no time, or file names do not tell the times.
    """
    if time_from == "still":
        return [replace(f, time=0.0) for f in frames if str(f.camera.get("edit", BASE)) == BASE]
    if time_from in ("auto", "field"):
        for problem in time_problems(frames, can_order=len(files) == 1):
            raise ValueError(f"{frames[0].file}: {problem}")
        return frames
    if len(files) > 1:
        raise ValueError(
            f"--time-from {time_from} needs all frames in one file: the file names say nothing about how "
            f"the times of the splits {', '.join(files)} relate. Give each frame a `time`."
        )
    for problem in frame_order_problems(frames) if time_from == "frame-order" else ():
        raise ValueError(f"{frames[0].file}: {problem}")
    names, poses = _names_and_poses(frames)
    times = frame_times(names, poses, time_from)
    CONSOLE.log(describe_order(names, poses, times))
    return [replace(frame, time=time) for frame, time in zip(frames, times, strict=True)]


def frame_order_problems(frames: Sequence[Frame]) -> Iterator[str]:
    """Whether the file names of frames leave open which are of one time."""
    return order_problems(*_names_and_poses(frames))


def _names_and_poses(frames: Sequence[Frame]) -> tuple[list[str], Float[np.ndarray, "n 4 4"]]:
    return [frame.name for frame in frames], np.stack([frame.pose for frame in frames])


def time_problems(frames: Sequence[Frame], can_order: bool = False) -> Iterator[str]:
    """Whether frames have no time; `can_order` says that the order of file names could give it."""
    timeless = [frame.name for frame in frames if frame.time is None]
    if timeless:
        yield (
            f"{len(timeless)} of {len(frames)} frames have no `time` (first: {timeless[0]}); give each frame "
            f"one{FRAME_ORDER_HINT if can_order else ''}"
        )


def motion_problems(
    times: Sequence[float | None], moves: bool = True, can_order: bool = False
) -> Iterator[str]:
    """Whether train frames, by their times, are too few, or all of one time where the scene `moves`."""
    if len(times) < 2:
        yield f"only one train frame; a scene needs two or more{', at different times' if moves else ''}"
    elif moves and len({*times}) == 1 and times[0] is not None:
        yield (
            f"all {len(times)} train frames have time {times[0]:g}; a moving scene needs different times: "
            f"give each frame its own{FRAME_ORDER_HINT if can_order else ''}"
        )


def listed_splits(frames: list[Frame], meta: dict[str, Any], path: Path) -> Splits:
    """The splits that a `transforms.json` lists as `<split>_filenames`; without lists all frames are train.

    Raises:
        ValueError: the first of `split_problems`, with the file.
    """
    lists = _split_lists(meta)
    if not lists:
        return {"train": frames}
    for problem in split_problems(frames, meta):
        raise ValueError(f"{path}: {problem}")
    by_name = {plain_name(frame.name): frame for frame in frames}
    return {split: [by_name[plain_name(name)] for name in names] for split, names in lists.items() if names}


def split_problems(frames: Sequence[Frame], meta: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the lists `<split>_filenames` of a `transforms.json`."""
    lists = _split_lists(meta)
    if lists and not lists.get("train"):
        yield f"lists {', '.join(lists)}, but has no `train_filenames`"
    names = {plain_name(frame.name) for frame in frames}
    for split, listed in lists.items():
        unknown = [name for name in listed if plain_name(name) not in names]
        if unknown:
            yield f"lists {unknown[0]} in the split {split}, but no frame has that file_path"


def _split_lists(meta: dict[str, Any]) -> dict[str, list[str]]:
    return {key.removesuffix("_filenames"): meta[key] for key in meta if key.endswith("_filenames")}


def hold_out(frames: list[Frame], interval: int) -> Splits:
    """Hold one frame in `interval` of each camera out of train, at times that differ from camera to camera.

    Each camera keeps its share. The first and the last time stay in train, and where several cameras show a
    time, one of them does.

    Args:
        frames: the train frames, with times.
        interval: 0 or 1 hold none out.

    Returns:
        The train split and the evaluation splits; if none is held out, the latter alone, with all frames.
    """
    ranked = sorted(frames, key=lambda frame: (frame.time, natural_order(frame.name)))
    held = _every_nth(ranked, interval) if interval > 1 else []
    if not held:
        CONSOLE.log("No evaluation split and no frame held out: evaluating on the train frames")
        return {split: frames for split in EVAL_SPLITS}
    CONSOLE.log(f"No evaluation split: holding out {len(held)} of {len(frames)} frames")
    return _held_out(frames, held)


def _every_nth(ranked: list[Frame], interval: int) -> list[Frame]:
    """One frame in `interval` of each camera, of frames in order of time."""
    times = [frame.time for frame in ranked]
    cameras = [shot.camera for shot in read_shots(*_names_and_poses(ranked))]
    if (
        len(set(cameras)) == 1
    ):  # names tell of no cameras: the k-th frame of each time stands for the k-th one
        cameras = [str(i - times.index(time)) for i, time in enumerate(times)]
    moment = {time: i for i, time in enumerate(dict.fromkeys(times))}
    number = {camera: i for i, camera in enumerate(sorted(set(cameras), key=natural_order))}
    chosen = [
        i
        for i, (time, camera) in enumerate(zip(times, cameras, strict=True))
        if (moment[time] - number[camera]) % interval == interval // 2
    ] or range(interval // 2, len(ranked) - 1, interval)
    at_time, of_camera = Counter(times), Counter(cameras)
    lone = {time for time, count in at_time.items() if count == 1} - {times[0], times[-1]}
    held = []
    for i in chosen:
        if (at_time[times[i]] > 1 or times[i] in lone) and (of_camera[cameras[i]] > 1 or len(number) == 1):
            held.append(ranked[i])
            at_time[times[i]] -= 1
            of_camera[cameras[i]] -= 1
    return held


def hold_out_camera(splits: Splits, name: str) -> Splits:
    """Hold all frames of one camera out of train, and train on all others of train and evaluation splits.

    Args:
        splits: frames; other splits stay.
        name: of the camera, as in the names of its files; folders of splits are no part of it.

    Returns:
        The splits, with the frames of the camera for the evaluation splits.

    Raises:
        ValueError: there is no such camera, or no other one.
    """
    pooled = [frame for split in ("train", *EVAL_SPLITS) for frame in splits.get(split, [])]
    frames = list({id(frame): frame for frame in pooled}.values())
    names, poses = _names_and_poses(frames)
    cameras = [shot.camera for shot in read_shots([_without_split(file) for file in names], poses)]
    known = sorted(set(cameras), key=natural_order)
    if name not in known or len(known) == 1:
        there = f"there are: {', '.join(known)}" if len(known) > 1 else "file names tell of one camera only"
        raise ValueError(f"{frames[0].file}: no camera '{name}' to hold out (--eval-camera); {there}")
    held = [frame for frame, camera in zip(frames, cameras, strict=True) if camera == name]
    CONSOLE.log(f"Holding out camera {name}: {len(held)} of {len(frames)} frames")
    return splits | _held_out(frames, held)


def _without_split(name: str) -> str:
    """The name of a file without the folders that split data have."""
    return "/".join(part for part in plain_name(name).split("/") if part.lower() not in SPLIT_WORDS)


def _held_out(frames: list[Frame], held: list[Frame]) -> Splits:
    names = {frame.name for frame in held}
    train = [frame for frame in frames if frame.name not in names]
    return {"train": train, **{split: held for split in EVAL_SPLITS}}


def scale_times(splits: Splits, mode: Literal["auto", "none"], can_order: bool = False) -> Splits:
    """Map the times of all splits alike, so that the train frames span [0, 1], unless the mode is none.

    Raises:
        ValueError: the first of `motion_problems`, with the transforms file.
    """
    for problem in motion_problems([frame.time for frame in splits["train"]], can_order=can_order):
        raise ValueError(f"{splits['train'][0].file}: {problem}")
    times = [frame.time for frame in splits["train"] if frame.time is not None]
    clip = min(times), max(times)
    return splits if mode == "none" or clip == (0.0, 1.0) else _with_clip(splits, *clip)


def crop_clip(splits: Splits, interval: int, span: tuple[float, float]) -> Splits:
    """Train on every `interval`-th frame of a span of the clip, which becomes the clip.

    Args:
        splits: frames with times; train times in [0, 1], unless they are kept as stored.
        interval: 1 or more.
        span: first and last time to train on, in [0, 1].

    Returns:
        The splits, with times that are 0 and 1 at the ends of the span, and the train frames that were left
        out as the split `left_out`.

    Raises:
        ValueError: the interval and the span are no part of the clip, or leave no motion.
    """
    first, last = span
    if interval < 1 or not 0 <= first < last <= 1:
        raise ValueError(
            f"train_interval {interval} and train_span {first:g} {last:g} are not a part of the clip: the "
            "interval must be 1 or more, and the span two times in [0, 1], the earlier one first"
        )
    ranked = sorted(splits["train"], key=lambda frame: (frame.time, natural_order(frame.name)))
    kept = [frame for frame in ranked if frame.time is not None and first <= frame.time <= last][::interval]
    if len({frame.time for frame in kept}) < 2:
        clip = ranked[0].time, ranked[-1].time
        as_stored = "; their times are {:g} to {:g}, as --time-scale none leaves them: drop it".format(*clip)
        raise ValueError(
            f"{len(kept)} of {len(ranked)} train frames are in the part of the clip that train_interval and "
            "train_span keep; a moving scene needs two or more, at different times"
            f"{as_stored if clip != (0.0, 1.0) else ''}"
        )
    CONSOLE.log(f"Training on {len(kept)} of {len(ranked)} frames")
    chosen = {id(frame) for frame in kept}
    left_out = [frame for frame in ranked if id(frame) not in chosen]
    splits = {**splits, "train": kept, **({"left_out": left_out} if left_out else {})}
    return splits if span == (0.0, 1.0) else _with_clip(splits, first, last)


def _with_clip(splits: Splits, first: float, last: float) -> Splits:
    """The frames with times mapped so that `first` becomes 0 and `last` 1."""
    CONSOLE.log(f"Times: {first:g} … {last:g} of the train frames becomes 0 … 1")

    def scaled(frame: Frame) -> Frame:
        assert frame.time is not None
        return replace(frame, time=(frame.time - first) / (last - first))

    return {split: [scaled(frame) for frame in frames] for split, frames in splits.items()}
