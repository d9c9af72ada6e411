"""`nest-export usd` and `nest-export 4dgs`: moving Gaussians in one file, sampled at many times."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from nerfstudio.utils.rich_utils import CONSOLE

from nest_nerfstudio.io.fourdgs import write_fourdgs
from nest_nerfstudio.io.splats import are_finite, with_sh_degree
from nest_nerfstudio.io.usd import write_usd
from nest_nerfstudio.scripts.exported_scenes import (
    EncodedScenes,
    MovingScene,
    make_folder_of,
    named_path,
    open_run,
)
from nest_nerfstudio.types import Gaussians

Write = Callable[[Path, Iterable[tuple[float, Gaussians]]], None]


@dataclass
class Sampling:
    """Moments at which a moving scene is written.

    Attributes:
        num_times: number of moments, evenly spaced.
        t0: the first, in clips; [0, 1] is the observed span, times outside extrapolate.
        t1: the last.
        seconds: length of the clip in the file; default: that of the run's renders (`playback_seconds`).
        sh_degree: write spherical harmonics of exactly this degree; default: that of the scene.
    """

    num_times: int = 48
    t0: float = 0.0
    t1: float = 1.0
    seconds: float | None = None
    sh_degree: int | None = None

    def check(self) -> None:
        """ValueError where they are no sequence."""
        if self.num_times < 2 or not self.t0 < self.t1 or not np.isfinite([self.t0, self.t1]).all():
            raise ValueError(
                f"--num-times {self.num_times} from --t0 {self.t0} to --t1 {self.t1} is no sequence: "
                "need 2 or more, finite, t0 < t1"
            )
        if self.seconds is not None and not 0 < self.seconds < np.inf:
            raise ValueError(f"--seconds {self.seconds} must be more than 0")

    def frames(self, scene: MovingScene, name: str, seconds: float) -> list[tuple[float, Gaussians]]:
        """Seconds from clip time 0, and the Gaussians that are finite at all moments."""
        if not scene.moves:
            raise ValueError(f"{name} does not move; nest-export splat writes it as one file")
        moments = np.linspace(self.t0, self.t1, self.num_times).tolist()
        states = [scene.gaussians_at(moment) for moment in moments]
        good = torch.stack([are_finite(state) for state in states]).all(0)
        if not good.any():
            raise ValueError(f"{name} has no Gaussians to write; train longer, or look at it in ns-viewer")
        if dropped := int((~good).sum()):
            CONSOLE.print(f"{name}: left out {dropped} of {len(good)} Gaussians, not finite")
        states = [state.select(good) for state in states]
        if self.sh_degree is not None:
            states = [with_sh_degree(state, self.sh_degree) for state in states]
        length = self.seconds or seconds
        return [(moment * length, state) for moment, state in zip(moments, states, strict=True)]


def usd(
    run: Annotated[Path, tyro.conf.Positional],
    output: Path = Path("scene.usdc"),
    sampling: Annotated[Sampling, tyro.conf.arg(name="")] = Sampling(),  # noqa: B008
    scenes: EncodedScenes = EncodedScenes(),  # noqa: B008
) -> list[Path]:
    """Write OpenUSD files of `ParticleField3DGaussianSplat` with time samples (needs usd-core).

    Args:
        run: the run's `config.yml`, or its folder.
        output: the file, .usdc, .usda or .usd; for several scenes of a nest-prior run, names are added.
        sampling: at which moments.
        scenes: of a nest-prior run: which scenes.

    Returns:
        The files.

    Raises:
        FileNotFoundError: no such run or cloud.
        OSError: a file cannot be written.
        ValueError: settings that do not go together, a scene that is not there or does not move, a run of
            another method, or usd-core is missing.
    """
    return _write(run, output, sampling, scenes, write_usd)


def fourdgs(
    run: Annotated[Path, tyro.conf.Positional],
    output: Path = Path("scene.4dgs"),
    sampling: Annotated[Sampling, tyro.conf.arg(name="")] = Sampling(),  # noqa: B008
    scenes: EncodedScenes = EncodedScenes(),  # noqa: B008
) -> list[Path]:
    """Write `.4dgs` files (needs fourdgs), which hold the Gaussians once for each moment.

    Args:
        run: the run's `config.yml`, or its folder.
        output: the file; for several scenes of a nest-prior run, names are added.
        sampling: at which moments.
        scenes: of a nest-prior run: which scenes.

    Returns:
        The files.

    Raises:
        FileNotFoundError: no such run or cloud.
        OSError: a file cannot be written.
        ValueError: settings that do not go together, a scene that is not there or does not move, a run of
            another method, or fourdgs is missing.
    """
    return _write(run, output, sampling, scenes, write_fourdgs)


def _write(run: Path, output: Path, sampling: Sampling, scenes: EncodedScenes, write: Write) -> list[Path]:
    sampling.check()
    make_folder_of(output)
    found = open_run(run, scenes, output.stem)
    written = []
    for name, decode in found.scenes:
        path = named_path(output, name, len(found.scenes))
        with torch.no_grad():
            write(path, sampling.frames(decode(), name, found.pipeline.model.config.playback_seconds))
        CONSOLE.print(f"Wrote {path}: {sampling.num_times} moments, {path.stat().st_size / 1e6:.1f} MB")
        written.append(path)
    return written
