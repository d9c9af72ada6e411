"""Viewer controls of a model of many scenes: scene, context views, refinement and token overlay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from nest_nerfstudio.viewer.base import SceneControls
from nest_nerfstudio.viewer.token_overlay import TOKENS_HINT

MAX_VIEWS = 16
"""Largest number of context views to choose."""


class SceneViewerControls(SceneControls):
    """Selection of the displayed scene and its context views, refinement, and a token overlay.

    A copy, pickled or not, has no viewer.

    Args:
        positions_of: called with (scene, num_views, refined): encodes a scene from that many context views,
            optimizes the latent on them if `refined`, and returns the positions of its tokens, world frame.
        refined: whether the latent is refined at first.

    Attributes:
        scene: index of the displayed scene.
        num_views: number of context views it is encoded from.
        refined: whether its latent is optimised on them.
    """

    def __init__(self, positions_of: Callable[[int, int, bool], Tensor], refined: bool = False) -> None:
        super().__init__()
        self.scene, self.num_views, self.refined = 0, 4, refined
        self._positions_of = positions_of
        self._names: Sequence[str] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        settings = {"scene": self.scene, "num_views": self.num_views, "_names": self._names}
        return type(self), (self._positions_of, self.refined), settings

    def offer(self, names: Sequence[str], scene: int, num_views: int) -> None:
        """Set the scenes to choose from, and the one to display.

        Args:
            names: names of all scenes.
            scene: index of the displayed scene.
            num_views: number of context views it is encoded from.
        """
        self._names, self.scene, self.num_views = names, scene, num_views

    def _setup(self, viewer: Any) -> None:
        super()._setup(viewer)
        gui = self.viser_server.gui
        with gui.add_folder("Scene", order=viewer.stats_markdown.order + 0.5):
            self._scene = gui.add_dropdown(
                "Scene", list(self._names), self._names[self.scene], hint="Scene to display"
            )
            self._views = gui.add_slider(
                "Context views",
                1,
                MAX_VIEWS,
                1,
                self.num_views,
                hint="Number of input images from which the scene is reconstructed",
            )
            self._refine = gui.add_checkbox(
                "Refine",
                self.refined,
                hint="Optimize the reconstruction on its input images; takes some seconds per scene",
            )
            self._tokens = gui.add_checkbox("Show tokens", False, hint=TOKENS_HINT)
        # One callback for each: where code sets a value, viser calls the last one as often as there are any.
        self._tokens.on_update(lambda _: self._toggle_tokens())
        for element in (self._scene, self._views, self._refine):
            element.on_update(lambda _: self._update())

    def _exported(self) -> tuple[str, list[str]]:
        name, refined = self._names[self.scene], "refined" if self.refined else "no-refined"
        views = ["--scenes.num-views", str(self.num_views)]
        return name, ["--scenes.names", name, *views, f"--scenes.{refined}"]

    def redraw_tokens(self) -> None:
        if self._tokens.value:
            self._update()

    def _other_scenes(self) -> Sequence[str]:
        return self._names

    def _toggle_tokens(self) -> None:
        self._pause_depth_compositing(self._tokens.value)
        self._update()

    def _update(self) -> None:
        scene, num_views = self._names.index(self._scene.value), int(self._views.value)
        refined = self._refine.value
        try:
            with torch.no_grad():  # without the training lock: viser's threads must never wait for training
                positions = self._positions_of(scene, num_views, refined)
        except (ValueError, OSError, RuntimeError) as error:  # else it would end viser's thread
            CONSOLE.log(f"[yellow]Cannot display scene {self._names[scene]}: {error}")
            self._scene.value = self._names[self.scene]
            self._views.value, self._refine.value = self.num_views, self.refined
            return
        self.scene, self.num_views, self.refined = scene, num_views, refined
        if self._tokens.value:
            self._overlay.draw(positions)
        else:
            self._overlay.hide()
        self.viewer._trigger_rerender()
