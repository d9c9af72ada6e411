"""nest-invert as a user meets it: a few images and a prior in, an ordinary run out, and clear errors."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro
import yaml
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.scripts.render import Commands
from nerfstudio.utils.eval_utils import eval_setup
from PIL import Image

from nest_nerfstudio.cameras import join_views
from nest_nerfstudio.io.splats import read_splat_ply
from nest_nerfstudio.models.inversion import InversionConfig, invert
from nest_nerfstudio.pipelines import prior_run
from nest_nerfstudio.pipelines.prior_run import CACHE, load_prior
from nest_nerfstudio.pipelines.trainer import NestTrainer
from nest_nerfstudio.scripts.export import splat
from tests.small_capture import orbit
from tests.small_inversion import make_invert_config, start_inversion

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def prior(small_prior: Path) -> Path:
    return small_prior


def scene_of(prior: Path, name: str = "balls_2") -> Path:
    return prior.parents[4] / "scenes" / name


@pytest.fixture(scope="module")
def inverted(prior: Path, tmp_path_factory: pytest.TempPathFactory) -> NestTrainer:
    """A finished run, from six images of a scene that the prior was not trained on."""
    output = tmp_path_factory.mktemp("inverted")
    trainer = start_inversion(make_invert_config(scene_of(prior), prior, output, steps=60))
    trainer.train()
    trainer.pipeline.eval()
    return trainer


def psnr(trainer: NestTrainer) -> float:
    return trainer.pipeline.get_average_eval_image_metrics()["psnr"]


def test_it_fits_better_than_the_encoder_alone_and_the_prior_stays(
    prior: Path, inverted: NestTrainer, tmp_path: Path
) -> None:
    alone = start_inversion(make_invert_config(scene_of(prior), prior, tmp_path, init="encoder"))
    assert psnr(inverted) > psnr(alone) + 1
    weights = load_prior(prior, with_latents=False).model
    for ours, theirs in (
        (inverted.pipeline.model.field, weights.field),
        (inverted.pipeline.model.flow, weights.flow),
    ):
        for name, value in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], value), name
    assert not any(p.requires_grad for p in inverted.pipeline.model.field.parameters())


@pytest.mark.parametrize("steps", [0, 3])
def test_the_encoder_alone_is_no_step(prior: Path, tmp_path: Path, steps: int) -> None:
    """As the prior itself encodes and draws; every training image is one of the context."""
    config = make_invert_config(scene_of(prior), prior, tmp_path, steps, num_views=2, init="encoder")
    trainer = start_inversion(config)
    model = trainer.pipeline.model
    before = model.latent()
    encoder = load_prior(prior, with_latents=False).model.encoder
    with torch.no_grad():
        views = [trainer.pipeline._view(i) for i in range(2)]
        expected = encoder(join_views(views))
    torch.testing.assert_close(before.translations, expected.translations, atol=1e-5, rtol=0)
    torch.testing.assert_close(before.appearance, expected.appearance.clamp(0.01, 0.99), atol=1e-4, rtol=0)
    trainer.train()
    assert torch.equal(model.latent().translations, before.translations) == (steps == 0)


@pytest.mark.parametrize("init", ["prior", "hybrid"])
def test_one_view_starts_anywhere(prior: Path, tmp_path: Path, init: str) -> None:
    config = make_invert_config(scene_of(prior), prior, tmp_path, 40, num_views=1, init=init, num_starts=2)
    trainer = start_inversion(config)
    model, view = trainer.pipeline.model, trainer.pipeline._view(0)

    def error() -> float:
        model.eval()
        with torch.no_grad():
            found = float(model(view)["mse"])
        model.train()
        return found

    before = error()
    trainer.train()
    assert error() < before
    losses = trainer.pipeline.get_train_loss_dict(0)[1]
    assert set(losses) == {"photometric", "latent_prior"}


def test_a_run_is_reloaded_without_its_prior(
    prior: Path, inverted: NestTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = psnr(inverted)
    monkeypatch.setattr(prior_run, "find_prior", lambda path: pytest.fail("the prior was looked for"))
    config = inverted.base_dir / "config.yml"
    moved = tmp_path / "config.yml"
    moved.write_text(config.read_text().replace(str(prior), str(tmp_path / "gone.yml")))
    _, pipeline, _, step = eval_setup(moved, test_mode="test")
    assert step == 59
    assert pipeline.get_average_eval_image_metrics()["psnr"] == pytest.approx(expected, abs=1e-3)
    (path,) = splat(moved, tmp_path)
    with torch.no_grad():
        shown = inverted.pipeline.model.scene().gaussians_at(0.0)
    torch.testing.assert_close(read_splat_ply(path).means, shown.means, atol=1e-5, rtol=0)
    assert not {name for name in pipeline.state_dict() if ".encoder." in name}


def test_ns_render_draws_it(inverted: NestTrainer, tmp_path: Path) -> None:
    arguments = ["dataset", "--load-config", inverted.base_dir / "config.yml", "--output-path", tmp_path]
    arguments += ["--split", "test", "--image-format", "png"]
    tyro.cli(Commands, args=[str(argument) for argument in arguments]).main()
    drawn = sorted((tmp_path / "test" / "rgb").glob("*.png"))
    assert len(drawn) == 2  # of the base state
    assert np.asarray(Image.open(drawn[0])).std() > 5


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(prior: Path, tmp_path: Path) -> None:
    def make(name: str, steps: int = 8):
        return make_invert_config(scene_of(prior), prior, tmp_path / name, steps, num_views=3)

    whole = make("whole")
    whole.steps_per_save, whole.save_only_latest_checkpoint = 4, False
    trainer = start_inversion(whole)
    trainer.train()
    rest = make("rest")
    rest.load_dir, rest.load_step = trainer.checkpoint_dir, 4
    resumed = start_inversion(rest)
    assert resumed._start_step == 5
    rest.max_num_iterations = 8
    resumed.train()
    for name, value in trainer.pipeline.model.latent.state_dict().items():
        torch.testing.assert_close(resumed.pipeline.model.latent.state_dict()[name], value, atol=1e-6, rtol=0)


def test_the_python_call_inverts_views(prior: Path, inverted: NestTrainer) -> None:
    known = load_prior(prior)
    views = join_views([inverted.pipeline._view(i) for i in range(3)])
    start = invert(views, known, steps=0)
    latent = invert(views, known, steps=30)
    errors = [float(known.model.view_losses(z, views, torch.ones(3))[1]) for z in (start, latent)]
    assert errors[1] < 0.8 * errors[0]
    assert torch.equal(invert(views, known, steps=30).translations, latent.translations)  # nothing is random
    with pytest.raises(ValueError, match="needs latents of training scenes"):
        invert(views, load_prior(prior, with_latents=False), InversionConfig(init="prior"))


def test_training_latents_are_encoded_once(prior: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_prior(prior)
    assert (prior.parent / CACHE).is_file()
    assert len(first.latents) == 4  # one scene of five is held out
    monkeypatch.setattr(prior_run.PriorRun, "_encode", lambda self, model: pytest.fail("encoded again"))
    second = load_prior(prior)
    assert torch.equal(second.latents[3].geometry, first.latents[3].geometry)


# ---------------------------------------------------------------- data


def write_photos(folder: Path, scene: Path, mode: str = "RGBA", backdrop: int = 255, count: int = 3) -> Path:
    """`transforms.json` of photos that have no time: RGBA; RGB before a plain backdrop; or RGB and masks."""
    meta = json.loads((scene / "transforms_train.json").read_text())
    frames = [frame for frame in meta["frames"] if frame["edit"] == "base"][:count]
    folder.mkdir(parents=True)
    rng, listed = np.random.default_rng(0), []
    for i, frame in enumerate(frames):
        rgba = np.asarray(Image.open(scene / f"{frame['file_path']}.png")).astype(np.float32)
        alpha = rgba[..., 3:] / 255
        noise = rng.uniform(0, 255, rgba[..., :3].shape)
        behind = noise if mode == "masks" else backdrop
        image = rgba if mode == "RGBA" else rgba[..., :3] * alpha + behind * (1 - alpha)
        Image.fromarray(image.round().astype(np.uint8)).save(folder / f"{i}.png")
        row = {"file_path": f"{i}.png", "transform_matrix": frame["transform_matrix"]}
        if mode == "masks":
            Image.fromarray(((alpha[..., 0] > 0.5) * 255).astype(np.uint8)).save(folder / f"m{i}.png")
            row["mask_path"] = f"m{i}.png"
        listed.append(row)
    size = rgba.shape[0]
    focal = 0.5 * size / math.tan(0.5 * meta["camera_angle_x"])
    camera = {"w": size, "h": size, "fl_x": focal, "fl_y": focal, "cx": size / 2, "cy": size / 2}
    (folder / "transforms.json").write_text(json.dumps({**camera, "frames": listed}))
    return folder


@pytest.mark.parametrize("mode", ["RGBA", "masks", "RGB"])
def test_photos_without_times(prior: Path, tmp_path: Path, mode: str) -> None:
    """With alpha, with masks for silhouettes, before a white wall; the parser scales their poses."""
    data = write_photos(tmp_path / "photos", scene_of(prior), mode)
    trainer = start_inversion(make_invert_config(data, prior, tmp_path, 30))
    model = trainer.pipeline.model
    reach = model.latent().translations.norm(dim=1).max()
    assert 0.5 < reach < 1.5, "the object is as large as those of the prior"
    before = psnr(trainer)
    trainer.train()
    assert psnr(trainer) > before + 1


def test_other_data_parsers(prior: Path, tmp_path: Path) -> None:
    data = write_photos(tmp_path / "photos", scene_of(prior))
    config = make_invert_config(data, prior, tmp_path, 2)
    config.pipeline.datamanager.dataparser = NerfstudioDataParserConfig(data=data, eval_mode="all")
    trainer = start_inversion(config)
    trainer.train()
    assert psnr(trainer) > 10


def test_the_pose_of_a_single_image_is_found(prior: Path, tmp_path: Path) -> None:
    """Near the ground and upright: what is stored is another elevation."""
    config = make_invert_config(scene_of(prior), prior, tmp_path, 5, num_views=1, unknown_camera=True)
    trainer = start_inversion(config)
    camera = trainer.pipeline.model.camera
    found = torch.linalg.inv(camera.viewmat)[:3, 3]
    stored = torch.linalg.inv(trainer.pipeline._view(0).viewmats[0])[:3, 3]
    assert float(found.norm()) == pytest.approx(float(stored.norm()), rel=0.25)
    trainer.train()
    assert camera.twist.abs().max() > 0
    with pytest.raises(ValueError, match="the pose of a single image, and there are 2"):
        start_inversion(
            make_invert_config(scene_of(prior), prior, tmp_path, num_views=2, unknown_camera=True)
        )


# ---------------------------------------------------------------- bad input


def test_what_is_no_prior(prior: Path, inverted: NestTrainer, tmp_path: Path) -> None:
    def refused(path: Path | None, message: str, error: type[Exception] = ValueError) -> None:
        with pytest.raises(error, match=message):
            make_invert_config(scene_of(prior), path, tmp_path / "out")
        assert not (tmp_path / "out").exists(), "nothing is written"

    refused(None, "needs a prior: --pipeline.model.prior RUN/config.yml")
    refused(tmp_path / "none.yml", "no prior at", FileNotFoundError)
    refused(inverted.base_dir / "config.yml", "a run of nest-invert, not of nest-prior")
    (tmp_path / "empty.yml").write_text("a: 1")
    refused(tmp_path / "empty.yml", "not of nest-prior")
    (tmp_path / "config.yml").write_text(prior.read_text())
    refused(tmp_path / "config.yml", "has no checkpoint", FileNotFoundError)


def test_a_prior_of_another_version_or_layout(prior: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(prior.parent, run)
    (path,) = run.rglob("*.ckpt")
    stored = torch.load(path, weights_only=True)
    stored["pipeline"]["_extra_state"] = {"version": "0.0.7"}
    torch.save(stored, path)
    with pytest.raises(ValueError, match=r"trained by version 0\.0\.7"):
        make_invert_config(scene_of(prior), run / "config.yml", tmp_path)
    config = yaml.load(prior.read_text(), Loader=yaml.Loader)
    config.pipeline.model.encoder.geometry_dim += 1
    other = tmp_path / "other" / "config.yml"
    shutil.copytree(prior.parent, other.parent)
    other.write_text(yaml.dump(config))
    with pytest.raises(ValueError, match="does not fit the latents of this version"):
        start_inversion(make_invert_config(scene_of(prior), other, tmp_path))


def test_views_that_do_not_show_the_object(prior: Path, tmp_path: Path) -> None:
    empty = write_photos(tmp_path / "empty", scene_of(prior))
    Image.fromarray(np.zeros((48, 48, 4), np.uint8)).save(empty / "1.png")
    with pytest.raises(ValueError, match=r"1\.png does not show the object: its silhouette is empty"):
        start_inversion(make_invert_config(empty, prior, tmp_path))
    noise = write_photos(tmp_path / "noise", scene_of(prior), "masks")
    text = (noise / "transforms.json").read_text()
    (noise / "transforms.json").write_text(re.sub(r', "mask_path": "m\d.png"', "", text))
    with pytest.raises(ValueError, match=r"0\.png has no silhouette, which the encoder needs"):
        start_inversion(make_invert_config(noise, prior, tmp_path))
    away = write_photos(tmp_path / "away", scene_of(prior), count=6)
    meta = json.loads((away / "transforms.json").read_text())
    pose = orbit(0.3)
    pose[:3, [0, 2]] *= -1  # turned round
    meta["frames"][4]["transform_matrix"] = pose.tolist()
    (away / "transforms.json").write_text(json.dumps(meta))
    with pytest.raises(ValueError, match=r"4\.png looks past the object"):
        start_inversion(make_invert_config(away, prior, tmp_path))


def test_settings_out_of_range(prior: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at most the 6 train views, not 7"):
        start_inversion(make_invert_config(scene_of(prior), prior, tmp_path, num_views=7))
    with pytest.raises(ValueError, match="num_starts must be 1 or more"):
        start_inversion(make_invert_config(scene_of(prior), prior, tmp_path, num_starts=0))
