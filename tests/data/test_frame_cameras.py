"""Sizes of images and cameras: the same, in the same ratio, turned by EXIF, or refused."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import ExifTags, Image

from nest_nerfstudio.data.check import check_dataset
from nest_nerfstudio.data.dataset import DynamicDataset
from nest_nerfstudio.data.frame_cameras import is_scaled
from tests.data.small_scenes import edit_json, parse, write_image

INTRINSICS = {"w": 24, "h": 16, "fl_x": 30.0, "fl_y": 32.0, "cx": 13.0, "cy": 8.0}


def set_camera(scene: Path, **camera: Any) -> None:
    edit_json(scene / "transforms_train.json", lambda meta: meta.update(camera))


def turn(scene: Path, orientation: int, size: tuple[int, int] = (12, 8)) -> None:
    """Give all train images an EXIF orientation."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    for path in (scene / "train").iterdir():
        write_image(path, size)
        with Image.open(path) as image:
            image.load()
        image.save(path, exif=exif)


def one(lines: list[str]) -> str:
    (line,) = lines
    return line


@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_intrinsics_follow_images_of_another_size_in_the_same_ratio(
    dnerf: Path, capsys: pytest.CaptureFixture, factor: float
) -> None:
    set_camera(dnerf, **{key: value * factor / 2 for key, value in INTRINSICS.items()})
    cameras = parse(dnerf).cameras
    found = [float(getattr(cameras, name)[0]) for name in ("fx", "fy", "cx", "cy", "width", "height")]
    assert found == pytest.approx([15, 16, 6.5, 4, 12, 8])
    printed = " ".join(capsys.readouterr().out.split())
    w, h = int(12 * factor), int(8 * factor)
    note = (
        "12 of 12 images are of another size than their camera, in the same ratio "
        f"(first: ./train/r_0, 12×8 for {w}×{h})"
    )
    assert "are of another size than their camera" in printed
    assert "intrinsics are scaled to the images" in printed
    report = check_dataset(dnerf)
    assert report.problems == []
    assert note in one(report.notes)


def test_a_field_of_view_holds_at_any_size(dnerf: Path) -> None:
    plain = parse(dnerf).cameras
    set_camera(dnerf, w=120, h=80)
    torch.testing.assert_close(parse(dnerf).cameras.fx, plain.fx)


@pytest.mark.parametrize(
    ("size", "other", "same"),
    [
        ((960, 540), (1920, 1080), True),
        ((1237, 822), (4946, 3286), True),  # rounded
        ((959, 540), (1920, 1080), True),
        ((3840, 2160), (1920, 1080), True),
        ((1920, 1080), (1920, 1080), True),
        ((1918, 1080), (1920, 1080), False),  # cropped
        ((960, 600), (1920, 1080), False),
        ((1080, 1920), (1920, 1080), False),
    ],
)
def test_the_same_ratio(size: tuple[int, int], other: tuple[int, int], same: bool) -> None:
    assert is_scaled(size, other) == same


@pytest.mark.parametrize("scale", [1, 2])
def test_exif_is_named_where_it_explains_the_size(dnerf: Path, scale: int) -> None:
    turn(dnerf, 6)
    set_camera(dnerf, w=8 * scale, h=12 * scale)
    with pytest.raises(ValueError, match=r"EXIF orientation \(6\).*`mogrify -auto-orient FILES`") as raised:
        parse(dnerf)
    assert (
        str(raised.value).partition("its image")[0] in f"{dnerf}/transforms_train.json: frame ./train/r_0: "
    )
    assert "EXIF orientation (6)" in check_dataset(dnerf).problems[0]


def test_exif_of_images_that_fit_their_cameras_as_stored_says_nothing(dnerf: Path) -> None:
    turn(dnerf, 6)
    set_camera(dnerf, w=12, h=8)
    report = check_dataset(dnerf)
    assert (report.problems, report.notes) == ([], [])
    assert DynamicDataset(parse(dnerf)).get_numpy_image(0).shape == (8, 12, 4)


