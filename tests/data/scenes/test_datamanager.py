from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManager, VanillaDataManagerConfig
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.viewer.utils import parse_object
from nerfstudio.viewer.viewer_elements import ViewerElement

from nest_nerfstudio.data.scenes.datamanager import MultiSceneDatamanager, MultiSceneDatamanagerConfig
from nest_nerfstudio.data.scenes.dataparser import NestScenesConfig
from nest_nerfstudio.states import SceneSample
from tests.data.scenes.many_scenes import write_scenes


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Six scenes, of which those numbered 1 and 4 are held out by `manage`."""
    return write_scenes(tmp_path, ("cow", "wolf", "horse", "fox", "deer", "bull"))


def manage(
    data: Path, device: str = "cpu", parser: Any = None, rank: int = 0, world_size: int = 1, **options
) -> MultiSceneDatamanager:
    parser = parser or NestScenesConfig(holdout=3)
    config = MultiSceneDatamanagerConfig(data=data, dataparser=parser, scenes_per_batch=2, **options)
    return config.setup(device=device, test_mode="val", world_size=world_size, local_rank=rank)


def assert_same(batch: list[SceneSample], other: list[SceneSample]) -> None:
    assert [sample.name for sample in batch] == [sample.name for sample in other]
    for one, two in zip(batch, other, strict=True):
        assert torch.equal(one.context.images, two.context.images)
        assert torch.equal(one.targets[0][1].images, two.targets[0][1].images)


def test_a_step_gives_scenes_to_train_on(scenes: Path) -> None:
    manager = manage(scenes, num_context=(2, 2), num_targets=1, edit_states=2)
    batch, rest = manager.next_train(0)
    assert rest == {}
    assert [(len(s.context), [len(v) for _, v in s.targets]) for s in batch] == [(2, [1, 1, 1])] * 2
    shown = {sample.name for step in range(10) for sample in manager.next_train(step)[0]}
    assert shown == {"cow", "horse", "fox", "bull"}
    assert not manager.includes_time


def test_a_run_goes_on_from_any_step(scenes: Path) -> None:
    manager = manage(scenes)
    batches = [manager.next_train(step)[0] for step in range(6)]
    assert_same(manage(scenes).next_train(4)[0], batches[4])
    assert batches[0][0].name != batches[1][0].name


def test_workers_give_the_same_batches(scenes: Path) -> None:
    alone, helped = manage(scenes), manage(scenes, num_workers=2)
    for step in (0, 1, 2, 40, 41, 3):  # on, ahead, and back
        assert_same(helped.next_train(step)[0], alone.next_train(step)[0])


def test_ranks_take_different_scenes(scenes: Path) -> None:
    ranks = [manage(scenes, rank=rank, world_size=2) for rank in (0, 1)]
    for step in range(5):
        shown = [sample.name for manager in ranks for sample in manager.next_train(step)[0]]
        assert sorted(shown) == ["bull", "cow", "fox", "horse"]


def test_a_missing_image_reaches_the_training_from_a_worker(scenes: Path) -> None:
    manager = manage(scenes, num_workers=1)
    for path in scenes.glob("*/train/base_00.png"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"base_00\.png"):
        manager.next_train(0)


def test_evaluation_is_on_scenes_held_out(scenes: Path, capsys: pytest.CaptureFixture) -> None:
    manager = manage(scenes)
    samples = list(manager.eval_samples(num_context=3))
    assert [sample.name for sample in samples] == ["wolf", "deer"]
    assert [len(sample.context) for sample in samples] == [3, 3]
    assert_same(samples, list(manage(scenes).eval_samples(num_context=3)))
    with pytest.raises(ValueError, match="scene wolf has 4 train views"):
        manager.eval_sample(manager.held_out[0], num_context=5)
    assert not list(manager.eval_samples(num_context=5))
    assert "2 scene(s) with fewer than 5 context views" in capsys.readouterr().out
    (scenes / "wolf" / "transforms_test.json").unlink()
    manager = manage(scenes, parser=NestScenesConfig(holdout=3, skip_bad_scenes=True))
    assert [sample.name for sample in manager.eval_samples(num_context=3)] == ["deer"]
    assert "Skipping a scene: scene wolf" in capsys.readouterr().out


def test_all_held_out_leaves_nothing_to_train_on(scenes: Path) -> None:
    manager = manage(scenes, parser=NestScenesConfig(holdout=1))
    assert len(list(manager.eval_samples(num_context=1))) == 6
    with pytest.raises(ValueError, match="all are held out"):
        manager.next_train(0)


def test_contexts_are_those_of_the_evaluation(scenes: Path) -> None:
    manager = manage(scenes, sampling_seed=5)
    assert manager.contexts.names == tuple(entry.name for entry in manager.index.entries)
    for number in manager.held_out:
        expected = manager.eval_sample(number, 2).context
        assert torch.equal(manager.contexts[number, 2].images, expected.images)


def test_evaluation_views_are_read_one_by_one(scenes: Path) -> None:
    manager = manage(scenes)
    views = manager.fixed_indices_eval_dataloader
    assert len(views) == len(manager.eval_dataset) == 4
    listed = list(views)
    assert [int(camera.metadata["scene"]) for camera, _ in listed] == [1, 1, 4, 4]
    for i in (0, 1, 2, 3, 0):
        camera, batch = manager.next_eval_image(0)
        assert torch.equal(batch["image"], listed[i][1]["image"])
        assert batch["image"].shape == (8, 12, 4)
        assert torch.equal(camera.camera_to_worlds[0], manager.eval_dataset.cameras.camera_to_worlds[i])


def test_what_nerfstudio_asks_of_a_data_manager(scenes: Path) -> None:
    manager = manage(scenes)
    assert isinstance(manager, VanillaDataManager)  # ns-render spiral
    assert isinstance(manager.config, VanillaDataManagerConfig)  # ns-render dataset
    camera, _ = manager.eval_dataloader.get_camera(image_idx=0)
    assert int(camera.metadata["scene"]) == 1
    assert manager.get_datapath() == scenes
    assert manager.get_param_groups() == {}
    assert manager.get_train_rays_per_batch() == 2 * 4 * 96
    assert manager.train_dataset[0]["image"].shape == (8, 12, 3)  # the viewer's thumbnails
    assert manager.train_dataset.metadata["scenes"] is manager.index


def test_the_viewer_loads_nothing_by_looking(scenes: Path) -> None:
    manager = manage(scenes)
    parse_object(manager, ViewerElement, "Custom Elements")
    assert manager.library.cached_megabytes == 0
    assert manager.library.num_cached_scenes == 0


def test_config_survives_yaml(scenes: Path) -> None:
    parser = NestScenesConfig(scenes=(Path("a"),), scene_parser=BlenderDataParserConfig(scale_factor=2.0))
    config = MultiSceneDatamanagerConfig(data=scenes, dataparser=parser, num_context=(2, 3))
    assert yaml.load(yaml.dump(config), Loader=yaml.Loader) == config


def test_another_parser_gives_one_scene(video: Path) -> None:
    manager = manage(video, parser=NerfstudioDataParserConfig(downscale_factor=1))
    assert [entry.name for entry in manager.index.entries] == [video.name]
    batch, _ = manager.next_train(0)
    assert {sample.name for sample in batch} == {video.name}
    (sample,) = manager.eval_samples(num_context=4)
    assert (len(sample.context), [len(views) for _, views in sample.targets]) == (4, [2])


@pytest.mark.cuda
def test_samples_are_on_the_device(scenes: Path) -> None:
    manager = manage(scenes, device="cuda")
    for sample in (*manager.next_train(0)[0], *manager.eval_samples(1)):
        for views in (sample.context, manager.contexts[0, 1], *(views for _, views in sample.targets)):
            tensors = [value for value in vars(views).values() if torch.is_tensor(value)]
            assert {tensor.device.type for tensor in tensors} == {"cuda"}
    assert manager.next_eval_image(0)[1]["image"].device.type == "cuda"
