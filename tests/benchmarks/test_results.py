"""Figures are recorded without a machine's paths, and RESULTS.md is what they say."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import results
from benchmarks.results import Source, Table, generate, record


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where RESULTS.md of figures in tmp_path would go, with one table of them."""
    table = Table(
        "Speed",
        "benchmarks/speed.py",
        "Less is better.",
        (("case", "name", ""), ("ms", "ms", ".1f"), ("seeds", "seed", "")),
        (Source("speed", ("scene",), (("threads", 2),), ("*",), "{scene}, {row}"),),
    )
    monkeypatch.setattr(results, "TABLES", (table,))
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    monkeypatch.setattr(results, "PAGE", tmp_path / "RESULTS.md")
    return tmp_path / "RESULTS.md"


def add(folder: Path, milliseconds: float, *, seed: int = 0, scene: str = "ball", threads: int = 2) -> dict:
    figures = {"frame": {"ms": milliseconds}}
    return record("speed", figures, seed=seed, settings={"scene": scene, "threads": threads}, folder=folder)


def test_the_page_shows_the_latest_line_of_each_key_and_the_mean_over_seeds(page: Path) -> None:
    add(page.parent, 99.0)
    add(page.parent, 3.0)
    add(page.parent, 4.0, seed=1)
    add(page.parent, 7.0, scene="cube")
    add(page.parent, 50.0, scene="cube", threads=8)
    text = generate(page.parent)
    assert "| ball, frame | 3.5 | 0, 1 |" in text
    assert "| cube, frame | 7.0 | 0 |" in text
    assert "99" not in text
    assert "50" not in text


def test_a_seed_of_another_day_does_not_enter_the_mean(page: Path) -> None:
    old = add(page.parent, 99.0, seed=1)
    old["date"] = "2001-01-01"
    (page.parent / "speed.jsonl").write_text(json.dumps(old) + "\n")
    add(page.parent, 3.0)
    assert "| ball, frame | 3.0 | 0 |" in generate(page.parent)


def test_a_line_has_no_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = results.ROOT
    monkeypatch.setattr(
        sys, "argv", [str(root / "benchmarks/speed.py"), f"--data={root.parent}/shared/horse"]
    )
    settings = {"run": root / "outputs/config.yml", "data": Path("/somewhere/else/scene"), "set": ["a=1"]}
    record("speed", {"ms": 1.0}, settings=settings, folder=tmp_path)
    text = (tmp_path / "speed.jsonl").read_text()
    line = json.loads(text)
    assert line["command"] == "benchmarks/speed.py --data=../shared/horse"
    assert line["settings"] == {"run": "outputs/config.yml", "data": "scene", "set": ["a=1"]}
    assert {"date", "commit", "machine", "load", "seed", "figures"} <= line.keys()
    assert str(root) not in text


def test_check_fails_if_the_page_is_stale(page: Path) -> None:
    add(page.parent, 3.0)
    results.main()
    results.main(check=True)
    add(page.parent, 4.0)
    with pytest.raises(SystemExit, match="stale"):
        results.main(check=True)


def test_a_page_that_is_too_long_is_refused(page: Path) -> None:
    for i in range(results.MOST_LINES):
        add(page.parent, 1.0, scene=f"scene {i}")
    with pytest.raises(SystemExit, match="lines"):
        results.main()


def test_the_page_of_the_repository_is_what_its_figures_say() -> None:
    text = results.PAGE.read_text()
    assert text == generate(), "run: python benchmarks/results.py"
    assert len(text.splitlines()) <= results.MOST_LINES


def test_no_committed_figure_names_a_path_of_a_machine() -> None:
    lines = [line for path in results.FOLDER.glob("*.jsonl") for line in path.read_text().splitlines()]
    assert lines
    for line in lines:
        assert not any(
            f'"{root}' in line or f" {root}" in line for root in ("/work", "/home", "/root", "/tmp")
        )
        assert {"date", "commit", "machine", "settings", "figures", "seed"} <= json.loads(line).keys()
