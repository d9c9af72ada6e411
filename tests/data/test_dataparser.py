import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from nerfstudio.cameras.cameras import CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.dnerf_dataparser import DNeRFDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image

from nest_nerfstudio.data.dataparser import NestDynamicDataParser, NestDynamicDataParserConfig
from nest_nerfstudio.data.dataset import DynamicDataset
from tests.data.small_scenes import edit_json, orbit, write_image


def parse(data: Path, split: str = "train", **options: Any) -> DataparserOutputs:
    return NestDynamicDataParserConfig(data=data, **options).setup().get_dataparser_outputs(split)


def times(outputs: DataparserOutputs) -> list[float]:
    assert outputs.cameras.times is not None
    return outputs.cameras.times.flatten().tolist()


def assert_same(ours: DataparserOutputs, theirs: DataparserOutputs) -> None:
    """The same cameras for the same files, in any order."""
    rank = {path: i for i, path in enumerate(ours.image_filenames)}
    index = torch.tensor([rank[path] for path in theirs.image_filenames])
    assert len(rank) == len(theirs.image_filenames)
    for name in ("camera_to_worlds", "fx", "fy", "cx", "cy", "width", "height", "camera_type"):
        actual, expected = getattr(ours.cameras, name)[index], getattr(theirs.cameras, name)
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6, check_dtype=False)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_dnerf_json_reads_as_in_nerfstudio(dnerf: Path, split: str) -> None:
    ours, theirs = (
        parse(dnerf, split),
        DNeRFDataParserConfig(data=dnerf).setup().get_dataparser_outputs(split),
    )
    assert ours.image_filenames == theirs.image_filenames
    assert torch.equal(ours.cameras.times, theirs.cameras.times)
    assert torch.equal(ours.scene_box.aabb, theirs.scene_box.aabb)
    assert_same(ours, theirs)


def test_real_dnerf_scene(shared_data: Path) -> None:
    data = shared_data / "dnerf_lego"
    ours, theirs = parse(data, "val"), DNeRFDataParserConfig(data=data).setup().get_dataparser_outputs("val")
    assert torch.equal(ours.cameras.times, theirs.cameras.times)
    assert_same(ours, theirs)
    assert ours.metadata["has_alpha"]


def test_real_future_split(shared_data: Path) -> None:
    data = shared_data / "motion" / "horse_walk"
    assert len(parse(data).image_filenames) == 120
    future = parse(data, "test", eval_split="future")
    assert len(future.image_filenames) == 32
    assert min(times(future)) > 1
    assert max(times(future)) == 2


def test_transforms_json_reads_as_in_nerfstudio(video: Path) -> None:
    cloud = "ply\nformat ascii 1.0\nelement vertex 2\n" + "".join(f"property float {c}\n" for c in "xyz")
    cloud += "".join(f"property uchar {c}\n" for c in ("red", "green", "blue"))
    (video / "points.ply").write_text(f"{cloud}end_header\n0.5 1 2 255 0 51\n-1 0 0.25 0 102 0\n")
    edit_json(video / "transforms.json", lambda meta: meta.update(ply_file_path="points.ply"))
    ours = parse(video, time_from="frame-order", eval_interval=0)
    theirs = NerfstudioDataParserConfig(data=video, eval_mode="all", load_3D_points=True).setup()
    theirs = theirs.get_dataparser_outputs("train")
    assert_same(ours, theirs)
    torch.testing.assert_close(ours.cameras.distortion_params, theirs.cameras.distortion_params)
    torch.testing.assert_close(ours.dataparser_transform, theirs.dataparser_transform)
    assert ours.dataparser_scale == pytest.approx(theirs.dataparser_scale)
    torch.testing.assert_close(ours.metadata["points3D_xyz"], theirs.metadata["points3D_xyz"])
    assert torch.equal(ours.metadata["points3D_rgb"], theirs.metadata["points3D_rgb"])


