"""All methods walk one line: scenes of each move, are edited, shown and exported by the same code."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from nerfstudio.scripts.exporter import (
    ExportGaussianSplat,
    ExportPointCloud,
    ExportPoissonMesh,
    ExportTSDFMesh,
)

from nest_nerfstudio.dynamics.orbit import orbit_start
from nest_nerfstudio.edits.scene_edit import EditError, SceneEdit
from nest_nerfstudio.edits.selection import Box
from nest_nerfstudio.edits.steps import (
    Amplify,
    Duplicate,
    Keep,
    Move,
    Oscillate,
    Recolor,
    Relight,
    Retime,
    Scale,
    Step,
)
from nest_nerfstudio.geometry.quaternion import quat_exp, quat_to_rotmat
from nest_nerfstudio.io.splats import read_splat_ply, write_splat_ply
from nest_nerfstudio.pipelines.trainer import NestTrainer
from nest_nerfstudio.scripts.export import EncodedScenes, splat
from nest_nerfstudio.types import MotionCode, SceneLatent
from tests.ball_scenes import trained_prior
from tests.small_inversion import make_invert_config, start_inversion
from tests.small_run import make_config, make_trainer, trained_run

pytestmark = pytest.mark.slow
RIGHT = Box((0.0, -9.0, -9.0), (9.0, 9.0, 9.0))


@pytest.fixture(scope="module")
def dynamic(capture: Path, tmp_path_factory: pytest.TempPathFactory) -> NestTrainer:
    """A short run of nest-dynamic whose ODE has taken over."""
    return trained_run(capture, tmp_path_factory.mktemp("dynamic"))


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> NestTrainer:
    """A short run of nest-prior."""
    return trained_prior(tmp_path_factory.mktemp("prior"))


@pytest.fixture(scope="module")
def invert(prior: NestTrainer, tmp_path_factory: pytest.TempPathFactory) -> NestTrainer:
    """A short run of nest-invert, from the images of a scene that the prior was not trained on."""
    scene = prior.config.data / "balls_2"
    output = tmp_path_factory.mktemp("invert")
    trainer = start_inversion(make_invert_config(scene, prior.base_dir / "config.yml", output))
    trainer.train()
    trainer.pipeline.eval()
    return trainer


def with_motion(latent: SceneLatent, size: float = 0.4) -> SceneLatent:
    """A motion code set by hand: tokens go up and down along an axis of their own, four times a clip."""
    start = orbit_start(4, latent.light)
    modes = torch.zeros(len(latent), 6, 5)
    modes[:, 2, 0] = size
    still, period = torch.zeros(len(latent), 6), torch.tensor(0.25)
    motion = MotionCode(start, modes, still, start.new_zeros(0), period, torch.tensor(0.0), "cyclic")
    return replace(latent, motion=motion)


def camera(trainer: NestTrainer, time: float):
    chosen = trainer.pipeline.datamanager.train_dataset.cameras[:1].to("cpu")
    chosen.times = torch.full((1, 1), time)
    return chosen


def shown(trainer: NestTrainer, time: float = 0.25) -> torch.Tensor:
    return trainer.pipeline.model.get_outputs_for_camera(camera(trainer, time))["rgb"]


def test_a_scene_of_a_prior_that_is_given_a_motion_code_moves(
    prior: NestTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = prior.pipeline.model
    scene, views, refined = model.viewer_controls.scene, model.viewer_controls.num_views, False
    latent = with_motion(model.latent_of(scene, views, refined))
    with torch.no_grad():
        moving = model.decode(latent, model.flow)
        start, later, cycle = (moving.gaussians_at(t).means for t in (0.0, 0.125, 7.75))
    assert moving.moves
    torch.testing.assert_close((start - later).norm(dim=1), torch.full((len(start),), 0.8), atol=1e-3, rtol=0)
    torch.testing.assert_close(cycle, start, atol=1e-3, rtol=0)  # thirty-one cycles later
    # shown: in place of the encoded scene, with its speed as an output
    monkeypatch.setattr(model, "shown_scene", lambda camera: moving)
    first, second = (model.get_outputs_for_camera(camera(prior, t)) for t in (0.0, 0.125))
    assert (first["rgb"] - second["rgb"]).abs().max() > 0.2
    monkeypatch.setattr(model.viewer_controls, "motion", True)
    assert model.get_outputs_for_camera(camera(prior, 0.06))["motion"].max() > 1.0
    # exported
    with torch.no_grad():
        for name, time in (("a.ply", 0.0), ("b.ply", 0.125)):
            write_splat_ply(tmp_path / name, moving.gaussians_at(time))
    a, b = (read_splat_ply(tmp_path / name).means for name in ("a.ply", "b.ply"))
    torch.testing.assert_close((a - b).norm(dim=1), torch.full((len(a),), 0.8), atol=1e-3, rtol=0)


@pytest.mark.parametrize("method", ["dynamic", "prior", "invert"])
def test_scenes_of_all_methods_are_edited(method: str, request: pytest.FixtureRequest) -> None:
    trainer: NestTrainer = request.getfixturevalue(method)
    model = trainer.pipeline.model
    whole = shown(trainer)
    edits = {
        "moved": Move((0.0, 0.0, 0.5)),
        "recoloured": Recolor(hue=0.4),
        "cut": Keep(RIGHT),
        "doubled": Duplicate((0.0, 0.0, 0.8), tokens=RIGHT),
    }
    try:
        images = {}
        for name, step in edits.items():
            model.edit = SceneEdit((step,))
            images[name] = shown(trainer)
            assert (images[name] - whole).abs().max() > 0.05, name
        background = torch.ones(3)
        covered = {name: ((image - background).abs().amax(-1) > 0.05).sum() for name, image in images.items()}
        everything = ((whole - background).abs().amax(-1) > 0.05).sum()
        assert covered["cut"] < everything < covered["doubled"]
        assert abs(int(covered["recoloured"] - everything)) <= 0.1 * everything
        model.edit = SceneEdit((edits["moved"], Move((0.0, 0.0, -0.5))))
        torch.testing.assert_close(shown(trainer), whole, atol=2e-3, rtol=0)
    finally:
        model.edit = None
    assert torch.equal(shown(trainer), whole)


def test_a_scene_of_a_prior_oscillates_by_an_edit_in_all_tools(prior: NestTrainer, tmp_path: Path) -> None:
    """Shown, scored and exported, as the `edit` of its config, a plain text in the YAML file."""
    edit = SceneEdit((Oscillate(0.5, translation=(0.0, 0.0, 0.3)),))
    edit.save(tmp_path / "edit.json")
    model = prior.pipeline.model
    still = shown(prior, 0.0)
    model.edit = edit
    assert (shown(prior, 0.0) - shown(prior, 0.25)).abs().max() > 0.2
    sample = next(prior.pipeline.datamanager.eval_samples(2))
    edited = model.score(model.encoder(sample.context), sample)[0][1]["psnr"]
    model.edit = None
    assert edited < model.score(model.encoder(sample.context), sample)[0][1]["psnr"] - 1
    assert torch.equal(shown(prior, 0.25), still)
    text = (prior.base_dir / "config.yml").read_text()
    config = tmp_path / "config.yml"
    config.write_text(re.sub(r"( +edit): null\n", rf"\1: {tmp_path / 'edit.json'}\n", text))
    options = EncodedScenes(num_views=2, refined=False)
    a, b = (read_splat_ply(path).means for path in splat(config, tmp_path, times=(0.0, 0.25), scenes=options))
    torch.testing.assert_close(a - b, torch.tensor([0.0, 0.0, 0.6]).expand_as(a), atol=1e-3, rtol=0)


def test_an_inverted_scene_is_relit_and_oscillates(invert: NestTrainer) -> None:
    model = invert.pipeline.model
    whole = shown(invert)
    try:
        model.edit = SceneEdit((Relight(gain=0.3),))
        assert float((whole - shown(invert)).max()) > 0.2
        model.edit = SceneEdit((Oscillate(0.5, translation=(0.0, 0.0, 0.3)),))
        assert (shown(invert, 0.0) - shown(invert, 0.25)).abs().max() > 0.2
    finally:
        model.edit = None
    assert torch.equal(shown(invert), whole)


def test_an_edit_of_motion_waits_for_the_motion_while_it_trains(
    capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    SceneEdit((Retime(0.5),)).save(tmp_path / "edit.json")
    config = make_config(capture, tmp_path, steps=30, edit=tmp_path / "edit.json")
    trainer = make_trainer(config)
    assert shown(trainer).isfinite().all()  # before the first step
    assert "Shown without its edit for now" in capsys.readouterr().out
    trainer.pipeline.model.is_trained_here = False
    trainer.pipeline.model.forget_scenes()
    with pytest.raises(EditError, match="retime: the scene does not move"):
        shown(trainer)


def test_what_a_scene_cannot_carry_is_an_error(
    dynamic: NestTrainer, prior: NestTrainer, invert: NestTrainer
) -> None:
    for trainer in (dynamic, prior, invert):
        trainer.pipeline.model.is_trained_here = False
    for trainer, step, message in (
        (dynamic, Relight(gain=0.5), "relight: the colours of this scene are baked"),
        (prior, Retime(2.0), "retime: the scene does not move"),
        (invert, Retime(2.0), "retime: the scene does not move"),
    ):
        model = trainer.pipeline.model
        model.edit = SceneEdit((step,))
        with pytest.raises(EditError, match=message):
            shown(trainer)
        model.edit = None


def psnr(image: torch.Tensor, other: torch.Tensor) -> float:
    return -10 * (image - other).square().mean().clamp_min(1e-20).log10().item()


@pytest.mark.parametrize("method", ["dynamic", "prior"])
def test_an_edit_by_g_is_seen_as_by_cameras_moved_by_its_inverse(
    method: str, request: pytest.FixtureRequest
) -> None:
    """Move, turn and both; the light of a prior's scene turns along."""
    trainer: NestTrainer = request.getfixturevalue(method)
    model = trainer.pipeline.model
    turn = (0.3, -0.5, 1.1)
    edits = {
        "move": ((0.0, 0.0, 0.0), (0.3, -0.2, 0.1)),
        "turn": (turn, (0.0, 0.0, 0.0)),
        "both": (turn, (0.3, -0.2, 0.1)),
    }
    try:
        for name, (rotation, translation) in edits.items():
            view = camera(trainer, 0.25)
            quat, shift = quat_exp(torch.tensor(rotation)), torch.tensor(translation)
            back = torch.eye(4, dtype=torch.float64)
            back[:3, :3], back[:3, 3] = quat_to_rotmat(quat.double()), shift.double()
            pose = torch.cat([view.camera_to_worlds[0].double(), torch.tensor([[0.0, 0, 0, 1]])])
            view.camera_to_worlds = (torch.linalg.inv(back) @ pose)[None, :3].float()
            model.edit = None
            expected = model.get_outputs_for_camera(view)["rgb"]
            steps: tuple[Step, ...] = (Move(translation, rotation, about=(0.0, 0.0, 0.0)),)
            if method == "prior":
                steps += (Relight(rotation),)
            model.edit = SceneEdit(steps)
            found = psnr(shown(trainer), expected)
            print(f"{method}, {name}: {found:.1f} dB")
            assert found > 60, name
    finally:
        model.edit = None


