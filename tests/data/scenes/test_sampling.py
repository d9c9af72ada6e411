import pickle
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nest_nerfstudio.data.scenes.index import read_index
from nest_nerfstudio.data.scenes.library import SceneLibrary
from nest_nerfstudio.data.scenes.sampling import (
    ContextViews,
    SceneSampleDataset,
    eval_sample,
    load_steps,
    step_samples,
)
from nest_nerfstudio.states import SceneSample
from nest_nerfstudio.types import Views
from tests.data.scenes.many_scenes import write_index, write_scene, write_scenes
from tests.data.small_scenes import edit_json, orbit, write_image


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    return write_scenes(tmp_path)


def sampler(scenes: Path, **options) -> SceneSampleDataset:
    library = SceneLibrary(read_index(scenes, holdout=0))
    return SceneSampleDataset(library, range(len(library.index)), **options)


def image_set(views: Views) -> set[bytes]:
    """What tells the views apart: the images of the small scenes all differ."""
    return {image.numpy().tobytes() for image in views.images}


def assert_disjoint(sample: SceneSample) -> None:
    """No target is among the context, and none comes twice."""
    context, seen = image_set(sample.context), set()
    assert len(context) == len(sample.context)
    for _, views in sample.targets:
        assert not image_set(views) & (context | seen), "a target is among its own context"
        seen |= image_set(views)
    assert len(seen) == sum(len(views) for _, views in sample.targets)


def assert_same(one: SceneSample, other: SceneSample) -> None:
    assert (one.name, one.edit) == (other.name, other.edit)
    assert torch.equal(one.context.images, other.context.images)
    for (edit, views), (edit_, views_) in zip(one.targets, other.targets, strict=True):
        assert edit == edit_
        assert torch.equal(views.images, views_.images)
        assert torch.equal(views.viewmats, views_.viewmats)


def spoil(folder: Path, *names: str) -> None:
    """Make images wholly transparent."""
    for name in names:
        path = next(folder.glob(f"*/{name}.png"))
        pixels = np.array(Image.open(path))
        pixels[..., 3] = 0
        Image.fromarray(pixels).save(path)


# Training samples


def test_a_target_is_never_among_its_own_context(scenes: Path) -> None:
    samples = sampler(scenes, edit_states=2)
    drawn = [samples[n] for n in range(300)]
    for sample in drawn:
        assert_disjoint(sample)
    assert {len(sample.context) for sample in drawn} == {1, 2, 3, 4, 5}  # of states of at most six views
    assert {len(sample.targets) for sample in drawn} == {3}


def test_a_target_from_the_context_is_noticed(scenes: Path) -> None:
    sample = sampler(scenes, num_context=(2, 2))[0]
    for views in (sample.context, sampler(scenes).library.views(sampler(scenes).library.scene(0), [0, 0])):
        with pytest.raises(AssertionError):
            assert_disjoint(SceneSample("cow", "", sample.context, sample.edit, ((sample.edit, views),)))


def test_a_image_that_two_splits_list_is_not_met_again_as_target(scenes: Path) -> None:
    for name in ("cow", "wolf", "trex"):
        train = scenes / name / "transforms_train.json"
        (scenes / name / "transforms_test.json").write_text(train.read_text())
    for n in range(60):
        assert_disjoint(sampler(scenes)[n])


def test_views_and_edits_are_those_of_their_states(scenes: Path) -> None:
    samples = sampler(scenes, edit_states=1, num_context=(2, 2), num_targets=2)
    library = samples.library
    for n in range(30):
        sample = samples[n]
        scene = library.scene(library.index.find(sample.name))
        shown = {
            image_set(library.views(scene, [i])).pop(): scene.edits[scene.states[i].edit]
            for i in range(len(scene))
        }
        for edit, views in [(sample.edit, sample.context), *sample.targets]:
            assert {shown[image] for image in image_set(views)} == {edit}
            assert len(views) in (1, 2)
        assert sample.targets[0][0] == sample.edit
        assert sample.targets[1][0] != sample.edit


