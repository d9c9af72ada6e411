"""`nest-export`: trained scenes in formats that other programs read."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import tyro
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import track

from nest_nerfstudio.io.point_clouds import read_cloud
from nest_nerfstudio.io.splats import only_finite, undo_transform, with_sh_degree, write_splat_ply
from nest_nerfstudio.models.runs import load_run
from nest_nerfstudio.types import Gaussians, Points


@runtime_checkable
class MovingScene(Protocol):
    """A decoded scene, see `models.decoded_scene.DecodedScene`."""

    @property
    def moves(self) -> bool:
        """Whether it differs from one time to another."""
        ...

    def gaussians_at(self, time: float) -> Gaussians:
        """The scene at a clip time, activated values, nerfstudio's world frame."""
        ...


@runtime_checkable
class ManyScenes(Protocol):
    """What a model of many scenes must offer to be exported; one of a single scene has a `scene()`."""

    def scene(self, number: int, num_views: int, refined: bool) -> MovingScene:
        """A scene under the model's edit, encoded from so many of its images."""
        ...

    def scene_of_cloud(self, points: Points) -> MovingScene:
        """A coloured point cloud under the model's edit."""
        ...


@dataclass
class EncodedScenes:
    """Which scenes of a nest-prior run to write, and what to encode them from.

    Attributes:
        names: names of the scenes; without names and clouds, all held-out ones, or all of `data`.
        clouds: files of coloured points to encode too, in the frame and at the scale of the training scenes.
        data: other scenes than those of the run: a folder with `scenes.json`, …
        scene_format: … or one scene that this data parser of nerfstudio reads (`nerfstudio-data`, …).
        num_views: number of images to encode a scene from; fewer where it has fewer.
        refined: also optimize each latent on its images (seconds a scene).
    """

    names: tuple[str, ...] = ()
    clouds: tuple[Path, ...] = ()
    data: Path | None = None
    scene_format: str | None = None
    num_views: int = 8
    refined: bool = True

    def check(self) -> None:
        """ValueError where settings do not go together."""
        if self.num_views < 1:
            raise ValueError(f"--scenes.num-views {self.num_views} must be 1 or more")
        if self.scene_format is not None and self.data is None:
            raise ValueError(
                f"--scenes.scene-format {self.scene_format} says how to read --scenes.data; give that too"
            )

    def change(self, config: Any) -> None:
        """Have a run read the scenes of `data`, if there are any, and hold all of them out."""
        if self.data is None:
            return
        manager = config.pipeline.datamanager
        manager.data = manager.dataparser.data = self.data
        manager.dataparser.holdout, manager.dataparser.scenes, manager.dataparser.scene_parser = 1, (), None
        if self.scene_format is not None:
            manager.dataparser.scenes, manager.dataparser.scene_format = (Path(),), self.scene_format

    def decode(self, pipeline: Any) -> list[tuple[str, Callable[[], MovingScene]]]:
        """Name of each scene, and what encodes and decodes it."""
        model, data = pipeline.model, pipeline.datamanager
        numbers = [data.index.find(name) for name in self.names] or ([] if self.clouds else data.held_out)
        chosen: list[tuple[str, Callable[[], MovingScene]]] = [
            (data.index.entries[i].name, lambda i=i: model.scene(i, self.num_views, self.refined))
            for i in numbers
        ]
        for path in self.clouds:
            points = read_cloud(path)
            chosen.append((path.stem, lambda points=points: model.scene_of_cloud(points)))
        names = [name for name, _ in chosen]
        if len(set(names)) < len(names):
            raise ValueError("two scenes or clouds have one name, so one file; write them into two folders")
        return chosen


