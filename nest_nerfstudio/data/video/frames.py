"""Frames of a clip: the sharpest of each interval of a video file, or a folder of images in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import av
import cv2
import numpy as np
from av.error import FFmpegError
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps
from rich.progress import track

from nest_nerfstudio.data.frame_order import natural_order
from nest_nerfstudio.data.images import image_suffixes, read_image

MIN_FRAMES = 10
"""Fewest frames of a clip that cameras and motion can be told from."""
HDR_TRANSFERS = (16, 18)
"""FFmpeg's numbers of the transfer functions PQ and HLG."""
SHARPNESS_SIZE = 640
"""Longer side at which frames are compared for sharpness, pixels: above it, noise counts as detail."""

Frame = tuple[float, UInt8[np.ndarray, "h w 3"]]
"""Time in seconds, and the upright image."""


@dataclass
class Clip:
    """What a video file or a folder of images holds, frame by frame.

    Attributes:
        path: of it.
        times: of all its frames, seconds, rising.
        read: gives its frames in order, with the longer side no larger than its argument.
        notes: what was assumed or left out, for the user; reading adds to it.
    """

    path: Path
    times: list[float]
    read: Callable[[int], Iterator[Frame]]
    notes: list[str] = field(default_factory=list)


def open_clip(path: Path) -> Clip:
    """Open a clip and read the times of its frames, but none of its images.

    Args:
        path: video file; or folder of images, which are evenly spaced in time in the order of their names.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: no video, one of fewer than `MIN_FRAMES` frames of different times, or a folder of fewer
            images.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    clip = _open_folder(path) if path.is_dir() else _open_video(path)
    if len(clip.times) < MIN_FRAMES:
        what = "images" if path.is_dir() else "frames of different times"
        raise ValueError(
            f"{path} has {len(clip.times)} {what}; {MIN_FRAMES} or more are needed to find cameras and motion"
        )
    return clip


def write_frames(clip: Clip, folder: Path, num_frames: int, size: int) -> dict[str, float]:
    """Write the sharpest frame of each of so many equal intervals of time as a PNG file.

    Args:
        clip: where they come from.
        folder: to write; made if it is not there.
        num_frames: number of intervals; a clip of no more frames is written whole.
        size: longer side of the images at most, pixels; larger ones are shrunk.

    Returns:
        Time of each file by its name, seconds.

    Raises:
        ValueError: fewer than `MIN_FRAMES` frames could be decoded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    starts = interval_starts(clip.times, num_frames)
    times: dict[str, float] = {}
    frames = track(clip.read(size), "Frames", total=len(clip.times))
    for number, (time, image) in enumerate(sharpest(frames, starts), start=1):
        name = f"frame_{number:05d}.png"
        Image.fromarray(image).save(folder / name, compress_level=1)
        times[name] = time
    if len(times) < MIN_FRAMES:
        raise ValueError(f"{clip.path}: only {len(times)} frames could be decoded; {' '.join(clip.notes)}")
    return times


def interval_starts(times: list[float], num_frames: int) -> Float[np.ndarray, " n"]:
    """Where the intervals start of which each gives a frame: all times, or so many equal spans of them."""
    if len(times) <= num_frames:
        return np.array(times)
    return np.linspace(times[0], times[-1], num_frames + 1)[:-1]


def sharpest(frames: Iterable[Frame], starts: Float[np.ndarray, " n"]) -> Iterator[Frame]:
    """The sharpest frame of each interval that has one."""
    best: Frame | None = None
    best_interval, best_score = -1, -1.0
    for frame in frames:
        interval, score = int(np.searchsorted(starts, frame[0], side="right")), sharpness(frame[1])
        if best is not None and interval != best_interval:
            yield best
            best_score = -1.0
        if score > best_score:
            best, best_interval, best_score = frame, interval, score
    if best is not None:
        yield best


def sharpness(image: UInt8[np.ndarray, "h w 3"]) -> float:
    """Variance of the Laplacian of an image, grey levels squared."""
    scale = min(1.0, SHARPNESS_SIZE / max(image.shape))
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if scale < 1:
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return float(cv2.Laplacian(grey, cv2.CV_32F).var())


