"""`nest-export`: trained scenes in formats that other programs read."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import tyro
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import track

from nest_nerfstudio.io.splats import only_finite, undo_transform, with_sh_degree, write_splat_ply
from nest_nerfstudio.scripts.export_sequence import fourdgs, usd
from nest_nerfstudio.scripts.export_web import web
from nest_nerfstudio.scripts.exported_scenes import EncodedScenes, MovingScene, open_run
from nest_nerfstudio.types import Gaussians


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

    Files are named `splat_t0.5000.ply` for a run of one scene, `NAME.ply` or `NAME_t0.5000.ply` for many;
    those of `num_times` `frame_0000.ply` or `NAME_0000.ply`, which SuperSplat takes for one moving scene.

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
    chosen_times = _times(times, num_times, t0, t1)
    run = open_run(load_config, scenes, "splat")
    if run.is_many and original_frame:
        raise ValueError("--original-frame is for runs of one scene; those of nest-prior keep their frames")
    parsed = run.pipeline.datamanager.train_dataparser_outputs
    output_dir.mkdir(parents=True, exist_ok=True)
    written = []
    for name, decode in track(run.scenes, "Writing splats", console=CONSOLE, disable=len(run.scenes) == 1):
        with torch.no_grad():
            paths = _file_names(name, chosen_times, run.is_many, num_times is not None)
            for path, gaussians in zip(paths, _at_times(decode(), name, chosen_times), strict=True):
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


def _file_names(name: str, times: list[float], is_many: bool, numbered: bool) -> list[str]:
    """Of a scene at each time: with frame numbers, or with times where these tell files apart."""
    if numbered:
        digits = max(4, len(str(len(times) - 1)))
        return [f"{name if is_many else 'frame'}_{i:0{digits}}.ply" for i in range(len(times))]
    return [f"{name}.ply" if is_many and len(times) == 1 else f"{name}_t{time:.4f}.ply" for time in times]


def _at_times(scene: MovingScene, name: str, times: list[float]) -> Iterator[Gaussians]:
    """Finite Gaussians of a scene at each time."""
    if len(times) > 1 and not scene.moves:
        raise ValueError(f"{name} does not move, so it is the same at all times; leave the times out")
    for time in times:
        gaussians = scene.gaussians_at(time)
        good = only_finite(gaussians)
        if dropped := len(gaussians) - len(good):
            CONSOLE.print(
                f"{name}, t = {time:.4f}: left out {dropped} of {len(gaussians)} Gaussians, not finite"
            )
        yield good


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
    if num_times is None and len({f"{time:.4f}" for time in times}) < len(times):
        raise ValueError("two times have one file name (four decimals); give times at least 0.0001 apart")
    return list(times)


def entrypoint() -> None:
    """The `nest-export` command."""
    try:
        tyro.extras.subcommand_cli_from_dict(
            {"splat": splat, "web": web, "usd": usd, "4dgs": fourdgs}, prog="nest-export", description=__doc__
        )
    except (ValueError, OSError) as error:
        sys.exit(f"nest-export: {error}")


if __name__ == "__main__":
    entrypoint()
