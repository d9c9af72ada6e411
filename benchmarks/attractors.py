"""Attractors of autoencoders: the published settings, and ReLU networks of many depths.

    python benchmarks/attractors.py published       the table of Radhakrishnan et al., arXiv 1909.12362
    python benchmarks/attractors.py sweep           depths of ReLU networks, with and without bias

d = 32, examples uniform in [0, 1], width 256, trained to a mean squared error below 1e-8, three seeds each. A
line of results/attractors.jsonl is of one seed; those that are there are not measured again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from time import process_time
from typing import Any

import tyro
from results import FOLDER, record

from nest_nerfstudio.analysis.attractor_figures import Point, draw_sweep
from nest_nerfstudio.analysis.attractors import study
from nest_nerfstudio.analysis.autoencoders import AutoencoderConfig, ExamplesConfig, train
from nest_nerfstudio.analysis.basins import BasinConfig

NAME = "attractors"
CYCLE = ExamplesConfig(examples=5, sequence=True)
PUBLISHED = {
    "SELU, 4 examples": (AutoencoderConfig(), ExamplesConfig()),
    "SELU, cycle of 5": (AutoencoderConfig(), CYCLE),
    "ReLU, 4 examples": (AutoencoderConfig(activation="relu"), ExamplesConfig()),
    "ReLU, cycle of 5": (AutoencoderConfig(activation="relu"), CYCLE),
}
RELU = AutoencoderConfig(activation="relu", bias=True, max_steps=8000)
TRAININGS = {
    "default, adam": RELU,
    "kaiming, adam": replace(RELU, init="kaiming"),
    "orthogonal, adam": replace(RELU, init="orthogonal"),
    "default, rmsprop": replace(RELU, optimizer="rmsprop"),
}
"""Initialisation and optimizer of a sweep."""


@dataclass
class Published:
    """The published settings."""

    seeds: int = 3
    """Number of seeds."""
    starts: int = 300
    """Random starts."""

    def main(self) -> None:
        """Record a line for each setting and seed."""
        for (name, (model, data)), seed in product(PUBLISHED.items(), range(self.seeds)):
            if not is_recorded(name, seed):
                measure(name, model, data, seed, BasinConfig(starts=self.starts))


@dataclass
class Sweep:
    """Depths of ReLU networks, for each initialisation and optimizer, with and without bias."""

    depths: tuple[int, ...] = (3, 6, 10, 14, 20, 24)
    """Numbers of linear layers."""
    without_bias: tuple[int, ...] = (6, 12, 20)
    """Depths of networks without bias, whose result is known: no attractors."""
    trainings: tuple[str, ...] = tuple(TRAININGS)
    """Names of initialisation and optimizer."""
    seeds: int = 3
    """Number of seeds."""
    starts: int = 100
    """Random starts."""
    max_iterations: int = 1000
    """Iterations at most."""
    minutes: float = 20.0
    """CPU time after which no new setting is begun."""
    figure: Path = Path("docs/attractors_sweep.png")
    """Figure of all lines that are there."""

    def main(self) -> None:
        """Record what has no line yet, and draw all lines."""
        basins = BasinConfig(starts=self.starts, max_iterations=self.max_iterations)
        for (name, model), seed in product(self._settings(), range(self.seeds)):
            if not is_recorded(name, seed) and process_time() < 60 * self.minutes:
                measure(name, model, ExamplesConfig(), seed, basins)
        draw_sweep(list(points()), "depth (linear layers)", RELU.target_mse).savefig(self.figure, dpi=120)

    def _settings(self) -> Iterator[tuple[str, AutoencoderConfig]]:
        for depth, training in product(self.depths, self.trainings):
            yield f"bias, {training}, depth {depth}", replace(TRAININGS[training], depth=depth)
        for depth in self.without_bias:
            yield f"no bias, default, adam, depth {depth}", replace(RELU, depth=depth, bias=False)


def measure(
    name: str, model: AutoencoderConfig, data: ExamplesConfig, seed: int, basins: BasinConfig
) -> None:
    """Train, iterate if that converges, and record what was found."""
    begin = process_time()
    autoencoder = train(model, data, seed, progress=f"{name}, seed {seed}")
    found = study(autoencoder, basins, seed).figures() if autoencoder.converged else {}
    figures = {
        "converged": autoencoder.converged,
        "mse": autoencoder.mse,
        "steps": autoencoder.steps,
        **found,
        "cpu_seconds": process_time() - begin,
    }
    line = record(
        NAME, figures, seed=seed, settings={"name": name, **asdict(model), **asdict(data), **asdict(basins)}
    )
    print(f"{name}, seed {seed}:", json.dumps(line["figures"]), flush=True)


def is_recorded(name: str, seed: int) -> bool:
    """Whether there is a line of a setting and seed."""
    return any((line["settings"]["name"], line["seed"]) == (name, seed) for line in lines())


def lines() -> list[dict[str, Any]]:
    """What was recorded."""
    path = FOLDER / f"{NAME}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def points() -> Iterator[Point]:
    """Of the sweep's figure."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for line in lines():
        groups.setdefault(line["settings"]["name"], []).append(line)
    for name, group in groups.items():
        label, is_swept, depth = name.partition(", depth ")
        if is_swept:
            figures = [line["figures"] for line in group]
            converged = [each for each in figures if each["converged"]]
            yield Point(label, float(depth), converged, [each["mse"] for each in figures])


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"published": Published, "sweep": Sweep}).main()
