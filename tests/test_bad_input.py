"""Bad input and faults that reach the training; those that the data parser stops are in tests/data."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.dnerf_dataparser import DNeRFDataParserConfig
from PIL import Image

from nest_nerfstudio.pipelines.schedules import FiniteOptimizers
from nest_nerfstudio.pipelines.trainer import NestTrainer
from tests.small_run import make_config, make_trainer

pytestmark = pytest.mark.slow


@pytest.fixture
def scene(capture: Path, tmp_path: Path) -> Path:
    """A copy of the small capture, to be spoilt."""
    return copytree(capture, tmp_path / "scene")


def train(scene: Path, output: Path, steps: int = 12, **model) -> NestTrainer:
    trainer = make_trainer(make_config(scene, output, steps, **model))
    trainer.train()
    return trainer


def assert_finite(trainer: NestTrainer) -> None:
    """All parameters, and an image at a time of the clip and one beyond it."""
    for name, parameter in trainer.pipeline.named_parameters():
        assert parameter.isfinite().all(), name
    trainer.pipeline.eval()
    camera = trainer.pipeline.datamanager.train_dataset.cameras[:1]
    for time in (0.3, 1.5):
        camera.times = torch.tensor([[time]])
        outputs = trainer.pipeline.model.get_outputs_for_camera(camera)
        assert all(image.isfinite().all() for image in outputs.values())


def test_images_without_alpha_start_in_the_box_and_train(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for path in scene.glob("*/*.png"):
        with Image.open(path) as image:
            room = Image.effect_noise(image.size, 80).convert("RGBA")
            room.alpha_composite(image.convert("RGBA"))
        room.convert("RGB").save(path)
    trainer = make_trainer(make_config(scene, tmp_path / "out", steps=12))
    assert "visual hull" not in capsys.readouterr().out
    model = trainer.pipeline.dynamic_model
    means, (low, high) = model.field.params["means"].detach(), model.scene_box.aabb
    assert ((means >= low) & (means <= high)).all()
    assert (means.amax(0) - means.amin(0) > 0.8 * (high - low)).all()
    trainer.train()
    assert_finite(trainer)


def test_images_before_a_plain_backdrop_start_in_the_hull(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for path in scene.glob("*/*.png"):
        with Image.open(path) as image:
            wall = Image.new("RGBA", image.size, (40, 200, 90, 255))
            wall.alpha_composite(image.convert("RGBA"))
        wall.convert("RGB").save(path)
    trainer = make_trainer(make_config(scene, tmp_path / "out", steps=12))
    assert "points in the visual hull" in capsys.readouterr().out
    background = trainer.pipeline.dynamic_model.shown_background(False)
    torch.testing.assert_close(background, torch.tensor([40, 200, 90]) / 255, atol=0.01, rtol=0)
    trainer.train()
    assert_finite(trainer)


def test_images_of_several_sizes_train(scene: Path, tmp_path: Path) -> None:
    for path in sorted((scene / "train").glob("*.png"))[::2]:
        Image.open(path).resize((32, 40)).save(path)
    trainer = train(scene, tmp_path / "out")
    sizes = {tuple(batch["image"].shape[:2]) for batch in trainer.pipeline.datamanager.cached_train}
    assert sizes == {(48, 48), (40, 32)}
    assert_finite(trainer)


def test_cameras_inside_the_object_train(scene: Path, tmp_path: Path) -> None:
    """Every other camera stands in a ball: it sees it all around, and Gaussians at its very centre."""
    path = scene / "transforms_train.json"
    meta = json.loads(path.read_text())
    for frame in meta["frames"][::2]:
        for row, centre in zip(frame["transform_matrix"], (0.0, 0.2, 0.1), strict=False):
            row[3] = centre
        Image.new("RGBA", (48, 48), (25, 204, 51, 255)).save(scene / f"{frame['file_path']}.png")
    path.write_text(json.dumps(meta))
    trainer = make_trainer(make_config(scene, tmp_path / "out", steps=30))
    with torch.no_grad():
        trainer.pipeline.dynamic_model.field.params["means"][:20] = torch.tensor([0.0, 0.2, 0.1])
    trainer.train()
    assert_finite(trainer)


Frames = list[dict[str, Any]]


def equal_in_pairs(frames: Frames) -> Frames:
    """Two cameras, both of which see each time."""
    return [frame | {"time": frames[i - i % 2]["time"]} for i, frame in enumerate(frames)]


IRREGULAR: dict[str, Callable[[Frames], Frames]] = {
    "dropped": lambda frames: frames[:5] + frames[14:],
    "out of order": lambda frames: frames[1::2] + frames[-2::-2],
    "two cameras": equal_in_pairs,
    "twice": lambda frames: frames + frames[3:7],
}


@pytest.mark.parametrize("name", IRREGULAR)
def test_frames_at_irregular_times_train(scene: Path, tmp_path: Path, name: str) -> None:
    path = scene / "transforms_train.json"
    meta = json.loads(path.read_text())
    meta["frames"] = IRREGULAR[name](meta["frames"])
    path.write_text(json.dumps(meta))
    trainer = make_trainer(make_config(scene, tmp_path / "out", 24, background="still"))
    still = trainer.pipeline.dynamic_model.still_background
    trainer.train()
    times = {frame["time"] for frame in meta["frames"]}
    assert len(still.masks) == len(times)
    assert sum(map(len, still.masks.values())) == len(meta["frames"])
    assert_finite(trainer)


@pytest.mark.parametrize(
    ("other", "named"),
    [({"num_tokens": 16}, r"size mismatch for latent\."), ({"motion": "mlp"}, "deformation")],
)
def test_a_checkpoint_of_other_settings_is_refused(
    capture: Path, tmp_path: Path, other: dict, named: str
) -> None:
    trainer = make_trainer(make_config(capture, tmp_path / "first"))
    trainer.save_checkpoint(0)
    config = make_config(capture, tmp_path / "second", **other)
    config.load_checkpoint = trainer.checkpoint_dir / "step-000000000.ckpt"
    with pytest.raises(ValueError, match=f"trained with other settings.*{named}"):
        make_trainer(config)


def test_a_folder_without_checkpoints_is_refused(capture: Path, tmp_path: Path) -> None:
    config = make_config(capture, tmp_path / "out")
    config.load_dir = tmp_path
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .* takes the folder nerfstudio_models"):
        make_trainer(config)


def test_single_rays_are_refused(capture: Path, tmp_path: Path) -> None:
    model = make_trainer(make_config(capture, tmp_path)).pipeline.dynamic_model
    with pytest.raises(TypeError, match="works without --render-nearest-camera"):
        model.get_outputs(RayBundle(torch.zeros(1, 3), torch.ones(1, 3), torch.ones(1, 1)))


def test_a_loss_that_is_not_finite_leaves_the_step_out(
    capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    trainer = make_trainer(make_config(capture, tmp_path, steps=1000))
    pipeline = trainer.pipeline
    image = pipeline.datamanager.cached_train[7]["image"].float() / 255
    image[10, 10, 0] = torch.nan
    pipeline.datamanager.cached_train[7]["image"] = image
    model, held = pipeline.dynamic_model, []

    def remember(step: int) -> None:
        held.append(model.field.params["opacities"].detach().clone())

    trainer.train_iteration(0)
    pipeline.datamanager.train_unseen_cameras = [7]
    remember(0)
    trainer.train_iteration(1)
    remember(1)
    assert "Step left out: the gradients of" in capsys.readouterr().out
    assert torch.equal(*held)
    trainer.train_iteration(2)
    remember(2)
    assert not torch.equal(*held[1:])
    assert_finite(trainer)


def test_a_loss_that_stays_not_finite_ends_the_training(capture: Path, tmp_path: Path) -> None:
    trainer = make_trainer(make_config(capture, tmp_path, steps=200))
    for batch in trainer.pipeline.datamanager.cached_train:
        batch["image"] = torch.full_like(batch["image"].float(), torch.nan)
    with pytest.raises(FloatingPointError, match="go on from it with --load-dir"):
        trainer.train()
    assert trainer.step < 2 * FiniteOptimizers.patience


def test_dnerf_data_trains(capture: Path, tmp_path: Path) -> None:
    config = make_config(capture, tmp_path, steps=6)
    config.pipeline.datamanager.dataparser = DNeRFDataParserConfig(data=capture)
    trainer = make_trainer(config)
    assert trainer.pipeline.datamanager.train_views_times[[0, -1]].tolist() == [0.0, 1.0]
    trainer.train()
    assert_finite(trainer)


def test_blender_data_has_no_times(capture: Path, tmp_path: Path) -> None:
    config = make_config(capture, tmp_path, steps=6)
    config.pipeline.datamanager.dataparser = BlenderDataParserConfig(data=capture)
    with pytest.raises(ValueError, match=r"Blender gives no times.*--time-from frame-order.*missing-times"):
        make_trainer(config)
    config.pipeline.datamanager = replace(config.pipeline.datamanager, missing_times="static")
    trainer = make_trainer(config)
    trainer.train()
    assert_finite(trainer)