def test_frame_order_follows_the_file_names(video: Path) -> None:
    outputs = parse(video, time_from="frame-order", eval_interval=0)
    for path, time in zip(outputs.image_filenames, times(outputs), strict=True):
        assert time == pytest.approx((int(path.stem.removeprefix("frame_")) - 1) / 19)


def test_frame_order_counts_numbers(video: Path) -> None:
    def rename(meta: dict[str, Any]) -> None:
        for frame in meta["frames"]:
            short = f"images/r_{frame['colmap_im_id']}.png"
            (video / frame["file_path"]).rename(video / short)
            frame["file_path"] = short

    edit_json(video / "transforms.json", rename)
    outputs = parse(video, time_from="frame-order", eval_interval=0)
    by_name = {path.stem: time for path, time in zip(outputs.image_filenames, times(outputs), strict=True)}
    assert by_name["r_2"] < by_name["r_10"]


def test_times_of_all_splits_share_one_map(dnerf: Path) -> None:
    def seconds(meta: dict[str, Any]) -> None:
        for frame in meta["frames"]:
            frame["time"] = 10 + 4 * frame["time"]

    before = {split: times(parse(dnerf, split)) for split in ("train", "val", "future")}
    for split in ("train", "val", "test", "future"):
        edit_json(dnerf / f"transforms_{split}.json", seconds)
    for split, expected in before.items():
        assert times(parse(dnerf, split)) == pytest.approx(expected)
    assert times(parse(dnerf, "future", time_scale="none")) == pytest.approx(
        [10 + 4 * t for t in before["future"]]
    )


def test_times_inside_the_unit_span_stay(dnerf: Path) -> None:
    def narrow(meta: dict[str, Any]) -> None:
        for frame in meta["frames"]:
            frame["time"] = 0.25 + 0.5 * frame["time"]

    edit_json(dnerf / "transforms_train.json", narrow)
    assert min(times(parse(dnerf))) == 0.25
    assert max(times(parse(dnerf))) == 0.75


def test_a_part_of_the_clip_becomes_the_clip(dnerf: Path) -> None:
    before = times(parse(dnerf))
    kept = sorted(t for t in before if t <= 0.5)[::2]
    assert len(kept) >= 3
    part = {"train_interval": 2, "train_span": (0.0, 0.5)}
    assert times(parse(dnerf, **part)) == pytest.approx([2 * t for t in kept])
    assert times(parse(dnerf, "future", **part)) == pytest.approx([2.5, 3.25, 4.0])
    assert times(parse(dnerf, "future", train_interval=2)) == [1.25, 1.625, 2.0]
    assert times(parse(dnerf, "left_out", **part)) == pytest.approx([2 * t for t in before if t not in kept])
    with pytest.raises(ValueError, match="no split 'left_out'"):
        parse(dnerf, "left_out")


