"""Base class of the viewer controls."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool
from nerfstudio.viewer.viewer_elements import ViewerControl

from nest_nerfstudio.viewer.edit_panel import EditPanel
from nest_nerfstudio.viewer.splat_export import SplatExport
from nest_nerfstudio.viewer.token_overlay import TokenOverlay

FAR_DEPTH = 1000.0
"""Depth of empty pixels, world units: beyond the largest depth that viser stores (16.8 world units)."""


class SceneControls(ViewerControl):
    """Viewer controls of all models: the initial viewpoint, the depth of empty pixels, edits, and export.

    An attribute of the model: nerfstudio's viewer finds it there and calls `_setup`. Without a viewer it only
    holds settings.
    """

    motion = False
    """Whether the output "motion" of scenes that move is rendered."""

    _tokens: Any
    _overlay: TokenOverlay
    edit_panel: EditPanel

    def __init__(self) -> None:
        self._panel: Any = None

    def _setup(self, viewer: Any) -> None:
        super()._setup(viewer)
        self._panel = viewer.control_panel
        self._overlay = TokenOverlay(viewer.viser_server, self._panel.viser_scale_ratio)
        self.edit_panel = EditPanel(viewer, self, self._other_scenes())
        SplatExport(viewer, self._exported)
        self.viser_server.on_client_connect(self._set_viewpoint)

    def show_tokens(self, chosen: Bool[np.ndarray, " k"] | None) -> None:
        """Draw the tokens, and those that are chosen brighter; None: as no choice."""
        self._overlay.highlight(chosen)
        if chosen is not None:
            self._tokens.value = True
        self.redraw_tokens()

    @abstractmethod
    def redraw_tokens(self) -> None:
        """Draw the tokens where they are now, if they are shown."""

    def _other_scenes(self) -> Sequence[str]:
        """Names of scenes that edits can take something from."""
        return ()

    def _exported(self) -> tuple[str, list[str]]:
        """Name of the scene that is shown, and options of `nest-export splat` that choose it."""
        return "splat", []

    @property
    def empty_depth(self) -> float | None:
        """Depth of pixels in which nothing is rendered, world units; None if the viewer does not need it.

        With depth compositing, the viewer hides its own objects behind the rendered depth, so empty pixels
        must be far away. If the depth itself is displayed, a far background would leave it no contrast.
        """
        panel = self._panel
        if panel is None or not panel.layer_depth:
            return None
        displayed = [panel.output_render] + ([panel.split_output_render] if panel.split else [])
        return None if "depth" in displayed else FAR_DEPTH

    def _pause_depth_compositing(self, tokens_shown: bool) -> None:
        """Switch depth compositing off while tokens are shown: the scene around them would hide them."""
        compositing = self._panel._layer_depth
        if tokens_shown:
            self._composited = compositing.value
        compositing.value = not tokens_shown and self._composited

    def _set_viewpoint(self, client: Any) -> None:
        """Start just in front of a training camera: viser's default viewpoint is inside most scenes."""
        dataset = self.viewer.pipeline.datamanager.train_dataset
        assert dataset is not None
        position = dataset.cameras.camera_to_worlds[0, :, 3].double().numpy(force=True)
        with client.atomic():
            client.camera.position = 0.9 * position * self._panel.viser_scale_ratio
            client.camera.look_at = (0.0, 0.0, 0.0)
