import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManager
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.dnerf_dataparser import DNeRFDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.viewer.utils import parse_object
from nerfstudio.viewer.viewer_elements import ViewerElement
from PIL import Image

from nest_nerfstudio.data.check import check_dataset
from nest_nerfstudio.data.datamanager import DynamicDatamanager, DynamicDatamanagerConfig
from nest_nerfstudio.data.dataparser import NestDynamicDataParserConfig
from nest_nerfstudio.data.world import World
from tests.data.small_scenes import edit_json, orbit, write_image, write_scene


def manage(
    data: Path, parser: Any = None, device: str = "cpu", mode: Any = "val", **options: Any
) -> DynamicDatamanager:
    parser = parser or NestDynamicDataParserConfig()
    return DynamicDatamanagerConfig(data=data, dataparser=parser, **options).setup(
        device=device, test_mode=mode
    )


def draw(manager: DynamicDatamanager, count: int) -> list[float]:
    """Times of the next train views."""
    return [float(manager.next_train(step)[0].times) for step in range(count)]


def add_masks(data: Path, whole: int) -> None:
    """Give all train frames one mask, whose left half is white if `whole` is, and depths of 2 m."""
    mask = np.zeros((8, 12), np.uint8)
    mask[:, :6] = whole
    Image.fromarray(mask).save(data / "mask.png")
    Image.fromarray(np.full((8, 12), 2000, np.uint16)).save(data / "depth.png")

    def extras(meta: dict[str, Any]) -> None:
        for frame in meta["frames"]:
            frame.update(mask_path="mask.png", depth_file_path="depth.png")

    edit_json(data / "transforms_train.json", extras)


def test_gives_one_camera_and_its_image(dnerf: Path) -> None:
    manager = manage(dnerf)
    camera, batch = manager.next_train(0)
    assert camera.shape == (1,)
    assert camera.times is not None
    assert camera.times.shape == (1, 1)
    assert camera.metadata == {"cam_idx": batch["image_idx"]}
    assert batch["image"].shape == (8, 12, 4)
    assert batch["image"].dtype == torch.float32
    assert torch.equal(batch["image"], manager.train_dataset.get_data(batch["image_idx"])["image"])
    expected = manager.train_dataset.cameras.camera_to_worlds[batch["image_idx"]]
    assert torch.equal(camera.camera_to_worlds[0], expected)
    assert manager.includes_time


def test_passes_show_every_view_once(dnerf: Path) -> None:
    manager = manage(dnerf)
    first, second = draw(manager, 12), draw(manager, 12)
    assert sorted(first) == sorted(second) == pytest.approx(np.linspace(0, 1, 12).tolist())
    assert first != second
    assert first == draw(manage(dnerf), 12)
    assert first != draw(manage(dnerf, train_cameras_sampling_seed=1), 12)


def test_time_window(dnerf: Path) -> None:
    manager = manage(dnerf)
    manager.set_time_window(0.25, 0.5)
    assert sorted(set(draw(manager, 12))) == pytest.approx([3 / 11, 4 / 11, 5 / 11])
    assert set(Counter(draw(manager, 12)).values()) == {4}
    manager.set_time_window(hi=0.1)
    assert sorted(set(draw(manager, 12))) == pytest.approx([0, 1 / 11])
    manager.set_time_window()
    assert len(set(draw(manager, 10))) == 10  # first those that the window kept out
    assert len(set(draw(manager, 12))) == 12


def test_time_window_takes_the_nearest_views_where_it_holds_too_few(dnerf: Path) -> None:
    manager = manage(dnerf)
    manager.set_time_window(0.5, 0.5, min_views=4)
    assert sorted(set(draw(manager, 12))) == pytest.approx([4 / 11, 5 / 11, 6 / 11, 7 / 11])
    manager.set_time_window(3.0, 4.0)
    assert set(draw(manager, 3)) == {1.0}
    manager.set_time_window(0.0, 1.0, min_views=100)
    assert len({*draw(manager, 11), 1.0}) == 12