@pytest.mark.parametrize(
    "part", [{"train_interval": 0}, {"train_span": (0.5, 0.5)}, {"train_span": (0.0, 1.5)}]
)
def test_a_part_that_is_none_is_refused(dnerf: Path, part: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not a part of the clip"):
        parse(dnerf, **part)


def test_a_part_without_motion_is_refused(dnerf: Path) -> None:
    with pytest.raises(ValueError, match="1 of 12 train frames are in the part"):
        parse(dnerf, train_span=(0.0, 0.01))


def test_extra_split_by_option_or_by_file(dnerf: Path) -> None:
    assert times(parse(dnerf, "future")) == [1.25, 1.625, 2.0]
    assert times(parse(dnerf, "val", eval_split="future")) == [1.25, 1.625, 2.0]
    assert times(parse(dnerf / "transforms_future.json", "test")) == [1.25, 1.625, 2.0]
    assert len(parse(dnerf / "transforms_future.json").image_filenames) == 12
    assert len(parse(dnerf / "transforms_train.json", "test").image_filenames) == 2


def test_one_eval_split_stands_in_for_the_other(dnerf: Path) -> None:
    (dnerf / "transforms_val.json").unlink()
    assert times(parse(dnerf, "val")) == times(parse(dnerf, "test"))


@pytest.mark.parametrize("interval", [2, 4, 8])
def test_holds_frames_out_where_there_is_no_eval_split(dnerf: Path, interval: int) -> None:
    for split in ("val", "test"):
        (dnerf / f"transforms_{split}.json").unlink()
    train, held = (parse(dnerf, split, eval_interval=interval) for split in ("train", "val"))
    assert not set(train.image_filenames) & set(held.image_filenames)
    assert len(train.image_filenames) + len(held.image_filenames) == 12
    assert abs(len(held.image_filenames) - 12 / interval) <= 1
    assert min(times(train)) == 0
    assert max(times(train)) == 1


def test_holds_nothing_out_on_request(dnerf: Path) -> None:
    for split in ("val", "test"):
        (dnerf / f"transforms_{split}.json").unlink()
    assert times(parse(dnerf, "val", eval_interval=0)) == times(parse(dnerf, eval_interval=0))
    assert len(parse(dnerf, "train", eval_split="future").image_filenames) == 12


def test_splits_listed_in_the_file(video: Path) -> None:
    def lists(meta: dict[str, Any]) -> None:
        names = sorted(frame["file_path"] for frame in meta["frames"])
        meta.update(train_filenames=names[:12], val_filenames=names[12:15], late_filenames=names[15:])

    edit_json(video / "transforms.json", lists)
    splits = {s: parse(video, s, time_from="frame-order") for s in ("train", "val", "test", "late")}
    assert [len(s.image_filenames) for s in splits.values()] == [12, 3, 3, 5]
    assert len(parse(video, "val", time_from="frame-order", eval_split="late").image_filenames) == 5


def test_poses_of_a_transforms_json_can_stay(video: Path) -> None:
    keep = {"orientation_method": "none", "center_method": "none", "auto_scale_poses": False}
    outputs = parse(video, time_from="frame-order", eval_interval=0, scale_factor=0.5, **keep)
    index = [path.stem for path in outputs.image_filenames].index("frame_00004")
    pose = torch.tensor(orbit(3 / 40))[:3]
    pose[:, 3] *= 0.5
    torch.testing.assert_close(outputs.cameras.camera_to_worlds[index], pose)


@pytest.mark.parametrize("factor", [2.0, 3.0])
def test_downscaling_on_load(dnerf: Path, factor: float) -> None:
    full, small = parse(dnerf), parse(dnerf, downscale_factor=factor)
    camera = small.cameras[0]
    width, height = int(12 / factor), int(8 / factor)
    assert (int(camera.width), int(camera.height)) == (width, height)
    assert float(camera.fx) == pytest.approx(float(full.cameras[0].fx) * width / 12)
    assert float(camera.cy) == pytest.approx(float(full.cameras[0].cy) * height / 8)
    assert DynamicDataset(small).get_data(0)["image"].shape == (height, width, 4)


def test_downscaling_averages_colours_by_alpha(dnerf: Path) -> None:
    image = np.zeros((8, 12, 4), np.uint8)
    image[:, ::2] = (200, 100, 50, 255)  # the other columns are black and transparent
    Image.fromarray(image).save(dnerf / "train" / "r_0.png")
    small = DynamicDataset(parse(dnerf, downscale_factor=2.0)).get_data(0, "uint8")["image"]
    assert (small[..., :3].int() - torch.tensor([200, 100, 50])).abs().max() <= 2
    assert (small[..., 3].int() - 128).abs().max() <= 1


def test_downscaled_folder_is_used(video: Path) -> None:
    for i in range(20):
        write_image(video / "images_2" / f"frame_{i + 1:05d}.png", size=(6, 4), mode="RGB")
    outputs = parse(video, downscale_factor=2.0, time_from="frame-order")
    assert {path.parent.name for path in outputs.image_filenames} == {"images_2"}
    assert DynamicDataset(outputs).get_data(0)["image"].shape == (4, 6, 3)


def test_large_images_are_scaled_down_by_default(dnerf: Path) -> None:
    for i in range(12):
        write_image(dnerf / "train" / f"r_{i}.png", size=(3201, 8), mode="RGBA")
    assert int(parse(dnerf).cameras.width[0]) == 3201 // 4


def test_inference_keeps_the_full_size(dnerf: Path) -> None:
    parser = NestDynamicDataParserConfig(data=dnerf, downscale_factor=2.0).setup()
    assert isinstance(parser, NestDynamicDataParser)
    parser.downscale_factor = 1  # as nerfstudio's data manager does
    assert int(parser.get_dataparser_outputs("test").cameras.width[0]) == 12


def test_cameras_of_more_than_one_size(dnerf: Path) -> None:
    write_image(dnerf / "train" / "r_3.png", size=(20, 10))
    outputs = parse(dnerf)
    assert outputs.cameras.width.flatten().tolist() == [12] * 3 + [20] + [12] * 8
    assert float(outputs.cameras.fx[3] / outputs.cameras.fx[0]) == pytest.approx(20 / 12)
    assert DynamicDataset(outputs).get_data(3)["image"].shape == (10, 20, 4)


def test_intrinsics_of_single_frames(dnerf: Path) -> None:
    def own_camera(meta: dict[str, Any]) -> None:
        meta["frames"][1].update(fl_x=30.0, cx=5.0, camera_model="OPENCV_FISHEYE", k1=0.1)

    edit_json(dnerf / "transforms_train.json", own_camera)
    cameras = parse(dnerf).cameras
    assert (float(cameras.fx[1]), float(cameras.fy[1]), float(cameras.cx[1])) == (30, 30, 5)
    assert int(cameras.camera_type[1]) == CameraType.FISHEYE.value
    assert cameras.distortion_params is not None
    assert cameras.distortion_params[:, 0].tolist() == pytest.approx([0, 0.1] + [0] * 10)


def test_alpha_is_kept_unless_a_colour_is_asked_for(dnerf: Path) -> None:
    assert DynamicDataset(parse(dnerf)).get_data(0)["image"].shape[-1] == 4
    image = DynamicDataset(parse(dnerf)).get_data(0)["image"]
    over_white = DynamicDataset(parse(dnerf, alpha_color="white")).get_data(0)["image"]
    torch.testing.assert_close(over_white, image[..., :3] * image[..., 3:] + 1 - image[..., 3:])
    torch.testing.assert_close(DynamicDataset(parse(dnerf))[0]["image"], over_white)  # to be shown


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 3), ("P", 3), ("LA", 4)])
def test_other_image_modes(dnerf: Path, mode: str, channels: int) -> None:
    with Image.open(dnerf / "train" / "r_0.png") as image:
        converted = image.convert("RGB").convert(mode)
    converted.save(dnerf / "train" / "r_0.png")
    outputs = parse(dnerf)
    assert DynamicDataset(outputs).get_data(0)["image"].shape == (8, 12, channels)
    assert outputs.metadata["has_alpha"] == (channels == 4)


