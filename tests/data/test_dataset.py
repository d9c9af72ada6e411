from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nest_nerfstudio.data.dataset import DynamicDataset
from nest_nerfstudio.data.images import read_mask
from tests.data.small_scenes import edit_json, parse, write_image


def test_an_image_is_its_file(dnerf: Path) -> None:
    dataset = DynamicDataset(parse(dnerf))
    with Image.open(dnerf / "train" / "r_3.png") as file:
        stored = np.array(file)
    assert np.array_equal(dataset.get_numpy_image(3), stored)
    assert np.array_equal(dataset.get_data(3, "uint8")["image"].numpy(), stored)
    torch.testing.assert_close(dataset.get_data(3)["image"], torch.from_numpy(stored) / 255)
    assert dataset.get_data(3)["image_idx"] == 3


def test_an_image_of_another_size_is_an_error_unless_it_is_to_be_resized(dnerf: Path) -> None:
    outputs = parse(dnerf)
    write_image(dnerf / "train" / "r_3.png", size=(20, 10))
    with pytest.raises(ValueError, match=r"r_3.png: the image is 20×10 pixels, but its camera is 12×8"):
        DynamicDataset(outputs).get_numpy_image(3)
    outputs.metadata["resize_on_load"] = True
    assert DynamicDataset(outputs).get_numpy_image(3).shape == (8, 12, 4)


def test_a_scale_factor_resizes(dnerf: Path) -> None:
    dataset = DynamicDataset(parse(dnerf), scale_factor=0.5)
    assert dataset.get_numpy_image(0).shape == (4, 6, 4)
    assert dataset.sizes[0] == (6, 4)


def test_pixels_outside_the_mask_take_the_mask_colour(dnerf: Path) -> None:
    mask = np.zeros((8, 12), np.uint8)
    mask[:, :6] = 255
    Image.fromarray(mask).save(dnerf / "mask.png")
    edit_json(
        dnerf / "transforms_train.json",
        lambda meta: [frame.update(mask_path="mask.png") for frame in meta["frames"]],
    )
    outputs = parse(dnerf)
    plain = DynamicDataset(outputs).get_data(0, "uint8")["image"]
    outputs.metadata["mask_color"] = (1.0, 0.0, 0.2)
    painted = DynamicDataset(outputs).get_data(0, "uint8")["image"]
    assert torch.equal(painted[:, :6], plain[:, :6])
    assert (painted[:, 6:, :3] == torch.tensor([255, 0, 51], dtype=torch.uint8)).all()
    assert torch.equal(painted[..., 3], plain[..., 3])


def test_a_mask_is_of_the_shape_of_its_stored_image(dnerf: Path) -> None:
    """Whatever the size that both are resized to."""
    outputs = parse(dnerf)
    outputs.metadata["resize_on_load"] = True
    write_image(dnerf / "train" / "r_0.png", size=(10, 8))
    Image.new("L", (20, 16), "white").save(dnerf / "mask.png")
    outputs.mask_filenames = 12 * [dnerf / "mask.png"]
    dataset = DynamicDataset(outputs)
    assert dataset.get_data(0)["mask"].shape == (8, 12, 1)
    with pytest.raises(ValueError, match=r"mask\.png: it is 20×16 pixels, but its image is 12×8"):
        dataset.get_mask(1)


def test_intrinsics_become_float32(dnerf: Path) -> None:
    outputs = parse(dnerf)
    outputs.cameras.fx = outputs.cameras.fx.double()
    assert DynamicDataset(outputs).cameras.fx.dtype == torch.float32


def test_downscaling_averages_colours_by_alpha(dnerf: Path) -> None:
    image = np.zeros((8, 12, 4), np.uint8)
    image[:, ::2] = (200, 100, 50, 255)  # the other columns are black and transparent
    Image.fromarray(image).save(dnerf / "train" / "r_0.png")
    small = DynamicDataset(parse(dnerf, downscale_factor=2.0)).get_data(0, "uint8")["image"]
    assert (small[..., :3].int() - torch.tensor([200, 100, 50])).abs().max() <= 2
    assert (small[..., 3].int() - 128).abs().max() <= 1


def test_alpha_is_kept_unless_a_colour_is_asked_for(dnerf: Path) -> None:
    assert DynamicDataset(parse(dnerf)).get_data(0)["image"].shape[-1] == 4
    image = DynamicDataset(parse(dnerf)).get_data(0)["image"]
    over_white = DynamicDataset(parse(dnerf, alpha_color="white")).get_data(0)["image"]
    torch.testing.assert_close(over_white, image[..., :3] * image[..., 3:] + 1 - image[..., 3:])
    torch.testing.assert_close(DynamicDataset(parse(dnerf))[0]["image"], over_white)  # to be shown


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 3), ("P", 3), ("LA", 4)])
def test_other_image_modes(dnerf: Path, mode: str, channels: int) -> None:
    for path in (dnerf / "train").iterdir():
        with Image.open(path) as image:
            converted = image.convert("RGB").convert(mode)
        converted.save(path)
    assert DynamicDataset(parse(dnerf)).get_data(0)["image"].shape == (8, 12, channels)


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


def test_a_pixel_of_a_smaller_image_is_used_if_all_are_that_it_stands_for(tmp_path: Path) -> None:
    """The noise beside a mask is in the mean of the image's pixels there."""
    mask = np.full((8, 12), 255, np.uint8)
    mask[2:5, 3:6] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    expected = np.ones((4, 6), bool)
    expected[1:3, 1:3] = False
    assert np.array_equal(read_mask(tmp_path / "mask.png", (6, 4)), expected)
    assert np.array_equal(
        read_mask(tmp_path / "mask.png", (24, 16)), np.kron(mask > 0, np.ones((2, 2), bool))
    )
