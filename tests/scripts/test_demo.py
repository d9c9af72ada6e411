"""What the demo draws and asks nerfstudio for; the commands themselves have their own tests."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.cameras.camera_paths import get_path_from_json
from PIL import Image

from nest_nerfstudio.scripts.demo import contact_sheet, orbit, run


def test_orbit_is_a_camera_path_whose_time_runs_beyond_the_clip() -> None:
    cameras = get_path_from_json(orbit(size=64, seconds=1.0))
    assert len(cameras) == 24
    assert cameras.times is not None
    times = cameras.times.flatten()
    assert times[0] == 0
    assert times[-1] == 2
    assert (times.diff() > 0).all()
    centres, backward = cameras.camera_to_worlds[:, :, 3], cameras.camera_to_worlds[:, :, 2]
    np.testing.assert_allclose(torch.cross(centres, backward, dim=-1), 0, atol=1e-6)
    assert ((centres * backward).sum(-1) > 0).all(), "OpenGL cameras look along -z, towards the origin"


def test_contact_sheet_lays_pictures_out_on_white(tmp_path: Path) -> None:
    red, clear = tmp_path / "red.png", tmp_path / "clear.png"
    Image.new("RGB", (4, 4), "red").save(red)
    Image.new("RGBA", (4, 4), (0, 0, 255, 0)).save(clear)
    sheet = np.asarray(contact_sheet({"a": [red, clear], "b": [clear, red]}, ["t = 0", "t = 1"], size=20))
    cells = sheet[-40:, -40:].reshape(2, 20, 2, 20, 3).transpose(0, 2, 1, 3, 4)
    assert (cells[[0, 1], [0, 1]] == [255, 0, 0]).all()
    assert (cells[[0, 1], [1, 0]] == 255).all()


def test_a_failing_command_stops_the_demo_with_its_name() -> None:
    python = Path(sys.executable).name
    run(python, "-c", "pass")
    with pytest.raises(SystemExit, match=rf"{python} failed with exit status 3"):
        run(python, "-c", "raise SystemExit(3)")
    with pytest.raises(SystemExit, match="no-such-program is not installed"):
        run("no-such-program")
