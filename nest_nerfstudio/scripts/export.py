"""`nest-export`: trained scenes in formats that other programs read.

`splat`: one that moves, at one time or a sequence of times. `scenes`: those that a nest-prior encodes.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import tyro
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import track

from nest_nerfstudio.io.point_clouds import read_cloud
from nest_nerfstudio.io.splats import only_finite, undo_transform, with_sh_degree, write_splat_ply
from nest_nerfstudio.io.splats import read_splat_ply as read_splat_ply  # tests/pipelines/test_nest_prior.py
from nest_nerfstudio.types import Gaussians, Points, SceneLatent


@runtime_checkable
class MovingScene(Protocol):
    """What a model must offer to be exported."""

    def gaussians_at(self, time: float) -> Gaussians:
        """The scene at a clip time, activated values, nerfstudio's world frame."""
        ...


@runtime_checkable
class ManyScenes(Protocol):
    """What a model of many scenes must offer to be exported."""

    def latent_of(self, scene: int, num_views: int, refined: bool) -> SceneLatent:
        """A scene, encoded from so many of its pictures."""
        ...

    def latent_of_cloud(self, points: Points) -> SceneLatent:
        """A coloured point cloud, encoded."""
        ...


def splat(
    load_config: Path,
    output_dir: Path,
    times: tuple[float, ...] = (),
    num_times: int | None = None,
    t0: float = 0.0,
    t1: float = 1.0,
    sh_degree: int | None = None,
    original_frame: bool = False,
) -> list[Path]:
    """Write 3D Gaussian Splatting PLY files, one per time: `splat_t0.5000.ply`.

    Args:
        load_config: the run's `config.yml`.
        output_dir: where the files go; made if it is not there.
        times: clip times to write; [0, 1] is the observed span, values outside extrapolate.
        num_times: instead of `times`: this many, evenly from `t0` to `t1` (both included).
        t0: first time of such a sequence.
        t1: last time of such a sequence.
        sh_degree: write spherical harmonics of exactly this degree (0 to 3), cut or filled with zeros; some
            viewers read only 3. By default what the scene has.
        original_frame: undo the transform and scale that nerfstudio's data parser applied to the cameras.

    Returns:
        The files, in the order of their times.

    Raises:
        FileNotFoundError: no such run.
        ValueError: times that make no sequence, a run of another method, or a scene without Gaussians.
    """
    paths = {output_dir / f"splat_t{time:.4f}.ply": time for time in _times(times, num_times, t0, t1)}
    pipeline = _load(load_config, MovingScene, "use `nest-export scenes` or nerfstudio's ns-export")
    model, parsed = pipeline.model, pipeline.datamanager.train_dataparser_outputs
    output_dir.mkdir(parents=True, exist_ok=True)
    for path, time in track(paths.items(), "Writing splats", console=CONSOLE, disable=len(paths) == 1):
        with torch.no_grad():
            gaussians = _only_finite(model.gaussians_at(time), f"t = {time:.4f}")
            if original_frame:
                scale = float(parsed.dataparser_scale)
                gaussians = undo_transform(gaussians, parsed.dataparser_transform, scale)
        write_splat_ply(path, gaussians if sh_degree is None else with_sh_degree(gaussians, sh_degree))
    CONSOLE.print(_wrote(list(paths)))
    return list(paths)