def test_masks_and_depths(dnerf: Path) -> None:
    def extras(meta: dict[str, Any]) -> None:
        for i, frame in enumerate(meta["frames"]):
            frame.update(mask_path=f"masks/{i}.png", depth_file_path=f"depths/{i}.png")
            mask = np.zeros((8, 12), np.uint8)
            mask[:, i:] = 255
            for folder, image in (("masks", mask), ("depths", np.full((8, 12), 1000 * i, np.uint16))):
                (dnerf / folder).mkdir(exist_ok=True)
                Image.fromarray(image).save(dnerf / folder / f"{i}.png")

    edit_json(dnerf / "transforms_train.json", extras)
    data = DynamicDataset(parse(dnerf, scale_factor=2.0))[3]
    assert data["mask"].dtype == torch.bool
    assert data["mask"].squeeze(-1).sum(dim=1).tolist() == [9] * 8
    torch.testing.assert_close(data["depth_image"], torch.full((8, 12, 1), 6.0))  # 3000 mm, scaled by 2
    small = DynamicDataset(parse(dnerf, downscale_factor=2.0))[3]
    assert small["mask"].shape == small["depth_image"].shape == (4, 6, 1)


def _set(key: str, value: Any, frame: int | None = 2) -> Any:
    def edit(meta: dict[str, Any]) -> None:
        for target in meta["frames"] if frame is None else [meta["frames"][frame]]:
            if value is None:
                target.pop(key)
            else:
                target[key] = value

    return edit


