"""The page in a real browser: the same Gaussians and the same images as the model, and its controls."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nest_nerfstudio.edits.scene_edit import SceneEdit
from nest_nerfstudio.geometry.quaternion import quat_exp, quat_multiply, quat_to_rotmat
from nest_nerfstudio.geometry.sh import eval_sh
from nest_nerfstudio.models.decoded_scene import DecodedScene
from nest_nerfstudio.rasterizers import create_rasterizer
from nest_nerfstudio.scripts.export_web import web
from nest_nerfstudio.types import Gaussians
from tests.scripts.playable_scenes import FakeModel, make_parts, make_scene
from tests.scripts.runs import fake_run

pytestmark = pytest.mark.browser

CHROMIUM = "/usr/bin/chromium"
FLAGS = ("--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
SIZE, FOV = 160, 50.0
EYE = torch.tensor([0.5, -3.0, 0.4])
Play = Callable[[DecodedScene], Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if shutil.which(CHROMIUM) is None:
        pytest.skip(f"needs {CHROMIUM}")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=[*FLAGS, "--disable-background-networking"]
        )
        yield browser
        browser.close()


@pytest.fixture
def play(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Play]:
    """Opens the page of a scene; fails if it reports an error or asks for anything from a network."""
    page = browser.new_page(viewport={"width": SIZE, "height": SIZE})
    page.set_default_timeout(300_000)  # software rendering, on machines that do other things too
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "request", lambda asked: asked.url.startswith(("file:", "data:", "blob:")) or faults.append(asked.url)
    )

    def open_page(scene: DecodedScene) -> Any:
        folder = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        run = fake_run(folder, monkeypatch, FakeModel(scene), FakeModel)
        (path,) = web(run.config, folder / "page.html")
        page.goto(path.as_uri())
        page.wait_for_function("window.nest")
        return page

    yield open_page
    page.close()
    assert faults == []


def show(page: Any, time: float) -> tuple[Gaussians, np.ndarray]:
    """Means, quaternions and colours of a moment, the colours as degree 0, and the screenshot."""
    camera = torch.eye(4)
    camera[:3, :3], camera[:3, 3] = quat_to_rotmat(quat_exp(torch.tensor([np.pi / 2, 0.0, 0.0]))), EYE
    matrix = camera.flatten().tolist()
    page.evaluate("([time, camera]) => nest.show(time, camera)", [time, {"matrix": matrix, "fov": FOV}])
    found = {name: torch.tensor(values) for name, values in page.evaluate("nest.gaussians").items()}
    means, quats, rgb = (
        found[name].view(-1, size) for name, size in (("means", 3), ("quats", 4), ("rgb", 3))
    )
    style = page.add_style_tag(content="body > :not(#canvas) { visibility: hidden }")
    shot = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB")) / 255
    style.evaluate("(element) => element.remove()")
    return Gaussians(means, quats, means, rgb[:, 0], rgb[:, None]), shot


def drawn(gaussians: Gaussians) -> np.ndarray:
    """What our rasterizer draws from the same camera."""
    viewmat = torch.eye(4)
    viewmat[:3, :3] = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    viewmat[:3, 3] = -viewmat[:3, :3] @ EYE
    focal = SIZE / 2 / np.tan(np.radians(FOV) / 2)
    Ks = torch.tensor([[[focal, 0, SIZE / 2], [0, focal, SIZE / 2], [0, 0, 1]]], dtype=torch.float32)
    background = torch.tensor([[1.0, 0.9, 0.8]])
    with torch.no_grad():
        rendering = create_rasterizer("numba", torch.device("cpu"))(
            gaussians, viewmat[None], Ks, SIZE, SIZE,
            render_mode="RGB", sh_degree=gaussians.sh_degree, backgrounds=background, antialiased=False,
        )  # fmt: skip
    return rendering.rgb[0].clamp(0, 1).numpy()


def assert_shows(page: Any, scene: DecodedScene, time: float) -> None:
    with torch.no_grad():
        wanted = scene.gaussians_at(time)
        colors = eval_sh(wanted.sh_degree, wanted.means - EYE, wanted.sh) + 0.5
    found, shot = show(page, time)
    assert (found.means - wanted.means).abs().max() < 2e-3
    assert ((found.quats * wanted.quats).sum(1).abs() > 1 - 1e-4).all()
    assert (found.sh[:, 0] - colors).abs().max() < 0.02
    assert psnr(shot, drawn(wanted)) > 35, f"at {time}"


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return -10 * np.log10(((a - b) ** 2).mean())


@pytest.mark.parametrize(
    "kind", ["cyclic", "free", "looped", "unsettled", "lit", "still", "doubled", "backed"]
)
def test_the_page_shows_what_the_model_shows(play: Play, kind: str) -> None:
    scene = make_scene(kind)
    page = play(scene)
    for time in (0.0, 0.66, 1.7, -0.8) if kind != "still" else (0.0,):
        assert_shows(page, scene, time)


def test_an_upright_window_shows_the_width_of_a_square_one(play: Play) -> None:
    scene = make_scene("still")
    page = play(scene)
    page.set_viewport_size({"width": SIZE, "height": 2 * SIZE})
    page.wait_for_function("nest.view.camera.aspect === 0.5")
    _, shot = show(page, 0.0)
    assert psnr(shot[SIZE // 2 : -SIZE // 2], drawn(scene.gaussians_at(0.0))) > 35


def test_time_plays_on_for_ever_in_a_cycle_and_starts_again_where_it_ends(play: Play) -> None:
    page = play(make_scene("cyclic"))
    page.evaluate("nest.setTime(2.99); nest.setPlaying(true); document.getElementById('speed').value = 2")
    page.wait_for_function("nest.time > 3.05")
    assert page.text_content("#past") == "after the clip"
    page = play(make_scene("free"))
    page.evaluate("nest.setTime(2.99); nest.setPlaying(true); document.getElementById('speed').value = 2")
    page.wait_for_function("nest.time < 2")
    page.evaluate("location.hash = '#time=-0.5'")
    page.wait_for_function("nest.time === -0.5")
    assert not page.evaluate("nest.playing")


def test_controls_of_what_a_scene_cannot_carry_are_absent(play: Play) -> None:
    page = play(make_scene("still"))
    page.click("#menu")
    assert not page.is_visible("#timebar")
    assert not page.is_visible("#light")
    page = play(make_scene("unsettled"))
    page.evaluate("nest.setTime(1.5)")
    assert "nothing moves beyond the clip" in page.text_content("#past")


def test_changes_are_those_of_the_edit_that_is_saved(play: Play, tmp_path: Path) -> None:
    """A part is turned and recoloured, a copy hidden: the edit file does the same to the model's scene."""
    latent, field, flow = make_parts("doubled")
    page = play(DecodedScene(latent, field, flow))
    page.set_viewport_size({"width": 700, "height": 500})
    page.click("#menu")
    page.select_option("#choice", "1")
    page.click("#hide")
    page.select_option("#choice", "0")
    page.evaluate("nest.chosen = nest.chosen.slice(0, 6)")
    for name, value in (("hue", 0.3), ("gain", -0.5)):
        page.evaluate(f"{name}.value = {value}; {name}.dispatchEvent(new Event('input'))")
    page.click("#rotate")
    page.evaluate("nest.view.gizmo.dispatchEvent({type: 'mouseDown'})")
    turn = quat_exp(torch.tensor([0.1, 0.2, 0.5]))
    w, x, y, z = turn.tolist()
    page.evaluate(f"nest.view.handle.quaternion.set({x}, {y}, {z}, {w}); nest.view.handle.position.x += 0.2")
    page.evaluate("nest.view.gizmo.dispatchEvent({type: 'objectChange'})")
    page.click("#rotate")  # the gizmo away
    with page.expect_download() as download:
        page.click("#save")
    download.value.save_as(tmp_path / "edit.json")
    page.set_viewport_size({"width": SIZE, "height": SIZE})
    found, shot = show(page, 0.4)
    edit = SceneEdit.load(tmp_path / "edit.json")
    assert [step["action"] for step in json.loads((tmp_path / "edit.json").read_text())["steps"]] == [
        "move", "recolor", "delete"
    ]  # fmt: skip
    edited = DecodedScene(edit.apply(latent, field), field, flow)
    with torch.no_grad():
        wanted = edited.gaussians_at(0.4)
    kept = len(wanted)
    assert kept < len(found)
    assert (found.means[:kept] - wanted.means).abs().max() < 2e-3
    assert psnr(shot, drawn(wanted)) > 35


def test_light_turns(play: Play) -> None:
    scene = make_scene("lit")
    page = play(scene)
    for name, value in (("azimuth", 120), ("elevation", 40), ("brightness", 0.6)):
        page.evaluate(f"{name}.value = {value}; {name}.dispatchEvent(new Event('input'))")
    about_z, about_x = quat_exp(torch.tensor([[0, 0, np.radians(120)], [np.radians(40), 0, 0]]).float())
    relit = scene.latent.relight(quat_to_rotmat(quat_multiply(about_z, about_x)), 0.6)
    scene.latent = replace(scene.latent, light=relit.light)
    assert_shows(page, scene, 0.3)
