"""Cameras of the frames of transforms files: what is wrong with them, and nerfstudio's cameras made of them.

This module must stay importable without nerfstudio's data managers, as `dataparser` must.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import CAMERA_MODEL_TO_TYPE, Cameras, CameraType
from torch import Tensor

from nest_nerfstudio.data.coordinates import Coordinates
from nest_nerfstudio.data.images import ImageHeader, Size, is_scaled
from nest_nerfstudio.data.lenses import MAX_FIELD_OF_VIEW, Lens, model_problems
from nest_nerfstudio.data.transforms import Frame, number

DISTORTION_KEYS = ("k1", "k2", "k3", "k4", "p1", "p2")


def stack_poses(frames: Sequence[Frame]) -> Float[Tensor, "n 4 4"]:
    """Camera to world matrices of frames as stored, OpenGL axes, float64."""
    return torch.from_numpy(np.stack([frame.pose for frame in frames]))


def make_cameras(
    frames: Sequence[Frame],
    headers: Sequence[ImageHeader],
    sizes: Sequence[Size] | None = None,
    coordinates: Coordinates | None = None,
) -> Cameras:
    """Make nerfstudio cameras of frames.

    Args:
        frames: all with a time.
        headers: of the stored images.
        sizes: width and height at which each image is used, pixels; None as stored.
        coordinates: the map from stored to parsed ones; None for the identity.

    Raises:
        ValueError: the first of `camera_problems`.
    """
    poses = stack_poses(frames)
    c2w = (poses[:, :3] if coordinates is None else coordinates.poses(poses)).float()
    for frame, header in zip(frames, headers, strict=True):
        for problem in camera_problems(frame, header):
            raise frame.error(problem)
    used = [header.size for header in headers] if sizes is None else sizes
    rows = [
        _intrinsics(frame, header.size, size)
        for frame, header, size in zip(frames, headers, used, strict=True)
    ]
    fx, fy, cx, cy, width, height = torch.tensor(rows, dtype=torch.float64).T
    return Cameras(
        camera_to_worlds=c2w,
        fx=fx.float(),
        fy=fy.float(),
        cx=cx.float(),
        cy=cy.float(),
        width=width.long(),
        height=height.long(),
        distortion_params=torch.tensor([_distortion(frame.camera) for frame in frames]),
        camera_type=[CAMERA_MODEL_TO_TYPE[_camera_model(frame.camera)] for frame in frames],
        times=torch.tensor([frame.time for frame in frames], dtype=torch.float32)[:, None],
    )


def camera_problems(frame: Frame, header: ImageHeader | None = None) -> Iterator[str]:
    """What is wrong with the camera of a frame; with the header of its image, whether they fit each other."""
    found = list(_value_problems(frame.camera))
    yield from found
    if header is not None:
        yield from _size_problems(frame, header)
        if not found:
            yield from _lens(frame.camera, header.size).problems()


def _value_problems(camera: dict[str, Any]) -> Iterator[str]:
    """Values of a camera that mean nothing, and models that cannot be trained on."""
    model = _camera_model(camera)
    if model not in CAMERA_MODEL_TO_TYPE:
        yield f"camera_model {model} is unknown; there are: {', '.join(CAMERA_MODEL_TO_TYPE)}"
    else:
        yield from model_problems(CAMERA_MODEL_TO_TYPE[model])
    focal_keys = ("fl_x", "fl_y") if "fl_x" in camera else ("camera_angle_x", "camera_angle_y")
    if focal_keys[0] not in camera:
        yield "no focal length: no `fl_x` and no `camera_angle_x`"
    for key in filter(camera.__contains__, focal_keys):
        value = number(camera[key])
        if key.startswith("fl") and (value is None or value <= 0):
            yield f"impossible intrinsics: {key} must be a positive number, not {camera[key]!r}"
        elif key.startswith("camera") and (value is None or not 0 < value < math.pi):
            yield f"impossible intrinsics: {key} must be in (0, π) radians, not {camera[key]!r}"
    for key in filter(camera.__contains__, ("cx", "cy", *DISTORTION_KEYS)):
        if number(camera[key]) is None:
            yield f"impossible intrinsics: {key} must be a finite number, not {camera[key]!r}"
    for key in filter(camera.__contains__, ("w", "h")):
        value = number(camera[key])
        if value is None or value < 1:
            yield f"impossible intrinsics: {key} must be a positive number, not {camera[key]!r}"
    if "distortion_params" in camera:
        row = camera["distortion_params"]
        if not isinstance(row, list) or len(row) != 6 or None in map(number, row):
            yield f"distortion_params must be six finite numbers, k1, k2, k3, k4, p1, p2, not {row!r}"


def _size_problems(frame: Frame, header: ImageHeader) -> Iterator[str]:
    """Whether an image is of another shape than its camera."""
    camera, (width, height) = frame.camera, header.size
    w, h = calibrated = _calibrated_size(camera, header.size)
    if not is_scaled(header.size, calibrated):
        problem = f"its image {frame.image.name} is {width}×{height} pixels, but its camera is {w}×{h}"
        if header.orientation >= 5 and is_scaled(header.size, (h, w)):
            problem += (
                f": its EXIF orientation ({header.orientation}) turns it, and the camera is that of the "
                "turned image. Bake it in: `mogrify -auto-orient FILES` (ImageMagick)"
            )
        yield problem
    cx, cy = (number(camera.get(key)) for key in ("cx", "cy"))
    if not {"w", "h"} & camera.keys() and ((cx or 0) > width or (cy or 0) > height):
        yield (
            f"its principal point ({cx or 0:g}, {cy or 0:g}) lies outside its image {frame.image.name} of "
            f"{width}×{height} pixels: give the size that the intrinsics hold for as `w` and `h`"
        )


def camera_notes(frames: Sequence[Frame], headers: Sequence[ImageHeader]) -> Iterator[str]:
    """What is made of cameras that do not say all, once for all frames; cameras without `camera_problems`."""
    pairs = list(zip(frames, headers, strict=True))
    scaled = [
        (f, header.size, size)
        for f, header in pairs
        if (size := _calibrated_size(f.camera, header.size)) != header.size
    ]
    if scaled:
        frame, (width, height), (w, h) = scaled[0]
        yield (
            f"{len(scaled)} of {len(frames)} images are of another size than their camera, in the same ratio "
            f"(first: {frame.name}, {width}×{height} for {w}×{h}): intrinsics are scaled to the images"
        )
    turned = [
        (f, header.orientation)
        for f, header in pairs
        if header.orientation >= 2
        and (header.orientation <= 4 or header.size[0] == header.size[1] or "w" not in f.camera)
    ]
    if turned:
        frame, orientation = turned[0]
        yield (
            f"{len(turned)} of {len(frames)} images have an EXIF orientation (first: {frame.name}, "
            f"{orientation}), and their size does not tell whether their cameras are of the turned images: "
            "they are used as stored. If they look turned, bake it in: `mogrify -auto-orient FILES`"
        )
    wide = [f for f, header in pairs if _lens(f.camera, header.size).is_cropped]
    if wide:
        yield (
            f"{len(wide)} of {len(frames)} images are of fisheye cameras that see more than a pinhole image "
            f"can show well: of these, the middle {MAX_FIELD_OF_VIEW:g}° are used"
        )


def viewpoint_notes(frames: Sequence[Frame]) -> Iterator[str]:
    """What cannot be had of a clip whose cameras all stand at one place: a tripod, or pure rotation."""
    poses = stack_poses(frames)
    apart = (poses - poses[0]).abs().amax(0)
    if len(frames) < 2 or apart[:3, 3].max() > _ONE_PLACE:
        return
    turns = ", and only turn" if apart[:3, :3].max() > _ONE_PLACE else " and look one way"
    yield (
        f"all {len(frames)} cameras stand at one place{turns}: images tell no depths, unless the data has "
        "some. It trains, and shows the clip and what comes after it from there; views from elsewhere, and "
        "what is hidden, are guesses"
    )


_ONE_PLACE = 1e-6
"""Largest difference of poses that are one."""


def _camera_model(camera: dict[str, Any]) -> str:
    """The model that is named, or that instant-ngp's `is_fisheye` stands for."""
    return str(camera.get("camera_model", "OPENCV_FISHEYE" if camera.get("is_fisheye") else "PINHOLE"))


