"""`nest-analyze attractors`: whether an autoencoder's training examples are attractors of its iteration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from statistics import mean, pstdev
from typing import Annotated, ClassVar, Literal

import torch
import tyro
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import track

from nest_nerfstudio.analysis.attractor_figures import PANELS, Point, draw_plane, draw_sweep
from nest_nerfstudio.analysis.autoencoders import (
    ActivationName,
    Autoencoder,
    AutoencoderConfig,
    ExamplesConfig,
    load_autoencoder,
    train,
)
from nest_nerfstudio.analysis.basins import BasinConfig, Basins, basin_plane, find_basins
from nest_nerfstudio.analysis.prior_map import PriorMapConfig, analyze_prior
from nest_nerfstudio.analysis.report import Command, Report, Value

Swept = Literal["depth", "activation"]


@dataclass(frozen=True, kw_only=True)
class Attractors(Command):
    """Find out which training examples of an autoencoder are attractors of its iteration x → f(x).

    Trains a multilayer perceptron f on a few examples until it reproduces them (--target-mse), or loads one
    from a file (--load), and iterates it. For each example: the spectral radius of the Jacobian at its
    reconstruction, which is below 1 where it attracts what is near; whether iteration from it and from
    perturbed copies comes back to it; and the share of random starts that end at it. Of the other starts: the
    spurious fixed points and cycles that they end in.

    With --sequence, f maps each example to the next one and the last to the first. Then all figures are of
    the map f ∘ … ∘ f once round the cycle, and the spectral radius is the multiplier of the cycle.

    With --sweep, this is repeated with several seeds for each of --depths, of --activations, or of both. An
    autoencoder that does not reach --target-mse has no fixed points at its examples, so it is refused; in a
    sweep its error is shown, and it is left out of the means.

    With --load-config, the map is that of a trained nest-prior: a latent is rendered from fixed cameras and
    the images are encoded again, Z → h(π f(Z)). It is iterated from the images of a scene, and from corrupted
    ones, to see whether iteration repairs them: PSNR against the clean images, the change from each iteration
    to the next, and by how much the map stretches a small change, by finite differences.

    Figures: basins.png, the plane through three examples, coloured by where iteration from there ends;
    sweep.png; or prior_map.png. The autoencoder is written to autoencoder.pt, for --load. What is known is in
    docs/attractors.md.

    Usage:

    $ nest-analyze attractors

    $ nest-analyze attractors --sequence --examples 5

    $ nest-analyze attractors --activation relu --bias --depth 12

    $ nest-analyze attractors --sweep depth --activation relu --bias --depths 4 8 12

    $ nest-analyze attractors --data FOLDER --examples 8 --width 512

    $ nest-analyze attractors --load-config RUN/config.yml --corruption occlusion
    """

    NAME: ClassVar[str] = "attractors"

    load_config: Path | None = None
    """A run of nest-prior, in place of an autoencoder: its config.yml, or its folder."""
    load: Path | None = None
    """An autoencoder.pt of this command, in place of training one."""
    sweep: tuple[Swept, ...] = ()
    """What is varied: depth, activation or both."""
    depths: tuple[int, ...] = (2, 4, 6, 8, 10)
    """Depths of a sweep."""
    activations: tuple[ActivationName, ...] = ("selu", "relu", "tanh")
    """Activations of a sweep."""
    seeds: int = 3
    """Number of seeds of a sweep: --seed and those after it."""
    seed: int = 0
    """Random seed of examples, weights and starts."""
    resolution: int = 48
    """States along a side of the plane of basins.png."""
    data: Annotated[ExamplesConfig, tyro.conf.arg(name="")] = field(default_factory=ExamplesConfig)
    model: Annotated[AutoencoderConfig, tyro.conf.arg(name="")] = field(default_factory=AutoencoderConfig)
    basins: Annotated[BasinConfig, tyro.conf.arg(name="")] = field(default_factory=BasinConfig)
    prior: Annotated[PriorMapConfig, tyro.conf.arg(name="")] = field(default_factory=PriorMapConfig)

    def run(self) -> Report:
        if sum(map(bool, (self.sweep, self.load, self.load_config))) > 1:
            raise ValueError(
                "--load, --load-config and --sweep are three things to analyse; give one of them"
            )
        if self.load_config:
            return analyze_prior(self.load_config, self.prior, self.seed)
        return self._sweep() if self.sweep else self._single()

    def _single(self) -> Report:
        if self.load:
            autoencoder = load_autoencoder(self.load)
        else:
            autoencoder = train(self.model, self.data, self.seed, progress="Training")
        autoencoder.require_converged()
        with CONSOLE.status("Iterating from random starts"):
            found = study(autoencoder, self.basins, self.seed)
        with CONSOLE.status("Iterating from a plane"):
            plane = basin_plane(autoencoder.function, autoencoder.examples, self.resolution, self.basins)
        return Report(
            figures={"MSE": autoencoder.mse, "training steps": autoencoder.steps, **found.figures()},
            rows=_rows(found),
            plots={"basins": draw_plane(plane)},
            states={"autoencoder": autoencoder.state()},
        )

    def _sweep(self) -> Report:
        depths = self.depths if "depth" in self.sweep else (self.model.depth,)
        activations = self.activations if "activation" in self.sweep else (self.model.activation,)
        settings = list(product(activations, depths))
        seeds = range(self.seed, self.seed + self.seeds)
        runs = track(list(product(settings, seeds)), "Training", console=CONSOLE, transient=True)
        found: dict[tuple[ActivationName, int], list[tuple[Autoencoder, Basins | None]]] = {}
        for (activation, depth), seed in runs:
            config = replace(self.model, activation=activation, depth=depth)
            autoencoder = train(config, self.data, seed)
            basins = study(autoencoder, self.basins, seed) if autoencoder.converged else None
            found.setdefault((activation, depth), []).append((autoencoder, basins))
        is_over_depth = "depth" in self.sweep
        points = [
            Point(
                label=activation if is_over_depth else f"depth {depth}",
                x=float(depth if is_over_depth else activations.index(activation)),
                figures=[basins.figures() for _, basins in results if basins],
                errors=[autoencoder.mse for autoencoder, _ in results],
            )
            for (activation, depth), results in found.items()
        ]
        rows = [
            {"activation": activation, "depth": depth, **_summary(point)}
            for (activation, depth), point in zip(found, points, strict=True)
        ]
        xlabel, names = ("depth", ()) if is_over_depth else ("activation", activations)
        converged = sum(len(point.figures) for point in points)
        return Report(
            figures={"autoencoders trained": len(settings) * len(seeds), "converged": converged},
            rows=rows,
            plots={"sweep": draw_sweep(points, xlabel, self.model.target_mse, names)},
        )


def study(autoencoder: Autoencoder, config: BasinConfig, seed: int) -> Basins:
    """Attractors and basins of an autoencoder that has converged."""
    generator = torch.Generator().manual_seed(seed + 1)  # other numbers than the examples'
    dim = autoencoder.examples.shape[1]

    def draw(count: int) -> torch.Tensor:
        return autoencoder.data.draw(count, dim, generator)

    return find_basins(autoencoder.function, autoencoder.examples, draw, config, generator)


def _rows(found: Basins) -> list[dict[str, Value]]:
    return [
        {
            "example": index,
            "spectral radius": float(radius),
            "returns": bool(returns),
            "perturbed returns": float(perturbed),
            "share of starts": float(share),
            "attractor": bool(attractor),
        }
        for index, (radius, returns, perturbed, share, attractor) in enumerate(
            zip(
                found.radii,
                found.returns,
                found.returns_perturbed,
                found.shares,
                found.is_attractor,
                strict=True,
            )
        )
    ]


def _summary(point: Point) -> dict[str, Value]:
    """Mean ± standard deviation over the seeds that converged."""

    def of(values: Sequence[float | int]) -> str:
        return f"{mean(values):.3g} ± {pstdev(values):.2g}" if values else "–"

    return {
        "converged": f"{len(point.figures)} of {len(point.errors)}",
        "largest MSE": max(point.errors),
        **{name: of([figures[name] for figures in point.figures]) for name in (*PANELS, "examples reached")},
    }
