"""One image that shows what was made of a clip: cameras and points from above and aside, and what moves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

NUM_SHOWN = 6
SIZE = 480
"""Longer side of the frames shown, pixels."""


def write_report(
    path: Path,
    title: str,
    images: Sequence[Path],
    masks: Sequence[Path],
    pixels: Sequence[Float[np.ndarray, "_ 2"]],
    centres: Float[np.ndarray, "n 3"],
    points: Float[np.ndarray, "p 3"],
    colors: Float[np.ndarray, "p 3"],
) -> None:
    """Write the image.

    Args:
        path: of the image.
        title: a line above it.
        images: of the frames, in order.
        masks: of the frames: black where something moves.
        pixels: where each frame shows points.
        centres: of the cameras, z up.
        points: seed points, in the same coordinates.
        colors: of the points, in [0, 1].
    """
    from matplotlib.figure import Figure  # slow to import

    figure = Figure(figsize=(12, 9), layout="constrained")
    figure.suptitle(title)
    grid = figure.add_gridspec(3, 3, height_ratios=(2, 1, 1))
    for cell, (across, up, name) in zip(
        (grid[0, 0], grid[0, 1], grid[0, 2]),
        ((0, 1, "from above"), (0, 2, "from the front"), (1, 2, "from the side")),
        strict=True,
    ):
        axes = figure.add_subplot(cell, aspect="equal", title=name)
        axes.scatter(points[:, across], points[:, up], s=1, c=colors)
        axes.plot(centres[:, across], centres[:, up], color="0.6", linewidth=0.8)
        axes.scatter(centres[:, across], centres[:, up], s=8, c=np.arange(len(centres)), cmap="viridis")
        _frame_middle(axes, np.concatenate([points, centres])[:, [across, up]])
    for k, i in enumerate(np.linspace(0, len(images) - 1, NUM_SHOWN).round().astype(int)):
        axes = figure.add_subplot(grid[1 + k // 3, k % 3], title=images[i].name)
        shown, scale = _overlay(images[i], masks[i])
        axes.imshow(shown)
        axes.scatter(*(pixels[i].T * scale - 0.5), s=2, c="lime", linewidths=0)
        axes.set_axis_off()
    figure.savefig(path, dpi=100)


def _frame_middle(axes: object, positions: Float[np.ndarray, "n 2"]) -> None:
    """Show the middle 96 % of positions, which outliers do not blow up."""
    low, high = np.quantile(positions, (0.02, 0.98), axis=0)
    margin = 0.15 * float((high - low).max()) + 1e-6
    axes.set(xlim=(low[0] - margin, high[0] + margin), ylim=(low[1] - margin, high[1] + margin))  # type: ignore[attr-defined]


def _overlay(image: Path, mask: Path) -> tuple[np.ndarray, float]:
    """A frame with red where something moves, shrunk, and by which factor."""
    with Image.open(image) as frame, Image.open(mask) as still:
        scale = min(1.0, SIZE / max(frame.size))
        size = (round(scale * frame.width), round(scale * frame.height))
        shown = np.array(frame.convert("RGB").resize(size, Image.Resampling.BOX))
        moves = np.array(still.resize(size, Image.Resampling.NEAREST)) == 0
    shown[moves] = shown[moves] // 2 + np.array([127, 0, 0], np.uint8)
    return shown, scale
