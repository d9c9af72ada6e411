"""Controls that many scenes add to nerfstudio's viewer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from nerfstudio.utils.rich_utils import CONSOLE

from nest_nerfstudio.types import SceneLatent
from nest_nerfstudio.viewer.base import SceneControls
from nest_nerfstudio.viewer.token_overlay import TokenOverlay

MOST_VIEWS = 16


class SceneViewerControls(SceneControls):
    """Which scene is shown, from how many context views, and a token overlay.

    A copy of it, pickled or not, starts without a viewer.

    Args:
        latent_of: encodes a scene, by its number, from so many context views, and refines it on them or not.
        refined: whether to, at first.

    Attributes:
        scene: number of the scene that is shown.
        num_views: context views that it is encoded from.
        refined: whether its latent is optimised on them.
    """

    def __init__(self, latent_of: Callable[[int, int, bool], SceneLatent], refined: bool = False) -> None:
        super().__init__()
        self.scene, self.num_views, self.refined = 0, 4, refined
        self._latent_of = latent_of
        self._names: Sequence[str] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        settings = {"scene": self.scene, "num_views": self.num_views, "_names": self._names}
        return type(self), (self._latent_of, self.refined), settings

    def offer(self, names: Sequence[str], scene: int, num_views: int) -> None:
        """Name the scenes that there are, and show one of them from so many context views."""
        self._names, self.scene, self.num_views = names, scene, num_views

    def _setup(self, viewer: Any) -> None:
        super()._setup(viewer)
        gui = self.viser_server.gui
        self._overlay = TokenOverlay(self.viser_server, self._panel.viser_scale_ratio)
        with gui.add_folder("Scene", order=viewer.stats_markdown.order + 0.5):
            self._scene = gui.add_dropdown("Scene", list(self._names), self._names[self.scene])
            self._views = gui.add_slider("Context views", 1, MOST_VIEWS, 1, self.num_views)
            self._refine = gui.add_checkbox(
                "Refine", self.refined, hint="Optimise the latent on its context views; takes seconds"
            )
            self._tokens = gui.add_checkbox(
                "Show tokens", False, hint="Over the picture: depth compositing is off meanwhile"
            )
        self._tokens.on_update(lambda _: self._uncover(self._tokens.value))
        for element in (self._scene, self._views, self._refine, self._tokens):
            element.on_update(lambda _: self._update())

    def _update(self) -> None:
        scene, num_views = self._names.index(self._scene.value), int(self._views.value)
        refined = self._refine.value
        try:
            with torch.no_grad():  # and without the lock: viser's threads must never wait for training
                positions = self._latent_of(scene, num_views, refined).translations
        except (ValueError, OSError) as error:  # it would end the thread that draws
            CONSOLE.log(f"[yellow]Not shown: {error}")
            self._scene.value = self._names[self.scene]
            self._views.value, self._refine.value = self.num_views, self.refined
            return
        self.scene, self.num_views, self.refined = scene, num_views, refined
        if self._tokens.value:
            self._overlay.draw(positions)
        else:
            self._overlay.hide()
        self.viewer._trigger_rerender()