def scenes(
    load_config: Path,
    output_dir: Path,
    names: tuple[str, ...] = (),
    clouds: tuple[Path, ...] = (),
    data: Path | None = None,
    scene_format: str | None = None,
    num_views: int = 8,
    refined: bool = True,
    sh_degree: int | None = None,
) -> list[Path]:
    """Encode scenes with a trained nest-prior and write a 3D Gaussian Splatting PLY file of each: `NAME.ply`.

    Args:
        load_config: the run's `config.yml`.
        output_dir: where the files go; made if it is not there.
        names: of the scenes; without names and clouds, all that were held out, or all of `data`.
        data: other scenes than those of the training: a folder with `scenes.json`, …
        scene_format: … or one scene that this parser of nerfstudio's reads (`nerfstudio-data`, …).
        clouds: files of coloured points to encode too, in the frame and at the scale of the scenes.
        num_views: pictures to encode a scene from; fewer where it has fewer.
        refined: also optimise each latent on its pictures (seconds a scene).
        sh_degree: write spherical harmonics of exactly this degree (0 to 3), cut or filled with zeros.

    Returns:
        The files, clouds last.

    Raises:
        FileNotFoundError: no such run or cloud.
        ValueError: a scene that is not there, two of one name, a run of another method, a model that does not
            read clouds.
    """
    if num_views < 1:
        raise ValueError(f"--num-views {num_views} must be 1 or more")
    if scene_format is not None and data is None:
        raise ValueError(f"--scene-format {scene_format} says how to read --data, which is not given")
    pipeline = _load(
        load_config,
        ManyScenes,
        "use `nest-export splat` or nerfstudio's ns-export",
        lambda config: _read_instead(config, data, scene_format),
    )
    model, index = pipeline.model, pipeline.datamanager.index
    numbers = [index.find(name) for name in names] or ([] if clouds else pipeline.datamanager.held_out)
    chosen: list[tuple[str, int | Points]] = [(index.entries[i].name, i) for i in numbers]
    chosen += [(path.stem, read_cloud(path)) for path in clouds]
    paths = [output_dir / f"{name}.ply" for name, _ in chosen]
    if len(set(paths)) < len(paths):
        raise ValueError("two scenes or clouds have one name, so one file; write them into two folders")
    output_dir.mkdir(parents=True, exist_ok=True)
    for path, (_, what) in zip(paths, track(chosen, "Encoding", console=CONSOLE), strict=True):
        with torch.no_grad():
            latent = (
                model.latent_of_cloud(what)
                if isinstance(what, Points)
                else model.latent_of(what, num_views, refined)
            )
            gaussians = _only_finite(model.field(latent), path.stem)
        write_splat_ply(path, gaussians if sh_degree is None else with_sh_degree(gaussians, sh_degree))
    CONSOLE.print(_wrote(paths))
    return paths


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


def _load(
    load_config: Path, wanted: type, otherwise: str, change: Callable[[Any], None] = lambda _: None
) -> Any:
    """Pipeline of a run whose model is of a kind, without its images; other models are not built.

    Args:
        load_config: the run's `config.yml`.
        wanted: what its model has to be.
        otherwise: what to do where it is not.
        change: changes the run's config before anything is built.
    """
    if not load_config.is_file():
        raise FileNotFoundError(f"no run at {load_config}; give the config.yml that ns-train wrote")
    from nerfstudio.utils.eval_utils import eval_setup  # imports every method that is installed

    def require(config: Any) -> Any:
        if not issubclass(config.pipeline.model._target, wanted):
            raise ValueError(f"this does not export {config.method_name}; {otherwise}")
        change(config)
        return config

    return eval_setup(load_config, test_mode="inference", update_config_callback=require)[1]


def _read_instead(config: Any, data: Path | None, scene_format: str | None) -> None:
    """Have a run of nest-prior read other scenes than its own, if any are given, and hold all of them out."""
    if data is None:
        return
    manager = config.pipeline.datamanager
    manager.data = manager.dataparser.data = data
    manager.dataparser.holdout, manager.dataparser.scenes, manager.dataparser.scene_parser = 1, (), None
    if scene_format is not None:
        manager.dataparser.scenes, manager.dataparser.scene_format = (Path(),), scene_format


def _wrote(paths: list[Path]) -> str:
    return f"Wrote {len(paths)} file(s): {', '.join(map(str, paths[:3]))}{' …' * (len(paths) > 3)}"


def _only_finite(gaussians: Gaussians, owner: str) -> Gaussians:
    kept = only_finite(gaussians)
    dropped = len(gaussians) - len(kept)
    if dropped:
        CONSOLE.print(f"{owner}: left out {dropped} of {len(gaussians)} Gaussians that are not finite")
    return kept


def entrypoint() -> None:
    """The `nest-export` command."""
    try:
        tyro.extras.subcommand_cli_from_dict(
            {"splat": splat, "scenes": scenes}, prog="nest-export", description=__doc__
        )
    except (ValueError, OSError) as error:
        sys.exit(f"nest-export: {error}")


if __name__ == "__main__":
    entrypoint()