def test_widening_the_window_keeps_the_pass(dnerf: Path) -> None:
    manager = manage(dnerf)
    manager.set_time_window(0.0, 0.5)  # six views
    seen = draw(manager, 4)
    manager.set_time_window(0.0, 0.5)
    seen += draw(manager, 1)
    manager.set_time_window(0.0, 1.0)
    seen += draw(manager, 7)
    assert sorted(seen) == pytest.approx(np.linspace(0, 1, 12).tolist())


def test_narrowing_the_window_at_the_end_of_a_pass(dnerf: Path) -> None:
    manager = manage(dnerf)
    draw(manager, 12)
    manager.set_time_window(0.0, 0.1)
    assert sorted(draw(manager, 2)) == pytest.approx([0, 1 / 11])


def saved(manager: DynamicDatamanager, path: Path) -> dict[str, Any]:
    """The state of a data manager, from a checkpoint on disk."""
    torch.save({"datamanager": manager.state_dict()}, path)
    return torch.load(path, weights_only=True)["datamanager"]


@pytest.mark.parametrize("num_steps", [0, 5, 12, 17])
@pytest.mark.parametrize("window", [None, (0.0, 0.5)])
def test_a_resumed_training_sees_the_same_images(dnerf: Path, num_steps: int, window: Any) -> None:
    manager = manage(dnerf, train_cameras_sampling_seed=7)
    if window:
        manager.set_time_window(*window)
    draw(manager, num_steps)
    state = saved(manager, dnerf / "step.ckpt")
    expected = draw(manager, 20)
    manager.set_time_window(0.0, 0.8)
    expected += draw(manager, 20)

    resumed = manage(dnerf)  # another seed: all must come from the checkpoint
    resumed.load_state_dict(state)
    if window:
        resumed.set_time_window(*window)  # as a pipeline does that does not know the state
    found = draw(resumed, 20)
    resumed.set_time_window(0.0, 0.8)
    assert found + draw(resumed, 20) == expected


def test_a_checkpoint_leaves_evaluation_as_it_is(dnerf: Path) -> None:
    manager = manage(dnerf)
    draw(manager, 5)
    state = saved(manager, dnerf / "step.ckpt")
    for mode in ("test", "inference"):
        evaluation = manage(dnerf, mode=mode)
        evaluation.next_eval(0)
        evaluation.load_state_dict(state)
        assert float(evaluation.next_eval(1)[0].times) == pytest.approx(0.8)
        listed = [float(camera.times) for camera, _ in evaluation.fixed_indices_eval_dataloader]
        assert listed == pytest.approx([0.2, 0.8])


def test_a_checkpoint_without_the_state_or_of_other_cameras_is_ignored(dnerf: Path) -> None:
    manager = manage(dnerf)
    draw(manager, 5)
    state = saved(manager, dnerf / "step.ckpt")
    edit_json(dnerf / "transforms_train.json", lambda meta: meta["frames"].pop(4))
    expected = draw(manage(dnerf), 30)
    for unfit in (state, {}, {"_extra_state": None}):
        other = manage(dnerf)
        other.load_state_dict(unfit, strict=False)
        assert draw(other, 30) == expected


def test_a_time_window_with_farthest_point_sampling(dnerf: Path) -> None:
    manager = manage(dnerf, train_cameras_sampling_strategy="fps")
    manager.set_time_window(0.25, 0.5)
    assert sorted(set(draw(manager, 12))) == pytest.approx([3 / 11, 4 / 11, 5 / 11])
    saved(manager, dnerf / "step.ckpt")


def test_empty_window_is_an_error(dnerf: Path) -> None:
    with pytest.raises(ValueError, match=r"\[0.6, 0.5\] is empty"):
        manage(dnerf).set_time_window(0.6, 0.5)


def test_train_views_times(dnerf: Path) -> None:
    torch.testing.assert_close(manage(dnerf).train_views_times, torch.linspace(0, 1, 12))


def test_a_changed_batch_or_camera_leaves_the_cache_alone(dnerf: Path) -> None:
    manager = manage(dnerf)
    manager.set_time_window(0.0, 0.0)
    camera, batch = manager.next_train(0)
    image = batch.pop("image")
    camera.rescale_output_resolution(0.5)
    camera, batch = manager.next_train(1)
    assert torch.equal(batch["image"], image)
    assert int(camera.width) == 12


