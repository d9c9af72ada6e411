"""The demo: its commands, camera path and contact sheet; the commands themselves have their own tests."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.cameras.camera_paths import get_path_from_json
from PIL import Image

from nest_nerfstudio.scripts import demo
from nest_nerfstudio.scripts.demo import Demo, contact_sheet, orbit, run


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


def test_contact_sheet_arranges_images_on_white(tmp_path: Path) -> None:
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


class FakePrograms:
    """Stands in for the commands: keeps their options and writes the files that the demo reads."""

    def __init__(self) -> None:
        self.options: dict[str, dict[str, object]] = {}

    def __call__(self, program: str, *arguments: object) -> None:
        words = list(arguments) if str(arguments[0]).startswith("--") else list(arguments[1:])
        command = program if len(words) == len(arguments) else f"{program} {arguments[0]}"
        starts = [i for i, word in enumerate(words) if str(word).startswith("--")]
        options = {str(words[i]): words[i + 1] for i in starts}
        self.options[command] = options
        write = getattr(self, command.replace("-", "_").replace(" ", "_"))
        write({name: Path(str(value)) for name, value in options.items()})

    def nest_data_toy(self, paths: dict[str, Path]) -> None:
        frames = [{"file_path": f"./test/r_{i:03d}", "time": i / 9} for i in range(10)]
        for frame in frames:
            self.save(paths["--output"] / f"{frame['file_path']}.png", "red")
        (paths["--output"] / "transforms_test.json").write_text(json.dumps({"frames": frames}))

    def ns_train_nest_dynamic(self, paths: dict[str, Path]) -> None:
        config = paths["--output-dir"] / "toy" / "nest-dynamic" / "now" / "config.yml"
        config.parent.mkdir(parents=True)
        config.touch()

    def ns_eval(self, paths: dict[str, Path]) -> None:
        paths["--output-path"].write_text(json.dumps({"results": {"psnr": 31.25, "ssim": 0.9}}))

    def ns_render_dataset(self, paths: dict[str, Path]) -> None:
        for output in ("rgb", "depth", "motion"):
            for i in range(10):
                self.save(paths["--output-path"] / "test" / output / f"r_{i:03d}.png", "blue")

    def ns_render_camera_path(self, paths: dict[str, Path]) -> None:
        assert len(json.loads(paths["--camera-path-filename"].read_text())["camera_path"]) == 48
        paths["--output-path"].touch()

    @staticmethod
    def save(path: Path, color: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), color).save(path)


@pytest.mark.parametrize("ffmpeg", [True, False])
def test_the_demo_runs_every_step_and_prints_its_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ffmpeg: bool
) -> None:
    programs = FakePrograms()
    monkeypatch.setattr(demo, "run", programs)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/ffmpeg" if ffmpeg else None)
    Demo(tmp_path, train_minutes=1.0, size=16, video_seconds=2.0).main()

    scene = tmp_path / "scene_16"
    config = tmp_path / "runs" / "toy" / "nest-dynamic" / "now" / "config.yml"
    assert programs.options["nest-data toy"]["--output"] == scene
    train = programs.options["ns-train nest-dynamic"]
    assert (train["--data"], train["--max-minutes"]) == (scene, 1.0)
    assert programs.options["ns-eval"]["--load-config"] == config
    sheet = np.asarray(Image.open(tmp_path / "contact_sheet.png"))
    assert (sheet[18:34, 64:160] == [255, 0, 0]).all(), "six images of the scene in the first row"
    assert (sheet[34:, 64:160] == [0, 0, 255]).all(), "renderings below them"
    printed = capsys.readouterr().out
    assert "Test frames: PSNR 31.25 dB, SSIM 0.900\n" in printed
    assert f"ns-viewer --load-config {config}" in printed
    assert (tmp_path / "video.mp4").exists() == ffmpeg
    assert ("skipped: ffmpeg is not installed" in printed) != ffmpeg
