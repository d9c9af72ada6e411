"""nest-dynamic as a model: it learns motion, hands it over to the ODE, and draws any time."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.engine.callbacks import TrainingCallbackLocation

from nest_nerfstudio.cameras import batch_to_views
from nest_nerfstudio.dynamics.fitter import FlowFit
from nest_nerfstudio.edits.scene_edit import SceneEdit
from nest_nerfstudio.edits.steps import Move
from nest_nerfstudio.geometry.se3 import se3_apply, se3_exp
from nest_nerfstudio.models.nest_dynamic import NestDynamicModel, NestDynamicModelConfig
from nest_nerfstudio.pipelines.nest_dynamic import NestDynamicPipeline
from nest_nerfstudio.pipelines.trainer import NestTrainer, TrainingFailed
from nest_nerfstudio.types import Points, Rendering, Views
from tests.small_capture import blobs, write_capture
from tests.small_run import make_config, make_trainer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dense_capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough views at every time for the hull of the first ones to hold the ball that moves."""
    return write_capture(tmp_path_factory.mktemp("capture"), {"train": 60, "val": 2, "test": 4})


@pytest.fixture(scope="module")
def trained(dense_capture: Path, tmp_path_factory: pytest.TempPathFactory) -> NestTrainer:
    config = make_config(dense_capture, tmp_path_factory.mktemp("run"), steps=400)
    fit = config.pipeline.model.flow_fit
    fit.fit_iterations, fit.fit_attempts, fit.motion = 2000, 2, "auto"  # fewer do not fit what swings
    trainer = make_trainer(config)
    trainer.train()
    trainer.pipeline.eval()
    return trainer


def pipeline_of(trainer: NestTrainer) -> NestDynamicPipeline:
    return cast(NestDynamicPipeline, trainer.pipeline)


def model_of(trainer: NestTrainer) -> NestDynamicModel:
    return pipeline_of(trainer).dynamic_model


def start(capture: Path, output: Path, max_gap: float = 10.0, **model: Any) -> NestTrainer:
    """Ready to train, where the ODE is quickly fitted, and by default takes over however bad it is."""
    config = make_config(capture, output, **model)
    fit = config.pipeline.model.flow_fit
    fit.max_gap, fit.fit_iterations = max_gap, 40
    return make_trainer(config)


def first_view(trainer: NestTrainer) -> Views:
    return batch_to_views(*pipeline_of(trainer).datamanager.next_train(0))


def train_camera(trainer: NestTrainer) -> Cameras:
    return pipeline_of(trainer).datamanager.train_dataset.cameras[:1]


def score(trainer: NestTrainer, split: str) -> float:
    """Mean PSNR over a split, dB."""
    manager, model = trainer.pipeline.datamanager, model_of(trainer)
    dataset = manager.read_split(split)
    model.eval()
    found = []
    for i in range(len(dataset)):
        outputs = model.get_outputs_for_camera(dataset.cameras[i : i + 1])
        found.append(model.get_image_metrics_and_images(outputs, dataset.get_data(i))[0]["psnr"])
    return sum(found) / len(found)


# ---------------------------------------------------------------- settings and start


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("cpu", {"num_random": 8000, "sh_degree": 1}),
        ("mps", {"num_random": 8000, "sh_degree": 1}),
        ("cuda", {"num_random": 20_000, "sh_degree": 3}),
    ],
)
def test_settings_that_are_unset_follow_the_device(device: str, expected: dict[str, int]) -> None:
    config = NestDynamicModelConfig()
    assert all(getattr(config, name) is None for name in expected)
    assert config.resolve(device) == expected
    assert {name: getattr(config, name) for name in expected} == expected
    assert config.resolve("cuda" if device == "cpu" else "cpu") == {}
    assert {name: getattr(config, name) for name in expected} == expected


def test_given_settings_stay() -> None:
    config = NestDynamicModelConfig(num_random=5, sh_degree=0)
    assert config.resolve("cuda") == {}
    assert (config.num_random, config.sh_degree) == (5, 0)


def test_warming_up_changes_nothing(capture: Path, tmp_path: Path) -> None:
    model = model_of(start(capture, tmp_path))
    before = {name: value.clone() for name, value in _tensors(model)}
    model.warm_up()
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, value in _tensors(model):
        assert torch.equal(value, before[name]), name


def _tensors(model: NestDynamicModel) -> list[tuple[str, torch.Tensor]]:
    return [(name, value) for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)]