# Video files


def _open_video(path: Path) -> Clip:
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError(f"{path} has no video in it")
            stream = container.streams.video[0]
            packets = [packet for packet in container.demux(stream) if packet.size]
            stamps = [packet.pts for packet in packets if packet.pts is not None]
            base, rate = stream.time_base, stream.average_rate
    except FFmpegError as error:
        raise ValueError(
            f"{path} is no video that FFmpeg reads, or it is cut off ({error.strerror})"
        ) from error
    notes: list[str] = []
    if not stamps:  # a bare stream, without a container
        rate = float(rate or 30)
        notes.append(f"The file has no time stamps: its frames are taken to be 1/{rate:g} s apart.")
        return Clip(
            path,
            [i / rate for i in range(len(packets))],
            lambda size: _decode(path, size, rate, notes),
            notes,
        )
    times = sorted({float(stamp * base) for stamp in stamps})
    if len(times) < len(stamps):
        notes.append(
            f"{len(stamps) - len(times)} of {len(stamps)} frames have the time stamp of another one: of each "
            "time, the first is used."
        )
    return Clip(path, times, lambda size: _decode(path, size, None, notes), notes)


def _decode(path: Path, size: int, rate: float | None, notes: list[str]) -> Iterator[Frame]:
    """Upright frames of rising time; damaged ones are left out, with a note."""
    last, number, damaged = -np.inf, 0, 0
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for packet in container.demux(stream):
            try:
                decoded = packet.decode()
            except FFmpegError:
                damaged += 1
                continue
            for frame in decoded:
                if number == 0 and frame.color_trc in HDR_TRANSFERS:
                    notes.append("The video is HDR, and is not tone-mapped: its frames look pale.")
                time = frame.time if rate is None else number / rate
                number += 1
                if time is not None and time > last:
                    last = time
                    yield float(time), _upright(frame, stream.sample_aspect_ratio, size)
    if damaged:
        notes.append(f"{damaged} frames of the file are damaged: they are left out.")


def _upright(frame: av.VideoFrame, pixel_ratio: object, size: int) -> UInt8[np.ndarray, "h w 3"]:
    """A decoded frame as RGB of 8 bits with square pixels, turned as its metadata says."""
    width, height = frame.width * float(pixel_ratio or 1), frame.height  # type: ignore[arg-type]
    scale = min(1.0, size / max(width, height))
    shown = frame.reformat(round(width * scale), round(height * scale), "rgb24", interpolation="AREA")
    return np.ascontiguousarray(np.rot90(shown.to_ndarray(), round(frame.rotation / 90)))


# Folders of images


def _open_folder(path: Path) -> Clip:
    files = sorted((p for p in path.iterdir() if p.is_file()), key=lambda p: natural_order(p.name))
    images = [file for file in files if file.suffix in image_suffixes()]
    others = [file.name for file in files if file not in images]
    left_out = f"{len(others)} files are of no format that Pillow reads ({', '.join(others[:3])})"
    if not images:
        raise ValueError(
            f"{path} holds no images" + (f": {left_out}; save them as PNG or JPEG" if others else "")
        )
    notes = [f"{left_out}: they are left out."] if others else []
    notes.append("Images have no times: they are evenly spaced, in the order of their names.")
    return Clip(path, [float(i) for i in range(len(images))], lambda size: _read(images, size), notes)


def _read(images: list[Path], size: int) -> Iterator[Frame]:
    first: tuple[Path, tuple[int, int]] | None = None
    for number, path in enumerate(images):
        image = ImageOps.exif_transpose(read_image(path))
        if image.mode == "RGBA":
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        first = first or (path, image.size)
        if image.size != first[1]:
            raise ValueError(
                f"{path} is {image.width}×{image.height} pixels, but {first[0].name} is "
                f"{first[1][0]}×{first[1][1]}: the images of a clip must have one size"
            )
        image.thumbnail((size, size), Image.Resampling.BOX)
        yield float(number), np.asarray(image)