def test_scaled_scenes_are_drawn_scaled(dynamic: NestTrainer, prior: NestTrainer) -> None:
    """Seen from a camera that is nearer by the same factor, nothing changes."""
    for trainer in (dynamic, prior):
        model, view = trainer.pipeline.model, camera(trainer, 0.25)
        try:
            expected = model.get_outputs_for_camera(view)["rgb"]
            model.edit = SceneEdit((Scale(0.5, about=(0.0, 0.0, 0.0)),))
            view = camera(trainer, 0.25)
            view.camera_to_worlds = view.camera_to_worlds.clone()
            view.camera_to_worlds[..., 3] *= 0.5
            assert psnr(model.get_outputs_for_camera(view)["rgb"], expected) > 60
        finally:
            model.edit = None


def test_motion_is_edited(dynamic: NestTrainer) -> None:
    model = dynamic.pipeline.model
    assert model.latent().motion.kind != "still"
    later, early = shown(dynamic, 0.8), shown(dynamic, 0.3)
    try:
        model.edit = SceneEdit((Retime(speed=0.0, offset=0.8),))
        assert torch.equal(shown(dynamic, 0.1), shown(dynamic, 0.6))
        torch.testing.assert_close(shown(dynamic, 0.1), later, atol=1e-4, rtol=0)
        model.edit = SceneEdit((Amplify(0.0),))
        assert torch.equal(shown(dynamic, 0.1), shown(dynamic, 0.6))
    finally:
        model.edit = None
    torch.testing.assert_close(shown(dynamic, 0.3), early)