def test_a_step_costs_far_less_than_a_millisecond(dnerf: Path) -> None:
    manager = manage(dnerf)
    draw(manager, 12)
    start = time.perf_counter()
    for step in range(500):
        manager.next_train(step)
    assert time.perf_counter() - start < 0.25


@pytest.mark.parametrize(
    "options", [{"cache_images": "cpu"}, {"cache_images_type": "float32"}, {"cache_megabytes": 0.001}]
)
def test_other_caches_give_the_same(dnerf: Path, options: dict[str, str]) -> None:
    manager, plain = manage(dnerf, **options), manage(dnerf)
    for one, other in ((m.next_train(0), n.next_train(0)) for m, n in [(manager, plain)]):
        torch.testing.assert_close(one[1]["image"], other[1]["image"])
    torch.testing.assert_close(manager.next_eval(0)[1]["image"], plain.next_eval(0)[1]["image"])
    one, other = manager.fixed_indices_eval_dataloader, plain.fixed_indices_eval_dataloader
    for (_, batch), (_, expected) in zip(one, other, strict=True):
        torch.testing.assert_close(batch["image"], expected["image"])


@pytest.mark.cuda
@pytest.mark.parametrize("cache", ["gpu", "cpu"])
def test_batches_are_on_the_device(dnerf: Path, cache: str) -> None:
    add_masks(dnerf, whole=255)
    camera, batch = manage(dnerf, device="cuda", cache_images=cache).next_train(0)
    assert {batch[key].device.type for key in ("image", "mask", "depth_image")} == {"cuda"}
    assert camera.device.type == "cuda"
    assert camera.times is not None
    assert camera.times.device.type == "cuda"


def test_eval_views_come_in_order(dnerf: Path) -> None:
    manager = manage(dnerf, mode="test")
    assert [float(manager.next_eval(i)[0].times) for i in range(3)] == pytest.approx([0.2, 0.8, 0.2])
    listed = [float(camera.times) for camera, _ in manager.fixed_indices_eval_dataloader]
    assert listed == pytest.approx([0.2, 0.8])


def test_future_split_through_the_data_path(dnerf: Path) -> None:
    manager = manage(dnerf / "transforms_future.json", mode="test")  # as ns-render dataset --data does it
    assert [float(camera.times) for camera, _ in manager.fixed_indices_eval_dataloader] == [1.25, 1.625, 2.0]
    assert len(manager.train_dataset) == 12


def test_ns_render_spiral_takes_the_data_manager(dnerf: Path) -> None:
    manager = manage(dnerf, mode="test")
    assert isinstance(manager, VanillaDataManager)  # what ns-render asks
    camera, _ = manager.eval_dataloader.get_camera(image_idx=0)
    assert float(camera.times) == pytest.approx(0.2)


def test_the_viewer_loads_nothing_by_looking(dnerf: Path) -> None:
    manager = manage(dnerf)
    parse_object(manager, ViewerElement, "Custom Elements")
    assert not {"cached_train", "cached_eval", "_train_cameras", "fixed_indices_eval_dataloader"} & set(
        vars(manager)
    )


def test_inference_needs_no_small_images(dnerf: Path) -> None:
    manager = manage(dnerf, NestDynamicDataParserConfig(downscale_factor=2.0), mode="inference")
    assert int(manager.train_dataset.cameras.width[0]) == 12


def test_cameras_of_more_than_one_size(dnerf: Path) -> None:
    write_image(dnerf / "train" / "r_3.png", size=(20, 10))
    manager = manage(dnerf)
    for step in range(12):
        camera, batch = manager.next_train(step)
        assert batch["image"].shape[:2] == (int(camera.height), int(camera.width))


