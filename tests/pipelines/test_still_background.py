"""A capture by one camera: what stands still is fitted first, then what moves is found and joins."""

from pathlib import Path
from typing import cast

import pytest
import torch

from nest_nerfstudio.geometry.quaternion import rotmat_to_quat
from nest_nerfstudio.models.nest_dynamic import NestDynamicModel
from nest_nerfstudio.pipelines.trainer import NestTrainer
from nest_nerfstudio.types import WORLD
from tests.small_run import make_config, make_trainer
from tests.small_yard import END, START, floor, write_yard

pytestmark = pytest.mark.slow
STEPS = 240


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_yard(tmp_path_factory.mktemp("yard"))


def start(yard: Path, output: Path, **model) -> NestTrainer:
    """A training that starts on the floor, so that few steps do."""
    config = make_config(yard, output, STEPS, **model)
    config.pipeline.model.curriculum.still_until = 0.4
    config.pipeline.model.curriculum.num_downscales = 0
    config.save_config()
    trainer = make_trainer(config)
    scene, (matrix, scale) = floor(), to_training(trainer)
    turned = scene.move((rotmat_to_quat(matrix[:, :3]), matrix[:, 3]))
    params = model_of(trainer).field.params
    with torch.no_grad():
        params["means"][:] = turned.means * scale
        params["quats"][:] = turned.quats
        params["scales"][:] = (scene.scales * scale).log()
        params["opacities"][:] = scene.opacities.logit()
        params["features_dc"][:] = scene.sh[:, 0]
    return trainer


def to_training(trainer: NestTrainer) -> tuple[torch.Tensor, float]:
    """Rotation and shift [3, 4], then scale, from the coordinates of the data to those of training."""
    outputs = trainer.pipeline.datamanager.train_dataparser_outputs  # type: ignore[union-attr]
    return outputs.dataparser_transform.float(), outputs.dataparser_scale


def model_of(trainer: NestTrainer) -> NestDynamicModel:
    return cast(NestDynamicModel, trainer.pipeline.model)


@pytest.fixture(scope="module")
def trained(yard: Path, tmp_path_factory: pytest.TempPathFactory) -> NestTrainer:
    trainer = start(yard, tmp_path_factory.mktemp("run"), num_random=484, max_gs_num=900)
    trainer.train()
    trainer.pipeline.eval()
    return trainer


@torch.no_grad()
def test_the_floor_stands_still_to_the_bit_and_the_ball_moves(trained: NestTrainer) -> None:
    model = model_of(trained)
    gates = model.field.gates()
    assert gates is not None
    assert 0 < (gates > 0).sum() < (gates == 0).sum()
    first, last = model.gaussians_at(0.0), model.gaussians_at(1.0)
    still, moving = gates == 0, gates == 1
    for time in (0.0, 0.4, 1.0, 1.7, -0.3):
        now = model.gaussians_at(time)
        for name in ("means", "quats", "scales", "opacities", "sh"):
            assert torch.equal(getattr(now, name)[still], getattr(first, name)[still])
    matrix, scale = to_training(trained)
    way = (last.means - first.means)[moving].median(0).values / scale
    assert (way - matrix[:, :3] @ (END - START)).norm() < 0.3 * (END - START).norm()
    assert (model.latent().ids == WORLD).sum() == 1


@torch.no_grad()
def test_an_output_shows_what_moves(trained: NestTrainer) -> None:
    cameras = trained.pipeline.datamanager.eval_dataset.cameras  # type: ignore[union-attr]
    outputs = model_of(trained).get_outputs_for_camera(cameras[:1])
    assert outputs["moving"].shape == outputs["accumulation"].shape
    assert outputs["moving"].max() > 0.5
    assert outputs["moving"].median() < 0.05


def test_a_run_is_loaded_with_its_gates(trained: NestTrainer, yard: Path, tmp_path: Path) -> None:
    config = trained.config
    pipeline = config.pipeline.setup(device="cpu", test_mode="inference")
    (stored,) = (trained.base_dir / "nerfstudio_models").glob("*.ckpt")
    state = torch.load(stored, map_location="cpu", weights_only=True)
    pipeline.load_pipeline(state["pipeline"], state["step"])
    model = cast(NestDynamicModel, pipeline.model.eval())
    with torch.no_grad():
        now, before = (m.gaussians_at(0.3).means for m in (model, model_of(trained)))
        assert torch.equal(model.field.gates(), model_of(trained).field.gates())
        torch.testing.assert_close(now, before, atol=1e-5, rtol=0)


@pytest.mark.parametrize("model", [{"background": "none"}, {"motion": "static"}, {"motion": "mlp"}])
def test_other_ways_know_no_background(yard: Path, tmp_path: Path, model: dict[str, str]) -> None:
    config = make_config(yard, tmp_path, 10, **model)
    trainer = make_trainer(config)
    assert model_of(trainer).field.gates() is None
    assert not model_of(trainer).curriculum.stands_still


def test_objects_have_no_background_unless_it_is_asked_for(capture: Path, tmp_path: Path) -> None:
    assert model_of(make_trainer(make_config(capture, tmp_path, 10))).field.gates() is None
    asked = make_trainer(make_config(capture, tmp_path / "still", 10, background="still"))
    assert model_of(asked).field.gates() is not None


# ---------------------------------------------------------------- refinement of cameras


def test_cameras_are_refined_but_not_those_of_evaluation(yard: Path, tmp_path: Path) -> None:
    config = make_config(yard, tmp_path, 40)
    config.pipeline.model.camera_optimizer.mode = "SO3xR3"
    trainer = make_trainer(config)
    pipeline, model = trainer.pipeline, model_of(trainer)
    with torch.no_grad():
        model.camera_optimizer.pose_adjustment[3, 0] = 0.1
    data = pipeline.datamanager  # type: ignore[attr-defined]
    given = data.train_dataset.cameras.camera_to_worlds[3, :, 3]
    seen = -(lambda m: m[:3, :3].T @ m[:3, 3])(pipeline._view(3).viewmats[0])
    torch.testing.assert_close(seen, given + torch.tensor([0.1, 0.0, 0.0]), atol=1e-5, rtol=0)
    pipeline.eval()
    assert torch.equal(pipeline._view(3).viewmats, pipeline._view(3).viewmats)
    given_view = -(lambda m: m[:3, :3].T @ m[:3, 3])(pipeline._view(3).viewmats[0])
    torch.testing.assert_close(given_view, given, atol=1e-5, rtol=0)
    pipeline.train()
    trainer.train()
    moved = model.camera_optimizer.pose_adjustment.detach()
    assert moved.norm(dim=1).min() > 0
    centres = data.train_dataset.cameras.camera_to_worlds[..., 3]
    assert moved.mean(0).norm() < 0.2 * moved.norm(dim=1).mean() + 1e-3
    assert len(centres) == len(moved)
