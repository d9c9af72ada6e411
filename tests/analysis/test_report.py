"""Tables, JSON and figures of `nest-analyze`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from matplotlib.figure import Figure

from nest_nerfstudio.analysis.report import Command, Report, as_text, show, write


@dataclass(frozen=True, kw_only=True)
class Measure(Command):
    NAME: ClassVar[str] = "measure"
    depth: int = 3

    def run(self) -> Report:
        plot = Figure()
        plot.subplots().plot([0, 1])
        rows = [{"example": 0, "radius": 0.5, "returns": True}]
        return Report({"mean": 0.25, "worst": float("inf")}, rows, {"radii": plot}, notes=["Of one example."])


def test_writes_figures_settings_and_plots(tmp_path: Path) -> None:
    command = Measure(output=tmp_path / "new" / "folder")
    written = write(command.run(), command)
    assert [path.name for path in written] == ["radii.png", "report.json"]
    assert sorted(command.folder.iterdir()) == written
    found = json.loads(written[1].read_text())
    assert found["settings"]["depth"] == 3
    assert found["figures"] == {"mean": 0.25, "worst": "inf"}
    assert found["rows"] == [{"example": 0, "radius": 0.5, "returns": True}]


def test_failure_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    command = Measure(output=tmp_path)
    with pytest.raises(OSError, match="disk full"):
        write(command.run(), command)
    assert not list(tmp_path.iterdir())


def test_shows_rows_and_figures(capsys: pytest.CaptureFixture) -> None:
    show(Measure().run(), "measure")
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("measure", "radius", "0.5", "yes", "inf", "Of one example."))


def test_default_folder() -> None:
    assert Measure().folder == Path("analysis_output/measure")


def test_cells() -> None:
    assert [as_text(v) for v in (None, True, 3, 1 / 3, "x")] == ["–", "yes", "3", "0.3333", "x"]
