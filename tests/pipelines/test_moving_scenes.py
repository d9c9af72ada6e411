"""nest-prior of scenes that move, as a user meets it."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from nerfstudio.utils.eval_utils import eval_setup

from nest_nerfstudio.dynamics.orbit import Orbit
from nest_nerfstudio.edits.scene_edit import EditError, SceneEdit
from nest_nerfstudio.edits.steps import GenerateMotion, Swap
from nest_nerfstudio.method_configs.nest_dynamic import nest_dynamic
from nest_nerfstudio.models.nest_prior_config import NestPriorModelConfig
from nest_nerfstudio.models.playable import playable
from nest_nerfstudio.models.runs import load_run
from nest_nerfstudio.pipelines.trainer import NestTrainer
from tests.ball_scenes import make_moving_config, trained_prior, write_ball_scenes, write_moving_scenes
from tests.processes import run_processes
from tests.small_inversion import make_invert_config, start_inversion, train_prior

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> NestTrainer:
    folder = tmp_path_factory.mktemp("moving")
    config = make_moving_config(write_moving_scenes(folder / "scenes"), folder / "runs", steps=40)
    torch.manual_seed(0)
    trainer = config.setup()
    trainer.setup()
    config.save_config()
    trainer.train()
    trainer.pipeline.eval()
    return trainer


def test_an_encoded_scene_plays_and_stands_as_encoded_at_rest(trained: NestTrainer) -> None:
    model = trained.pipeline.model
    scene = model.scene(0, 4)
    assert scene.moves
    rest, moved = (scene.gaussians_at(time).means for time in (0.0, 0.3))
    still = scene.moving_as(model.encoder(model.contexts[0, 4]).motion)
    assert torch.allclose(rest, still.gaussians_at(0.3).means, atol=1e-5)
    assert (moved - rest).norm(dim=1).max() > 1e-3
    assert isinstance(playable(scene, 0.0, 1.0).path, Orbit)


def test_scores_are_also_of_other_times_and_a_reloaded_run_gives_the_same(trained: NestTrainer) -> None:
    scores = trained.pipeline.get_average_eval_image_metrics()
    assert scores["psnr/4_views/motion"] > 5
    pipeline = eval_setup(trained.base_dir / "config.yml", test_mode="test")[1]
    again = pipeline.get_average_eval_image_metrics()
    assert again["psnr/4_views/motion"] == pytest.approx(scores["psnr/4_views/motion"], abs=1e-3)


def test_training_clips_have_codes_of_their_own_and_others_the_encoders(trained: NestTrainer) -> None:
    model, data = trained.pipeline.model, trained.pipeline.datamanager
    learned = model.motion_prior.clip_codes.learned
    known = [number in learned for number in range(len(data.index))]
    assert known == [number not in data.held_out for number in range(len(data.index))]
    first, second = (model.latent_of(n, 4).motion for n in range(len(known)) if known[n])
    assert (first.scene_code - second.scene_code).abs().max() > 1e-3
    number = known.index(True)
    read = model.moving(
        model.encoder(model.contexts[number, 4]), model.contexts[number, 4], data.contexts.timed(number)
    )
    assert (read.motion.scene_code - model.latent_of(number, 4).motion.scene_code).abs().max() > 1e-4
    unseen = data.held_out[0]
    read = model.moving(
        model.encoder(model.contexts[unseen, 4]), model.contexts[unseen, 4], data.contexts.timed(unseen)
    )
    assert torch.equal(read.motion.scene_code, model.latent_of(unseen, 4).motion.scene_code)


def test_motion_alone_is_learned_on_a_frozen_start_and_resumes(trained: NestTrainer, tmp_path: Path) -> None:
    config = make_moving_config(trained.config.pipeline.datamanager.data, tmp_path, steps=12)
    config.pipeline.model.init, config.pipeline.model.freeze = trained.base_dir / "config.yml", True
    config.resolve()
    trainer = config.setup()
    trainer.setup()
    codes = trainer.pipeline.model.motion_prior.clip_codes
    assert not codes.rows.any()
    trainer.train()
    weights, before = (t.pipeline.model.state_dict() for t in (trainer, trained))
    frozen = ("encoder.", "field.trunk.", "field.head.", "field.residual.")
    assert all(any(name.startswith(part) for name in weights) for part in frozen)
    for name in (name for name in weights if name.startswith(frozen)):
        assert torch.equal(weights[name], before[name]), name
    assert codes.rows.any()
    config.load_dir, config.max_num_iterations = trainer.checkpoint_dir, 13
    resumed = config.setup()
    resumed.setup()
    assert torch.equal(resumed.pipeline.model.motion_prior.clip_codes.rows, codes.rows)
    resumed.train()


def test_a_scene_that_stands_in_its_images_moves_as_the_prior_knows(
    trained: NestTrainer, tmp_path: Path
) -> None:
    """After an inversion, by steps of an edit: as a clip of the prior does, or as none."""
    prior = trained.base_dir / "config.yml"
    images = write_ball_scenes(tmp_path / "scenes") / "balls_1"
    trainer = start_inversion(make_invert_config(images, prior, tmp_path / "runs", 4, num_views=1))
    trainer.train()
    model, known = load_run(trainer.base_dir).model, trained.pipeline.model
    still = model.latent_named(None)
    assert not model.scene().moves
    clip = known.contexts.names[0]
    for step in (Swap("motion", scene=clip, run=str(prior)), GenerateMotion(seed=3)):
        model.edit = SceneEdit((step,))
        scene = model.scene()
        assert scene.moves
        assert torch.allclose(scene.poses_at(0.0)[1], still.translations, atol=1e-5)
        assert (scene.poses_at(0.3)[1] - still.translations).abs().max() > 1e-3
        if isinstance(step, Swap):
            assert torch.equal(scene.latent.motion.period, known.latent_named(clip).motion.period)
    model.is_refined.fill_(True)
    assert model.shared_motion is None  # its tokens have no codes any more


def test_a_scene_of_another_prior_takes_no_code_and_draws_no_motion(
    trained: NestTrainer, tmp_path: Path
) -> None:
    other = train_prior(tmp_path, 2)
    trainer = start_inversion(make_invert_config(tmp_path / "scenes" / "balls_1", other, tmp_path, 2))
    model = trainer.pipeline.model
    clip = trained.pipeline.model.contexts.names[0]
    assert model.other_scenes(clip, str(trained.base_dir)).shared_motion is None
    with pytest.raises(EditError, match="this scene is of none"):
        SceneEdit((GenerateMotion(),)).apply(model.latent_named(None), model.field, model.other_scenes)


PROCESS = """
import sys, torch
from pathlib import Path
from tests.ball_scenes import make_moving_config
config = make_moving_config(Path(sys.argv[1]), Path(sys.argv[2]), 3)
config.timestamp = "run"
torch.manual_seed(0)
trainer = config.setup()
trainer.setup()
trainer.train()
rank = trainer.pipeline.datamanager.rank
torch.save(trainer.pipeline.model.motion_prior.state_dict(), Path(sys.argv[2]) / f"{rank}.pt")
"""


def test_two_processes_learn_the_same_codes(trained: NestTrainer, tmp_path: Path) -> None:
    """Each learns from a clip of its own in every step, and some by a code that is read."""
    run_processes(PROCESS, tmp_path, (trained.config.pipeline.datamanager.data, tmp_path), 2)
    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name in one.keys() - {"map.moments"}:  # each saw other codes
        assert torch.equal(one[name], other[name]), name
    assert one["clip_codes.rows"].any()


def test_freezing_needs_a_start() -> None:
    with pytest.raises(ValueError, match="learns motion alone"):
        NestPriorModelConfig(dynamics=True, freeze=True).resolve()


def test_training_with_steps_on_codes_and_a_vector_field_runs(tmp_path: Path) -> None:
    config = make_moving_config(write_moving_scenes(tmp_path / "scenes", 2), tmp_path / "runs", steps=3)
    config.pipeline.model.motion.code = "hybrid"
    config.pipeline.model.motion.shown_steps = 2
    config.pipeline.model.motion.map.kind = "free"
    trainer = config.setup()
    trainer.setup()
    before = trainer.pipeline.model.flow.vector_field.layers[-1].weight.clone()
    trainer.train()
    trainer.pipeline.eval()
    model = trainer.pipeline.model
    assert (model.flow.vector_field.layers[-1].weight - before).abs().max() > 0
    assert model.scene(0, 4).latent.motion.kind == "free"


def test_a_clip_of_one_timed_frame_stands_still_and_one_at_rest_is_needed(tmp_path: Path) -> None:
    scenes = write_moving_scenes(tmp_path / "one", 2, num_timed=1)
    trainer = make_moving_config(scenes, tmp_path / "runs", steps=1).setup()
    trainer.setup()
    samples, _ = trainer.pipeline.datamanager.next_train(0)
    assert samples[0].timed is None
    trainer.train()
    none = write_moving_scenes(tmp_path / "none", 2, num_rest=1)
    trainer = make_moving_config(none, tmp_path / "runs", steps=1).setup()
    trainer.setup()
    with pytest.raises(ValueError, match="no two non-empty ones of one state"):
        trainer.pipeline.datamanager.next_train(0)


def make_clip_config(scene: Path, prior: Path, output: Path):
    config = deepcopy(nest_dynamic.config)
    config.data = config.pipeline.datamanager.data = scene
    config.output_dir, config.vis, config.max_num_iterations = output, "tensorboard", 3
    config.steps_per_eval_image = 0
    config.pipeline.model.init = prior
    return config


def test_a_clip_starts_from_the_prior_and_trains_on(trained: NestTrainer, tmp_path: Path) -> None:
    scene = trained.config.pipeline.datamanager.data / "swing_0"
    config = make_clip_config(scene, trained.base_dir / "config.yml", tmp_path)
    config.set_timestamp()
    trainer = config.setup()
    trainer.setup()
    model = trainer.pipeline.model
    assert len(model.latent()) == trained.pipeline.model.config.encoder.num_tokens
    assert model.latent().motion.kind == "cyclic"
    assert model.scene().moves
    weights = [m.flow.vector_field.linear.weight for m in (model, trained.pipeline.model)]
    assert torch.equal(*weights)
    trainer.train()
    assert trainer.pipeline.model.latent().motion.kind == "cyclic"


def test_a_prior_without_dynamics_is_refused(tmp_path: Path) -> None:
    prior = trained_prior(tmp_path, steps=1)
    config = make_clip_config(tmp_path / "scenes" / "balls_0", prior.base_dir / "config.yml", tmp_path)
    with pytest.raises(ValueError, match="has learned no motion"):
        config.set_timestamp()