def test_ranges_are_kept(scenes: Path) -> None:
    for n in range(20):
        sample = sampler(scenes, num_context=(2, 3), num_targets=1)[n]
        assert len(sample.context) in (2, 3)
        assert [len(views) for _, views in sample.targets] == [1]


def test_few_context_views_are_drawn_more_often(scenes: Path) -> None:
    """Log-uniformly: one of up to three in half of the samples, log 2 / log 4."""
    samples = sampler(scenes, num_context=(1, 3), num_targets=1)
    share = np.mean([len(samples[n].context) == 1 for n in range(600)])
    assert share == pytest.approx(0.5, abs=0.06)


def test_every_scene_comes_once_before_any_comes_again(scenes: Path) -> None:
    samples = sampler(scenes)
    passes = [[samples.scene_at(n) for n in range(start, start + 3)] for start in range(0, 60, 3)]
    assert all(sorted(numbers) == [0, 1, 2] for numbers in passes)
    assert len({tuple(numbers) for numbers in passes}) > 3
    assert [samples[n].name for n in range(3)] == [samples.library.index.entries[i].name for i in passes[0]]


def test_a_sample_depends_on_seed_and_place_only(scenes: Path) -> None:
    samples, again, other = sampler(scenes), sampler(scenes), sampler(scenes, seed=1)
    for n in (7, 3, 100):
        assert_same(samples[n], again[n])
    assert_same(samples[3], pickle.loads(pickle.dumps(samples))[3])
    first = [image_set(samples[n].context) for n in range(6)]
    assert first != [image_set(other[n].context) for n in range(6)]
    assert first != [image_set(samples[n + 6].context) for n in range(6)]


def test_processes_share_out_the_scenes() -> None:
    draws = [step_samples(step, batch=2, rank=rank, world_size=3) for step in range(4) for rank in range(3)]
    assert sorted(n for batch in draws for n in batch) == list(range(24))
    assert step_samples(5, batch=3) == [15, 16, 17]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_workers_load_the_same_from_any_step(scenes: Path, num_workers: int) -> None:
    samples = sampler(scenes, edit_states=1)
    loaded = list(islice(load_steps(samples, 5, batch=3, num_workers=num_workers, rank=1, world_size=2), 4))
    for step, batch in enumerate(loaded, start=5):
        for sample, n in zip(batch, step_samples(step, 3, rank=1, world_size=2), strict=True):
            assert_same(sample, samples[n])


# Samples of bad or odd scenes


def test_one_view_of_every_state(scenes: Path) -> None:
    write_index(scenes, {"one": "quadruped"})
    write_scene(scenes / "one", views={"base": 1, "turn": 1})
    with pytest.raises(ValueError, match=r"scene one has 5 frame\(s\), but no two .* of one state"):
        sampler(scenes)[0]


def test_a_state_of_one_view_is_no_context(scenes: Path) -> None:
    write_index(scenes, {"few": "quadruped"})
    write_scene(scenes / "few", views={"base": 3, "turn": 1})
    drawn = [sampler(scenes, edit_states=1)[n] for n in range(20)]
    assert {sample.edit.yaw for sample in drawn} == {0.0}
    assert {len(sample.targets[1][1]) for sample in drawn} == {1}


def test_empty_images_are_not_drawn(scenes: Path) -> None:
    spoil(scenes / "cow", "base_00", "base_02", "base_03", "turn_00", "turn_01")
    write_index(scenes, {"cow": "quadruped"})
    edit_json(
        scenes / "cow" / "transforms_train.json",
        lambda meta: meta.update(frames=[f for f in meta["frames"] if "turn" not in f["file_path"]]),
    )
    samples = sampler(scenes, edit_states=2)
    for n in range(60):
        sample = samples[n]
        for views in (sample.context, *(views for _, views in sample.targets)):
            assert views.alphas.flatten(1).any(dim=1).all()


def test_a_state_with_nothing_to_see(scenes: Path) -> None:
    write_index(scenes, {"cow": "quadruped"})
    write_scene(scenes / "cow", views={"base": 3, "turn": 3})
    spoil(scenes / "cow", "base_00", "base_01")
    assert {sampler(scenes)[n].edit.yaw for n in range(10)} == {1.5}
    spoil(scenes / "cow", "turn_00", "turn_02")
    with pytest.raises(ValueError, match=r"scene cow has 9 frame\(s\), but no two non-empty ones"):
        sampler(scenes)[0]


