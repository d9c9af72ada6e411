"""ns-viewer in a real browser: time moves the image, playing does, tokens show, a splat file is written."""

import json
import math
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from nest_nerfstudio.method_configs.nest_dynamic import nest_dynamic
from tests.viewer.browser import (
    LEFT,
    PATIENCE,
    TOP,
    Screenshot,
    drag_gizmo,
    page_of,
    set_number,
    settled,
    viewer_of,
)
from tests.viewer.waiting import eventually

pytestmark = pytest.mark.slow

SIZE, FOCAL = 48, 60.0


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
    with viewer_of(run_config) as running:
        yield running


def test_ns_viewer_listens_on_this_machine_only(viewer_process: tuple[psutil.Process, int]) -> None:
    process, port = viewer_process
    listening = {c.laddr for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    assert listening == {("127.0.0.1", port)}


@pytest.fixture
def page(viewer_process: tuple[psutil.Process, int]) -> Iterator[Any]:
    with page_of(viewer_process[1]) as page:
        yield page


@pytest.mark.browser
def test_time_play_and_tokens_in_a_browser(page: Any) -> None:
    watch(page)


@pytest.mark.browser
def test_edits_in_a_browser(page: Any, run_config: Path, tmp_path: Path) -> None:
    """A click selects, a slider recolours, the gizmo moves, undo takes back, and the edit is saved."""
    set_number(page, "Time", 0.5)
    plain = settled(page, lambda p: is_orange(p).sum() > 1000)
    page.get_by_text("Edit", exact=True).click()
    assert page.get_by_text("Light azimuth").count() == 0  # the scene cannot carry it
    page.get_by_role("button", name="Select by click").click()
    page.get_by_text("Click the image.").wait_for()
    rows, columns = np.nonzero(is_orange(plain))
    page.mouse.click(LEFT + columns.mean(), TOP + rows.mean())
    page.get_by_text("tokens are selected").wait_for()
    set_number(page, "Reach", 1.0)
    page.get_by_role("button", name="Select all").click()
    page.get_by_text("16 of 16 tokens are selected").wait_for()
    page.get_by_label("Show tokens").uncheck()
    set_number(page, "Hue", 0.4)
    settled(page, lambda p: is_orange(p).sum() < 100)
    page.screenshot(path=tmp_path / "recoloured.png")
    page.get_by_role("button", name="Undo").click()
    still = settled(page, lambda p: is_orange(p).sum() > 1000)
    drag_gizmo(page)
    moved = settled(page, lambda p: np.abs(p - still).mean() > 2)
    Image.fromarray(moved.astype(np.uint8)).save(tmp_path / "moved.png")
    page.screenshot(path=tmp_path / "dragged.png")
    page.get_by_role("button", name="Save edit").click()
    path = run_config.parent / "edits" / "edit.json"
    assert eventually(path.is_file, PATIENCE)
    assert json.loads(path.read_text())["steps"][0]["action"] == "move"
    page.get_by_role("button", name="Reset edit").click()
    settled(page, lambda p: np.abs(p - moved).mean() > 2)


def watch(page: Any) -> None:
    """Use the page as a person would, and look at the image alone."""
    settled(page, lambda p: is_orange(p).sum() > 1000)
    set_number(page, "Time", 0.0)
    settled(page, lambda p: below_middle(p) > 20)
    set_number(page, "Time", 1.0)
    settled(page, lambda p: below_middle(p) < -20)
    set_number(page, "Time", 0.0)
    low = settled(page, lambda p: below_middle(p) > 20)
    set_number(page, "Time", 2.0)  # beyond the clip
    settled(page, lambda p: np.abs(p - low).mean() > 2)
    set_number(page, "Time", 0.0)
    settled(page, lambda p: below_middle(p) > 20)
    page.get_by_role("button", name="Play").click()
    settled(page, lambda p: below_middle(p) < -10)
    page.get_by_role("button", name="Pause", exact=True).click()
    set_number(page, "Time", 0.0)
    plain = other_colors(settled(page, lambda p: below_middle(p) > 20))
    page.get_by_label("Show tokens").check()
    shown = other_colors(settled(page, lambda p: other_colors(p) > plain + 20))
    page.get_by_label("Show tokens").uncheck()
    settled(page, lambda p: other_colors(p) < (plain + shown) / 2)
    page.get_by_text("Export", exact=True).first.click()
    page.get_by_role("button", name="Write splat file").click()
    page.get_by_text("Wrote").wait_for()


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
