"""nest-prior as a user meets it: it trains, scores, draws, is reloaded, and runs in two processes."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import trimesh
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.utils.eval_utils import eval_setup

from nest_nerfstudio.edits.states import to_state
from nest_nerfstudio.io.point_clouds import read_cloud
from nest_nerfstudio.io.splats import read_splat_ply
from nest_nerfstudio.models.decoded_scene import DecodedScene
from nest_nerfstudio.models.nest_prior import NestPriorModel
from nest_nerfstudio.pipelines.nest_prior import NestPriorPipeline
from nest_nerfstudio.pipelines.trainer import NestTrainer
from nest_nerfstudio.scripts.export import EncodedScenes, splat
from nest_nerfstudio.states import Edit, SunSky
from nest_nerfstudio.types import Views
from tests.ball_scenes import NUM_SCENES, make_prior_config, write_ball_scenes
from tests.processes import run_processes

pytestmark = pytest.mark.slow

STEPS = 60


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ball_scenes(tmp_path_factory.mktemp("scenes"))


def make_trainer(scenes: Path, output: Path, steps: int = 4) -> NestTrainer:
    torch.manual_seed(0)
    trainer = make_prior_config(scenes, output, steps).setup()
    trainer.setup()
    return trainer


@pytest.fixture(scope="module")
def trained(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> NestTrainer:
    trainer = make_trainer(scenes, tmp_path_factory.mktemp("prior"), STEPS)
    trainer.config.save_config()
    trainer.train()
    return trainer


def background_psnr(pipeline: NestPriorPipeline) -> float:
    """Mean score of images that show nothing, over the unedited targets of the held-out scenes, dB."""
    found = []
    for sample in pipeline.datamanager.eval_samples(4):
        for edit, views in sample.targets:
            if edit == sample.edit:
                target = views.over(torch.ones(3))
                found += [float(-10 * (1 - image).square().mean().log10()) for image in target]
    return sum(found) / len(found)


def test_unseen_scenes_are_drawn_better_than_before(
    scenes: Path, trained: NestTrainer, tmp_path: Path
) -> None:
    untrained = make_trainer(scenes, tmp_path).pipeline
    before, nothing = untrained.get_average_eval_image_metrics(), background_psnr(untrained)
    after = trained.pipeline.get_average_eval_image_metrics(output_path=tmp_path / "shown")
    assert after["psnr"] > before["psnr"] + 2
    assert after["psnr/4_views"] > nothing + 4
    assert after["psnr/1_views"] > nothing + 1
    assert {"psnr/1_views", "psnr/4_views/balls", "ssim/4_views", "psnr/4_views/translate"} <= set(after)
    assert abs(after["psnr/4_views/translate"] - after["psnr/4_views"]) < 3
    assert after["psnr_refined/4_views"] > after["psnr/4_views"]
    assert after["psnr_refined/1_views"] == pytest.approx(after["psnr/1_views"])
    # one scene is held out, of which 2 + 1 test views are drawn from 1 and from 4 context views, also refined
    assert len(list((tmp_path / "shown").iterdir())) == 12


def test_reloaded_as_ns_eval_does(trained: NestTrainer) -> None:
    expected = trained.pipeline.get_average_eval_image_metrics(get_std=True)
    _, pipeline, _, step = eval_setup(trained.base_dir / "config.yml", test_mode="test")
    assert step == STEPS - 1
    assert pipeline.get_average_eval_image_metrics(get_std=True) == pytest.approx(expected, abs=1e-3)
    assert pipeline.progress > 0.9


def test_a_camera_shows_its_scene_and_others_the_chosen_one(trained: NestTrainer) -> None:
    pipeline = trained.pipeline
    pipeline.eval()
    model, camera = pipeline.model, pipeline.datamanager.train_dataset.cameras[0:1]

    def shown(scene: int | None) -> torch.Tensor:
        camera.metadata = None if scene is None else {"scene": torch.tensor([[scene]])}
        return model.get_outputs_for_camera(camera)["rgb"]

    first, second = shown(0), shown(1)
    assert (first - second).abs().max() > 0.1
    model.viewer_controls.scene = 1
    assert torch.equal(shown(None), second)
    model.viewer_controls.scene = 0
    assert torch.equal(shown(None), first)
    model.viewer_controls.num_views = 1
    assert (shown(None) - first).abs().max() > 0.01
    outputs = model.get_outputs_for_camera(camera)
    assert set(outputs) == {"rgb", "accumulation", "depth", "background"}
    assert outputs["depth"].shape == (*first.shape[:2], 1)


def test_more_views_than_a_scene_has_are_left_out(trained: NestTrainer) -> None:
    """Of 6 there are; what was scored with fewer is not lost."""
    config = trained.pipeline.config
    before, config.eval_context = config.eval_context, (6, 7)
    try:
        scores = trained.pipeline.get_average_eval_image_metrics()
    finally:
        config.eval_context = before
    assert "psnr/6_views" in scores
    assert not [key for key in scores if "7_views" in key]


def test_eval_loss_and_images(trained: NestTrainer) -> None:
    _, losses, metrics = trained.pipeline.get_eval_loss_dict(0)
    assert all(loss.isfinite() for loss in losses.values())
    nothing = background_psnr(trained.pipeline)
    assert metrics["psnr"] > nothing + 0.5
    scores, images = trained.pipeline.get_eval_image_metrics_and_images(0)
    assert scores["psnr"] > nothing + 3
    assert images["img"].shape[-1] == 3


def test_task_weights_can_be_switched_off(scenes: Path, tmp_path: Path) -> None:
    config = make_prior_config(scenes, tmp_path)
    config.pipeline.model.learn_weights = False
    trainer = config.setup()
    trainer.setup()
    outputs, losses, metrics = trainer.pipeline.get_train_loss_dict(0)
    for name, loss in losses.items():
        assert float(loss.detach()) == pytest.approx(float(metrics[f"{name}_loss"]))
    assert not any(p.requires_grad for p in trainer.pipeline.model.weights.parameters())
    del outputs


def test_an_unknown_light_is_told_from_half_of_its_images(trained: NestTrainer) -> None:
    model, data = trained.pipeline.model.eval(), trained.pipeline.datamanager
    sample = data.eval_sample(data.held_out[0], 4)
    views = sample.context
    with torch.no_grad():
        latent = model.encoder(sample.context)
        reached = model._in_state(latent, sample.edit, Edit(light=None, yaw=0.4), views)
        assert reached is not None
        moved = to_state(latent, model.field, Edit(yaw=0.4), sample.edit)
        assert torch.equal(reached[0].light, model.encoder(views.select(slice(2))).light)
        assert not torch.equal(reached[0].light, latent.light)
        for name in ("quats", "translations", "geometry", "appearance"):
            assert torch.equal(getattr(reached[0], name), getattr(moved, name)), name
        torch.testing.assert_close(reached[1].viewmats, views.viewmats[2:])
        alone = views.select(slice(1))
        assert model._in_state(latent, sample.edit, Edit(light=None), alone) is None
        known = model._in_state(latent, sample.edit, Edit(light=SunSky(sun=1.0)), views)
    assert known is not None
    assert known[1] is views


def export_scenes(config: Path, output: Path, **scenes) -> list[Path]:
    return splat(config, output, scenes=EncodedScenes(**scenes))


def test_exported_scenes_are_what_the_model_decodes(
    scenes: Path, trained: NestTrainer, tmp_path: Path
) -> None:
    config, model = trained.base_dir / "config.yml", trained.pipeline.model
    data = trained.pipeline.datamanager
    (path,) = export_scenes(config, tmp_path, num_views=4, refined=False)  # the one that is held out
    assert path == tmp_path / f"{data.index.entries[data.held_out[0]].name}.ply"
    found = read_splat_ply(path)
    with torch.no_grad():
        latent = model.latent_of(data.held_out[0], 4)
        expected = DecodedScene(latent, model.field, model.flow).gaussians_at(0.0)
    torch.testing.assert_close(found.means, expected.means)
    torch.testing.assert_close(found.sh, expected.sh)
    (again,) = export_scenes(config, tmp_path / "refined", names=(path.stem,), num_views=4)
    assert not torch.allclose(read_splat_ply(again).means, found.means, atol=1e-4)
    everything = export_scenes(config, tmp_path / "all", data=scenes, num_views=4, refined=False)
    assert {p.stem for p in everything} == {entry.name for entry in data.index.entries}
    assert (tmp_path / "all" / path.name).read_bytes() == path.read_bytes()
    one = data.index.entries[0].folder
    (alone,) = export_scenes(config, tmp_path / "one", data=one, scene_format="blender-data", refined=False)
    assert alone.name == f"{one.name}.ply"
    with pytest.raises(ValueError, match=r"--scenes\.scene-format blender-data says how to"):
        export_scenes(config, tmp_path, scene_format="blender-data")
    with pytest.raises(ValueError, match=r"--scenes\.num-views 0"):
        export_scenes(config, tmp_path, num_views=0)
    with pytest.raises(ValueError, match="no scene moon"):
        export_scenes(config, tmp_path, names=("moon",))
    with pytest.raises(ValueError, match="two scenes or clouds have one name"):
        export_scenes(config, tmp_path, names=(path.stem,), clouds=(write_cloud(tmp_path / path.name),))
    with pytest.raises(ValueError, match="does not move, so it is the same at all times"):
        splat(config, tmp_path, num_times=2, scenes=EncodedScenes(num_views=4, refined=False))
    with pytest.raises(ValueError, match="--original-frame is for runs of one scene"):
        splat(config, tmp_path, original_frame=True)


def write_cloud(path: Path, size: float = 0.5) -> Path:
    """Points on a sphere, red above and blue below."""
    places = F.normalize(torch.randn(800, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    above = places[:, 2:].numpy() > 0
    colors = np.where(above, [[255, 0, 0]], [[0, 0, 255]]).astype(np.uint8)
    trimesh.PointCloud(size * places.numpy(), colors).export(str(path))
    return path


def test_clouds_are_encoded_by_models_that_have_seen_some(trained: NestTrainer, tmp_path: Path) -> None:
    model, cloud = trained.pipeline.model, write_cloud(tmp_path / "sphere.ply")
    with pytest.raises(ValueError, match=r"trained on images alone.*from-points"):
        export_scenes(trained.base_dir / "config.yml", tmp_path, clouds=(cloud,))
    before, model.config.from_points = model.config.from_points, 0.5
    try:
        with pytest.raises(ValueError, match=r"reaches 40 units .* within 1\.25: shift and scale"):
            model.latent_of_cloud(read_cloud(write_cloud(tmp_path / "large.ply", 40.0)))
        with torch.no_grad():
            latent = model.latent_of_cloud(read_cloud(cloud))
    finally:
        model.config.from_points = before
    assert latent.translations.norm(dim=1).median() == pytest.approx(0.5, abs=0.1)


def test_points_can_stand_in_for_views_in_training(trained: NestTrainer) -> None:
    model, data = trained.pipeline.model, trained.pipeline.datamanager
    sample = data.eval_sample(data.held_out[0], 4)
    before, model.config.from_points = model.config.from_points, 1.0
    try:
        assert model.eval()._input(sample.context)[1] is None
        views, points = model.train()._input(sample.context)
        few, none = model._input(sample.context.select(slice(2)))
        bare = model._input(replace(sample.context, alphas=None))[1]
        loss = model.get_outputs([sample])["losses"]["photometric"]
    finally:
        model.config.from_points = before
        model.eval()
    assert views is None
    assert points is not None
    assert points.positions.norm(dim=1).max() < model.config.encoder.radius + 0.1
    assert few is not None
    assert none is None
    assert bare is None
    model.zero_grad(set_to_none=True)
    loss.backward()
    assert any(p.grad is not None and p.grad.any() for p in model.encoder.point_sampler.parameters())
    assert all(p.grad is None for p in model.encoder.proposal_network.image_features.parameters())


def with_noise(views: Views, masks: torch.Tensor) -> Views:
    assert views.images is not None
    assert views.alphas is not None
    return replace(
        views,
        masks=masks,
        images=torch.where(masks > 0, views.images, torch.rand_like(views.images)),
        alphas=torch.where(masks > 0, views.alphas, torch.rand_like(views.alphas).round()),
    )


def test_what_is_masked_out_changes_no_loss_and_no_score(
    trained: NestTrainer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    pipeline = cast(NestPriorPipeline, trained.pipeline)
    model, data = cast(NestPriorModel, pipeline.model.eval()), pipeline.datamanager
    sample = data.eval_sample(data.held_out[0], 2)
    masks = [
        torch.ones(len(v), v.height, v.width, 1) for v in (sample.context, *(v for _, v in sample.targets))
    ]
    for mask in masks:
        mask[:, 14:26, 20:34] = 0
    masks[1][0] = 0
    losses, scores = [], []
    for _ in range(2):
        targets = [(e, with_noise(v, m)) for (e, v), m in zip(sample.targets, masks[1:], strict=True)]
        noisy = replace(sample, context=with_noise(sample.context, masks[0]), targets=tuple(targets))
        torch.manual_seed(0)
        with torch.no_grad():
            losses.append({k: float(v) for k, v in model.get_outputs([noisy])["means"].items()})
            scores.append([s for _, s, _ in model.score(model.encoder(noisy.context), noisy)])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert {"photometric", "alpha"} <= losses[0].keys()
    assert len(scores[0]) == sum(len(v) for _, v in sample.targets) - 1  # of one image nothing is to be used
    for one, other in zip(*scores, strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    monkeypatch.setattr(type(data), "eval_samples", lambda self, count: iter([noisy]))
    found = pipeline.get_average_eval_image_metrics()
    assert 0.8 < found["share_used"] < 0.95
    assert "Scores are of the pixels that masks leave to use" in " ".join(capsys.readouterr().out.split())


def test_known_lights_are_swapped_in_training(trained: NestTrainer) -> None:
    model, data = trained.pipeline.model, trained.pipeline.datamanager
    views = data.eval_sample(data.held_out[0], 4).context
    latent, relit = model.encoder(views), Edit(light=SunSky(sun=1.0))
    model.zero_grad(set_to_none=True)
    before, model.config.swap_light = model.config.swap_light, 1.0
    try:
        in_training = model.train()._in_state(latent, Edit(), relit, views)
        shown = model.eval()._in_state(latent, Edit(), relit, views)
    finally:
        model.config.swap_light = before
    assert in_training is not None
    assert shown is not None
    assert (len(in_training[1]), len(shown[1])) == (2, 4)
    in_training[0].light.sum().backward()
    assert model.encoder.to_light.weight.grad is not None


def test_a_named_scene_is_shown_first(scenes: Path, tmp_path: Path) -> None:
    config = make_prior_config(scenes, tmp_path)
    config.pipeline.model.shown_scene, config.pipeline.model.shown_views = "balls_4", 2
    trainer = config.setup()
    trainer.setup()
    controls = trainer.pipeline.model.viewer_controls
    assert (controls.scene, controls.num_views) == (4, 2)
    config.pipeline.model.shown_scene = "none"
    with pytest.raises(ValueError, match="no scene none"):
        config.setup().setup()


def test_weights_that_changed_are_encoded_with(trained: NestTrainer) -> None:
    """Kept from frame to frame, although the viewer switches the mode, but not over a training step."""
    model = trained.pipeline.model
    first = model.eval().latent_of(0, 2)
    assert model.train().eval().latent_of(0, 2) is first
    trained.pipeline.get_train_loss_dict(0)
    assert model.latent_of(0, 2) is not first


def test_a_model_without_data_says_so(trained: NestTrainer) -> None:
    model = trained.pipeline.config.model.setup(scene_box=None, num_train_data=1)
    camera = Cameras(torch.eye(4)[None, :3], 50.0, 50.0, 24.0, 24.0, 48, 48)
    with pytest.raises(RuntimeError, match="no scenes to show"):
        model.get_outputs_for_camera(camera)


PROCESS = """
import sys, torch
from pathlib import Path
from tests.ball_scenes import make_prior_config
scenes, output, batch = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
config = make_prior_config(scenes, output, 3)
config.timestamp = "run"
config.max_minutes = float(sys.argv[4])
config.pipeline.datamanager.scenes_per_batch = batch
torch.manual_seed(0)
trainer = config.setup()
trainer.setup()
pipeline = trainer.pipeline
pipeline.model.config.background_color = "white"
pipeline.train()
_, losses, _ = pipeline.get_train_loss_dict(0)
sum(losses.values()).backward()
if trainer.pipeline.datamanager.rank == 0:
    grads = {name: p.grad for name, p in pipeline.model.named_parameters() if p.grad is not None}
    torch.save(grads, output / "grads.pt")
