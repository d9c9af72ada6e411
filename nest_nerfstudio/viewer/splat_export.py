"""A folder of the viewer's panel that writes the scene that is shown as a splat file."""

from __future__ import annotations

import shlex
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from nest_nerfstudio.io.splats import only_finite, write_splat_ply


class SplatExport:
    """Writes a 3D Gaussian Splatting PLY file of the scene at the time that is shown, edits included.

    It stands beside nerfstudio's own Export tab, whose point clouds and meshes are sampled by rays.

    Args:
        viewer: nerfstudio's viewer of a model that has a `shown_scene()`.
        chosen: name of the scene, and options with which `nest-export splat` writes the same scene.
    """

    def __init__(self, viewer: Any, chosen: Callable[[], tuple[str, list[str]]]) -> None:
        self._viewer, self._chosen = viewer, chosen
        run = viewer.log_filename.parent.resolve()
        self._config = run / "config.yml"
        gui = viewer.viser_server.gui
        with gui.add_folder("Export", order=viewer.stats_markdown.order + 0.6, expand_by_default=False):
            self._folder = gui.add_text(
                "Folder",
                str(run / "exports"),
                hint="Folder of the files, on the machine that runs the viewer",
            )
            self._button = gui.add_button(
                "Write splat file", hint="Write the scene at the displayed time as a 3DGS PLY file"
            )
            self._message = gui.add_markdown("")
        self._button.on_click(lambda _: threading.Thread(target=self.write, name="export").start())

    def write(self) -> None:
        """Write the file and tell where, or why not; in a thread of its own, as it waits for the training."""
        self._button.disabled, self._message.content = True, "Writing …"
        try:
            self._message.content = self._written()
        except (ValueError, OSError, RuntimeError) as error:
            self._message.content = f"Nothing was written: {error}"
        finally:
            self._button.disabled = False

    def _written(self) -> str:
        """Write the file; what to tell about it."""
        name, options = self._chosen()
        time = self._viewer.control_panel.time
        with self._viewer.train_lock or nullcontext(), torch.no_grad():
            scene = self._viewer.pipeline.model.shown_scene()
            gaussians = only_finite(scene.gaussians_at(time))
        folder = Path(self._folder.value).expanduser()
        path = folder / (f"{name}_t{time:.4f}.ply" if scene.moves else f"{name}.ply")
        folder.mkdir(parents=True, exist_ok=True)
        write_splat_ply(path, gaussians)
        times = ["--num-times", "25"] if scene.moves else []
        command = ["nest-export", "splat", "--load-config", str(self._config), "--output-dir", str(folder)]
        again = "A sequence over the clip" if scene.moves else "The same from the last checkpoint"
        return f"Wrote `{path}`\n\n{again}:\n```\n{shlex.join([*command, *options, *times])}\n```"