def _calibrated_size(camera: dict[str, Any], size: Size) -> Size:
    """Width and height that the intrinsics hold for; those of the image where the camera has none."""
    w, h = (number(camera.get(key, size[i])) for i, key in enumerate("wh"))
    return size if w is None or h is None or min(w, h) < 1 else (int(w), int(h))


def _intrinsics(frame: Frame, stored: Size, size: Size) -> list[float]:
    """fx, fy, cx, cy, width and height of a frame whose image is used at a size, pixels."""
    camera, (width, height) = frame.camera, size
    w, h = calibrated = _calibrated_size(camera, stored)
    fx, fy = _focal_lengths(camera, calibrated)
    sx, sy = width / w, height / h
    cx, cy = float(camera.get("cx", w / 2)), float(camera.get("cy", h / 2))
    return [fx * sx, fy * sy, cx * sx, cy * sy, float(width), float(height)]


def _focal_lengths(camera: dict[str, Any], size: Size) -> tuple[float, float]:
    """fx and fy in pixels, stored or from the fields of view: f = size / (2 tan(angle/2))."""
    if "fl_x" in camera:
        return float(camera["fl_x"]), float(camera.get("fl_y", camera["fl_x"]))
    fx = 0.5 * size[0] / math.tan(0.5 * float(camera["camera_angle_x"]))
    if "camera_angle_y" not in camera:
        return fx, fx
    return fx, 0.5 * size[1] / math.tan(0.5 * float(camera["camera_angle_y"]))


def _distortion(camera: dict[str, Any]) -> list[float]:
    """Lens distortion in nerfstudio's order (k1, k2, k3, k4, p1, p2)."""
    return [float(p) for p in camera.get("distortion_params", [camera.get(k, 0) for k in DISTORTION_KEYS])]


def _lens(camera: dict[str, Any], size: Size) -> Lens:
    """The lens of a camera without `_value_problems`, at the size that its intrinsics hold for."""
    size = _calibrated_size(camera, size)
    fx, fy = _focal_lengths(camera, size)
    cx, cy = float(camera.get("cx", size[0] / 2)), float(camera.get("cy", size[1] / 2))
    is_fisheye = CAMERA_MODEL_TO_TYPE[_camera_model(camera)] == CameraType.FISHEYE
    return Lens(fx, fy, cx, cy, size, tuple(_distortion(camera)), is_fisheye)
