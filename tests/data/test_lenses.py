"""Images of any lens become those of a pinhole; what has no pinhole image is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import CAMERA_MODEL_TO_TYPE, Cameras, CameraType
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image

from nest_nerfstudio.data.batches import DatasetViews
from nest_nerfstudio.data.check import check_dataset
from nest_nerfstudio.data.dataset import DynamicDataset
from nest_nerfstudio.data.lenses import MAX_FIELD_OF_VIEW, Lens, lenses_of
from tests.data.small_scenes import edit_json, parse

NONE = (0.0,) * 6
LENSES = {
    "equidistant": Lens(57.0, 58.0, 47.0, 49.0, (96, 96), NONE, True),
    "fisheye": Lens(110.0, 112.0, 96.0, 60.0, (200, 120), (0.05, -0.02, 0.003, -0.001, 0.0, 0.0), True),
    "past 180°": Lens(100.0, 100.0, 160.0, 160.0, (320, 320), NONE, True),
    "wide": Lens(300.0, 300.0, 480.0, 270.0, (960, 540), NONE, True),
    "barrel": Lens(150.0, 152.0, 98.0, 61.0, (200, 120), (-0.25, 0.08, -0.01, 0.0, 0.002, -0.001), False),
    "pincushion": Lens(150.0, 152.0, 98.0, 61.0, (200, 120), (0.2, 0.05, 0.0, 0.0, 0.0, 0.0), False),
}


def seen_at(lens: Lens, rays: np.ndarray) -> np.ndarray:
    """Where a lens shows rays (x, y, 1), pixels; the formulas of the two models as they are written."""
    x, y = rays[:, 0], rays[:, 1]
    k1, k2, k3, k4, p1, p2 = lens.params
    r = np.hypot(x, y)
    if lens.is_fisheye:
        t = np.arctan(r)
        factor = t * (1 + k1 * t**2 + k2 * t**4 + k3 * t**6 + k4 * t**8) / r
        x, y = x * factor, y * factor
    else:
        radial = 1 + k1 * r**2 + k2 * r**4 + k3 * r**6
        x, y = (
            x * radial + 2 * p1 * x * y + p2 * (r**2 + 2 * x**2),
            y * radial + p1 * (r**2 + 2 * y**2) + 2 * p2 * x * y,
        )
    return np.stack([lens.fx * x + lens.cx, lens.fy * y + lens.cy], -1)


def spot(size: tuple[int, int], centre: np.ndarray) -> np.ndarray:
    """A white spot on black, [h, w]; pixel centres are at halves."""
    v, u = np.mgrid[: size[1], : size[0]] + 0.5
    return np.rint(255 * np.exp(-((u - centre[0]) ** 2 + (v - centre[1]) ** 2) / 4)).astype(np.uint8)


def centre_of(image: np.ndarray) -> np.ndarray:
    weight = np.where(image > 100, image, 0).astype(float)
    v, u = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    return np.array([(weight * u).sum(), (weight * v).sum()]) / weight.sum()


@pytest.mark.parametrize("lens", LENSES.values(), ids=LENSES)
def test_points_fall_where_the_pinhole_projects_them(lens: Lens) -> None:
    K, (width, height) = lens.pinhole, lens.size
    assert not list(lens.problems())
    assert lens.inside is None
    for u, v in [(0.52, 0.47), (0.2, 0.3), (0.8, 0.25), (0.3, 0.85), (0.75, 0.7)]:
        at = np.array([u * width, v * height])
        ray = (at - K[:2, 2]) / K[[0, 1], [0, 1]]
        image = spot(lens.size, seen_at(lens, ray[None])[0])
        assert image.max() > 200
        found = centre_of(lens.undistort(np.dstack([image] * 3))[..., 0])
        assert np.abs(found - at).max() < 0.35


def test_a_pinhole_is_left_as_it_is() -> None:
    assert not Lens(57.0, 58.0, 47.0, 49.0, (96, 96), NONE, False).distorts
    assert LENSES["equidistant"].distorts


def test_a_fisheye_keeps_its_field_of_view_up_to_the_widest_pinhole() -> None:
    lens = LENSES["equidistant"]
    left = (0 - lens.pinhole[0, 2]) / lens.pinhole[0, 0]
    assert np.degrees(np.arctan(-left)) == pytest.approx(np.degrees(47 / 57), abs=0.7)
    assert not lens.is_cropped
    for name in ("past 180°", "wide"):
        lens = LENSES[name]
        assert lens.is_cropped
        seen = 2 * np.degrees(np.arctan(0.5 * lens.size[0] / lens.pinhole[0, 0]))
        assert seen == pytest.approx(MAX_FIELD_OF_VIEW)


def test_colours_are_weighed_by_alpha() -> None:
    lens = LENSES["barrel"]
    image = np.zeros((120, 200, 4), np.uint8)
    image[:, ::2] = (200, 100, 50, 255)  # the other columns are black and transparent
    moved = lens.undistort(image)
    shown = moved[moved[..., 3] > 40]
    assert np.abs(shown[:, :3].astype(int) - (200, 100, 50)).max() <= 3


def test_masks_and_depths_move_with_the_image() -> None:
    lens, depth = LENSES["fisheye"], np.full((120, 200), 2.0, np.float32)
    shown = spot(lens.size, np.array([150.0, 40.0])) > 60
    depth[shown] = 1.0
    moved = lens.undistort(np.dstack([np.where(shown, 0, 255).astype(np.uint8)] * 3))[..., 0]
    used = lens.undistort_mask(~shown)
    assert not used[moved < 255].any()
    assert used[moved == 255].all()
    assert (lens.undistort_depth(depth)[moved == 0] == 1).all()
    assert (lens.undistort_depth(depth)[moved == 255] == 2).all()


def test_a_distortion_that_cannot_be_undone_is_refused() -> None:
    lens = Lens(150.0, 150.0, 100.0, 60.0, (200, 120), (0.1, 0.0, 0.0, 0.3, 0.0, 0.0), False)
    assert next(lens.problems()).startswith("k4 is 0.3, but the lens of a perspective camera has k1, k2, k3,")
    lens = Lens(20.0, 20.0, 100.0, 60.0, (200, 120), (9.0, 90.0, 0.0, 0.0, 0.0, 0.0), False)
    assert "cannot be undone" in next(lens.problems())


# ---------------------------------------------------------------- scenes


def pinholes(dataset: DynamicDataset) -> list[bool]:
    """Which images are trained on as they are stored."""
    stored = dataset._dataparser_outputs.cameras
    assert (dataset.cameras.camera_type == CameraType.PERSPECTIVE.value).all()
    assert dataset.cameras.distortion_params is None
    return (stored.fx == dataset.cameras.fx).flatten().tolist()


@pytest.mark.parametrize(
    "camera",
    [
        {"camera_model": "OPENCV_FISHEYE"},
        {"camera_model": "OPENCV_FISHEYE", "k1": 0, "k2": 0, "k3": 0, "k4": 0},
        {"is_fisheye": True},
    ],
)
def test_a_fisheye_without_coefficients_is_undistorted(dnerf: Path, camera: dict[str, Any]) -> None:
    edit_json(dnerf / "transforms_train.json", lambda meta: meta.update(camera))
    assert check_dataset(dnerf).problems == []
    dataset = DynamicDataset(parse(dnerf))
    assert not any(pinholes(dataset))
    lens = dataset.lenses[0]
    assert (lens.is_fisheye, lens.params, lens.size) == (True, NONE, (12, 8))
    assert lens.fx == pytest.approx(6 / np.tan(0.35))
    with Image.open(dataset.image_filenames[0]) as file:
        assert np.array_equal(dataset.get_numpy_image(0), lens.undistort(np.array(file)))
    held_out, _ = DatasetViews(DynamicDataset(parse(dnerf, "val")), "cpu")[0]
    assert int(held_out.camera_type) == CameraType.PERSPECTIVE.value


def test_each_frame_has_its_own_model(dnerf: Path) -> None:
    def mixed(meta: dict[str, Any]) -> None:
        meta["frames"][1].update(camera_model="OPENCV_FISHEYE")
        meta["frames"][2].update(camera_model="SIMPLE_RADIAL", k1=0.1)
        meta["frames"][3].update(camera_model="SIMPLE_PINHOLE")

    edit_json(dnerf / "transforms_train.json", mixed)
    assert pinholes(DynamicDataset(parse(dnerf))) == [True, False, False] + [True] * 9


def test_a_fisheye_of_another_parser_is_undistorted(video: Path) -> None:
    edit_json(
        video / "transforms.json",
        lambda meta: meta.update(camera_model="OPENCV_FISHEYE", k1=0, k2=0, p1=0, p2=0),
    )
    outputs = (
        NerfstudioDataParserConfig(data=video, downscale_factor=1).setup().get_dataparser_outputs("train")
    )
    assert not any(pinholes(DynamicDataset(outputs)))


@pytest.mark.parametrize("model", sorted(CAMERA_MODEL_TO_TYPE))
def test_every_model_is_trained_on_or_refused_by_name(dnerf: Path, model: str) -> None:
    edit_json(dnerf / "transforms_train.json", lambda meta: meta.update(camera_model=model))
    if CAMERA_MODEL_TO_TYPE[model] in (CameraType.PERSPECTIVE, CameraType.FISHEYE):
        assert len(set(pinholes(DynamicDataset(parse(dnerf))))) == 1
        return
    with pytest.raises(ValueError, match=rf"camera_model {model} cannot be trained on: ") as raised:
        parse(dnerf)
    (problem,) = check_dataset(dnerf).problems
    assert problem.split(": ")[-2:] == str(raised.value).split(": ")[-2:]
    cameras = Cameras(
        torch.eye(4)[None, :3], 9.0, 9.0, 6.0, 4.0, 12, 8, camera_type=CAMERA_MODEL_TO_TYPE[model]
    )
    with pytest.raises(ValueError, match=rf"{model} cannot be trained on"):
        lenses_of(cameras)  # of any other parser


def test_a_fourth_coefficient_of_a_perspective_camera_is_refused(dnerf: Path) -> None:
    edit_json(dnerf / "transforms_train.json", lambda meta: meta.update(camera_model="OPENCV", k4=0.1))
    with pytest.raises(ValueError, match=r"r_0: k4 is 0.1.*OPENCV_FISHEYE"):
        parse(dnerf)


def test_a_very_wide_fisheye_is_said_to_be_cropped(dnerf: Path) -> None:
    edit_json(
        dnerf / "transforms_train.json",
        lambda meta: meta.update(camera_model="OPENCV_FISHEYE", fl_x=3.5),
    )
    (note,) = check_dataset(dnerf).notes
    assert "12 of 12 images are of fisheye cameras that see more" in note
    assert "the middle 120° are used" in note
