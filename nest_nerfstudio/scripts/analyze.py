"""Measure what a trained run, or a small model trained on the spot, has learned.

Each command prints a table and writes report.json (figures and settings) and PNG figures into --output.
"""

from __future__ import annotations

import sys

import tyro
from nerfstudio.utils.rich_utils import CONSOLE

from nest_nerfstudio.analysis.attractors import Attractors
from nest_nerfstudio.analysis.disentanglement import Disentanglement
from nest_nerfstudio.analysis.dynamics import Dynamics
from nest_nerfstudio.analysis.equivariance import Equivariance
from nest_nerfstudio.analysis.report import Command, show, write

COMMANDS: tuple[type[Command], ...] = (Equivariance, Disentanglement, Attractors, Dynamics)


def entrypoint() -> None:
    """The `nest-analyze` command; errors of the input are printed as one line."""
    try:
        command = tyro.extras.subcommand_cli_from_dict(
            {kind.NAME: kind for kind in COMMANDS}, prog="nest-analyze", description=__doc__
        )
        report = command.run()
        written = write(report, command)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"nest-analyze: {error}")
    show(report, f"nest-analyze {command.NAME}")
    CONSOLE.print("Wrote", ", ".join(map(str, written)), highlight=False, soft_wrap=True)


if __name__ == "__main__":
    entrypoint()