NAN_POSE = [[float("nan"), *row[1:]] if i == 0 else row for i, row in enumerate(orbit(0))]


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        (
            _set("time", None, frame=None),
            ValueError,
            r"transforms_train.json: 12 of 12 frames have no `time`.*give each frame one$",
        ),
        (_set("time", None), ValueError, r"1 of 12 frames have no `time` \(first: ./train/r_2\)"),
        (_set("time", 0.5, frame=None), ValueError, "all 12 train frames have time 0.5"),
        (_set("time", float("inf")), ValueError, "r_2.*time is inf"),
        (_set("time", "noon"), ValueError, "r_2.*time is 'noon', not a finite number"),
        (_set("transform_matrix", NAN_POSE), ValueError, "r_2.*not a finite 4×4 matrix"),
        (_set("transform_matrix", [[1.0, 0.0]]), ValueError, "r_2.*not a finite 4×4 matrix"),
        (_set("transform_matrix", [[1.0], []]), ValueError, "r_2.*not a finite 4×4 matrix"),
        (
            _set("transform_matrix", None),
            ValueError,
            "train.json: frame ./train/r_2: no `transform_matrix`",
        ),
        (_set("file_path", "./train/gone"), FileNotFoundError, r"1 of 12 files are missing: .*gone\.png"),
        (_set("file_path", "./gone", frame=None), FileNotFoundError, r"12 of 12 .* and 7 more"),
        (_set("mask_path", "gone.png"), ValueError, "only 1 of 12 frames have a mask"),
        (_set("mask_path", "gone.png", frame=None), FileNotFoundError, "gone.png"),
        (_set("depth_file_path", "gone.png", frame=None), FileNotFoundError, "gone.png"),
        (_set("w", 13), ValueError, "its image r_2.png is 12×8 pixels, but its camera is 13×8"),
        (_set("fl_x", -1.0), ValueError, "r_2.*impossible intrinsics"),
        (_set("camera_model", "PINHOLEY"), ValueError, "PINHOLEY is unknown"),
        (lambda meta: meta.pop("camera_angle_x"), ValueError, "frame ./train/r_0: no focal length"),
        (lambda meta: meta.update(frames=meta["frames"][:1]), ValueError, "only one train frame"),
        (lambda meta: meta.update(frames=[]), ValueError, "no list `frames`"),
        (lambda meta: meta.update(ply_file_path="gone.ply"), FileNotFoundError, "seed points.*gone.ply"),
    ],
)
def test_bad_scene(dnerf: Path, edit: Any, error: type[Exception], message: str) -> None:
    edit_json(dnerf / "transforms_train.json", edit)
    with pytest.raises(error, match=message):
        parse(dnerf)