def test_masks_and_depths_are_in_the_batch(dnerf: Path) -> None:
    add_masks(dnerf, whole=255)
    manager = manage(dnerf)
    _, batch = manager.next_train(0)
    assert batch["mask"][..., 0].sum() == 48
    torch.testing.assert_close(batch["depth_image"], torch.full((8, 12, 1), 2.0 * manager.world.scale))


def test_alpha_of_the_train_images_only_is_refused(dnerf: Path) -> None:
    for path in (dnerf / "val").iterdir():
        write_image(path, mode="RGB")
    with pytest.raises(
        ValueError, match=r"3 of 15 images have no alpha, unlike the others: val/r_"
    ) as raised:
        manage(dnerf)
    (problem,) = check_dataset(dnerf).problems
    assert problem.partition(":")[2][:30] == str(raised.value).partition(":")[2][:30]
    with pytest.raises(ValueError, match="3 of 15 images have no alpha"):
        manage(dnerf, DNeRFDataParserConfig())  # it lays images over white, unasked
    assert (
        manage(dnerf, NestDynamicDataParserConfig(alpha_color="black")).next_eval(0)[1]["image"].shape[2] == 3
    )
    image = manage(dnerf, NestDynamicDataParserConfig(missing_alpha="opaque")).next_eval(0)[1]["image"]
    assert (image[..., 3] == 1).all()
    with pytest.raises(ValueError, match="3 of 15 images have no alpha"):
        manage(dnerf, BlenderDataParserConfig(alpha_color=None), missing_times="static")


def test_the_world_of_a_checkpoint_is_adopted(dnerf: Path) -> None:
    add_masks(dnerf, whole=255)
    manager = manage(dnerf)
    stored = World(torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64), 0.25)
    parsed = NestDynamicDataParserConfig(data=dnerf).setup().get_dataparser_outputs("train")
    manager.adopt_world(stored)
    expected = stored(parsed.cameras.camera_to_worlds[:, :, 3])
    torch.testing.assert_close(manager.train_dataset.cameras.camera_to_worlds[:, :, 3], expected)
    camera, batch = manager.next_train(0)
    torch.testing.assert_close(camera.camera_to_worlds[0, :, 3], expected[batch["image_idx"]])
    torch.testing.assert_close(batch["depth_image"], torch.full((8, 12, 1), 0.5))
    scale = manager.train_dataparser_outputs.dataparser_scale
    assert scale == pytest.approx(0.25 * parsed.dataparser_scale)


def test_empty_masks_are_an_error(dnerf: Path) -> None:
    add_masks(dnerf, whole=0)
    with pytest.raises(ValueError, match="masks of all 12 train views are empty"):
        manage(dnerf).next_train(0)


def test_a_lens_is_undistorted_everywhere_alike(dnerf: Path) -> None:
    add_masks(dnerf, whole=255)
    edit_json(dnerf / "transforms_train.json", lambda meta: meta.update(k1=0.3))
    manager = manage(dnerf)
    camera, batch = manager.next_train(0)
    index, cameras = batch["image_idx"], manager.train_dataset.cameras
    with Image.open(manager.train_dataset.image_filenames[index]) as file:
        assert not np.array_equal(np.array(file), manager.cached_train[index]["image"].numpy())
    assert camera.fx != manager.train_dataparser_outputs.cameras.fx[index]
    assert torch.equal(camera.fx, cameras.fx[index][None])  # of the viewer and ns-render as well
    assert torch.equal(manager.train_dataset.get_data(index)["image"], batch["image"])
    torch.testing.assert_close(batch["depth_image"], torch.full((8, 12, 1), 2.0 * manager.world.scale))


@pytest.mark.parametrize("keep", [100, -150])
def test_a_damaged_image_is_named(dnerf: Path, keep: int) -> None:
    path = dnerf / "train" / "r_4.png"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"r_4\.png: cannot read the image"):
        manage(dnerf).next_train(0)


def test_works_with_dnerf_data(dnerf: Path) -> None:
    camera, batch = manage(dnerf, DNeRFDataParserConfig()).next_train(0)
    assert batch["image"].shape == (8, 12, 3)  # this parser lays images over white
    assert camera.fx.dtype == torch.float32


