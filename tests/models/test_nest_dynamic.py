import math
from pathlib import Path

import pytest
import torch

from nest_nerfstudio.geometry.se3 import se3_apply, se3_exp
from nest_nerfstudio.models.gaussian_model import composite
from nest_nerfstudio.pipelines.trainer import NestTrainer
from nest_nerfstudio.types import Views
from tests.small_capture import blobs, write_capture
from tests.small_run import make_config, make_trainer


@pytest.fixture(scope="module")
def dense_capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough views at every time for the hull of the first ones to hold the ball that moves."""
    return write_capture(tmp_path_factory.mktemp("capture"), {"train": 60, "val": 2, "test": 4})


@pytest.fixture(scope="module")
def trained(dense_capture: Path, tmp_path_factory: pytest.TempPathFactory) -> NestTrainer:
    config = make_config(dense_capture, tmp_path_factory.mktemp("run"), steps=400)
    dynamics = config.pipeline.model.dynamics
    dynamics.explain_iterations, dynamics.explain_attempts = 2000, 2  # fewer do not explain what swings
    trainer = make_trainer(config)
    trainer.train()
    trainer.pipeline.eval()
    return trainer


def score(trainer: NestTrainer, split: str) -> float:
    """Mean PSNR over a split, dB."""
    manager, model = trainer.pipeline.datamanager, trainer.pipeline.dynamic_model
    dataset = manager.dataset_type(manager.dataparser.get_dataparser_outputs(split))
    model.eval()
    found = []
    for i in range(len(dataset)):
        outputs = model.get_outputs_for_camera(dataset.cameras[i : i + 1])
        found.append(model.get_image_metrics_and_images(outputs, dataset.get_data(i))[0]["psnr"])
    return sum(found) / len(found)


@pytest.mark.slow
def test_training_learns_the_motion(trained: NestTrainer, dense_capture: Path, tmp_path: Path) -> None:
    """Better than the same Gaussians without motion, on views and times not trained on."""
    static = make_trainer(make_config(dense_capture, tmp_path, steps=400, motion="static"))
    static.train()
    assert score(trained, "test") > score(static, "test") + 1.0
    assert trained.pipeline.dynamic_model.dynamics.committed


def test_warming_up_changes_nothing(capture: Path, tmp_path: Path) -> None:
    model = make_trainer(make_config(capture, tmp_path)).pipeline.dynamic_model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.warm_up()
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_strides_run_in_order(capture: Path, tmp_path: Path) -> None:
    trainer = make_trainer(make_config(capture, tmp_path))
    model = trainer.pipeline.dynamic_model
    model.set_progress(0, 0.0)
    low, high = model.time_window()
    assert high - low == pytest.approx(model.config.first_window, abs=0.02)
    model.config.dynamics.largest_gap = 10.0  # of so short a training
    model.set_progress(20, 0.2)
    assert model.time_window()[1] - model.time_window()[0] > high - low
    model.set_progress(40, 0.5)
    assert model.time_window() is None
    assert not model.dynamics.committed
    model.set_progress(50, 0.7)
    assert model.dynamics.committed


def test_few_frames_ask_for_a_smooth_path(capture: Path, tmp_path: Path) -> None:
    """Where there are fewer than two training times for each node of the path, and only there."""
    trainer = make_trainer(make_config(capture, tmp_path))
    model = trainer.pipeline.dynamic_model

    def losses() -> dict:
        trainer.pipeline.train()
        return trainer.pipeline.get_train_loss_dict(0)[1]

    expected = model.config.roughness_weight * float(model.dynamics.roughness())
    assert float(losses()["roughness"]) == pytest.approx(expected)  # 24 times, 33 nodes
    model._num_times = 66
    assert "roughness" not in losses()


def test_few_frames_are_searched_for_cycles_themselves(
    capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they are few, and only there: errors of each picture with the scene as at each time."""
    model = make_trainer(make_config(capture, tmp_path)).pipeline.dynamic_model
    torch.nn.init.normal_(model.dynamics.pose_decoder.head[-1].weight)
    found = []
    monkeypatch.setattr(model.dynamics, "explain", lambda codes, arm, pictures: found.append(pictures) or ())
    for times in (66, 24):
        model._num_times = times
        with pytest.raises(AttributeError):
            model.commit(model.dynamics)
    assert found[0] is None
    errors, times = found[1]()
    assert errors.shape == (24, 65)
    torch.testing.assert_close(times, torch.linspace(0, 1, 24))
    view = model.training_views(24)[5]
    drawn = model._rasterize(model.gaussians_at(0.5), view, model.backdrop, "RGB").rgb
    torch.testing.assert_close(errors[5, 32], (drawn - composite(view, model.backdrop)).square().mean())
    assert errors.std(1).min() > 0


