"""ns-viewer of an inverted scene in a real browser: its light, colours and motion are changed, and saved."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import uniform_filter

from nest_nerfstudio.edits.scene_edit import SceneEdit
from nest_nerfstudio.edits.steps import Oscillate
from nest_nerfstudio.scripts.edit import edit_run
from tests.small_inversion import make_invert_config, start_inversion
from tests.viewer.browser import (
    HEIGHT,
    LEFT,
    PATIENCE,
    TOP,
    Screenshot,
    at_rest,
    page_of,
    set_number,
    settled,
    viewer_of,
)
from tests.viewer.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.browser]


@pytest.fixture(scope="module")
def run_config(small_prior: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """config.yml of an inverted scene that was given a motion: up at time 0, down after half a clip."""
    folder = tmp_path_factory.mktemp("inverted")
    scene = small_prior.parents[4] / "scenes" / "balls_2"
    trainer = start_inversion(make_invert_config(scene, small_prior, folder / "runs", steps=20))
    trainer.train()
    SceneEdit((Oscillate(1.0, (0.0, 0.0, 0.4)),)).save(folder / "swing.json")
    return edit_run(trainer.base_dir, folder / "swing.json")


@pytest.fixture
def page(run_config: Path) -> Iterator[Any]:
    with viewer_of(run_config) as (_, port), page_of(port) as page:
        yield page


def test_light_colour_and_motion_of_an_inverted_scene(page: Any, run_config: Path, tmp_path: Path) -> None:
    set_number(page, "Time", 0.0)
    plain = at_rest(page, lambda p: is_drawn(p).sum() > 1000)
    page.get_by_text("Edit", exact=True).click()
    set_number(page, "Reach", 0.3)
    page.get_by_role("button", name="Select by click").click()
    page.get_by_text("Click the image.").wait_for()
    x, y = amidst(is_drawn(plain))
    page.mouse.click(LEFT + x, TOP + y)
    page.get_by_text("tokens are selected").wait_for()
    page.get_by_role("button", name="Select all").click()
    page.get_by_text("40 of 40 tokens are selected").wait_for()
    page.get_by_label("Show tokens").uncheck()
    page.get_by_role("button", name="Reset edit").click()  # and the gizmo is gone
    plain = settled(page, lambda p: np.abs(p - plain).mean() < 1)

    seen = is_drawn(plain)
    set_number(page, "Light gain", 0.1)
    settled(page, lambda p: p[seen].mean() < 0.8 * plain[seen].mean())
    page.screenshot(path=tmp_path / "dark.png")
    page.get_by_role("button", name="Undo").click()
    settled(page, lambda p: np.abs(p - plain).mean() < 1)
    set_number(page, "Light azimuth", 120.0)
    turned = settled(page, lambda p: np.abs(p - plain)[seen].mean() > 2)
    set_number(page, "Hue", 0.4)
    settled(page, lambda p: np.abs(tint(p) - tint(turned))[seen].mean() > 5)
    page.screenshot(path=tmp_path / "hue.png")

    high = middle(settled(page, lambda p: is_drawn(p).sum() > 1000))
    set_number(page, "Phase", 0.5)
    settled(page, lambda p: middle(p) > high + 0.05 * HEIGHT)  # rows count downwards
    page.screenshot(path=tmp_path / "down.png")
    set_number(page, "Time", 0.5)
    settled(page, lambda p: abs(middle(p) - high) < 0.02 * HEIGHT)
    page.get_by_role("button", name="Save edit").click()
    path = run_config.parent / "edits" / "edit.json"
    assert eventually(path.is_file, PATIENCE)
    actions = [step["action"] for step in json.loads(path.read_text())["steps"]]
    assert actions == ["oscillate", "recolor", "relight", "shift_phase"]


def is_drawn(image: Screenshot) -> np.ndarray:
    """Pixels that are not the white behind the scene."""
    return image.min(-1) < 220


def amidst(mask: np.ndarray) -> tuple[int, int]:
    """The pixel around which most are set: column and row."""
    row, column = np.unravel_index(uniform_filter(mask.astype(float), 41).argmax(), mask.shape)
    return int(column), int(row)


def tint(image: Screenshot) -> np.ndarray:
    """Colours less their grey."""
    return image - image.mean(-1, keepdims=True)


def middle(image: Screenshot) -> float:
    """Mean row of the scene."""
    return float(np.nonzero(is_drawn(image))[0].mean())
