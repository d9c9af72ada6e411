"""How far a trained prior disentangles light, pose, colour and time, beside a plain autoencoder.

python benchmarks/disentanglement.py --load-config RUN/config.yml --data ../shared/data/scenes
python benchmarks/disentanglement.py --load-config RUN/config.yml

Measured as `nest-analyze disentanglement`: on the states of a data set, or on procedural figures.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import tyro
from results import record

from nest_nerfstudio.analysis.disentanglement import Disentanglement
from nest_nerfstudio.analysis.report import show, write


def main(
    load_config: Path,
    data: Path | None = None,
    scenes: int = 48,
    states: int = 4,
    tokens: int = 256,
    views: int = 4,
    autoencoder_steps: int = 1500,
    output: Path = Path("analysis_output/benchmark"),
) -> None:
    """Measure and record.

    Args:
        load_config: config.yml of a run of nest-prior.
        data: folder of scenes with edits; procedural figures without.
        scenes: most scenes.
        states: of an orbit of a procedural figure; most moments of a scene of the data set.
        tokens: of a state.
        views: most views of a state.
        autoencoder_steps: training steps of the plain autoencoder.
        output: folder of the report and its figures.
    """
    command = Disentanglement(
        load_config=load_config,
        data=data,
        scenes=scenes,
        states=states,
        tokens=tokens,
        views=views,
        autoencoder_steps=autoencoder_steps,
        output=output,
    )
    report = command.run()
    write(report, command)
    figures = {**report.figures, "leakage": [dict(row) for row in report.rows]}
    settings = {name: value for name, value in asdict(command).items() if name not in ("output", "seed")}
    record("disentanglement", figures, seed=command.seed, settings=settings)
    show(report, "Disentanglement")


if __name__ == "__main__":
    tyro.cli(main)
