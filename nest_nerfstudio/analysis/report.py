"""What a subcommand of `nest-analyze` found: a table on the terminal, JSON and figures in a folder."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from matplotlib.figure import Figure
from nerfstudio.utils.rich_utils import CONSOLE
from rich.table import Table

Value = float | int | str | bool | None


@dataclass(frozen=True)
class Report:
    """Figures of one analysis."""

    figures: Mapping[str, Value]
    """What the analysis says as a whole, by name."""
    rows: Sequence[Mapping[str, Value]] = ()
    """One row of the table for each thing that was measured; all have the same columns."""
    plots: Mapping[str, Figure] = field(default_factory=dict)
    """Figures by name of their file, without ".png"."""
    states: Mapping[str, Any] = field(default_factory=dict)
    """Tensors by name of their file, without ".pt"."""
    notes: Sequence[str] = ()
    """Sentences that a reader of the figures has to know."""


@dataclass(frozen=True, kw_only=True)
class Command(ABC):
    """Settings of one analysis: the flags of a subcommand, whose help is the docstring of its class."""

    NAME: ClassVar[str]
    """Of the subcommand."""

    output: Path | None = None
    """Folder for report.json and the figures; by default analysis_output/ and the name of the command."""

    @abstractmethod
    def run(self) -> Report:
        """Measure.

        Raises:
            ValueError: settings or data of which nothing can be measured.
            OSError: files that cannot be read.
        """

    @property
    def folder(self) -> Path:
        """Folder of the results."""
        return self.output or Path("analysis_output") / self.NAME


def show(report: Report, title: str) -> None:
    """Print the figures, and a table of the rows."""
    if report.rows:
        table = Table(*report.rows[0], title=title, title_justify="left")
        for row in report.rows:
            table.add_row(*map(as_text, row.values()))
        CONSOLE.print(table)
    figures = Table("figure", "value", title=None if report.rows else title, title_justify="left")
    for name, value in report.figures.items():
        figures.add_row(name, as_text(value))
    CONSOLE.print(figures)
    for note in report.notes:
        CONSOLE.print(note, highlight=False)


def write(report: Report, command: Command) -> list[Path]:
    """Write report.json (figures, rows, notes, settings), plots and states into `command.folder`.

    Files are moved there when all are written, so that a failure leaves none.

    Returns:
        The files.
    """
    content = {
        "command": command.NAME,
        "settings": asdict(command),
        "figures": dict(report.figures),
        "rows": [dict(row) for row in report.rows],
        "notes": list(report.notes),
    }
    command.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=command.folder) as folder:
        text = json.dumps(_as_json(content), indent=2, ensure_ascii=False)
        (Path(folder) / "report.json").write_text(text + "\n", encoding="utf8")
        for name, plot in report.plots.items():
            plot.savefig(Path(folder) / f"{name}.png", dpi=150, bbox_inches="tight")
        for name, state in report.states.items():
            torch.save(state, Path(folder) / f"{name}.pt")
        written = sorted(Path(folder).iterdir())
        return [Path(shutil.move(path, command.folder / path.name)) for path in written]


def as_text(value: Value) -> str:
    """A cell of a table: four digits, "yes" or "no", "–" for what does not exist."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _as_json(value: Any) -> Any:
    """Plain values; JSON knows neither infinity nor NaN, which become strings."""
    if isinstance(value, Mapping):
        return {str(key): _as_json(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, (str, bool, int, float)) else str(value)
