"""Steps are done once, and again only where their inputs changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from nest_nerfstudio.data.video.record import Record


def step(folder: Path, done: list[str], settings: dict[str, object]) -> object:
    def work(target: Path) -> list[int]:
        done.append("kept" if (target / "file").exists() else "fresh")
        (target / "file").touch()
        if settings.get("fails"):
            raise ValueError("interrupted")
        return [1, 2]

    return Record.of(folder).once("images", settings, work)


def test_a_step_is_done_once_for_its_settings(tmp_path: Path) -> None:
    done: list[str] = []
    for size in (8, 8, 9, 9):
        assert step(tmp_path / "out", done, {"size": size}) == [1, 2]
    assert done == ["fresh", "fresh"]


def test_a_step_whose_folder_is_gone_is_done_again(tmp_path: Path) -> None:
    done: list[str] = []
    step(tmp_path, done, {})
    (tmp_path / "images" / "file").unlink()
    (tmp_path / "images").rmdir()
    step(tmp_path, done, {})
    assert done == ["fresh", "fresh"]


def test_an_interrupted_step_goes_on_with_what_is_there(tmp_path: Path) -> None:
    done: list[str] = []
    for _ in range(2):
        with pytest.raises(ValueError, match="interrupted"):
            step(tmp_path, done, {"fails": True})
    assert done == ["fresh", "kept"]


def test_a_folder_of_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="was not made from a video; choose another folder"):
        Record.of(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
