"""How far a trained prior disentangles light, pose, colour and time, beside a plain autoencoder.

python benchmarks/disentanglement.py --load-config RUN/config.yml --data ../shared/data/scenes

Measured as `nest-analyze disentanglement`, on the states of a data set and on procedural figures.
"""

from __future__ import annotations

from pathlib import Path

import tyro
from results import record

from nest_nerfstudio.analysis.disentanglement import Disentanglement
from nest_nerfstudio.analysis.report import show, write


def main(
    load_config: Path,
    data: Path,
    scenes: int = 48,
    toy_scenes: int = 9,
    tokens: int = 256,
    views: int = 4,
    autoencoder_steps: int = 1500,
) -> None:
    """Measure and record.

    Args:
        load_config: config.yml of a run of nest-prior.
        data: folder of scenes with edits.
        scenes: most scenes of the data set.
        toy_scenes: procedural figures.
        tokens: of a state.
        views: most views of a state.
        autoencoder_steps: training steps of the plain autoencoder.
    """
    settings = {"load_config": load_config, "tokens": tokens, "views": views}
    steps = {"autoencoder_steps": autoencoder_steps}
    for source, count in ((data, scenes), (None, toy_scenes)):
        if not count:
            continue
        name = "procedural figures" if source is None else source
        command = Disentanglement(data=source, scenes=count, **settings, **steps)
        report = command.run()
        show(report, f"Disentanglement on {name}")
        write(report, command)
        figures = {**report.figures, "leakage": [dict(row) for row in report.rows]}
        record(
            "disentanglement",
            figures,
            seed=command.seed,
            settings={**settings, **steps, "data": name, "scenes": count},
        )


if __name__ == "__main__":
    tyro.cli(main)