for p in pipeline.model.parameters():
    p.grad = None
trainer.train()
"""


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_one_and_resume(scenes: Path, tmp_path: Path) -> None:
    """gloo, on this CPU: the averaged gradient is that of the joint batch."""

    def run(name: str, processes: int, batch: int, minutes: float = 0.0) -> Path:
        output = tmp_path / name
        output.mkdir()
        run_processes(PROCESS, output, (scenes, output, batch, minutes), processes)
        return output

    joint, shared = (torch.load(run(*how) / "grads.pt") for how in (("one", 1, 2), ("two", 2, 1)))
    assert joint.keys() == shared.keys()
    for name, gradient in joint.items():
        torch.testing.assert_close(shared[name], gradient, atol=1e-6, rtol=1e-3, msg=name)
    # by time: both end together, although their clocks differ
    assert list(run("timed", 2, 1, minutes=0.05).rglob("*.ckpt"))
    checkpoints = list((tmp_path / "two").rglob("*.ckpt"))
    assert len(checkpoints) == 1
    config = make_prior_config(scenes, tmp_path / "resumed", 6)
    config.load_dir = checkpoints[0].parent
    trainer = config.setup()
    trainer.setup()
    assert trainer._start_step == 3
    trainer.train()
    assert len(trainer.pipeline.datamanager.index) == NUM_SCENES
