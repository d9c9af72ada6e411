"""Files are there whole or not at all."""

import re
from pathlib import Path

import pytest

from nest_nerfstudio.files import written_whole


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "scene.json"
    with written_whole(path) as part:
        part.write_text("half")
        assert not path.exists()
        assert part.suffix == path.suffix
        part.write_text("whole")
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "scene.json"
    path.write_text("before")

    def interrupted() -> None:
        with written_whole(path) as part:
            part.write_text("half")
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        interrupted()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_named_as_it_was_given(tmp_path: Path) -> None:
    path = tmp_path / "no folder" / "scene.json"

    def write() -> None:
        with written_whole(path) as part:
            part.write_text("whole")

    with pytest.raises(FileNotFoundError, match=re.escape(f"'{path}'")):
        write()
