"""A page of `nest-export web` in a headless Chromium that draws in software: size, frames, fidelity.

    python benchmarks/web_page.py docs/horse.html [--run RUN/config.yml]

With the run that it is of, it is compared with the images that ns-render draws from the same cameras at the
same times, in and beyond the clip. Frames a second depend on what else the machine does, processor time less.
With a GPU a frame costs what posing the Gaussians takes, and drawing them next to nothing.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import torch
import tyro
from PIL import Image
from playwright.sync_api import sync_playwright
from results import record

from nest_nerfstudio.models.runs import load_run

TIMES = (0.0, 0.4, 0.83, 1.6, -0.7)
"""Compared moments, each from a camera of its own."""
COUNT = """async (seconds) => {
  const { view } = nest, { draw } = view;
  let drawn = 0;
  view.draw = () => { drawn++; draw.call(view); };
  await new Promise((done) => setTimeout(done, 1000 * seconds));
  delete view.draw;
  return drawn;
}"""
"""Counts the frames that the page draws."""
PLAY = "nest.setPlaying(true)"
TURN = """nest.setPlaying(false);
const { orbit } = nest.view;
orbit.autoRotate = true;
(function turn() { if (orbit.autoRotate) { orbit.update(); requestAnimationFrame(turn); } })()"""
REST = "nest.setPlaying(false); nest.view.orbit.autoRotate = false; nest.view.settle()"

POSE = "(poses) => { for (let i = 0; i < poses; i++) { nest.setTime(i / poses); nest.refresh(); } }"
POSES = 100


@dataclass
class WebPage:
    """Measure a page."""

    page: Annotated[Path, tyro.conf.Positional]
    """The page."""
    run: Path | None = None
    """`config.yml` of the run of nest-dynamic or nest-invert that it is of."""
    size: tuple[int, int] = (1280, 720)
    """Width and height of the window in which frames are counted, pixels."""
    seconds: float = 10.0
    """Time in which they are."""
    chromium: Path = Path("/usr/bin/chromium")
    """The browser."""

    def main(self) -> None:
        """Print the figures and record them."""
        with self._browser() as page:
            page.goto(self.page.resolve().as_uri())
            page.wait_for_function("window.nest")
            figures = page.evaluate("({gaussians: nest.scene.gaussians, tokens: nest.scene.tokens})")
            figures["megabytes"] = self.page.stat().st_size / 1e6
            for name, doing in {"resting": REST, "playing": PLAY, "turning": TURN}.items():
                figures |= {f"{name}_{key}": value for key, value in self._pace(page, doing).items()}
            page.evaluate(REST)
            began = _cpu_seconds("renderer")
            page.evaluate(POSE, POSES)
            figures["posing_ms"] = 1e3 * (_cpu_seconds("renderer") - began) / POSES
            if self.run is not None:
                figures |= _fidelity(page, self.run)
        print(*(f"{name:24}{value:10.2f}" for name, value in figures.items()), sep="\n")
        settings = {"page": self.page, "size": list(self.size), "seconds": self.seconds}
        record("web_page", figures, settings=settings)

    @contextmanager
    def _browser(self) -> Iterator[Any]:
        flags = "--no-sandbox --use-gl=angle --use-angle=swiftshader --enable-unsafe-swiftshader"
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=str(self.chromium), args=flags.split())
            width, height = self.size
            page = browser.new_page(viewport={"width": width, "height": height})
            page.set_default_timeout(600_000)
            yield page
            browser.close()

    def _pace(self, page: Any, doing: str) -> dict[str, float]:
        """Drawn frames a second, and milliseconds of processor time to draw each in software."""
        page.evaluate(doing)
        page.wait_for_timeout(2000)
        cpu, began = _cpu_seconds("gpu-process"), time.perf_counter()
        frames = page.evaluate(COUNT, self.seconds)
        cpu, seconds = _cpu_seconds("gpu-process") - cpu, time.perf_counter() - began
        drawing = {"drawing_ms": 1e3 * cpu / frames} if frames else {}
        return {"frames_a_second": frames / seconds, **drawing}


def _cpu_seconds(kind: str) -> float:
    """Of the browser's processes of a kind."""
    processes = psutil.Process().children(recursive=True)
    return sum(sum(p.cpu_times()[:2]) for p in processes if f"--type={kind}" in " ".join(p.cmdline()))


@torch.no_grad()
def _fidelity(page: Any, run: Path) -> dict[str, float]:
    """PSNR of the page against the model's own images, the least and the most, in dB."""
    pipeline = load_run(run)
    cameras = pipeline.datamanager.train_dataparser_outputs.cameras
    page.add_style_tag(content="body > :not(#canvas) { visibility: hidden }")
    found = []
    for i, moment in enumerate(TIMES):
        first = i * len(cameras) // len(TIMES)
        camera = cameras[first : first + 1]
        camera.times = torch.tensor([[moment]])
        wanted = pipeline.model.get_outputs_for_camera(camera)["rgb"].clamp(0, 1).numpy()
        page.set_viewport_size({"width": wanted.shape[1], "height": wanted.shape[0]})
        matrix = [*camera.camera_to_worlds.flatten().tolist(), 0, 0, 0, 1]
        fov = math.degrees(2 * math.atan(min(camera.height / camera.fy, camera.width / camera.fx) / 2))
        page.evaluate("([time, camera]) => nest.show(time, camera)", [moment, {"matrix": matrix, "fov": fov}])
        shot = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB")) / 255
        found.append(-10 * math.log10(((shot - wanted) ** 2).mean()))
    return {"psnr_least": min(found), "psnr_most": max(found)}


if __name__ == "__main__":
    tyro.cli(WebPage).main()
