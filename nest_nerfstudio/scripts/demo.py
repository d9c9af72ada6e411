"""The demo: render a small moving scene, train on it, evaluate it and render a video.

Every step is a command line, which the demo prints.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from PIL import Image, ImageDraw

from nest_nerfstudio.host import QUIET
from nest_nerfstudio.synthesis.rendering import CAMERA_ANGLE_X, CAMERA_RADIUS, look_at_origin

FRAMES_PER_SECOND = 24


@dataclass
class Demo:
    """Render a small moving scene, train nest-dynamic on it, evaluate it, and render a video of it."""

    output: Path = Path("demo_output")
    """Output folder. A scene that is already in it is reused."""
    train_minutes: float = 2.5
    """Training time, minutes."""
    size: int = 160
    """Width and height of the scene's images, pixels."""
    samples: int = 100
    """Samples per pixel of the path tracer that renders the scene."""
    video_size: int = 320
    """Width and height of the video, pixels."""
    video_seconds: float = 5.0
    """Duration of the video, seconds. It shows times 0 to 2: the training clip, then extrapolation."""

    def main(self) -> None:
        """Run all steps and print the paths of the results."""
        began = time.monotonic()
        scene = self.output / f"scene_{self.size}"
        run("nest-data", "toy", "--output", scene, "--size", self.size, "--samples", self.samples)
        config = self._train(scene)
        scores = self._evaluate(config)
        sheet = self._contact_sheet(config, scene)
        video = self._video(config)
        minutes = (time.monotonic() - began) / 60
        print(f"\nFinished in {minutes:.1f} minutes. Test frames: " + ", ".join(scores))
        print(f"  contact sheet  {sheet}")
        print(f"  video          {video or 'skipped: ffmpeg is not installed'}")
        print(f"  trained run    {config.parent}")
        print(f"  open viewer    {shlex.join(['ns-viewer', '--load-config', str(config)])}")

    def _train(self, scene: Path) -> Path:
        """Train; return the run's config file."""
        runs = self.output / "runs"
        run(
            "ns-train",
            "nest-dynamic",
            *("--data", scene),
            *("--output-dir", runs),
            *("--experiment-name", "toy"),
            *("--vis", "tensorboard"),
            *("--max-minutes", self.train_minutes),
        )
        return max(runs.glob("toy/nest-dynamic/*/config.yml"), key=lambda path: path.stat().st_mtime)

    def _evaluate(self, config: Path) -> list[str]:
        """Evaluate the test frames; return one phrase per metric."""
        path = config.parent / "eval.json"
        run("ns-eval", "--load-config", config, "--output-path", path)
        results = json.loads(path.read_bytes())["results"]
        names = {"psnr": "PSNR {:.2f} dB", "ssim": "SSIM {:.3f}", "lpips": "LPIPS {:.3f}"}
        return [text.format(results[name]) for name, text in names.items() if name in results]

    def _contact_sheet(self, config: Path, scene: Path) -> Path:
        """Render test frames with `ns-render` and arrange them below the ground truth."""
        renders = config.parent / "renders"
        run(
            *("ns-render", "dataset"),
            *("--load-config", config),
            *("--output-path", renders),
            *("--split", "test"),
            *("--rendered-output-names", "rgb", "depth", "motion"),
            *("--image-format", "png"),
            *("--colormap-options.normalize", True),
        )
        frames = json.loads((scene / "transforms_test.json").read_bytes())["frames"]
        chosen = [frames[i] for i in np.linspace(0, len(frames) - 1, min(6, len(frames))).round().astype(int)]
        rows = {"truth": [scene / f"{frame['file_path']}.png" for frame in chosen]}
        for label, output in (("rendering", "rgb"), ("depth", "depth"), ("motion", "motion")):
            rows[label] = [
                renders / "test" / output / f"{Path(frame['file_path']).name}.png" for frame in chosen
            ]
        path = self.output / "contact_sheet.png"
        contact_sheet(rows, [f"t = {frame['time']:.2f}" for frame in chosen], self.size).save(path)
        return path

    def _video(self, config: Path) -> Path | None:
        """Render a video from an orbiting camera with `ns-render`; None without ffmpeg."""
        if shutil.which("ffmpeg") is None:
            return None
        path, video = config.parent / "camera_path.json", self.output / "video.mp4"
        path.write_text(json.dumps(orbit(self.video_size, self.video_seconds)))
        run(
            *("ns-render", "camera-path"),
            *("--load-config", config),
            *("--camera-path-filename", path),
            *("--output-path", video),
            *("--rendered-output-names", "rgb"),
        )
        return video


def orbit(size: int, seconds: float) -> dict:
    """A nerfstudio camera path: one orbit around the origin from time 0 to 2.

    Args:
        size: width and height, pixels.
        seconds: duration of the video.
    """
    frames = []
    count = max(2, round(seconds * FRAMES_PER_SECOND))
    for i in range(count):
        pose = look_at_origin(
            azimuth=2 * np.pi * i / count - np.pi / 2, height=0.35, radius=0.85 * CAMERA_RADIUS
        )
        frames.append(
            {
                "camera_to_world": pose.flatten().tolist(),
                "fov": float(np.degrees(CAMERA_ANGLE_X)),
                "aspect": 1.0,
                "render_time": 2 * i / (count - 1),
            }
        )
    return {
        "camera_type": "perspective",
        "render_width": size,
        "render_height": size,
        "fps": FRAMES_PER_SECOND,
        "seconds": seconds,
        "camera_path": frames,
    }


def contact_sheet(rows: dict[str, list[Path]], titles: list[str], size: int) -> Image.Image:
    """Images in a labelled grid on white.

    Args:
        rows: image files of each row, by label.
        titles: of the columns.
        size: width and height of a cell, pixels.
    """
    margin, head = 64, 18
    sheet = Image.new("RGB", (margin + len(titles) * size, head + len(rows) * size), "white")
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        draw.text((margin + (column + 0.5) * size, head / 2), title, fill="black", anchor="mm")
    for row, (label, paths) in enumerate(rows.items()):
        draw.text((4, head + (row + 0.5) * size), label, fill="black", anchor="lm")
        for column, path in enumerate(paths):
            cell = Image.open(path).convert("RGBA").resize((size, size))
            sheet.paste(cell, (margin + column * size, head + row * size), cell)
    return sheet


def run(program: str, *arguments: object) -> None:
    """Print and run a command of this Python environment; exit with its name if it fails."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ {shlex.join([program, *words])}", flush=True)
    executable = shutil.which(program, path=str(Path(sys.executable).parent)) or shutil.which(program)
    if executable is None:
        raise SystemExit(f"{program} is not installed beside {sys.executable}")
    status = subprocess.run([executable, *words], env={**os.environ, **QUIET}, check=False).returncode
    if status != 0:
        raise SystemExit(f"{program} failed with exit status {status}")


if __name__ == "__main__":
    tyro.cli(Demo).main()
