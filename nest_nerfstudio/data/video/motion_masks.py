"""What moves in a clip: pixels whose optical flow the dominant epipolar geometry does not explain."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int8, UInt8
from PIL import Image
from rich.progress import track

WORK_SIZE = 480
"""Longer side at which flow is computed, pixels. Lengths below are pixels of that size."""
GAPS = (3, 9)
"""Frames from one image to those that it is compared with: near for fast motion, far for slow motion."""
MAX_DISTANCE = 1.0
"""Sampson distance from its epipolar line beyond which a pixel moves, …"""
NOISE_FACTOR = 4.0
"""… or this multiple of the median distance, where flow is less exact."""
MAX_LOOP_ERROR = 1.0
"""Distance by which flow there and back may miss; beyond it, flow says nothing."""
MIN_CONTRAST = 2.0
"""Standard deviation of the grey levels around a pixel below which it has no flow of its own."""
SPECK = 7
"""Width of what is too small to be taken for motion."""
MARGIN = 5
"""Width by which what moves is widened."""
STILL_FLOW = 0.5
"""Median flow across a clip below which its camera stands still."""
GRID = 6
"""Spacing of the pixels that the epipolar geometry is fitted to."""
MOVES, STILL = 3, -2
"""Votes of two images about a pixel: it moves where half or more of them say so."""

Grey = UInt8[np.ndarray, "h w"]
Flow = Float[np.ndarray, "h w 2"]


def write_motion_masks(images: Sequence[Path], folder: Path) -> dict[str, float]:
    """Write a mask for each image: white where it stands still, black where it moves.

    A pixel moves if it is off its epipolar line in half or more of the images around that show it too. Motion
    along that line is not seen.

    Args:
        images: of a clip, in order, of one size.
        folder: to write, a mask under the name of each image; made if it is not there.

    Returns:
        Share of each image that moves, by its name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    greys = [read_grey(path) for path in images]
    votes = np.zeros((len(greys), *greys[0].shape), np.int8)
    pairs = [(i, i + gap) for gap in GAPS for i in range(len(greys) - gap)]
    for i, j in track(pairs, "What moves"):
        first, second = votes_of_pair(greys[i], greys[j])
        votes[i] += first
        votes[j] += second
    with Image.open(images[0]) as image:
        size = image.size
    shares = {}
    for path, vote in zip(images, votes > 0, strict=True):
        moves = widen(np.asarray(vote))
        mask = Image.fromarray(np.where(moves, 0, 255).astype(np.uint8))
        mask.resize(size, Image.Resampling.NEAREST).save(folder / path.name)
        shares[path.name] = float(moves.mean())
    return shares