def test_an_empty_hull_starts_in_the_box(
    capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    trainer = start(capture, tmp_path)
    model, views = model_of(trainer), list(pipeline_of(trainer).views_over_time())
    model.initialize([replace(view, alphas=torch.zeros_like(view.alphas)) for view in views])
    assert "visual hull is empty" in capsys.readouterr().out
    assert len(model.field) == 150


def test_a_part_that_no_two_of_the_first_views_see_in_one_place_is_in_the_start(
    capture: Path, tmp_path: Path
) -> None:
    model = model_of(start(capture, tmp_path))
    assert (model.field.params["means"][:, 0] > 0.4).float().mean() > 0.1  # the ball that swings


def test_seed_points_are_used(capture: Path, tmp_path: Path) -> None:
    model = model_of(start(capture, tmp_path))
    points = Points(torch.randn(90, 3), torch.rand(90, 3))
    model.initialize([], points)
    assert len(model.field) == 90
    # torch.cdist's default of matrix products is off by 1e-3 here
    offsets = model.field.params["means"].data[:, None] - points.positions
    distances, nearest = offsets.norm(dim=-1).min(1)
    assert distances.max() < 1e-6
    assert len(nearest.unique()) == 90
    seen = model.gaussians_at(0.5).sh[:, 0] * 0.28209479177387814 + 0.5
    torch.testing.assert_close(seen, points.rgb[nearest])


def test_tokens_stand_on_the_gaussians_and_nothing_moves_at_first(capture: Path, tmp_path: Path) -> None:
    model = model_of(start(capture, tmp_path))
    means = model.field.params["means"].data
    for time in (0.0, 0.4, 2.0):
        positions = model.scene().poses_at(time)[1]
        assert (positions[:, None] - means).norm(dim=-1).min(1).values.max() < 1e-5
        torch.testing.assert_close(model.gaussians_at(time).means, means, atol=1e-5, rtol=0)


# ---------------------------------------------------------------- schedule and hand-over


def test_stages_run_in_order(capture: Path, tmp_path: Path) -> None:
    pipeline = pipeline_of(start(capture, tmp_path))
    model = pipeline.dynamic_model
    pipeline.set_progress(0, 0.0)
    low, high = model.time_window()
    assert high - low == pytest.approx(model.config.curriculum.first_window, abs=0.02)
    pipeline.set_progress(20, 0.2)
    assert model.time_window()[1] - model.time_window()[0] > high - low
    pipeline.set_progress(40, 0.5)
    assert model.time_window() is None
    assert not model.fitter.rolls_out
    assert model.latent().motion.kind == "still"
    pipeline.set_progress(50, 0.7)
    assert model.fitter.rolls_out
    assert model.latent().motion.kind == "free"


def test_all_times_are_in_use_after_a_number_of_steps(capture: Path, tmp_path: Path) -> None:
    """A long training does not dwell on a part of the clip."""
    model = model_of(start(capture, tmp_path))
    steps = model.config.curriculum.widen_steps
    model.set_progress(steps - 1, 0.01)
    assert model.time_window() is not None
    model.set_progress(steps, 0.01)
    assert model.time_window() is None


def test_a_static_scene_is_trained_on_all_times_at_once(capture: Path, tmp_path: Path) -> None:
    model = model_of(start(capture, tmp_path, motion="static"))
    model.set_progress(0, 0.0)
    assert model.time_window() is None


def test_few_frames_ask_for_a_smooth_path(capture: Path, tmp_path: Path) -> None:
    """Where there are fewer than two training times for each node of the path, and only there."""
    trainer = start(capture, tmp_path)
    model = model_of(trainer)

    def losses() -> dict:
        trainer.pipeline.train()
        return trainer.pipeline.get_train_loss_dict(0)[1]

    expected = model.config.motion_weights.roughness * float(model.fitter.roughness())
    assert expected > 0
    assert float(losses()["roughness"]) == pytest.approx(expected)  # 24 times, 33 nodes
    model.num_times.fill_(66)
    assert "roughness" not in losses()


def test_few_frames_are_searched_for_cycles_themselves(
    capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they are few, and only there: errors of each image with the scene as at each time."""
    config = make_config(capture, tmp_path)
    config.pipeline.model.flow.steps_per_clip = 12  # 13 nodes
    config.pipeline.model.flow_fit.motion = "auto"
    trainer = make_trainer(config)
    pipeline, model = pipeline_of(trainer), model_of(trainer)
    torch.nn.init.normal_(model.fitter.free.pose_decoder.head[-1].weight)
    found: list[Any] = []

    def fit(flow: Any, arm: float, image_errors: Any, poses: Any) -> FlowFit:
        found.append(image_errors)
        return FlowFit(model.latent().motion, False, math.inf, "not looked for", False)

    monkeypatch.setattr(model.fitter, "fit", fit)
    for times, progress in ((26, 0.7), (24, 0.8)):
        model.num_times.fill_(times)
        pipeline.set_progress(50, progress)
    assert len(found) == 2
    assert found[0] is None
    errors, times = found[1]()
    assert errors.shape == (24, 25)
    torch.testing.assert_close(times, torch.linspace(0, 1, 24))
    view, background = list(pipeline.views_over_time())[5], model.shown_background(True)
    drawn = model.rasterize(model.gaussians_at(0.5), view, background).rgb
    torch.testing.assert_close(errors[5, 12], (drawn - view.over(background)).square().mean())
    assert errors.std(1).min() > 0


def test_does_not_hand_over_to_an_ode_that_leaves_the_path(
    capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pipeline = pipeline_of(start(capture, tmp_path, max_gap=0.0))
    model = pipeline.dynamic_model
    pipeline.set_progress(50, 0.7)
    assert not model.fitter.rolls_out
    printed = " ".join(capsys.readouterr().out.split())
    assert "does not take over yet; nothing moves beyond the clip" in printed
    model.config.flow_fit.max_gap = 10.0
    pipeline.set_progress(51, 0.71)
    assert not model.fitter.rolls_out  # tries again only after a while
    pipeline.set_progress(55, 0.76)
    assert model.fitter.rolls_out
    printed = " ".join(capsys.readouterr().out.split())
    assert "Motion is free, as asked for" in printed
    assert "The ODE takes over: its roll-out is" in printed


def test_hands_over_once_the_motion_has_settled(capture: Path, tmp_path: Path) -> None:
    pipeline = pipeline_of(start(capture, tmp_path))
    model = pipeline.dynamic_model
    decoder = model.fitter.free.pose_decoder
    torch.nn.init.normal_(decoder.head[-1].weight)
    for step, progress in enumerate((0.3, 0.4, 0.61, 0.64)):  # full-size images from 0.6 on
        if progress < 0.64:
            torch.nn.init.normal_(decoder.head[-1].weight)
        pipeline.set_progress(step, progress)
        assert model.fitter.rolls_out == (progress == 0.64)


def test_the_scene_that_is_shown_follows_the_hand_over(capture: Path, tmp_path: Path) -> None:
    """Beyond the clip the free path stands still, and the ODE runs on."""
    trainer = start(capture, tmp_path)
    pipeline, model = pipeline_of(trainer), model_of(trainer)
    torch.nn.init.normal_(model.fitter.free.pose_decoder.head[-1].weight)
    before = [model.gaussians_at(time).means for time in (1.0, 1.3)]
    assert torch.equal(*before)
    pipeline.set_progress(50, 0.7)
    trainer.pipeline.get_train_loss_dict(50)
    after = [model.gaussians_at(time).means for time in (1.0, 1.3)]
    assert (after[0] - after[1]).abs().max() > 1e-3


def test_says_that_something_is_missing(capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    trainer = start(capture, tmp_path, motion="mlp")
    model, views = model_of(trainer), first_view(trainer)
    model.set_progress(0, 0.5)
    assert views.alphas is not None
    for share in (0.0, 0.5):
        alphas = views.alphas.clone()
        alphas[(alphas > 0.5) & (torch.rand(alphas.shape) < share)] = 0.0
        rendering = Rendering(views.over(torch.zeros(3)), alphas)
        outputs = {"rendering": rendering, "views": views, "background": torch.zeros(3)}
        for _ in range(500):
            found = model.get_metrics_dict(outputs)["missing"]
        assert found == pytest.approx(share, abs=0.1)
        model.set_progress(1, 0.89)
        capsys.readouterr()
        model.set_progress(2, 0.9)
        assert ("Nothing is drawn on" in capsys.readouterr().out) == (share > 0.1)
        model.set_progress(3, 0.91)
        assert "Nothing is drawn on" not in capsys.readouterr().out


def test_a_static_baseline_is_not_warned_of_what_moves(
    capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    model = model_of(start(capture, tmp_path, motion="static"))
    model.coverage.missing.fill_(0.5)
    model.set_progress(1, 0.89)
    model.set_progress(2, 0.9)
    assert "Nothing is drawn on" not in capsys.readouterr().out


def throw(trainer: NestTrainer) -> None:
    """Have the motion carry the object far out of all images, as an unlucky step may."""
    with torch.no_grad():
        model_of(trainer).fitter.free.pose_decoder.head[-1].bias += 30.0  # type: ignore[operator]


def test_what_leaves_all_images_is_brought_back(
    capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    trainer = start(capture, tmp_path)
    throw(trainer)
    for step in range(80):
        trainer.train_iteration(step)
    assert model_of(trainer).coverage.times_lost == 1
    assert model_of(trainer).coverage.blank_steps == 0
    assert pipeline_of(trainer).failure() is None
    printed = " ".join(capsys.readouterr().out.split())
    assert "Nothing is drawn: all Gaussians have left the images" in printed
    assert "Starting again, without motion" in printed


@pytest.mark.parametrize("motion", ["ode", "mlp", "static"])
def test_gaussians_that_have_left_are_brought_back(capture: Path, tmp_path: Path, motion: str) -> None:
    trainer = start(capture, tmp_path, motion=motion)
    model = model_of(trainer)
    with torch.no_grad():
        model.field.params["means"] += 50.0
    for step in range(80):
        trainer.train_iteration(step)
    assert model.coverage.times_lost == 1
    assert model.coverage.blank_steps == 0


def test_a_training_that_draws_nothing_has_failed(
    capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    trainer = start(capture, tmp_path)
    model_of(trainer).coverage.times_lost.fill_(3)  # no more tries
    throw(trainer)
    with pytest.raises(TrainingFailed, match="nothing is drawn: all Gaussians have left the images"):
        trainer.train()
    assert "Training failed" in capsys.readouterr().out
    assert list(trainer.checkpoint_dir.glob("step-*.ckpt"))  # to be looked at


def test_images_grow_to_their_full_size(capture: Path, tmp_path: Path) -> None:
    trainer = start(capture, tmp_path)
    model, small = model_of(trainer).train(), first_view(trainer)
    large = replace(
        small,
        width=200,
        height=150,
        images=torch.rand(1, 150, 200, 3),
        alphas=torch.ones(1, 150, 200, 1),
    )
    sizes = []
    for progress in (0.0, 0.3, 0.6):
        model.set_progress(0, progress)
        outputs = model.get_outputs(large)
        sizes.append(outputs["views"].width)
        assert outputs["rendering"].rgb.shape == (1, *outputs["views"].images.shape[1:])
    assert sizes == [50, 100, 200]
    model.set_progress(0, 0.0)
    assert model.get_outputs(replace(large, **_cropped(large, 40)))["views"].width == 40
    assert model.eval().get_outputs(large)["views"].width == 200


def _cropped(views: Views, size: int) -> dict[str, Any]:
    assert views.images is not None
    assert views.alphas is not None
    images, alphas = views.images[:, :size, :size], views.alphas[:, :size, :size]
    return {"images": images, "alphas": alphas, "width": size, "height": size}


# ---------------------------------------------------------------- densification


def test_gaussians_stay_small_and_where_cameras_look(capture: Path, tmp_path: Path) -> None:
    """One stands above all images, one is too large, a small one is hidden behind others."""
    trainer = start(capture, tmp_path)
    model = model_of(trainer)
    params, densification = model.field.params, model.densification
    limit = params["scales"].detach().median().item() + math.log(model.config.densification.max_scale)
    with torch.no_grad():
        params["opacities"].fill_(-3.0)
        params["opacities"][:10] = 2.0
        params["means"][0] = torch.tensor([0.0, 0.0, 4.0])  # 24 cameras stand 1.2 high around the origin
        params["scales"][1] = 1.0
        params["means"][2:10] = torch.tensor([1.0, 0.5, 0.5])  # of equal depth, so drawn in order
        params["scales"][2:9], params["scales"][9] = limit, limit - 2.0
    before = params["opacities"].detach().clone()
    for step, progress in ((199, 0.7), (200, 0.1), (200, 0.8)):  # no refining after it, small images, …
        model.set_progress(step, progress)  # … no more refining
        after_step(trainer, step)
        assert torch.equal(params["opacities"], before)
    model.set_progress(200, 0.7)
    densification.empty_unseen(model.field, 200, model.visible_shares())
    params["opacities"].data[0] = 2.0
    densification.empty_unseen(model.field, 295, model.visible_shares())
    assert params["opacities"][0] == 2.0  # not looked for again: 24 images and four steps each
    densification.empty_unseen(model.field, 296, model.visible_shares())
    assert params["opacities"][[0, 9]].sigmoid().max() < 0.005
    assert params["opacities"][1:3].min() == 2.0
    assert params["scales"][1].max().item() == pytest.approx(limit, abs=1e-5)
    assert model.training


def after_step(trainer: NestTrainer, step: int) -> None:
    """What nerfstudio calls after a training step."""
    assert trainer.callbacks
    for callback in trainer.callbacks:
        callback.run_callback_at_location(step, TrainingCallbackLocation.AFTER_TRAIN_ITERATION)


@pytest.mark.parametrize("motion", ["ode", "roll-out", "mlp", "static"])
def test_unseen_gaussians_are_emptied_however_they_move(capture: Path, tmp_path: Path, motion: str) -> None:
    trainer = start(capture, tmp_path, motion="ode" if motion == "roll-out" else motion)
    model, densification = model_of(trainer), model_of(trainer).densification
    pipeline_of(trainer).set_progress(50, 0.7 if motion == "roll-out" else 0.5)
    if motion in ("ode", "roll-out"):
        assert model.fitter.rolls_out == (motion == "roll-out")
    params = model.field.params
    with torch.no_grad():
        params["opacities"].fill_(-3.0)
        params["means"][0] = torch.tensor([0.0, 0.0, 4.0])  # above all images
    counts = densification.count_seeing(model.field, model.visible_shares())
    assert counts[0] == 0
    assert counts[1:].max() == len(densification.cameras) == 24
    before = params["opacities"].detach().clone()
    densification.empty_unseen(model.field, 50, model.visible_shares())
    emptied = counts < model.config.densification.min_views
    assert torch.equal(params["opacities"][~emptied], before[~emptied])
    assert params["opacities"][emptied].sigmoid().max() < 0.005


def test_a_few_cameras_have_no_say_in_where_gaussians_are(capture: Path, tmp_path: Path) -> None:
    """Nor does a limit of their size hold where it is switched off."""
    config = make_config(capture, tmp_path)
    config.pipeline.model.densification.max_scale = 0.0
    trainer = make_trainer(config)
    model, densification = model_of(trainer), model_of(trainer).densification
    params, cameras = model.field.params, model_of(trainer).densification.cameras
    with torch.no_grad():
        params["means"][0] = 1e3
        params["scales"][1] = 1.0
    densification.cameras = [[*cameras[0]] * 8, *cameras[1:3]]  # many images of one camera do not help
    model.set_progress(100, 0.7)
    before = params["opacities"].detach().clone()
    after_step(trainer, 101)
    densification.empty_unseen(model.field, 100, model.visible_shares())
    assert torch.equal(params["opacities"], before)
    assert params["scales"][1].max() == 1.0


# ---------------------------------------------------------------- what is trained and shown


@pytest.mark.parametrize("strategy", ["mcmc", "default"])
@pytest.mark.parametrize("motion", ["ode", "mlp", "static"])
def test_every_motion_and_strategy_trains(capture: Path, tmp_path: Path, motion: str, strategy: str) -> None:
    trainer = start(capture, tmp_path, steps=25, motion=motion, strategy=strategy)
    before = {name: value.clone() for name, value in model_of(trainer).named_parameters()}
    trainer.train()
    assert trainer.step == 24
    moved = [n for n, value in model_of(trainer).named_parameters() if not torch.equal(value, before[n])]
    part = {"ode": "fitter.free", "mlp": "deformation", "static": "field"}[motion]
    assert any(name.startswith(part) for name in moved)
    assert all(value.isfinite().all() for value in model_of(trainer).parameters())


def test_an_edit_is_shown_and_not_trained_on(capture: Path, tmp_path: Path) -> None:
    trainer = start(capture, tmp_path)
    model, view = model_of(trainer).eval(), first_view(trainer)
    trained_on, shown = model.get_outputs(view)["rendering"].rgb, model.gaussians_at(0.5).means
    model.edit = SceneEdit((Move(translation=(0.0, 0.0, 0.7)),))
    assert torch.equal(model.get_outputs(view)["rendering"].rgb, trained_on)
    torch.testing.assert_close(model.gaussians_at(0.5).means, shown + torch.tensor([0.0, 0.0, 0.7]))
    model.edit = None
    assert torch.equal(model.gaussians_at(0.5).means, shown)


@pytest.mark.slow
def test_training_learns_the_motion(trained: NestTrainer, dense_capture: Path, tmp_path: Path) -> None:
    """Better than the same Gaussians without motion, on views and times not trained on."""
    static = make_trainer(make_config(dense_capture, tmp_path, steps=400, motion="static"))
    static.train()
    assert score(trained, "test") > score(static, "test") + 1.0
    assert model_of(trained).fitter.rolls_out


@pytest.mark.parametrize("time", [-0.5, 0.0, 0.5, 1.0, 1.75])
def test_renders_at_any_time(trained: NestTrainer, time: float) -> None:
    model, camera = model_of(trained), train_camera(trained)
    camera.times = torch.tensor([[time]])
    outputs = model.get_outputs_for_camera(camera)
    assert {"rgb", "depth", "accumulation", "motion"} <= outputs.keys()
    assert outputs["rgb"].shape == (48, 48, 3)
    for name in ("rgb", "depth", "accumulation", "motion"):
        assert outputs[name].isfinite().all(), name
    assert outputs["accumulation"].max() > 0.5


def test_depth_is_distance_along_the_ray(trained: NestTrainer) -> None:
    """Where a ball is seen, the ray ends in it."""
    camera = train_camera(trained)
    outputs = model_of(trained).get_outputs_for_camera(camera)
    rays = camera.generate_rays(camera_indices=0)
    points = rays.origins + rays.directions * outputs["depth"]
    solid = outputs["accumulation"][..., 0] > 0.5
    assert solid.sum() > 40
    centres = blobs(float(camera.times)).means
    assert torch.cdist(points[solid], centres).min(1).values.quantile(0.9) < 0.4


def test_turning_the_latent_turns_the_gaussians(trained: NestTrainer) -> None:
    model, g = model_of(trained), se3_exp(torch.randn(6))
    with torch.no_grad():
        latent = model.latent()
        turned = model.decode(latent.turn_world(g), model.fitter.dynamics(model.flow))
        for time in (0.3, 1.4):
            expected = se3_apply(g, model.gaussians_at(time).means)
            torch.testing.assert_close(turned.gaussians_at(time).means, expected, atol=1e-5, rtol=0)


def test_cameras_without_times_play_the_clip(trained: NestTrainer) -> None:
    model, camera = model_of(trained), train_camera(trained)
    path = Cameras(camera.camera_to_worlds.repeat(18, 1, 1), camera.fx[0], camera.fy[0], 24.0, 24.0, 48, 48)
    first, last = (model.get_outputs_for_camera(path[i : i + 1])["rgb"] for i in (0, 17))
    assert (first - last).abs().max() > 0.1


def test_crop_box_hides_what_is_outside(trained: NestTrainer) -> None:
    model, camera = model_of(trained), train_camera(trained)
    whole = model.get_outputs_for_camera(camera)["accumulation"].sum()
    box = OrientedBox.from_params((0.6, 0.0, 0.0), (0.0, 0.0, 0.0), (0.8, 0.8, 2.0))
    part = model.get_outputs_for_camera(camera, obb_box=box)["accumulation"].sum()
    nothing = model.get_outputs_for_camera(
        camera, obb_box=OrientedBox.from_params((9.0, 0.0, 0.0), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    )["accumulation"].sum()
    assert 0 < part < 0.8 * whole
    assert nothing == 0


def test_checkpoint_restores_the_same_images(
    trained: NestTrainer, dense_capture: Path, tmp_path: Path
) -> None:
    trained.save_checkpoint(399)
    config = make_config(dense_capture, tmp_path, steps=400)
    config.load_checkpoint = trained.checkpoint_dir / "step-000000399.ckpt"
    loaded = make_trainer(config)
    assert loaded._start_step == 400
    model_of(loaded).eval()
    for time in (0.2, 1.4):
        torch.testing.assert_close(
            model_of(loaded).gaussians_at(time).means, model_of(trained).gaussians_at(time).means
        )
    held = loaded.optimizers.optimizers["means"].param_groups[0]["params"][0]
    assert held is model_of(loaded).field.params["means"]