def splat(
    load_config: Path,
    output_dir: Path,
    times: tuple[float, ...] = (),
    num_times: int | None = None,
    t0: float = 0.0,
    t1: float = 1.0,
    sh_degree: int | None = None,
    original_frame: bool = False,
    scenes: EncodedScenes = EncodedScenes(),  # noqa: B008
) -> list[Path]:
    """Write 3D Gaussian Splatting PLY files of a run of any of our methods, one for each scene and time.

    Files are named `splat_t0.5000.ply` for a run of one scene, `NAME.ply` or `NAME_t0.5000.ply` for many.

    Args:
        load_config: the run's `config.yml`.
        output_dir: folder of the files; made if it is not there.
        times: clip times to write; [0, 1] is the observed span, values outside extrapolate. Default: 0.
        num_times: instead of `times`: this many, evenly spaced from `t0` to `t1` (both included).
        t0: first time of such a sequence.
        t1: last time of such a sequence.
        sh_degree: write spherical harmonics of exactly this degree (0 to 3), cut or filled with zeros; some
            viewers read only 3. Default: the degree of the scene.
        original_frame: undo the transform and scale that nerfstudio's data parser applied to the cameras.
        scenes: of a nest-prior run: which scenes.

    Returns:
        The files, in the order of scenes and times.

    Raises:
        FileNotFoundError: no such run or cloud.
        ValueError: settings that do not go together, a scene that is not there, a run of another method, a
            scene that does not move at several times, or one without Gaussians.
    """
    scenes.check()
    chosen_times = _times(times, num_times, t0, t1)
    pipeline = load_run(load_config, lambda config: _change(config, scenes))
    is_many = isinstance(pipeline.model, ManyScenes)
    if not is_many and scenes != EncodedScenes():
        raise ValueError("--scenes options are for runs of nest-prior; this run has one scene")
    if is_many and original_frame:
        raise ValueError("--original-frame is for runs of one scene; those of nest-prior keep their frames")
    parsed = pipeline.datamanager.train_dataparser_outputs
    named = scenes.decode(pipeline) if is_many else [("splat", pipeline.model.scene)]
    output_dir.mkdir(parents=True, exist_ok=True)
    written = []
    for name, decode in track(named, "Writing splats", console=CONSOLE, disable=len(named) == 1):
        with torch.no_grad():
            for path, gaussians in _at_times(decode(), name, chosen_times, is_many):
                if original_frame:
                    gaussians = undo_transform(
                        gaussians, parsed.dataparser_transform, float(parsed.dataparser_scale)
                    )
                if sh_degree is not None:
                    gaussians = with_sh_degree(gaussians, sh_degree)
                write_splat_ply(output_dir / path, gaussians)
                written.append(output_dir / path)
    CONSOLE.print(
        f"Wrote {len(written)} file(s): {', '.join(map(str, written[:3]))}{' …' * (len(written) > 3)}"
    )
    return written


def _change(config: Any, scenes: EncodedScenes) -> None:
    """Have a run of many scenes read those that are to be written; refuse runs without scenes."""
    model = config.pipeline.model._target
    if not hasattr(model, "scene"):
        raise ValueError(f"this does not export {config.method_name}; use nerfstudio's ns-export")
    if issubclass(model, ManyScenes):
        scenes.change(config)


def _at_times(
    scene: MovingScene, name: str, times: list[float], is_many: bool
) -> Iterator[tuple[str, Gaussians]]:
    """File names and finite Gaussians of a scene at each time; times in names where they tell files apart."""
    if len(times) > 1 and not scene.moves:
        raise ValueError(f"{name} does not move, so it is the same at all times; leave the times out")
    for time in times:
        gaussians = scene.gaussians_at(time)
        good = only_finite(gaussians)
        if dropped := len(gaussians) - len(good):
            CONSOLE.print(
                f"{name}, t = {time:.4f}: left out {dropped} of {len(gaussians)} Gaussians, not finite"
            )
        yield (f"{name}.ply" if is_many and len(times) == 1 else f"{name}_t{time:.4f}.ply"), good


def _times(times: tuple[float, ...], num_times: int | None, t0: float, t1: float) -> list[float]:
    if times and num_times is not None:
        raise ValueError("give either --times or --num-times, not both")
    if num_times is not None:
        if num_times < 1 or not t0 < t1:
            raise ValueError(
                f"--num-times {num_times} from --t0 {t0} to --t1 {t1} is no sequence: need 1 or more, t0 < t1"
            )
        times = tuple(np.linspace(t0, t1, num_times).tolist())
    times = times or (0.0,)
    if not all(map(math.isfinite, times)):
        raise ValueError(f"times must be finite numbers, got {times}")
    if len({f"{time:.4f}" for time in times}) < len(times):
        raise ValueError("two times have one file name (four decimals); give times at least 0.0001 apart")
    return list(times)


def entrypoint() -> None:
    """The `nest-export` command."""
    try:
        tyro.extras.subcommand_cli_from_dict({"splat": splat}, prog="nest-export", description=__doc__)
    except (ValueError, OSError) as error:
        sys.exit(f"nest-export: {error}")


if __name__ == "__main__":
    entrypoint()