def camera_stands_still(images: Sequence[Path], num_compared: int = 8) -> bool:
    """Whether most of what has contrast is at the same pixels all over a clip.

    Args:
        images: of a clip, in order, of one size.
        num_compared: number of images that are compared with the one in the middle.
    """
    middle = read_grey(images[len(images) // 2])
    for i in np.linspace(0, len(images) - 1, num_compared).round().astype(int):
        other = read_grey(images[i])
        clear = has_contrast(middle) & has_contrast(other)
        if not clear.any():
            return False
        if np.median(np.linalg.norm(flow_between(middle, other), axis=-1)[clear]) > STILL_FLOW:
            return False
    return True


def votes_of_pair(first: Grey, second: Grey) -> tuple[Int8[np.ndarray, "h w"], Int8[np.ndarray, "h w"]]:
    """What two images say of the pixels of each: `MOVES`, `STILL`, or 0 where one does not know."""
    there, back = flow_between(first, second), flow_between(second, first)
    seen = is_reliable(there, back) & has_contrast(first)
    seen_back = is_reliable(back, there) & has_contrast(second)
    F = fundamental_matrix(there, seen)
    if F is None:
        nothing = np.zeros_like(first, np.int8)
        return nothing, nothing
    return _votes(there, F, seen), _votes(back, F.T, seen_back)


def _votes(flow: Flow, F: Float[np.ndarray, "3 3"], seen: Bool[np.ndarray, "h w"]) -> Int8[np.ndarray, "h w"]:
    distance = sampson_distance(flow, F)
    limit = max(MAX_DISTANCE, NOISE_FACTOR * float(np.median(distance[seen]))) if seen.any() else 0.0
    return np.where(seen, np.where(distance > limit, MOVES, STILL), 0).astype(np.int8)


def fundamental_matrix(flow: Flow, seen: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "3 3"] | None:
    """The fundamental matrix that explains most of the flow: q F p = 0 for a pixel p that flows to q.

    Args:
        flow: pixels.
        seen: where flow can be relied on.

    Returns:
        None where too few pixels can be relied on, or no geometry explains them.
    """
    v, u = (grid.ravel() for grid in np.mgrid[: flow.shape[0] : GRID, : flow.shape[1] : GRID])
    u, v = u[seen[v, u]], v[seen[v, u]]
    if len(u) < 32:
        return None
    p = np.stack([u, v], -1).astype(np.float64)
    try:
        F, _ = cv2.findFundamentalMat(p, p + flow[v, u], cv2.USAC_MAGSAC, MAX_DISTANCE / 2, 0.999, 5000)
    except cv2.error:  # how OpenCV 5 says that no geometry explains them
        return None
    return F if F is not None and F.shape == (3, 3) else None


def sampson_distance(flow: Flow, F: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "h w"]:
    """Distance of each pixel and its target from the epipolar geometry, to first order, pixels."""
    v, u = np.mgrid[: flow.shape[0], : flow.shape[1]].astype(np.float64)
    p = np.stack([u, v, np.ones_like(u)], -1)
    q = p + np.concatenate([flow, np.zeros_like(flow[..., :1])], -1)
    line, line_back = p @ F.T, q @ F
    error = np.abs((q * line).sum(-1))
    norm = np.sqrt((line[..., :2] ** 2).sum(-1) + (line_back[..., :2] ** 2).sum(-1))
    return error / np.maximum(norm, 1e-12)


def flow_between(first: Grey, second: Grey) -> Flow:
    """Dense optical flow (DIS), pixels."""
    method = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)  # type: ignore[attr-defined]
    return method.calc(first, second, None)


def is_reliable(there: Flow, back: Flow) -> Bool[np.ndarray, "h w"]:
    """Where flow leads back to where it came from: not what is hidden in the other image, or leaves it."""
    v, u = np.mgrid[: there.shape[0], : there.shape[1]].astype(np.float32)
    u, v = u + there[..., 0], v + there[..., 1]
    returned = cv2.remap(back, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(1e6, 1e6))
    return np.linalg.norm(there + returned, axis=-1) < MAX_LOOP_ERROR


def has_contrast(grey: Grey) -> Bool[np.ndarray, "h w"]:
    """Where an image has enough texture for flow."""
    values = grey.astype(np.float32)
    mean, square = (cv2.blur(x, (9, 9)) for x in (values, values * values))
    return square - mean * mean > MIN_CONTRAST**2


def widen(moves: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """What moves without specks and holes, and with a margin."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (SPECK, SPECK))
    opened = cv2.morphologyEx(moves.astype(np.uint8), cv2.MORPH_OPEN, disc)
    closed = cv2.morphologyEx(opened, cv2.MORPH_CLOSE, np.ones((2 * MARGIN + 1,) * 2, np.uint8))
    return cv2.dilate(closed, np.ones((2 * MARGIN + 1,) * 2, np.uint8)) > 0


def read_grey(path: Path) -> Grey:
    """An image at the size at which flow is computed."""
    with Image.open(path) as image:
        scale = min(1.0, WORK_SIZE / max(image.size))
        width, height = (round(scale * side) for side in image.size)
        return np.array(image.convert("L").resize((width, height), Image.Resampling.BOX))