def test_cameras_inside_the_object_are_taken_as_they_are(scenes: Path) -> None:
    pose = orbit(0.3)
    for row in pose[:3]:
        row[3] = 0.05
    write_index(scenes, {"cow": "quadruped"})
    for split in ("train", "test"):
        edit_json(
            scenes / "cow" / f"transforms_{split}.json",
            lambda meta: [frame.update(transform_matrix=pose) for frame in meta["frames"]],
        )
    sample = sampler(scenes)[0]
    assert_disjoint(sample)
    centres = -(sample.context.viewmats[:, :3, :3].mT @ sample.context.viewmats[:, :3, 3:])[..., 0]
    torch.testing.assert_close(centres, torch.full_like(centres, 0.05))


def test_mixed_sizes_make_one_sample(scenes: Path) -> None:
    for name in ("base_00", "base_02", "relight_01"):
        write_image(next((scenes / "cow").glob(f"*/{name}.png")), size=(16, 16))
    write_index(scenes, {"cow": "quadruped"})
    for n in range(10):
        sample = sampler(scenes)[n]
        assert sample.context.images.shape[1:] == sample.targets[0][1].images.shape[1:] == (8, 12, 3)


def test_bad_scenes_stop_or_are_left_out(scenes: Path, capsys: pytest.CaptureFixture) -> None:
    (scenes / "wolf" / "train" / "base_00.png").unlink()
    with pytest.raises(FileNotFoundError, match="scene wolf"):
        [sampler(scenes)[n] for n in range(3)]
    samples = sampler(scenes, skip_bad=True)
    assert {samples[n].name for n in range(30)} == {"cow", "trex"}
    assert capsys.readouterr().out.count("Skipping a scene: scene wolf") == 1
    for name in ("cow", "trex"):
        (scenes / name / "transforms_train.json").write_text("{")
    with pytest.raises(ValueError, match="none of the 3 scenes can be used"):
        sampler(scenes, skip_bad=True)[0]


@pytest.mark.parametrize(
    "options",
    [{"num_context": (0, 2)}, {"num_context": (3, 2)}, {"num_targets": 0}, {"edit_states": -1}],
)
def test_impossible_settings(scenes: Path, options: dict) -> None:
    with pytest.raises(ValueError, match=r"num_context .* must be the fewest and the most views"):
        sampler(scenes, **options)


def test_no_scenes_to_train_on(scenes: Path) -> None:
    with pytest.raises(ValueError, match="all are held out; set holdout to 0"):
        SceneSampleDataset(SceneLibrary(read_index(scenes, holdout=1)), [])


# Evaluation


def test_fewer_context_views_are_among_more(scenes: Path) -> None:
    library = SceneLibrary(read_index(scenes))
    scene = library.scene(0)
    by_count = [eval_sample(library, 0, n) for n in range(1, 5)]
    for few, more in pairwise(by_count):
        assert torch.equal(more.context.images[: len(few.context)], few.context.images)
        assert_disjoint(more)
        for (_, views), (_, expected) in zip(more.targets, few.targets, strict=True):
            assert torch.equal(views.images, expected.images)
    train = library.views(scene, scene.frames(scene.base_state, test=False))
    assert image_set(by_count[-1].context) == image_set(train)


def test_targets_are_all_test_frames(scenes: Path) -> None:
    library = SceneLibrary(read_index(scenes))
    sample = eval_sample(library, 0, 2)
    assert [edit.yaw for edit, _ in sample.targets] == [0.0, 0.0, 1.5]
    assert [edit.light.sun for edit, _ in sample.targets] == [3.0, 2.0, 3.0]
    assert [len(views) for _, views in sample.targets] == [2, 1, 1]


