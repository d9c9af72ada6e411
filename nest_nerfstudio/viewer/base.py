"""What the controls of all our models share."""

from __future__ import annotations

from typing import Any

from nerfstudio.viewer.viewer_elements import ViewerControl

FAR_DEPTH = 1000.0
"""World units, past all that viser can store: its depths end at 168, which is 16.8 world units."""


class SceneControls(ViewerControl):
    """Starts in front of the scene, and knows what depth the viewer wants where nothing is.

    An attribute of a model: nerfstudio's viewer finds it there and calls `_setup`; without a viewer it only
    holds settings.
    """

    def __init__(self) -> None:
        self._panel: Any = None

    def _setup(self, viewer: Any) -> None:
        super()._setup(viewer)
        self._panel = viewer.control_panel
        self.viser_server.on_client_connect(self._show_scene)

    @property
    def empty_depth(self) -> float | None:
        """Depth for pixels that show nothing; None where the viewer does not care.

        The viewer hides its own objects behind what it takes for the scene, so nothing must be far away. But
        where depth itself is looked at, a far background would leave it no contrast.
        """
        panel = self._panel
        if panel is None or not panel.layer_depth:
            return None
        shown = [panel.output_render] + ([panel.split_output_render] if panel.split else [])
        return None if "depth" in shown else FAR_DEPTH

    def _uncover(self, tokens: bool) -> None:
        """No depth compositing while tokens are shown: they lie inside the scene, which would hide them."""
        compositing = self._panel._layer_depth
        if tokens:
            self._composited = compositing.value
        compositing.value = not tokens and self._composited

    def _show_scene(self, client: Any) -> None:
        """Start just in front of a training camera: viser starts inside most scenes."""
        dataset = self.viewer.pipeline.datamanager.train_dataset
        assert dataset is not None
        position = dataset.cameras.camera_to_worlds[0, :, 3].double().numpy(force=True)
        with client.atomic():
            client.camera.position = 0.9 * position * self._panel.viser_scale_ratio
            client.camera.look_at = (0.0, 0.0, 0.0)