@pytest.mark.parametrize(
    ("orientation", "size", "camera"),
    [(6, (8, 8), {"w": 8, "h": 8}), (3, (12, 8), {"w": 12, "h": 8}), (8, (12, 8), {})],
    ids=["square", "upside down", "no size given"],
)
def test_exif_that_sizes_do_not_explain_is_a_note(
    dnerf: Path, orientation: int, size: tuple[int, int], camera: dict[str, int]
) -> None:
    turn(dnerf, orientation, size)
    set_camera(dnerf, **camera)
    note = one([note for note in check_dataset(dnerf).notes if "are of 12×8" not in note])
    assert f"12 of 12 images have an EXIF orientation (first: ./train/r_0, {orientation})" in note
    assert "they are used as stored" in note


def test_a_principal_point_outside_its_image_asks_for_the_size(dnerf: Path) -> None:
    set_camera(dnerf, cx=960.0, cy=540.0)
    with pytest.raises(ValueError, match=r"principal point \(960, 540\) lies outside.*12×8.*as `w` and `h`"):
        parse(dnerf)


@pytest.mark.parametrize("row", [[0.1, 0.2], "strong", [0, 0, 0, 0, 0, float("nan")]])
def test_distortion_that_is_no_row_of_six_is_refused(dnerf: Path, row: Any) -> None:
    set_camera(dnerf, distortion_params=row)
    with pytest.raises(ValueError, match="distortion_params must be six finite numbers"):
        parse(dnerf)


def test_smaller_images_of_a_sibling_folder_have_their_own_size(video: Path) -> None:
    for path in (video / "images").iterdir():
        write_image(path, (25, 17), "RGB")
        write_image(video / "images_2" / path.name, (13, 9), "RGB")  # rounded up
    edit_json(video / "transforms.json", lambda meta: meta.update(w=25, h=17, cx=12.5))
    outputs = parse(video, time_from="frame-order", downscale_factor=2.0)
    assert outputs.image_filenames[0].parent.name == "images_2"
    assert DynamicDataset(outputs).get_numpy_image(0).shape == (9, 13, 3)
    assert float(outputs.cameras.cx[0]) == pytest.approx(6.5)
    write_image(video / "images_2" / "frame_00001.png", (9, 9), "RGB")
    with pytest.raises(
        ValueError, match=r"images_2/frame_00001.png: the image is 9×9 pixels, which is no 25×17"
    ):
        parse(video, time_from="frame-order", downscale_factor=2.0)


def test_masks_and_depths_of_some_frames(dnerf: Path) -> None:
    write_image(dnerf / "mask.png", mode="L")

    def add_masks(meta: dict[str, Any]) -> None:
        for frame in meta["frames"][1:3]:
            frame["mask_path"] = "mask"  # without its extension

    edit_json(dnerf / "transforms_train.json", add_masks)
    dataset = DynamicDataset(parse(dnerf))
    assert ["mask" in dataset.get_data(i) for i in range(4)] == [False, True, True, False]
    report = check_dataset(dnerf)
    assert report.problems == []
    assert one(report.notes).endswith("2 of 12 frames have a mask file; all pixels of the others are used")


@pytest.mark.parametrize(("turn_by", "words"), [(0.0, "look one way"), (0.01, "only turn")])
def test_cameras_at_one_place_say_what_cannot_be_had(
    dnerf: Path, capsys: pytest.CaptureFixture, turn_by: float, words: str
) -> None:
    def stand(meta: dict[str, Any]) -> None:
        for i, frame in enumerate(meta["frames"]):
            c, s = math.cos(i * turn_by), math.sin(i * turn_by)
            frame["transform_matrix"] = [[c, 0, s, 0], [0, 1, 0, 0], [-s, 0, c, 4], [0, 0, 0, 1]]

    edit_json(dnerf / "transforms_train.json", stand)
    parse(dnerf)
    assert words in " ".join(capsys.readouterr().out.split())
    report = check_dataset(dnerf)
    assert report.problems == []
    assert words in one(report.notes)
