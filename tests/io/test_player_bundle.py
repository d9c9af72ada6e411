"""The player that ships is the one that `web/` builds."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest

WEB = Path(__file__).parents[2] / "web"
SHIPPED = files("nest_nerfstudio.io") / "page"


def test_no_registry_is_named() -> None:
    lock = (WEB / "package-lock.json").read_text()
    assert '"resolved"' not in lock
    assert not re.search(r"https?://(?!opencollective|github|tidelift|paypal|www\.patreon)", lock)


@pytest.mark.slow
def test_what_ships_is_up_to_date(tmp_path: Path) -> None:
    """The build is the same to the byte with the versions of the lockfile."""
    if shutil.which("npm") is None:
        pytest.skip("needs node and npm")
    folder = shutil.copytree(WEB, tmp_path / "web", ignore=shutil.ignore_patterns("node_modules"))
    installed = subprocess.run(["npm", "ci", "--silent"], cwd=folder, capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"npm cannot install here: {installed.stderr[-200:]}")
    subprocess.run(["npm", "run", "build"], cwd=folder, env={**os.environ, "OUT": "built"}, check=True)
    built = folder / "built"
    why = "the player in nest_nerfstudio/io/page is stale: cd web && npm ci && npm run build"
    player = gzip.decompress(SHIPPED.joinpath("player.js.gz").read_bytes())
    assert player == gzip.decompress((built / "player.js.gz").read_bytes()), why
    assert SHIPPED.joinpath("LICENSES.txt").read_text() == (built / "LICENSES.txt").read_text(), why
