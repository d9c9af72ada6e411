import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.dnerf_dataparser import DNeRFDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from nest_nerfstudio.data.dataparser import NestDynamicDataParser, NestDynamicDataParserConfig
from nest_nerfstudio.data.dataset import DynamicDataset
from tests.data.small_scenes import edit_json, orbit, parse, times, write_image


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
    assert DynamicDataset(ours).get_data(0)["image"].shape[-1] == 4


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
    torch.testing.assert_close(ours.dataparser_transform.float(), theirs.dataparser_transform)
    assert ours.dataparser_scale == pytest.approx(theirs.dataparser_scale)
    torch.testing.assert_close(ours.metadata["points3D_xyz"], theirs.metadata["points3D_xyz"])
    assert torch.equal(ours.metadata["points3D_rgb"], theirs.metadata["points3D_rgb"])


def test_extra_split_by_option_or_by_file(dnerf: Path) -> None:
    assert times(parse(dnerf, "future")) == [1.25, 1.625, 2.0]
    assert times(parse(dnerf, "val", eval_split="future")) == [1.25, 1.625, 2.0]
    assert times(parse(dnerf / "transforms_future.json", "test")) == [1.25, 1.625, 2.0]
    assert len(parse(dnerf / "transforms_future.json").image_filenames) == 12
    assert len(parse(dnerf / "transforms_train.json", "test").image_filenames) == 2


def test_one_eval_split_stands_in_for_the_other(dnerf: Path) -> None:
    (dnerf / "transforms_val.json").unlink()
    assert times(parse(dnerf, "val")) == times(parse(dnerf, "test"))


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


def test_bad_split(dnerf: Path) -> None:
    with pytest.raises(ValueError, match=r"no split 'past' .* there are: future, test, train, val"):
        parse(dnerf, "val", eval_split="past")
    with pytest.raises(ValueError, match="no split 'past'"):
        parse(dnerf, "past")


def test_a_single_file_of_any_name(video: Path) -> None:
    outputs = parse(video, time_from="frame-order")
    (video / "transforms.json").rename(video / "transforms_clip.json")
    assert times(parse(video / "transforms_clip.json", time_from="frame-order")) == times(outputs)
    (video / "transforms_clip.json").rename(video / "clip.json")
    assert times(parse(video / "clip.json", time_from="frame-order")) == times(outputs)


@pytest.mark.parametrize(("factor", "message"), [(0.0, "must be positive"), (100.0, "leaves nothing")])
def test_bad_downscaling(dnerf: Path, factor: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(dnerf, downscale_factor=factor)


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
    assert torch.equal(parse(dnerf, "val").dataparser_transform, torch.eye(4).double()[:3])
    assert json.loads((dnerf / "transforms_val.json").read_text())["camera_angle_x"] == 0.7
