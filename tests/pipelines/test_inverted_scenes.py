"""What becomes of an inverted scene: refined as Gaussians of its own, edited, mixed with scenes of runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from nerfstudio.utils.eval_utils import eval_setup

from nest_nerfstudio.edits.scene_edit import EditError, SceneEdit
from nest_nerfstudio.edits.steps import Interpolate, Oscillate, Recolor, Relight, Swap, Traverse
from nest_nerfstudio.geometry.multiview import camera_centres
from nest_nerfstudio.io.splats import read_splat_ply
from nest_nerfstudio.models.runs import load_run
from nest_nerfstudio.pipelines.trainer import NestTrainer
from nest_nerfstudio.scripts.edit import edit_run
from nest_nerfstudio.scripts.export import splat
from tests.small_inversion import make_invert_config, start_inversion, train_prior

pytestmark = pytest.mark.slow
CODES = ("geometry", "appearance")


@pytest.fixture(scope="module")
def prior(small_prior: Path) -> Path:
    return small_prior


def finished(prior: Path, output: Path, steps: int, scene: str = "balls_2", **settings) -> NestTrainer:
    data = prior.parents[4] / "scenes" / scene
    trainer = start_inversion(make_invert_config(data, prior, output, steps, **settings))
    trainer.train()
    trainer.pipeline.eval()
    return trainer


@pytest.fixture(scope="module")
def plain(prior: Path, tmp_path_factory: pytest.TempPathFactory) -> NestTrainer:
    return finished(prior, tmp_path_factory.mktemp("plain"), 40)


@pytest.fixture(scope="module")
def refined(prior: Path, tmp_path_factory: pytest.TempPathFactory) -> NestTrainer:
    return finished(prior, tmp_path_factory.mktemp("refined"), 120, refine=True, refine_from=1 / 3)


def held_out(trainer: NestTrainer) -> float:
    return trainer.pipeline.get_average_eval_image_metrics()["psnr"]


def config_of(trainer: NestTrainer) -> Path:
    return trainer.base_dir / "config.yml"


# ---------------------------------------------------------------- refinement


def test_refinement_gains_on_views_that_were_not_seen(plain: NestTrainer, refined: NestTrainer) -> None:
    assert held_out(refined) > held_out(plain) + 0.3
    model = refined.pipeline.model
    latent = model.latent()
    with torch.no_grad():
        assert len(model.field) == len(model.decoder(latent))
    assert torch.equal(model.scene().latent.translations, latent.translations)  # inversion is over


def test_what_no_view_shows_stays_as_it_was_decoded(prior: Path, tmp_path: Path) -> None:
    """Bit for bit: tokens behind the only camera keep all values of their Gaussians, and others change."""
    data = prior.parents[4] / "scenes" / "balls_2"
    config = make_invert_config(data, prior, tmp_path, 20, num_views=1, refine=True, refine_from=0.0)
    trainer = start_inversion(config)
    model, view = trainer.pipeline.model, trainer.pipeline._view(0)
    model.latent.base_translations[:10] = 2 * camera_centres(view.viewmats)[0]
    trainer.train()
    each = len(model.bound) // len(model.latent())
    for name, value in model._decoded_parameters().items():
        kept = (model.bound.params[name] == value).reshape(len(value), -1).all(1)
        assert kept[: 10 * each].all(), name
        assert not kept[10 * each :].any(), name


def test_a_refined_run_is_reloaded_and_exported(refined: NestTrainer, tmp_path: Path) -> None:
    _, pipeline, _, step = eval_setup(config_of(refined), test_mode="test")
    assert step == 119
    assert pipeline.get_average_eval_image_metrics()["psnr"] == pytest.approx(held_out(refined), abs=1e-3)
    (path,) = splat(config_of(refined), tmp_path)
    with torch.no_grad():
        shown = refined.pipeline.model.scene().gaussians_at(0.0)
    torch.testing.assert_close(read_splat_ply(path).means, shown.means, atol=1e-5, rtol=0)


@pytest.mark.parametrize("at", [4, 8], ids=["before", "after"])
def test_a_resumed_refinement_goes_on_as_if_it_had_not_stopped(prior: Path, tmp_path: Path, at: int) -> None:
    def make(name: str):
        data = prior.parents[4] / "scenes" / "balls_2"
        return make_invert_config(data, prior, tmp_path / name, 12, num_views=3, refine=True)

    whole = make("whole")
    whole.steps_per_save, whole.save_only_latest_checkpoint = 4, False
    trainer = start_inversion(whole)
    trainer.train()
    rest = make("rest")
    rest.load_dir, rest.load_step = trainer.checkpoint_dir, at
    resumed = start_inversion(rest)
    resumed.train()
    for name, value in trainer.pipeline.model.bound.state_dict().items():
        found = resumed.pipeline.model.bound.state_dict()[name]
        torch.testing.assert_close(found, value, atol=1e-5, rtol=0, msg=name)


def test_what_a_refined_scene_carries(refined: NestTrainer, plain: NestTrainer, tmp_path: Path) -> None:
    path = tmp_path / "edit.json"
    SceneEdit((Relight(gain=0.5), Recolor(0.3), Oscillate(0.5, (0.0, 0.0, 0.1)))).save(path)
    model = load_run(edit_run(refined.base_dir, path, "changed")).model
    with torch.no_grad():
        now, before = model.scene().gaussians_at(0.0), refined.pipeline.model.scene().gaussians_at(0.0)
    assert model.scene().moves
    assert (now.sh[:, 0] - before.sh[:, 0]).abs().max() > 0.1
    no_codes = (
        (Swap("geometry", run=str(plain.base_dir)), "of another model, whose geometry"),
        (Interpolate("appearance", 0.5, run=str(plain.base_dir)), "of another model, whose appearance"),
        (Traverse("geometry", (1.0,)), "no principal directions of geometry are known"),
    )
    for step, message in no_codes:
        with pytest.raises(EditError, match=message):
            SceneEdit((step,)).apply(model.latent_named(None), model.field, model.other_scenes)


# ---------------------------------------------------------------- scenes of other runs


def applied(run: Path, step: Swap | Interpolate | Traverse, scene: str | None = None):
    model = load_run(run).model
    latent = model.latent_named(scene)
    return latent, SceneEdit((step,)).apply(latent, model.field, model.other_scenes)


@pytest.mark.parametrize("factor", [*CODES, "light"])
def test_an_inverted_scene_and_those_of_its_prior_are_mixed(
    prior: Path, plain: NestTrainer, factor: str
) -> None:
    inverted = plain.pipeline.model.latent()
    scenes, run = {"scene": "balls_1", "run": str(prior)}, {"run": str(plain.base_dir)}
    before, after = applied(config_of(plain), Swap(factor, **scenes))  # type: ignore[arg-type]
    assert not torch.equal(getattr(after, factor), getattr(before, factor))
    assert torch.equal(after.translations, before.translations)
    before, half = applied(prior, Interpolate(factor, 0.5, **run), "balls_1")  # type: ignore[arg-type]
    _, whole = applied(prior, Swap(factor, **run), "balls_1")  # type: ignore[arg-type]
    expected = torch.lerp(getattr(before, factor), getattr(whole, factor), 0.5)
    torch.testing.assert_close(getattr(half, factor), expected)
    found = getattr(whole, factor)
    if factor == "light":
        torch.testing.assert_close(found, inverted.light)
    else:  # every code is one of the inverted scene
        assert (found[:, None] == getattr(inverted, factor)).all(-1).any(1).all()


def test_inverted_scenes_are_mixed_and_those_of_another_prior_refused(
    prior: Path, plain: NestTrainer, tmp_path: Path
) -> None:
    other = finished(prior, tmp_path / "other", 2, "balls_1")
    before, after = applied(config_of(plain), Swap("appearance", run=str(other.base_dir)))
    assert not torch.equal(after.appearance, before.appearance)
    further = train_prior(tmp_path / "further", steps=1)
    stranger = finished(further, tmp_path / "stranger", 0, "balls_1")
    with pytest.raises(EditError, match="another model, whose geometry means something else"):
        applied(config_of(plain), Swap("geometry", run=str(stranger.base_dir)))
    _, lit = applied(config_of(plain), Swap("light", run=str(stranger.base_dir)))
    torch.testing.assert_close(lit.light, stranger.pipeline.model.latent().light)


# ---------------------------------------------------------------- principal directions


def test_a_prior_and_its_inversions_share_their_principal_directions(prior: Path, plain: NestTrainer) -> None:
    model = load_run(prior).model
    for factor in CODES:
        directions = model.field.directions(factor)
        assert len(directions) >= 3
        assert torch.equal(directions, plain.pipeline.model.field.directions(factor))
        before, after = applied(config_of(plain), Traverse(factor, (1.0,)))
        assert not torch.equal(getattr(after, factor), getattr(before, factor))
        assert torch.equal(after.light, before.light)