def test_all_times_are_in_use_after_a_number_of_steps(capture: Path, tmp_path: Path) -> None:
    """A long training does not dwell on a part of the clip."""
    model = make_trainer(make_config(capture, tmp_path)).pipeline.dynamic_model
    model.set_progress(model.config.widen_steps - 1, 0.01)
    assert model.time_window() is not None
    model.set_progress(model.config.widen_steps, 0.01)
    assert model.time_window() is None


def test_does_not_commit_to_an_ode_that_leaves_the_path(
    capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    model = make_trainer(make_config(capture, tmp_path)).pipeline.dynamic_model
    model.config.dynamics.largest_gap = 0.0
    model.set_progress(50, 0.7)
    assert not model.dynamics.committed
    assert "Not committed" in capsys.readouterr().out
    model.config.dynamics.largest_gap = 10.0
    model.set_progress(51, 0.71)
    assert not model.dynamics.committed  # tries again only after a while
    model.set_progress(55, 0.76)
    assert model.dynamics.committed


def test_commits_once_the_motion_has_settled(capture: Path, tmp_path: Path) -> None:
    model = make_trainer(make_config(capture, tmp_path)).pipeline.dynamic_model
    model.config.dynamics.largest_gap = 10.0
    torch.nn.init.normal_(model.dynamics.pose_decoder.head[-1].weight)
    for step, progress in enumerate((0.3, 0.4, 0.61, 0.64)):  # full-size pictures from 0.6 on
        if progress < 0.64:
            torch.nn.init.normal_(model.dynamics.pose_decoder.head[-1].weight)
        model.set_progress(step, progress)
        assert model.dynamics.committed == (progress == 0.64)


def test_says_that_something_is_missing(capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    trainer = make_trainer(make_config(capture, tmp_path, motion="mlp"))
    model = trainer.pipeline.dynamic_model
    model.set_progress(0, 0.5)
    _, batch = trainer.pipeline.datamanager.next_train(0)
    drawn = {"accumulation": batch["image"][..., 3:].clone(), "rgb": batch["image"][..., :3]}
    drawn["background"] = torch.zeros(3)
    for share in (0.0, 0.5):
        lost = batch["image"][..., 3] > 0.5
        lost = lost & (torch.rand(lost.shape) < share)
        drawn["accumulation"][lost] = 0.0
        for _ in range(500):
            found = model.get_metrics_dict(drawn, batch)["missing"]
        assert found == pytest.approx(share, abs=0.1)
        model.set_progress(1, 0.89)
        capsys.readouterr()
        model.set_progress(2, 0.9)
        assert ("Nothing is drawn on" in capsys.readouterr().out) == (share > 0.1)
        model.set_progress(3, 0.91)
        assert "Nothing is drawn on" not in capsys.readouterr().out


def test_pictures_grow_to_their_full_size(capture: Path, tmp_path: Path) -> None:
    model = make_trainer(make_config(capture, tmp_path, num_downscales=2)).pipeline.dynamic_model
    views = Views(torch.eye(4)[None], torch.eye(3)[None], width=200, height=150)
    sizes = []
    for progress in (0.0, 0.3, 0.6):
        model.set_progress(0, progress)
        sizes.append(200 // model._downscale(views))
    assert sizes == [50, 100, 200]
    small = Views(torch.eye(4)[None], torch.eye(3)[None], width=40, height=40)
    model.set_progress(0, 0.0)
    assert model._downscale(small) == 1


def test_gaussians_stay_small_and_where_cameras_look(capture: Path, tmp_path: Path) -> None:
    """One stands above all pictures, one is too large, a small one is hidden behind others."""
    trainer = make_trainer(make_config(capture, tmp_path))
    model = trainer.pipeline.dynamic_model
    params = model.field.params
    start = params["scales"].detach().clone()
    limit = start.median().item() + math.log(model.config.max_scale)
    with torch.no_grad():
        params["opacities"].fill_(-3.0)
        params["opacities"][:10] = 2.0
        params["means"][0] = torch.tensor([0.0, 0.0, 4.0])  # 24 cameras stand 1.2 high around the origin
        params["scales"][1] = 1.0
        params["means"][2:10] = torch.tensor([1.0, 0.5, 0.5])  # of equal depth, so drawn in order
        params["scales"][2:9], params["scales"][9] = limit, limit - 2.0
    before = params["opacities"].detach().clone()
    for step, progress in ((199, 0.7), (200, 0.1), (200, 0.8)):  # no refining after it, small pictures, …
        model.set_progress(step, progress)  # … no more refining
        model._densify(step)
        assert torch.equal(params["opacities"], before)
    model.set_progress(200, 0.7)
    model._empty_unseen(200)
    params["opacities"].data[0] = 2.0
    model._empty_unseen(295)  # not looked for again: 24 images and four steps each
    assert params["opacities"][0] == 2.0
    model._empty_unseen(296)
    assert params["opacities"][[0, 9]].sigmoid().max() < 0.005
    assert params["opacities"][1:3].min() == 2.0
    assert params["scales"][1].max().item() == pytest.approx(limit, abs=1e-5)
    assert model.dynamics.training


@pytest.mark.parametrize("motion", ["ode", "committed", "mlp", "static"])
def test_unseen_gaussians_are_emptied_however_they_move(capture: Path, tmp_path: Path, motion: str) -> None:
    config = make_config(capture, tmp_path, motion="ode" if motion == "committed" else motion)
    config.pipeline.model.dynamics.largest_gap = 10.0  # of so short a training
    model = make_trainer(config).pipeline.dynamic_model
    model.set_progress(50, 0.7)
    if motion in ("ode", "committed"):
        model.dynamics.committed.fill_(motion == "committed")
    params = model.field.params
    with torch.no_grad():
        params["opacities"].fill_(-3.0)
        params["means"][0] = torch.tensor([0.0, 0.0, 4.0])  # above all pictures
    counts = model._count_seeing()
    assert counts[0] == 0
    assert counts[1:].max() == len(model._cameras)
    before = params["opacities"].detach().clone()
    model._empty_unseen(50)
    emptied = counts < model.config.min_views
    assert torch.equal(params["opacities"][~emptied], before[~emptied])
    assert params["opacities"][emptied].sigmoid().max() < 0.005


def test_a_few_cameras_have_no_say_in_where_gaussians_are(capture: Path, tmp_path: Path) -> None:
    """Nor does a limit of their size hold where it is switched off."""
    model = make_trainer(make_config(capture, tmp_path, max_scale=0.0)).pipeline.dynamic_model
    params = model.field.params
    with torch.no_grad():
        params["means"][0] = 1e3
        params["scales"][1] = 1.0
    model._cameras = [model._cameras[0] * 8, *model._cameras[1:3]]  # many images of one camera do not help
    model.set_progress(100, 0.7)
    before = params["opacities"].detach().clone()
    model._densify(101)
    model._empty_unseen(100)
    assert torch.equal(params["opacities"], before)
    assert params["scales"][1].max() == 1.0


@pytest.mark.parametrize("time", [-0.5, 0.0, 0.5, 1.0, 1.75])
def test_renders_at_any_time(trained: NestTrainer, time: float) -> None:
    model = trained.pipeline.dynamic_model
    camera = trained.pipeline.datamanager.train_dataset.cameras[:1]
    camera.times = torch.tensor([[time]])
    outputs = model.get_outputs_for_camera(camera)
    assert {"rgb", "depth", "accumulation", "motion"} <= outputs.keys()
    assert outputs["rgb"].shape == (48, 48, 3)
    for name in ("rgb", "depth", "accumulation", "motion"):
        assert outputs[name].isfinite().all(), name


def test_depth_is_distance_along_the_ray(trained: NestTrainer) -> None:
    """Where a ball is seen, the ray ends in it."""
    model = trained.pipeline.dynamic_model
    camera = trained.pipeline.datamanager.train_dataset.cameras[:1]
    outputs = model.get_outputs_for_camera(camera)
    rays = camera.generate_rays(camera_indices=0)
    points = rays.origins + rays.directions * outputs["depth"]
    solid = outputs["accumulation"][..., 0] > 0.5
    assert solid.sum() > 40
    centres = blobs(float(camera.times)).means
    assert torch.cdist(points[solid], centres).min(1).values.quantile(0.9) < 0.4


def test_turning_the_latent_turns_the_gaussians(trained: NestTrainer) -> None:
    model, g = trained.pipeline.dynamic_model, se3_exp(torch.randn(6))
    with torch.no_grad():
        latent = model.latent_at(0.3)
        torch.testing.assert_close(
            model.field(latent.turn_world(g)).means,
            se3_apply(g, model.field(latent).means),
            atol=1e-5,
            rtol=0,
        )


def test_cameras_without_times_play_the_clip(trained: NestTrainer) -> None:
    model = trained.pipeline.dynamic_model
    camera = trained.pipeline.datamanager.train_dataset.cameras[:1]
    camera.times = None
    first = model.get_outputs_for_camera(camera)["rgb"]
    for _ in range(17):
        later = model.get_outputs_for_camera(camera)["rgb"]
    assert (first - later).abs().max() > 0.1


def test_crop_box_hides_what_is_outside(trained: NestTrainer) -> None:
    from nerfstudio.data.scene_box import OrientedBox

    model = trained.pipeline.dynamic_model
    camera = trained.pipeline.datamanager.train_dataset.cameras[:1]
    whole = model.get_outputs_for_camera(camera)["accumulation"].sum()
    box = OrientedBox.from_params((0.6, 0.0, 0.0), (0.0, 0.0, 0.0), (0.8, 0.8, 2.0))
    part = model.get_outputs_for_camera(camera, obb_box=box)["accumulation"].sum()
    nothing = model.get_outputs_for_camera(
        camera, obb_box=OrientedBox.from_params((9.0, 0.0, 0.0), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    )["accumulation"].sum()
    assert 0 < part < 0.8 * whole
    assert nothing == 0


def test_checkpoint_restores_the_same_pictures(
    trained: NestTrainer, dense_capture: Path, tmp_path: Path
) -> None:
    trained.save_checkpoint(399)
    config = make_config(dense_capture, tmp_path, steps=400)
    config.load_checkpoint = trained.checkpoint_dir / "step-000000399.ckpt"
    loaded = make_trainer(config)
    assert loaded._start_step == 400
    for time in (0.2, 1.4):
        torch.testing.assert_close(
            loaded.pipeline.dynamic_model.eval().gaussians_at(time).means,
            trained.pipeline.dynamic_model.gaussians_at(time).means,
        )
    held = loaded.optimizers.optimizers["means"].param_groups[0]["params"][0]
    assert held is loaded.pipeline.dynamic_model.field.params["means"]


@pytest.mark.parametrize("strategy", ["mcmc", "default"])
@pytest.mark.parametrize("motion", ["ode", "mlp", "static"])
def test_every_motion_and_strategy_trains(capture: Path, tmp_path: Path, motion: str, strategy: str) -> None:
    trainer = make_trainer(make_config(capture, tmp_path, steps=25, motion=motion, strategy=strategy))
    trainer.train()
    assert trainer.step == 25 or trainer.stop_training


def test_an_empty_hull_starts_in_the_box(
    capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    trainer = make_trainer(make_config(capture, tmp_path))
    model, views = trainer.pipeline.dynamic_model, trainer.pipeline._views_in(None)
    from dataclasses import replace

    model.initialize([replace(view, alphas=torch.zeros_like(view.alphas)) for view in views])
    assert "visual hull is empty" in capsys.readouterr().out
    assert len(model.field) == 150


def test_a_part_that_no_two_of_the_first_views_see_in_one_place_is_in_the_start(
    capture: Path, tmp_path: Path
) -> None:
    model = make_trainer(make_config(capture, tmp_path)).pipeline.dynamic_model
    assert (model.field.params["means"][:, 0] > 0.4).float().mean() > 0.1  # the ball that swings


def test_seed_points_are_used(capture: Path, tmp_path: Path) -> None:
    model = make_trainer(make_config(capture, tmp_path)).pipeline.dynamic_model
    points, colors = torch.randn(90, 3), torch.randint(0, 256, (90, 3))
    model.initialize([], (points, colors))
    assert len(model.field) == 90
    # torch.cdist's default of matrix products is off by 1e-3 here
    offsets = model.field.params["means"].data[:, None] - points
    assert offsets.norm(dim=-1).min(1).values.max() < 1e-6
