"""ns-viewer in a real browser: time moves the image, playing does, tokens show, a splat file is written."""

import json
import math
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from nest_nerfstudio.method_configs.nest_dynamic import nest_dynamic
from tests.viewer.waiting import eventually, free_port

pytestmark = pytest.mark.slow

CHROMIUM = "/usr/bin/chromium"
FLAGS = ("--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
SIZE, FOCAL = 48, 60.0
Screenshot = np.ndarray


def camera_at(turn: float) -> np.ndarray:
    """Camera to world, OpenGL axes, on a circle of radius 3 around the z axis, looking at the origin."""
    c, s = math.cos(2 * math.pi * turn), math.sin(2 * math.pi * turn)
    return np.array([[-s, 0.0, c, 3 * c], [c, 0.0, s, 3 * s], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])


def ball_image(camera: np.ndarray, centre: np.ndarray, radius: float = 0.35) -> Image.Image:
    """An orange ball, as a disc with alpha."""
    x, y, z = np.linalg.inv(camera)[:3] @ [*centre, 1.0]
    v, u = np.mgrid[:SIZE, :SIZE] + 0.5 - SIZE / 2
    inside = np.hypot(u - FOCAL * x / -z, -v - FOCAL * y / -z) < FOCAL * radius / -z
    pixels = np.zeros((SIZE, SIZE, 4), dtype=np.uint8)
    pixels[inside] = (240, 120, 20, 255)
    return Image.fromarray(pixels, "RGBA")


def write_scene(folder: Path) -> None:
    """A D-NeRF scene: a ball that rises from z = −0.5 to z = 0.5 during the clip."""
    for split, count in (("train", 24), ("val", 2), ("test", 2)):
        (folder / split).mkdir(parents=True)
        frames = []
        for i in range(count):
            moment, camera = i / (count - 1), camera_at(i * 0.382)
            ball_image(camera, np.array([0.0, 0.0, moment - 0.5])).save(folder / split / f"r_{i}.png")
            frames.append(
                {"file_path": f"./{split}/r_{i}", "time": moment, "transform_matrix": camera.tolist()}
            )
        meta = {"camera_angle_x": 2 * math.atan(0.5 * SIZE / FOCAL), "frames": frames}
        (folder / f"transforms_{split}.json").write_text(json.dumps(meta))


@pytest.fixture(scope="module")
def run_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """config.yml of a run of a few seconds."""
    folder = tmp_path_factory.mktemp("viewer")
    write_scene(folder / "scene")
    config = deepcopy(nest_dynamic.config)
    config.data, config.output_dir, config.vis = folder / "scene", folder / "runs", "tensorboard"
    config.pipeline.datamanager.data, config.machine.device_type = config.data, "cpu"
    config.max_num_iterations, config.steps_per_eval_image, config.timestamp = 200, 0, "now"
    model = config.pipeline.model
    model.num_random, model.max_gs_num, model.num_tokens = 400, 400, 16
    config.optimizers["motion"]["optimizer"].lr = 1e-2
    config.save_config()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    trainer.train()
    return config.get_base_dir() / "config.yml"


@pytest.fixture(scope="module")
def viewer_process(run_config: Path) -> Iterator[tuple[psutil.Process, int]]:
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


def test_ns_viewer_listens_on_this_machine_only(viewer_process: tuple[psutil.Process, int]) -> None:
    process, port = viewer_process
    listening = {c.laddr for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    assert listening == {("127.0.0.1", port)}


@pytest.fixture
def page(viewer_process: tuple[psutil.Process, int]) -> Iterator[Any]:
    """The viewer in a headless Chromium, loaded."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if shutil.which(CHROMIUM) is None:
        pytest.skip(f"needs {CHROMIUM}")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=[*FLAGS, "--disable-background-networking"]
        )
        page = browser.new_page(viewport={"width": 900, "height": 700})
        page.goto(f"http://127.0.0.1:{viewer_process[1]}")
        page.get_by_text("Time and motion").wait_for(timeout=60_000)
        yield page
        browser.close()


@pytest.mark.browser
def test_time_play_and_tokens_in_a_browser(page: Any) -> None:
    watch(page)


@pytest.mark.browser
def test_edits_in_a_browser(page: Any, run_config: Path, tmp_path: Path) -> None:
    """A click selects, a slider recolours, the gizmo moves, undo takes back, and the edit is saved."""
    set_time(page, 0.5)
    plain = settled(page, lambda p: is_orange(p).sum() > 1000)
    page.get_by_text("Edit", exact=True).click()
    assert page.get_by_text("Light azimuth").count() == 0  # the scene cannot carry it
    page.get_by_role("button", name="Select by click").click()
    page.get_by_text("Click the image.").wait_for(timeout=30_000)
    rows, columns = np.nonzero(is_orange(plain))
    page.mouse.click(60 + columns.mean(), 80 + rows.mean())
    page.get_by_text("tokens are selected").wait_for(timeout=30_000)
    set_number(page, "Reach", 1.0)
    page.get_by_role("button", name="Select all").click()
    page.get_by_text("16 of 16 tokens are selected").wait_for(timeout=30_000)
    page.get_by_label("Show tokens").uncheck()
    set_number(page, "Hue", 0.4)
    settled(page, lambda p: is_orange(p).sum() < 100)
    page.screenshot(path=tmp_path / "recoloured.png")
    page.get_by_role("button", name="Undo").click()
    still = settled(page, lambda p: is_orange(p).sum() > 1000)
    drag_gizmo(page, still)
    moved = settled(page, lambda p: np.abs(p - still).mean() > 2)
    Image.fromarray(moved.astype(np.uint8)).save(tmp_path / "moved.png")
    page.screenshot(path=tmp_path / "dragged.png")
    page.get_by_role("button", name="Save edit").click()
    path = run_config.parent / "edits" / "edit.json"
    assert eventually(path.is_file, 30.0)
    assert json.loads(path.read_text())["steps"][0]["action"] == "move"
    page.get_by_role("button", name="Reset edit").click()
    settled(page, lambda p: np.abs(p - moved).mean() > 2)  # back; drags beside the arrows turned the camera


def drag_gizmo(page: Any, image: Screenshot) -> None:
    """Drag one of the gizmo's arrows, which lies on the ball's middle."""
    rows, columns = np.nonzero(is_orange(image))
    x, y = 60 + columns.mean(), 80 + rows.mean()
    for angle in np.linspace(0, 2 * np.pi, 24, endpoint=False):
        before = screenshot_of(page)
        start = x + 25 * np.cos(angle), y + 25 * np.sin(angle)
        page.mouse.move(*start)
        page.mouse.down()
        page.mouse.move(start[0] + 60 * np.cos(angle), start[1] + 60 * np.sin(angle), steps=5)
        page.mouse.up()
        if eventually(lambda before=before: np.abs(screenshot_of(page) - before).mean() > 2, 2.0):
            return
    raise AssertionError("no arrow of the gizmo was found")


def set_number(page: Any, label: str, value: float) -> None:
    row = page.get_by_text(label, exact=True).locator("xpath=ancestor::div[contains(@class,'Flex')][1]")
    row.locator("input[inputmode]").fill(str(value))
    row.locator("input[inputmode]").press("Enter")


def watch(page: Any) -> None:
    """Use the page as a person would, and look at the image alone."""
    settled(page, lambda p: is_orange(p).sum() > 1000)
    set_time(page, 0.0)
    settled(page, lambda p: below_middle(p) > 20)
    set_time(page, 1.0)
    settled(page, lambda p: below_middle(p) < -20)
    set_time(page, 0.0)
    low = settled(page, lambda p: below_middle(p) > 20)
    set_time(page, 2.0)  # beyond the clip
    settled(page, lambda p: np.abs(p - low).mean() > 2)
    set_time(page, 0.0)
    settled(page, lambda p: below_middle(p) > 20)
    page.get_by_role("button", name="Play").click()
    settled(page, lambda p: below_middle(p) < -10)
    page.get_by_role("button", name="Pause", exact=True).click()
    plain = settled(page, lambda p: True)
    page.get_by_label("Show tokens").check()
    settled(page, lambda p: other_colors(p) > other_colors(plain) + 20)
    page.get_by_label("Show tokens").uncheck()
    settled(page, lambda p: other_colors(p) < other_colors(plain) + 5)
    page.get_by_text("Export", exact=True).first.click()
    page.get_by_role("button", name="Write splat file").click()
    page.get_by_text("Wrote").wait_for(timeout=30_000)


def set_time(page: Any, value: float) -> None:
    row = page.get_by_text("Time", exact=True).locator("xpath=ancestor::div[contains(@class,'Flex')][1]")
    row.locator("input[inputmode]").fill(str(value))
    row.locator("input[inputmode]").press("Enter")


def settled(page: Any, holds: Callable[[Screenshot], bool]) -> Screenshot:
    """The first image for which something holds: rendering takes its time."""
    seen: list[Screenshot] = []

    def look() -> bool:
        seen.append(screenshot_of(page))
        return holds(seen[-1])

    assert eventually(look, 30.0)
    return seen[-1]


def screenshot_of(page: Any) -> Screenshot:
    """What the window shows left of the panel, RGB in 0…255."""
    data = page.screenshot(clip={"x": 60, "y": 80, "width": 480, "height": 520})
    return np.asarray(Image.open(BytesIO(data)).convert("RGB")).astype(float)


def is_orange(image: Screenshot) -> np.ndarray:
    red, green, blue = np.moveaxis(image, -1, 0)
    return (red > 150) & (red - blue > 80) & (green > 0.3 * red) & (green < 0.8 * red)


def below_middle(image: Screenshot) -> float:
    """How far the ball is below the middle of the image, pixels; 0 where there is no ball."""
    rows = np.nonzero(is_orange(image))[0]
    return float(rows.mean() - 295) if rows.size > 1000 else 0.0


def other_colors(image: Screenshot) -> int:
    """Pixels of a strong colour that is not the ball's."""
    return int((~is_orange(image) & (np.ptp(image, axis=-1) > 120)).sum())
