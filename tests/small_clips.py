"""Tiny clips of a textured room, as arrays and as video files."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

WIDTH, HEIGHT, FOCAL = 240, 180, 204.0
UPRIGHT_MATRIX = b"".join(
    value.to_bytes(4, "big", signed=True) for value in (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
)
QUARTER_TURN = b"".join(
    value.to_bytes(4, "big", signed=True) for value in (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
)
"""Of a track of an MP4 file: players turn its frames clockwise by 90°."""


def texture(seed: int, size: int = 400) -> np.ndarray:
    """Random spots of several sizes in one hue."""
    rng = np.random.default_rng(seed)
    layers = [cv2.resize(rng.uniform(-90, 90, (n, n)), (size, size)) for n in (12, 40, 100)]
    grey = np.clip(128 + sum(layers), 0, 255)
    return (grey[..., None] * rng.uniform(0.6, 1, 3)).astype(np.uint8)


def pose(x: float, y: float, z: float, yaw: float = 0.0) -> np.ndarray:
    """World to camera, OpenCV axes: at a place of the room, looking along z, turned about y."""
    c, s = np.cos(yaw), np.sin(yaw)
    R = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
    return np.concatenate([R, -R @ np.array([[x], [y], [z]])], 1)


def along_an_arc(count: int) -> list[np.ndarray]:
    """Poses of a hand that moves sideways and looks at the middle of the room."""
    angles = np.linspace(-0.15, 0.15, count)
    return [pose(4 * np.sin(a), 0.1 * np.sin(18 * a), 4 - 4 * np.cos(a), -a) for a in angles]


WALLS = (  # corner, and the two edges from there, of textured rectangles
    ((-6, -3, 6), (12, 0, 0), (0, 5, 0)),
    ((-6, 2, 1), (12, 0, 0), (0, 0, 5)),
    ((-2, 0.3, 4.2), (1.5, 0, 0.4), (0, 1.6, 0)),
    ((-2.6, -1.9, 5.0), (1.6, 0, -0.5), (0, 1.3, 0)),
    ((0.6, -1.4, 4.4), (1.3, 0, 0.5), (0, 1.0, 0)),
    ((0.7, 0, 3.4), (1.2, 0, -0.3), (0, 1.8, 0)),
)
TEXTURES = [texture(seed) for seed in range(len(WALLS))]


def render(camera: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """The room from a camera, painted from back to front."""
    size = (round(scale * WIDTH), round(scale * HEIGHT))
    K = np.array([[FOCAL * scale, 0, size[0] / 2], [0, FOCAL * scale, size[1] / 2], [0, 0, 1]])
    image = np.full((size[1], size[0], 3), 90, np.uint8)
    for (corner, along, down), wall in zip(WALLS, TEXTURES, strict=True):
        to_wall = np.array([along, down, corner], float).T / [wall.shape[1], wall.shape[0], 1]
        H = K @ (camera[:, :3] @ to_wall + camera[:, 3:] * [0, 0, 1])
        inside = cv2.warpPerspective(np.full(wall.shape[:2], 255, np.uint8), H, size)
        ahead = (
            np.linalg.inv(H) @ np.stack([*np.mgrid[: size[0], : size[1]], np.ones(size)]).reshape(3, -1)
        )[2]
        shown = (inside > 128) & (ahead.reshape(size).T > 0)
        image[shown] = cv2.warpPerspective(wall, H, size, flags=cv2.INTER_AREA)[shown]
    return image


def write_video(
    path: Path, frames: Sequence[np.ndarray], stamps: Sequence[int] | None = None, quarter_turn: bool = False
) -> Path:
    """Write a video file.

    Args:
        path: of the file, MP4 or Matroska; only the latter may have a time stamp twice.
        frames: RGB, of one size.
        stamps: time of each frame, in thousandths of a second; None for 30 a second.
        quarter_turn: have players turn it clockwise by 90°.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=30)
        stream.width, stream.height, stream.pix_fmt = frames[0].shape[1], frames[0].shape[0], "yuvj420p"
        stream.bit_rate = 40_000_000
        for i, image in enumerate(frames):
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                packet.pts = packet.dts = stamps[i] if stamps else round(i * 1000 / 30)
                packet.time_base = Fraction(1, 1000)
                container.mux(packet)
    if quarter_turn:
        head, track, rest = path.read_bytes().partition(b"tkhd")
        path.write_bytes(head + track + rest.replace(UPRIGHT_MATRIX, QUARTER_TURN, 1))
    return path
