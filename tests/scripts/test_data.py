"""The `nest-data` command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from nest_nerfstudio.scripts.data import entrypoint


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["nest-data", *map(str, arguments)])
    entrypoint()


def test_toy_writes_all_splits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mitsuba")
    scene = tmp_path / "scene"
    counts = {"train": 2, "val": 1, "test": 1, "future": 1}
    options = [word for split, count in counts.items() for word in (f"--{split}", count)]
    run(monkeypatch, "toy", "--output", scene, "--size", 16, "--samples", 1, *options)
    assert str(scene) in capsys.readouterr().out
    for split, count in counts.items():
        assert len(json.loads((scene / f"transforms_{split}.json").read_text())["frames"]) == count
        assert len(list((scene / split).glob("*.png"))) == count


def test_bad_settings_end_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="nest-data: size must be greater than 0"):
        run(monkeypatch, "toy", "--output", tmp_path / "scene", "--size", 0)
