"""Tokens of a scene as dots over the picture."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

_NODE = "/tokens"
_GOLDEN_RATIO = (1 + 5**0.5) / 2


class TokenOverlay:
    """Draws token positions into a viser scene.

    Args:
        server: viser's server.
        scale: viser's units per world unit.
    """

    def __init__(self, server: Any, scale: float) -> None:
        self._server = server
        self._scale = scale
        self._handle: Any = None
        self._points = np.zeros((0, 3), dtype=np.float32)
        self._size = 0.0

    @property
    def visible(self) -> bool:
        """Whether tokens are drawn."""
        return self._handle is not None

    def draw(self, positions: Float[Tensor, "k 3"]) -> None:
        """Show the tokens at these positions, world frame; nothing is sent where they stand already."""
        points = positions.numpy(force=True).astype(np.float32) * self._scale
        if self.visible and np.array_equal(points, self._points):
            return
        if not self.visible:
            # Set once, so that the dots do not breathe while the scene moves.
            self._size = 0.1 * float(points.std(0).mean())
        self._points = points
        self._handle = self._server.scene.add_point_cloud(
            _NODE, points, token_colors(len(points)), point_size=self._size, point_shape="circle"
        )

    def hide(self) -> None:
        """Take the tokens away."""
        if self._handle is not None:
            self._handle.remove()
        self._handle = None


def token_colors(count: int) -> UInt8[np.ndarray, "k 3"]:
    """A colour per token that depends on its index only; golden-ratio steps in hue keep neighbours apart."""
    colors = [colorsys.hsv_to_rgb(i * _GOLDEN_RATIO % 1, 0.8, 1.0) for i in range(count)]
    return np.round(np.array(colors).reshape(-1, 3) * 255).astype(np.uint8)
