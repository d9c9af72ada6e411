"""ns-viewer in a headless Chromium, as a person uses it: what tests of its panels share."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from tests.viewer.waiting import eventually, free_port

CHROMIUM = "/usr/bin/chromium"
FLAGS = ("--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
PATIENCE = 120.0
"""Seconds that anything may take on a busy machine."""
LEFT, TOP, WIDTH, HEIGHT = 60, 80, 480, 520
"""Part of the window that shows the scene alone, pixels."""
Screenshot = np.ndarray


@contextmanager
def viewer_of(run_config: Path) -> Iterator[tuple[psutil.Process, int]]:
    """A running `ns-viewer`, without an address on its command line, and its port."""
    port = free_port()
    command = [str(Path(sys.executable).parent / "ns-viewer"), "--load-config", str(run_config)]
    log = run_config.parent / "viewer.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--viewer.websocket-port", str(port)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        )

    def listens() -> bool:
        assert process.poll() is None, log.read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        assert eventually(listens, 300), log.read_text()
        yield psutil.Process(process.pid), port
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def page_of(port: int) -> Iterator[Any]:
    """The viewer in a headless Chromium, loaded; skips where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if shutil.which(CHROMIUM) is None:
        pytest.skip(f"needs {CHROMIUM}")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=[*FLAGS, "--disable-background-networking"]
        )
        page = browser.new_page(viewport={"width": 900, "height": 700})
        page.set_default_timeout(1000 * PATIENCE)
        page.goto(f"http://127.0.0.1:{port}")
        page.get_by_text("Time and motion").wait_for()
        yield page
        browser.close()


def drag_gizmo(page: Any) -> None:
    """Drag the gizmo by the magenta square between two of its axes."""
    still = settled(page, lambda p: is_magenta(p).sum() > 20)
    rows, columns = np.nonzero(is_magenta(still))
    middle = np.hypot(rows - rows.mean(), columns - columns.mean()).argmin()
    x, y = LEFT + columns[middle] + 0.5, TOP + rows[middle] + 0.5
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 60, y + 20, steps=10)
    page.mouse.up()


def set_number(page: Any, label: str, value: float) -> None:
    row = page.get_by_text(label, exact=True).locator("xpath=ancestor::div[contains(@class,'Flex')][1]")
    row.locator("input[inputmode]").fill(str(value))
    row.locator("input[inputmode]").press("Enter")


def settled(page: Any, holds: Callable[[Screenshot], bool]) -> Screenshot:
    """The first image for which something holds: rendering takes its time."""
    seen: list[Screenshot] = []

    def look() -> bool:
        seen.append(screenshot_of(page))
        return holds(seen[-1])

    assert eventually(look, PATIENCE)
    return seen[-1]


def at_rest(page: Any, holds: Callable[[Screenshot], bool]) -> Screenshot:
    """The first image for which something holds and that stays the same for two seconds: what was asked for
    before may still be on its way, and comes coarse first."""
    seen: list[Screenshot] = []

    def look() -> bool:
        time.sleep(1)
        seen.append(screenshot_of(page))
        changes = [float(np.abs(seen[-1] - before).mean()) for before in seen[-3:-1]]
        return len(changes) == 2 and max(changes) < 0.05 and holds(seen[-1])

    assert eventually(look, PATIENCE)
    return seen[-1]


def screenshot_of(page: Any) -> Screenshot:
    """What the window shows left of the panel, RGB in 0…255."""
    data = page.screenshot(clip={"x": LEFT, "y": TOP, "width": WIDTH, "height": HEIGHT})
    return np.asarray(Image.open(BytesIO(data)).convert("RGB")).astype(float)


def is_magenta(image: Screenshot) -> np.ndarray:
    red, green, blue = np.moveaxis(image, -1, 0)
    return (red > 200) & (green < 110) & (blue > 70) & (blue - green > 20)
