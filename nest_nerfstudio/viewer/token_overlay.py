"""Overlay that displays the tokens of a scene as points over the image."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

TOKENS_HINT = "Draw the tokens (control points) over the image; depth compositing is off while they are shown"
"""Hint of the check box that switches the overlay on."""

_NODE = "/tokens"
_GOLDEN_RATIO = (1 + 5**0.5) / 2


class TokenOverlay:
    """Displays token positions as a point cloud in viser's scene.

    Args:
        server: viser's server.
        scale: viser units per world unit.
    """

    def __init__(self, server: Any, scale: float) -> None:
        self._server = server
        self._scale = scale
        self._handle: Any = None
        self._points = np.zeros((0, 3), dtype=np.float32)
        self._size = 0.0
        self._chosen: Bool[np.ndarray, " k"] | None = None
        self._drawn = False

    def highlight(self, chosen: Bool[np.ndarray, " k"] | None) -> None:
        """Draw these tokens brighter than the others from now on; None: all alike."""
        self._chosen, self._drawn = chosen, False

    @property
    def visible(self) -> bool:
        """Whether tokens are displayed."""
        return self._handle is not None

    def draw(self, positions: Float[Tensor, "k 3"]) -> None:
        """Display the tokens; nothing is sent if no position has changed.

        Args:
            positions: world frame, world units.
        """
        points = positions.numpy(force=True).astype(np.float32) * self._scale
        if self.visible and self._drawn and np.array_equal(points, self._points):
            return
        if not self.visible:
            # Set once, so that the size does not change while the scene moves.
            self._size = 0.1 * float(points.std(0).mean())
        self._points, self._drawn = points, True
        colors = token_colors(len(points))
        if self._chosen is not None and len(self._chosen) == len(points):
            colors[~self._chosen] = (80, 80, 80)
        self._handle = self._server.scene.add_point_cloud(
            _NODE, points, colors, point_size=self._size, point_shape="circle"
        )

    def hide(self) -> None:
        """Remove the tokens."""
        if self._handle is not None:
            self._handle.remove()
        self._handle = None


def token_colors(count: int) -> UInt8[np.ndarray, "k 3"]:
    """Colours that depend on the index only; golden-ratio steps in hue separate neighbours.

    Args:
        count: number of tokens.

    Returns:
        sRGB.
    """
    colors = [colorsys.hsv_to_rgb(i * _GOLDEN_RATIO % 1, 0.8, 1.0) for i in range(count)]
    return np.round(np.array(colors).reshape(-1, 3) * 255).astype(np.uint8)