def test_a_run_shows_and_exports_the_edit_that_its_config_names(dynamic: NestTrainer, tmp_path: Path) -> None:
    """Without touching the checkpoint, by all of nerfstudio's tools, which load `config.yml`."""
    import yaml

    config_path = dynamic.base_dir / "config.yml"
    edit = SceneEdit((Move((0.0, 0.0, 0.5)),))
    edit.save(tmp_path / "edit.json")
    config = yaml.load(config_path.read_text(), Loader=yaml.Loader)
    config.pipeline.model.edit = tmp_path / "edit.json"
    edited = tmp_path / "config.yml"
    edited.write_text(yaml.dump(config))
    (before,) = splat(config_path, tmp_path / "before", times=(0.4,))
    (after,) = splat(edited, tmp_path / "after", times=(0.4,))
    shift = read_splat_ply(after).means - read_splat_ply(before).means
    torch.testing.assert_close(shift, torch.tensor([0.0, 0.0, 0.5]).expand_as(shift), atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", ["dynamic", "prior", "invert"])
def test_ns_export_writes_the_splats_that_nest_export_writes(
    method: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    trainer: NestTrainer = request.getfixturevalue(method)
    config = trainer.base_dir / "config.yml"
    ExportGaussianSplat(load_config=config, output_dir=tmp_path / "theirs").main()
    controls = trainer.pipeline.model.viewer_controls
    scenes = EncodedScenes()
    if method == "prior":
        scenes = EncodedScenes(
            (controls._names[controls.scene],), num_views=controls.num_views, refined=False
        )
    (ours,) = splat(config, tmp_path / "ours", scenes=scenes)
    expected, found = read_splat_ply(ours), read_splat_ply(tmp_path / "theirs" / "splat.ply")
    expected = expected.select(expected.opacities >= 1 / 255)  # fainter ones are left out
    for name in ("means", "scales", "opacities", "sh"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", [ExportPointCloud, ExportPoissonMesh, ExportTSDFMesh])
def test_what_ns_export_samples_by_rays_names_nest_export(
    dynamic: NestTrainer, kind: Any, tmp_path: Path
) -> None:
    config = dynamic.base_dir / "config.yml"
    with pytest.raises(TypeError, match="`nest-export splat` writes the scene"):
        kind(load_config=config, output_dir=tmp_path).main()
    if kind is not ExportTSDFMesh:
        with pytest.raises(NotImplementedError, match="`nest-export splat` writes the scene"):
            kind(load_config=config, output_dir=tmp_path, normal_method="open3d").main()
