"""Every example runs and ends in a image that shows something."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nest_nerfstudio.edits.scene_edit import SceneEdit
from nest_nerfstudio.edits.steps import Move
from nest_nerfstudio.synthesis.datasets import MovingSceneConfig, make_toy_scene
from tests.ball_scenes import make_prior_config, write_ball_scenes
from tests.small_capture import SIZE
from tests.small_inversion import make_invert_config, start_inversion, train_prior

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, output: Path, **arguments: object) -> np.ndarray:
    """Call an example's `main` and load its image, values in [0, 1]."""
    runpy.run_path(str(EXAMPLES / name))["main"](output=output, **arguments)
    return np.asarray(Image.open(output).convert("RGB")) / 255


def test_every_example_is_tested() -> None:
    tests = Path(__file__).read_text()
    assert all(path.name in tests for path in EXAMPLES.glob("*.py"))


def test_draw_gaussians(tmp_path: Path) -> None:
    image = run("01_draw_gaussians.py", tmp_path / "torus.png", count=3000, size=64)
    color, nearness = image[:, :64], image[:, 64:]
    np.testing.assert_array_equal(color[0, 0], 1)
    assert nearness[0, 0].max() == 0
    # The rim towards the camera is in the lower half of the image, and the hole shows the background.
    assert nearness[45:52, 32].max() > nearness[12:20, 32].max() > 0
    assert (color[26:34, 28:36] == 1).all(axis=-1).any()


def test_fit_an_image(tmp_path: Path) -> None:
    image = run("02_fit_an_image.py", tmp_path / "fit.png", size=32, count=200, steps=60)
    target, fit = image[:, :32], image[:, 32:]
    psnr = -10 * np.log10(np.square(target - fit).mean())
    assert psnr > 18
    assert psnr > -10 * np.log10(target.var()) + 6, "much better than one flat colour"


@pytest.mark.slow
def test_train_and_render(tmp_path: Path) -> None:
    pytest.importorskip("mitsuba")
    config = MovingSceneConfig(size=32, train=8, val=1, test=1, future=1, samples=4)
    scene = make_toy_scene(tmp_path / "toy", config)
    image = run(
        "03_train_and_render.py",
        tmp_path / "strip.png",
        data=scene,
        runs=tmp_path / "runs",
        steps=20,
        times=(0.5, 1.5),
    )
    assert image.shape == (64, 64, 3)
    assert (image[:32, :32] < 0.9).any(), "something is drawn before white"
    (load_config,) = (tmp_path / "runs").rglob("config.yml")
    image = run("04_new_motion.py", tmp_path / "motions.png", load_config=load_config, columns=3)
    assert image.shape == (5 * 32, 3 * 32, 3)
    assert (image < 0.9).any()
    image = run("06_edit_a_moving_scene.py", tmp_path / "edited.png", load_config=load_config, columns=2)
    plain, recolored, upper, doubled = np.split(image, 4)
    assert image.shape == (4 * 32, 2 * 32, 3)
    assert np.abs(recolored - plain).max() > 0.05
    assert upper.mean() > plain.mean() + 1e-3, "less of it, over white"
    assert np.abs(doubled - plain).max() > 0.1
    assert SceneEdit.load(tmp_path / "edited.json").steps
    aside = tmp_path / "aside.json"
    SceneEdit((Move((0.2, 0.0, 0.0)),)).save(aside)  # so short a training has no ODE, so no edit of time
    image = run("07_edited_run.py", tmp_path / "runs.png", load_config=load_config, edits=(aside,), columns=2)
    assert np.abs(image[:32] - image[32:]).max() > 0.1


@pytest.mark.parametrize("path", sorted((EXAMPLES / "edits").glob("*.json")), ids=lambda path: path.stem)
def test_edits_are_read(path: Path) -> None:
    assert SceneEdit.load(path).steps


def test_edit_a_new_scene(tmp_path: Path) -> None:
    config = make_prior_config(write_ball_scenes(tmp_path / "scenes"), tmp_path / "runs", steps=30)
    trainer = config.setup()
    trainer.setup()
    config.save_config()
    trainer.train()
    image = run(
        "05_edit_a_new_scene.py",
        tmp_path / "edits.png",
        load_config=trainer.base_dir / "config.yml",
        num_views=2,
        rows=2,
    )
    assert image.shape == (2 * SIZE, 7 * SIZE, 3)
    truth, encoded, refined, evening, recolored, turned, half = np.split(image, 7, axis=1)
    assert np.square(refined - truth).mean() < np.square(encoded - truth).mean()
    assert evening.mean() != pytest.approx(refined.mean(), abs=1e-3)
    assert all(np.abs(state - refined).max() > 0.1 for state in (recolored, turned, half))
    assert half.mean() > refined.mean(), "less of it, over white"


def test_evening_light(tmp_path: Path) -> None:
    prior = train_prior(tmp_path / "prior")
    config = make_invert_config(tmp_path / "prior" / "scenes" / "balls_2", prior, tmp_path / "runs", steps=5)
    trainer = start_inversion(config)
    trainer.train()
    image = run(
        "08_evening_light.py",
        tmp_path / "evening.png",
        load_config=trainer.base_dir / "config.yml",
        columns=3,
    )
    seen, evening = np.split(image, 2)
    assert image.shape == (2 * SIZE, 3 * SIZE, 3)
    assert np.abs(evening - seen)[:, 2 * SIZE :].max() > 0.1, "the last sun is low"