def test_bad_folder_or_json(dnerf: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        parse(dnerf / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"neither transforms_train\.json nor"):
        parse(dnerf / "train")
    (dnerf / "transforms_train.json").write_text('{"frames": [')
    with pytest.raises(ValueError, match="not valid JSON"):
        parse(dnerf)


def test_bad_split(dnerf: Path) -> None:
    with pytest.raises(ValueError, match=r"no split 'past' .* there are: future, test, train, val"):
        parse(dnerf, "val", eval_split="past")
    with pytest.raises(ValueError, match="no split 'past'"):
        parse(dnerf, "past")


def test_bad_split_lists(video: Path) -> None:
    edit_json(video / "transforms.json", lambda meta: meta.update(val_filenames=["images/frame_00001.png"]))
    with pytest.raises(ValueError, match="lists val, but has no `train_filenames`"):
        parse(video, time_from="frame-order")
    edit_json(video / "transforms.json", lambda meta: meta.update(train_filenames=["images/gone.png"]))
    with pytest.raises(ValueError, match=r"lists images/gone\.png in the split train"):
        parse(video, time_from="frame-order")


def test_a_single_file_of_any_name(video: Path) -> None:
    outputs = parse(video, time_from="frame-order")
    (video / "transforms.json").rename(video / "transforms_clip.json")
    assert times(parse(video / "transforms_clip.json", time_from="frame-order")) == times(outputs)
    (video / "transforms_clip.json").rename(video / "clip.json")
    assert times(parse(video / "clip.json", time_from="frame-order")) == times(outputs)


def test_frame_order_needs_one_file(dnerf: Path) -> None:
    with pytest.raises(ValueError, match="needs all frames in one file"):
        parse(dnerf, time_from="frame-order")


def test_video_without_times_says_what_to_do(video: Path) -> None:
    with pytest.raises(ValueError, match="nest-dynamic-data --time-from frame-order"):
        parse(video)


@pytest.mark.parametrize(("factor", "message"), [(0.0, "must be positive"), (100.0, "leaves nothing")])
def test_bad_downscaling(dnerf: Path, factor: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(dnerf, downscale_factor=factor)


def test_a_file_that_is_no_image_is_named(dnerf: Path) -> None:
    (dnerf / "train" / "r_4.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"r_4\.png: cannot read the image"):
        parse(dnerf)


def test_an_image_cut_short_is_named_when_it_is_read(dnerf: Path) -> None:
    path = dnerf / "train" / "r_4.png"
    path.write_bytes(path.read_bytes()[:-150])
    dataset = DynamicDataset(parse(dnerf))
    with pytest.raises(ValueError, match=r"r_4\.png: cannot read the image.*damaged or cut short"):
        dataset.get_data(4)


def test_broken_masks_and_depths_are_named(dnerf: Path) -> None:
    def extras(meta: dict[str, Any]) -> None:
        for frame in meta["frames"]:
            frame.update(mask_path="mask.png", depth_file_path="depth.png")

    edit_json(dnerf / "transforms_train.json", extras)
    (dnerf / "mask.png").write_bytes(b"x")
    (dnerf / "depth.png").write_bytes(b"x")
    dataset = DynamicDataset(parse(dnerf))
    with pytest.raises(ValueError, match=r"mask\.png: cannot read the mask"):
        dataset.get_mask(0)
    with pytest.raises(ValueError, match=r"depth\.png: cannot read the depth image"):
        dataset.get_depth(0)


def test_config_survives_yaml(dnerf: Path) -> None:
    config = NestDynamicDataParserConfig(data=dnerf, downscale_factor=2.0, eval_split="future")
    assert yaml.load(yaml.dump(config), Loader=yaml.Loader) == config


def test_importable_while_nerfstudio_collects_its_parsers() -> None:
    code = (
        "import sys, nest_nerfstudio.data.dataparser; "
        "assert 'nerfstudio.configs.dataparser_configs' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_meta_of_the_train_split_leads(dnerf: Path) -> None:
    edit_json(
        dnerf / "transforms_train.json", lambda meta: meta.update(applied_transform=np.eye(4)[:3].tolist())
    )
    assert torch.equal(parse(dnerf, "val").dataparser_transform, torch.eye(4)[:3])
    assert json.loads((dnerf / "transforms_val.json").read_text())["camera_angle_x"] == 0.7