def test_an_image_of_another_size_is_named_with_any_parser(dnerf: Path) -> None:
    write_image(dnerf / "train" / "r_3.png", size=(20, 10))
    with pytest.raises(ValueError, match=r"r_3.png: the image is 20×10 pixels, but its camera is 12×8"):
        manage(dnerf, DNeRFDataParserConfig()).next_train(0)


def test_a_parser_without_times(dnerf: Path) -> None:
    with pytest.raises(
        ValueError, match=r"Blender gives no times. Use `nest-dynamic-data`.*--time-from frame-order"
    ):
        manage(dnerf, BlenderDataParserConfig())
    manager = manage(dnerf, BlenderDataParserConfig(), missing_times="static")
    assert set(draw(manager, 12)) == {0.0}


@pytest.mark.parametrize(("first", "last"), [(0.0, 0.05), (0.2, 0.9), (10.0, 20.0)])
def test_times_of_other_parsers_span_the_clip(dnerf: Path, first: float, last: float) -> None:
    def stamp(meta: dict[str, Any]) -> None:
        for frame in meta["frames"]:
            frame["time"] = first + (last - first) * frame["time"]

    for split in ("train", "val"):
        edit_json(dnerf / f"transforms_{split}.json", stamp)
    manager = manage(dnerf, DNeRFDataParserConfig())
    torch.testing.assert_close(manager.train_views_times, torch.linspace(0, 1, 12))
    listed = [float(camera.times) for camera, _ in manager.fixed_indices_eval_dataloader]
    assert listed == pytest.approx([0.1, 0.5, 0.9])
    kept = manage(dnerf, DNeRFDataParserConfig(), time_scale="none").train_views_times
    torch.testing.assert_close(kept, torch.linspace(first, last, 12))
    own = manage(dnerf, NestDynamicDataParserConfig(time_scale="none")).train_views_times
    torch.testing.assert_close(own, torch.linspace(first, last, 12))


@pytest.mark.parametrize("span", [0.0, 9.0, 3600.0])
@pytest.mark.parametrize("time_scale", ["auto", "none"])
def test_times_that_single_precision_does_not_tell_apart_are_refused(
    dnerf: Path, span: float, time_scale: str
) -> None:
    def stamp(meta: dict[str, Any]) -> None:
        for frame in meta["frames"]:
            frame["time"] = 1.7e9 + span * frame["time"]

    for split in ("train", "val"):
        edit_json(dnerf / f"transforms_{split}.json", stamp)
    with pytest.raises(
        ValueError, match=r"DNeRF: .*train .*; a moving|DNeRF: train times .*nest-dynamic-data"
    ):
        manage(dnerf, DNeRFDataParserConfig(), time_scale=time_scale)
    manage(dnerf, DNeRFDataParserConfig(), time_scale=time_scale, missing_times="static")


def test_times_do_not_depend_on_the_split_that_is_loaded(video: Path) -> None:
    names = [f"images/frame_{i + 1:05d}.png" for i in range(20)]
    lists = {"val": names[:2], "test": names[-5:], "train": names[2:-5]}
    edit_json(
        video / "transforms.json",
        lambda meta: meta.update({f"{split}_filenames": listed for split, listed in lists.items()}),
    )
    for mode, held in (("val", [0, 1]), ("test", [15, 16, 17, 18, 19])):
        parser = NerfstudioDataParserConfig()
        manager = manage(video, parser, mode=mode, missing_times="frame-order", time_scale="none")
        torch.testing.assert_close(manager.train_views_times, torch.arange(2, 15) / 19)
        assert manager.eval_dataset.cameras.times is not None
        assert sorted(manager.eval_dataset.cameras.times.flatten().tolist()) == pytest.approx(
            [i / 19 for i in held]
        )