def test_the_context_of_a_scene_is_the_same_in_any_company(scenes: Path) -> None:
    before = eval_sample(SceneLibrary(read_index(scenes)), 2, 3)
    write_index(scenes, {"trex": "dinosaur"})
    assert_same(eval_sample(SceneLibrary(read_index(scenes)), 0, 3), before)
    other = eval_sample(SceneLibrary(read_index(scenes)), 0, 3, seed=1)
    assert not torch.equal(other.context.images, before.context.images)


@pytest.mark.parametrize("num_context", [0, 5])
def test_more_context_than_there_is(scenes: Path, num_context: int) -> None:
    with pytest.raises(ValueError, match=f"scene cow has 4 train views.* so {num_context} cannot"):
        eval_sample(SceneLibrary(read_index(scenes)), 0, num_context)


def test_context_views_are_those_of_the_evaluation(scenes: Path) -> None:
    library = SceneLibrary(read_index(scenes))
    contexts = ContextViews(library, seed=3)
    assert (len(contexts), contexts.names) == (3, ("cow", "wolf", "trex"))
    for number in range(3):
        for count in (1, 3):
            expected = eval_sample(library, number, count, seed=3).context
            assert torch.equal(contexts[number, count].images, expected.images)
            assert torch.equal(contexts[number, count].viewmats, expected.viewmats)
    assert len(contexts[0, 100]) == 4  # as many as there are
    assert library.cached_megabytes > 0


def test_context_views_read_nothing_before_they_are_asked_for(scenes: Path) -> None:
    library = SceneLibrary(read_index(scenes))
    contexts = ContextViews(library)
    assert (len(contexts), contexts.names[0]) == (3, "cow")
    assert (library.cached_megabytes, library.num_cached_scenes) == (0, 0)


def test_context_views_that_do_not_exist(scenes: Path) -> None:
    contexts = ContextViews(SceneLibrary(read_index(scenes)))
    for number in (3, -1):
        with pytest.raises(IndexError, match=f"no scene {number} among 3"):
            contexts[number, 1]
    with pytest.raises(ValueError, match="must be 1 or more, not 0"):
        contexts[0, 0]
    spoil(scenes / "wolf", "base_00", "base_01", "base_03", "base_04")
    with pytest.raises(ValueError, match="scene wolf has no non-empty train view"):
        contexts[1, 1]


def test_nothing_to_be_evaluated_on(scenes: Path) -> None:
    (scenes / "cow" / "transforms_test.json").unlink()
    with pytest.raises(ValueError, match="scene cow has no test view of its base state"):
        eval_sample(SceneLibrary(read_index(scenes)), 0, 1)


def test_real_scenes(shared_data: Path) -> None:
    if not (shared_data / "scenes").is_dir():
        pytest.skip(f"no scenes in {shared_data}")
    samples = sampler(shared_data / "scenes", edit_states=1)
    for n in range(12):
        sample = samples[n]
        assert_disjoint(sample)
        assert sample.context.images.shape[1:] == (128, 128, 3)
        assert 0.005 < float(sample.context.alphas.mean()) < 0.6
    library = samples.library
    sample = eval_sample(library, library.index.find("quadruped_cow"), 8)
    assert [len(views) for _, views in sample.targets] == [3, 1, 1, 1, 1]


def test_frames_at_other_times_are_read_and_scored_apart(scenes: Path) -> None:
    sample = next(
        s for s in map(sampler(scenes, num_timed=4, num_targets=1).__getitem__, range(20)) if s.timed
    )
    assert sample.observed is not None
    assert sample.observed.times is not None
    assert sample.context.times is not None
    assert not (sample.observed.times == sample.context.times[0]).any()
    assert not image_set(sample.observed) & image_set(sample.timed)
    assert sampler(scenes)[0].observed is None
    library = SceneLibrary(read_index(scenes, holdout=0))
    scored = eval_sample(library, 0, 2, num_timed=8)
    assert scored.timed is not None
    assert scored.timed.times is not None
    assert scored.timed.times.tolist() == [1.0]
    assert len(scored.observed or ()) == 2
    names = [entry.name for entry in library.index.entries]
    assert names.index(sample.name) == sample.clip
    assert scored.clip == 0
    contexts = ContextViews(library, num_timed=1)
    assert contexts.timed(0) is None  # one frame tells of no motion
