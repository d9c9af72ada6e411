"""Every kind of image file is scaled right, or refused in words, in training and in the check alike."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from nest_nerfstudio.data.check import check_dataset
from nest_nerfstudio.data.dataset import DynamicDataset
from nest_nerfstudio.data.images import (
    alpha_problems,
    find_image,
    image_header,
    image_suffixes,
    missing_file,
    read_depth,
    read_image,
    read_mask,
)
from tests.data.small_scenes import edit_json, parse

RAMP = np.linspace(0, 1, 96).reshape(8, 12)
"""Black to white."""
GREY = np.rint(RAMP * 255).astype(np.uint8)
SIZE = {"size": (12, 8)}


def grey(values: np.ndarray, dtype: Any) -> Image.Image:
    return Image.fromarray(values.astype(dtype))


def read(path: Path) -> np.ndarray:
    return np.array(read_image(path))


@pytest.mark.parametrize(
    ("image", "suffix"),
    [
        (grey(GREY, np.uint8), "png"),
        (grey(RAMP * 65535, np.uint16), "png"),  # I;16
        (grey(RAMP * 65535, np.uint16), "tif"),
        (Image.fromarray((RAMP * 65535).astype(">u2")), "tif"),  # I;16B
        (grey(RAMP * 65535, np.int32), "tif"),  # I
        (grey(RAMP * 65535, np.uint16), "pgm"),  # Pillow reads it as I
        (grey(RAMP, np.float32), "tif"),  # F
        (grey(GREY, np.uint8).convert("LA"), "png"),
        (grey(GREY, np.uint8).convert("P"), "png"),
        (grey(GREY, np.uint8).convert("RGB"), "bmp"),
        (grey(GREY, np.uint8), "gif"),
        (grey(GREY, np.uint8).convert("RGB"), "jp2"),
        (grey(GREY, np.uint8).convert("CMYK"), "tif"),
        (grey(GREY, np.uint8).convert("RGB"), "webp"),
    ],
    ids=lambda x: getattr(x, "mode", x),
)
def test_values_are_those_of_8_bits(tmp_path: Path, image: Image.Image, suffix: str) -> None:
    path = tmp_path / f"image.{suffix}"
    image.save(path, lossless=True)  # which WebP alone heeds
    pixels = read(path)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (8, 12, 4 if image.mode in ("LA", "RGBA") else 3)
    assert np.abs(pixels[..., :3].astype(int) - GREY[..., None]).max() <= 1
    assert (pixels[..., 3:] == 255).all()


def test_a_bit_a_pixel(tmp_path: Path) -> None:
    grey(GREY > 128, bool).save(tmp_path / "a.png")
    assert np.array_equal(read(tmp_path / "a.png")[..., 0], 255 * (GREY > 128))


def test_a_black_frame_of_16_bits_is_black(tmp_path: Path) -> None:
    grey(0 * RAMP, np.uint16).save(tmp_path / "a.png")
    assert not read(tmp_path / "a.png").any()


def test_a_transparent_value_of_16_bits_is_alpha(tmp_path: Path) -> None:
    values = (RAMP * 65535).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png", transparency=int(values[3, 4]))
    assert np.array_equal(read(tmp_path / "a.png")[..., 3], np.where(values == values[3, 4], 0, 255))
    assert image_header(tmp_path / "a.png").has_alpha


@pytest.mark.parametrize(
    ("image", "problem"),
    [
        (grey(RAMP * 255, np.float32), r"floats from 0 to 255 .*mode F.*only \[0, 1\]"),
        (grey(RAMP - 0.5, np.float32), r"floats from -0.5 to 0.5"),
        (grey(np.where(RAMP > 0.5, np.nan, RAMP), np.float32), r"floats from 0 to 0.49"),
        (grey(RAMP * 1e6, np.int32), r"integers from 0 to 1e\+06 .*mode I.*only \[0, 65535\]"),
        (grey(RAMP * 100 - 50, np.int32), r"integers from -50 to 50"),
        (grey(GREY, np.int32), r"integers from 0 to 255 .*mode I\), which of 16 bits are all black"),
        (grey(GREY, np.uint16), r"integers from 0 to 255 .*mode I;16\), which of 16 bits are all black"),
    ],
)
def test_values_without_a_known_white_are_refused_by_training_and_check(
    dnerf: Path, image: Image.Image, problem: str
) -> None:
    image.save(dnerf / "train" / "r_3.tif")
    (dnerf / "train" / "r_3.png").unlink()
    for path in (dnerf / "train").glob("*.png"):
        Image.open(path).convert("RGB").save(path)
    with pytest.raises(ValueError, match=rf"train/r_3\.tif: .*{problem}.*save it with 8") as raised:
        DynamicDataset(parse(dnerf)).get_data(3)
    assert str(raised.value) in check_dataset(dnerf).problems


@pytest.mark.parametrize("suffix", ["tif", "tiff", "bmp", "gif", "jp2", "webp", "TIF", "tga", "ppm"])
@pytest.mark.parametrize("written", [True, False])
def test_what_pillow_reads_is_found_with_and_without_its_extension(
    tmp_path: Path, suffix: str, written: bool
) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / f"f_0.05.{suffix}")
    asked = tmp_path / (f"f_0.05.{suffix}" if written else "f_0.05")
    assert find_image(asked) == tmp_path / f"f_0.05.{suffix}"


def test_a_missing_file_is_named_as_it_is_written(dnerf: Path) -> None:
    assert missing_file(Path("a/f_0.tif")) == "a/f_0.tif"
    assert missing_file(Path("a/f_0")) == "a/f_0.png (nor .jpg, .jpeg, .webp, …)"
    edit_json(
        dnerf / "transforms_train.json", lambda meta: meta["frames"][0].update(file_path="train/f_0.tif")
    )
    with pytest.raises(FileNotFoundError, match=r"1 of 12 files are missing: .*/train/f_0\.tif;"):
        parse(dnerf)
    assert f"{dnerf}/train/f_0.tif: is missing" in check_dataset(dnerf).problems


def test_a_file_of_no_image_says_what_to_save(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(b"ftypheic" * 9)
    with pytest.raises(
        ValueError, match=r"a\.heic: cannot read the image: .*Pillow does not read; save it as"
    ):
        read(tmp_path / "a.heic")


def test_headers(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for name in ("a.jpg", "a.png"):
        Image.new("RGB", (12, 8)).save(tmp_path / name, exif=exif)
        assert image_header(tmp_path / name) == ((12, 8), False, 6)
    Image.new("LAB", (12, 8)).save(tmp_path / "lab.tif")
    assert image_header(tmp_path / "lab.tif") == ((12, 8), False, 1)
    exif[ExifTags.Base.Orientation] = 77
    Image.new("RGBA", (12, 8)).save(tmp_path / "a.png", exif=exif)
    assert image_header(tmp_path / "a.png") == ((12, 8), True, 1)


def test_a_jpeg_is_decoded_near_the_size_that_is_needed(tmp_path: Path) -> None:
    grey(np.kron(GREY, np.ones((8, 8))), np.uint8).save(tmp_path / "a.jpg")
    assert read_image(tmp_path / "a.jpg", (24, 16)).size == (24, 16)
    assert read_image(tmp_path / "a.jpg").size == (96, 64)


# ---------------------------------------------------------------- masks and depths


def test_masks_of_many_kinds(tmp_path: Path) -> None:
    used = RAMP > 0.5
    alpha = np.dstack([np.full((8, 12, 3), 255), 255 * used]).astype(np.uint8)
    for name, image in {
        "a.png": grey(255 * used, np.uint8),
        "b.png": grey(used, bool),
        "c.png": grey(used, np.uint8),  # of 0 and 1
        "d.png": grey(used, np.uint16),
        "e.tif": grey(used, np.float32),
        "f.png": Image.fromarray(alpha),
        "g.gif": grey(255 * used, np.uint8),
    }.items():
        image.save(tmp_path / name)
        assert np.array_equal(read_mask(tmp_path / name), used), name
    big = np.kron(used, np.ones((8, 8)))
    grey(255 * big, np.uint8).save(tmp_path / "h.jpg", quality=60)
    assert np.array_equal(read_mask(tmp_path / "h.jpg"), big)  # its black is not quite black
    assert np.array_equal(read_mask(tmp_path / "h.jpg", (12, 8)), used)
    for suffix in ("webp", "jp2", "avif"):
        if f".{suffix}" in image_suffixes():
            path = tmp_path / f"i.{suffix}"
            grey(255 * big, np.uint8).convert("RGB").save(
                path, quality=10, quality_layers=[30], irreversible=True
            )
            assert np.array_equal(read_mask(path), big), suffix
    grey(big, np.uint8).convert("RGB").save(tmp_path / "j.webp", lossless=True)  # of 0 and 1
    assert np.array_equal(read_mask(tmp_path / "j.webp"), big)


def test_depths_of_many_kinds(tmp_path: Path) -> None:
    depth = np.rint(RAMP * 5000)
    grey(depth, np.uint16).save(tmp_path / "a.png")
    grey(depth, np.float32).save(tmp_path / "a.tif")
    np.save(tmp_path / "a.npy", depth[..., None])
    for name in ("a.png", "a.tif", "a.npy"):
        assert np.array_equal(read_depth(tmp_path / name), depth)
        assert read_depth(tmp_path / name, (6, 4)).shape == (4, 6)
    np.save(tmp_path / "b.npy", [[np.nan, np.inf], [-1.0, 2.0]])
    assert read_depth(tmp_path / "b.npy").tolist() == [[0, 0], [0, 2]]
    Image.new("RGB", (12, 8)).save(tmp_path / "c.png")
    with pytest.raises(ValueError, match=r"c\.png: cannot read the depth image: its shape is \(8, 12, 3\)"):
        read_depth(tmp_path / "c.png")


def test_a_broken_depth_is_found_by_the_check(dnerf: Path) -> None:
    Image.new("RGB", (12, 8)).save(dnerf / "depth.png")
    edit_json(
        dnerf / "transforms_train.json",
        lambda meta: meta["frames"][2].update(depth_file_path="depth.png"),
    )
    with pytest.raises(ValueError, match="one channel") as raised:
        DynamicDataset(parse(dnerf)).get_data(2)
    assert str(raised.value) in check_dataset(dnerf).problems


@pytest.mark.parametrize(
    ("size", "hint"),
    [((8, 12), "`mogrify -auto-orient FILES`"), ((12, 12), "of another ratio"), ((12, 9), "12×8")],
)
@pytest.mark.parametrize("key", ["mask_path", "depth_file_path"])
def test_masks_and_depths_of_another_shape_are_refused_by_training_and_check(
    dnerf: Path, key: str, size: tuple[int, int], hint: str
) -> None:
    Image.new("L", size, "white").save(dnerf / "extra.png")
    edit_json(dnerf / "transforms_train.json", lambda meta: meta["frames"][2].update({key: "extra.png"}))
    dataset = DynamicDataset(parse(dnerf))
    with pytest.raises(ValueError, match=r"extra\.png: it is .*, but its image is 12×8") as raised:
        dataset.get_data(2)
    assert hint in str(raised.value)
    assert check_dataset(dnerf).problems == [str(raised.value)]


@pytest.mark.parametrize("size", [(12, 8), (6, 4), (96, 64), (7, 5)])
def test_masks_and_depths_of_the_same_ratio_are_resized(dnerf: Path, size: tuple[int, int]) -> None:
    Image.new("L", size, "white").save(dnerf / "extra.png")
    extra = {"mask_path": "extra.png", "depth_file_path": "extra.png"}
    edit_json(dnerf / "transforms_train.json", lambda meta: meta["frames"][2].update(extra))
    data = DynamicDataset(parse(dnerf)).get_data(2)
    assert data["mask"].shape == data["depth_image"].shape == (8, 12, 1)
    assert check_dataset(dnerf).problems == []


# ---------------------------------------------------------------- alpha


def test_images_that_differ_in_alpha_are_named() -> None:
    files = {Path(f"train/r_{i}.png"): i >= 7 for i in range(20)}
    (problem,) = alpha_problems(files)
    assert problem.startswith(
        "7 of 20 images have no alpha, unlike the others: train/r_0.png, train/r_1.png, train/r_2.png, "
        "train/r_3.png, train/r_4.png and 2 more. If those without show"
    )
    (problem,) = alpha_problems({path: not alpha for path, alpha in files.items()})
    assert problem.startswith("7 of 20 images have alpha, unlike the others: train/r_0.png")
    assert not list(alpha_problems(dict.fromkeys(files, True)))


@pytest.mark.parametrize("opaque", [[0], range(6), range(1, 12)], ids=["first", "half", "all but the first"])
def test_alpha_of_some_images_only_is_refused_unless_a_colour_is_behind_it(dnerf: Path, opaque: Any) -> None:
    for i in opaque:
        path = dnerf / "train" / f"r_{i}.png"
        Image.open(path).convert("RGB").save(path)
    with pytest.raises(ValueError, match=r"transforms_train.json: \d+ of 12 images have") as raised:
        parse(dnerf)
    assert check_dataset(dnerf).problems == [str(raised.value)]
    dataset = DynamicDataset(parse(dnerf, alpha_color="black"))
    assert {dataset.get_data(i, "uint8")["image"].shape for i in range(12)} == {(8, 12, 3)}
    dataset = DynamicDataset(parse(dnerf, missing_alpha="opaque"))
    assert all((dataset.get_numpy_image(i)[..., 3] == 255).all() == (i in opaque) for i in range(12))


def test_images_that_all_have_no_alpha_get_none(video: Path) -> None:
    dataset = DynamicDataset(parse(video, time_from="frame-order", missing_alpha="opaque"))
    assert dataset.get_numpy_image(0).shape == (8, 12, 3)