def test_seed_points_that_are_not_finite_are_left_out(
    video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{i / 10} 0 {'nan' if i == 3 else 'inf' if i == 5 else 0}" for i in range(10)]
    header = "ply\nformat ascii 1.0\nelement vertex 10\n"
    properties = "".join(f"property float {axis}\n" for axis in "xyz")
    (video / "seeds.ply").write_text(f"{header}{properties}end_header\n" + "\n".join(rows) + "\n")
    edit_json(video / "transforms.json", lambda meta: meta.update(ply_file_path="seeds.ply"))
    manager = manage(video, NestDynamicDataParserConfig(time_from="frame-order"))
    points = manager.train_dataparser_outputs.metadata["points3D_xyz"]
    assert points.shape == (8, 3)
    assert points.isfinite().all()
    line = "2 of 10 seed points are not finite: they are left out"
    assert line in " ".join(capsys.readouterr().out.split())
    assert f"{video}: {line}" in check_dataset(video).notes


def test_a_parser_of_single_precision_is_named(dnerf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def carry_off(meta: dict[str, Any]) -> None:
        for frame in meta["frames"]:
            frame["transform_matrix"][0][3] += 4.512e6

    for split in ("train", "val", "test"):
        edit_json(dnerf / f"transforms_{split}.json", carry_off)
    manage(dnerf)
    assert "single" not in capsys.readouterr().out
    manage(dnerf, DNeRFDataParserConfig())
    assert "The cameras of DNeRF are too far from the origin" in " ".join(capsys.readouterr().out.split())


def test_cameras_of_a_parser_without_times_share_them(tmp_path: Path) -> None:
    frames = [
        {"file_path": f"cam{c}/{t:04d}.png", "transform_matrix": orbit(c / 8)}
        for c in range(3)
        for t in range(10)
    ]
    write_scene(tmp_path, frames)
    manager = manage(tmp_path, NerfstudioDataParserConfig(), missing_times="frame-order")
    for dataset in (manager.train_dataset, manager.eval_dataset):
        assert dataset.cameras.times is not None
        at = dataset.cameras.times.flatten().tolist()
        assert at == pytest.approx([int(path.stem) / 9 for path in dataset.image_filenames])
    names = [*(f"cam0/{t}.png" for t in range(10)), *(f"cam1/{t}.png" for t in range(10, 20))]
    write_scene(
        tmp_path, [{"file_path": name, "transform_matrix": orbit(i / 20)} for i, name in enumerate(names)]
    )
    with pytest.raises(ValueError, match="which frames are of the same time"):
        manage(tmp_path, NerfstudioDataParserConfig(), missing_times="frame-order")


def test_frame_order_for_a_parser_without_times(video: Path) -> None:
    manager = manage(video, NerfstudioDataParserConfig(), missing_times="frame-order")
    assert len(manager.eval_dataset) == 2
    for dataset in (manager.train_dataset, manager.eval_dataset):
        assert dataset.cameras.times is not None
        for path, at in zip(dataset.image_filenames, dataset.cameras.times.flatten().tolist(), strict=True):
            assert at == pytest.approx((int(path.stem.removeprefix("frame_")) - 1) / 19)
    camera, batch = manager.next_train(0)
    assert batch["image"].shape[:2] == (int(camera.height), int(camera.width))


def test_video_as_processed_by_nerfstudio(video: Path) -> None:
    manager = manage(video, NestDynamicDataParserConfig(time_from="frame-order"))
    assert (len(manager.train_dataset), len(manager.eval_dataset)) == (18, 2)
    camera, batch = manager.next_train(0)
    assert batch["image"].shape == (int(camera.height), int(camera.width), 3)


def test_config_survives_yaml(dnerf: Path) -> None:
    config = DynamicDatamanagerConfig(data=dnerf, dataparser=NestDynamicDataParserConfig(eval_split="future"))
    assert yaml.load(yaml.dump(config), Loader=yaml.Loader) == config


def test_real_scene(shared_data: Path) -> None:
    parser = NestDynamicDataParserConfig(eval_split="future", downscale_factor=4.0)
    manager = manage(shared_data / "motion" / "horse_walk", parser)
    camera, batch = manager.next_train(0)
    assert batch["image"].shape == (50, 50, 4)
    assert (int(camera.width), len(manager.cached_train), len(manager.eval_dataset)) == (50, 120, 32)
    assert 0 < float(batch["image"][..., 3].mean()) < 0.9
