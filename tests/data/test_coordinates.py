"""Cameras and points are the same wherever, however large and however turned the world of a capture is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plyfile import PlyData, PlyElement

from nest_nerfstudio.data.coordinates import fit_poses
from tests.data.small_scenes import edit_json, orbit, parse

TURN = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
TURN *= np.linalg.det(TURN)
PLACES = {
    "here": (1.0, 0.0),
    "500 km": (1.0, 5e5),
    "4512 km": (1.0, 4.512e6),
    "large": (1e3, 0.0),
    "small": (1e-3, 0.0),
    "large and far": (10.0, 4.512e6),
    "small and beside": (0.1, 3.0),
}
POINTS = np.random.default_rng(1).uniform(-0.5, 0.5, (50, 3))


def move(folder: Path, scale: float, offset: float, turn: np.ndarray = TURN) -> None:
    """Move the world of a scene with its seed points: x' = scale · turn x + offset in two directions."""
    shift = offset * np.array([0.8, -0.6, 0.0])

    def moved(meta: dict[str, Any]) -> None:
        meta["ply_file_path"] = "points.ply"
        for frame in meta["frames"]:
            pose = np.array(frame["transform_matrix"])
            pose[:3, :3], pose[:3, 3] = turn @ pose[:3, :3], scale * turn @ pose[:3, 3] + shift
            frame["transform_matrix"] = pose.tolist()

    for path in folder.glob("transforms*.json"):
        edit_json(path, moved)
    write_points(folder, scale * POINTS @ turn.T + shift)


def write_points(folder: Path, points: np.ndarray) -> None:
    table = np.array([tuple(p) for p in points], [(axis, "f8") for axis in "xyz"])
    PlyData([PlyElement.describe(table, "vertex")]).write(str(folder / "points.ply"))


def distances(outputs: Any) -> torch.Tensor:
    """Of all cameras from all seed points, in distances of the first camera from the first point."""
    cameras, points = outputs.cameras.camera_to_worlds[..., 3], outputs.metadata["points3D_xyz"]
    found = torch.cdist(cameras.double(), points.double())
    return found / found[0, 0]


def tracks(outputs: Any) -> torch.Tensor:
    """The seed points in the frame of each camera, by their direction."""
    c2w, points = outputs.cameras.camera_to_worlds.double(), outputs.metadata["points3D_xyz"].double()
    seen = (points - c2w[:, None, :, 3]) @ c2w[..., :3]
    return torch.nn.functional.normalize(seen, dim=-1)


@pytest.mark.parametrize(("scale", "offset"), PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("kind", ["dnerf", "video"])
def test_cameras_see_the_points_the_same_way(
    kind: str, scale: float, offset: float, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(kind)
    options = {"time_from": "frame-order", "eval_interval": 0} if kind == "video" else {}
    move(folder, 1.0, 0.0, np.eye(3))
    plain = parse(folder, **options)
    move(folder, scale, offset)
    found = parse(folder, **options)
    torch.testing.assert_close(tracks(found), tracks(plain), rtol=0, atol=1e-5)
    torch.testing.assert_close(distances(found), distances(plain), rtol=1e-5, atol=0)
    far = found.cameras.camera_to_worlds[..., 3].norm(dim=1).max()
    assert float(far) < 100 * float(
        (found.cameras.camera_to_worlds[0, :, 3] - found.metadata["points3D_xyz"][0]).norm()
    )


@pytest.mark.parametrize("offset", [0.0, 5e5, 4.512e6])
@pytest.mark.parametrize("kind", ["dnerf", "video"])
def test_parsed_poses_can_be_undone(kind: str, offset: float, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    edit_json(folder / f"transforms{'_train' * (kind == 'dnerf')}.json", lambda meta: meta.update(k1=0))
    edit_json(next(folder.glob("transforms*.json")), lambda meta: meta.pop("applied_transform", None))
    move(folder, 1.0, offset)
    outputs = parse(folder, **({"time_from": "frame-order"} if kind == "video" else {}))
    stored = {frame.image: frame.pose for frames in _splits(folder) for frame in frames}
    back = outputs.transform_poses_to_original_space(outputs.cameras.camera_to_worlds, "opengl")
    expected = torch.tensor(np.stack([stored[path] for path in outputs.image_filenames]))[:, :3]
    torch.testing.assert_close(back, expected, rtol=0, atol=1e-5)
    assert outputs.dataparser_transform.dtype == torch.float64


def _splits(folder: Path) -> list[Any]:
    from nest_nerfstudio.data.transforms import find_transforms, read_frames, read_transforms

    return [read_frames(read_transforms(path), path) for path in find_transforms(folder)[0].values()]


def poses_of(dnerf: Path, edit: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Parsed and stored poses after a change of each frame of the train split."""

    def change(meta: dict[str, Any]) -> None:
        for i, frame in enumerate(meta["frames"]):
            frame["transform_matrix"] = edit(i)

    edit_json(dnerf / "transforms_train.json", change)
    stored = torch.tensor([edit(i) for i in range(12)], dtype=torch.float32)[:, :3]
    return parse(dnerf, **options).cameras.camera_to_worlds, stored


def at(position: Any, turn: float = 0.0, back: Any = None) -> list[list[float]]:
    pose = np.array(orbit(turn))
    pose[:3, 3] = position
    return pose.tolist()


@pytest.mark.parametrize(
    "edit",
    [
        lambda i: orbit(i / 12),
        lambda i: orbit(i / 40),  # an arc
        lambda i: at((0.0, 0.0, 3.0)),  # a tripod
        lambda i: at((4.0, 0.1 * i, 0.0)),  # parallel views
        lambda i: at(20 * np.array(orbit(i / 12))[:3, 3], i / 12),  # from far off
    ],
)
def test_poses_near_the_origin_are_not_touched(dnerf: Path, edit: Any) -> None:
    parsed, stored = poses_of(dnerf, edit)
    assert torch.equal(parsed, stored)


def test_a_tripod_far_from_the_origin_is_moved(dnerf: Path) -> None:
    parsed, stored = poses_of(dnerf, lambda i: at((4.512e6, 0.0, 1e6), i / 100))
    assert float(parsed[..., 3].norm(dim=1).max()) < 3
    assert torch.equal(parsed[..., :3], stored[..., :3])


def test_poses_that_are_not_to_be_centred_are_if_they_are_too_far(video: Path) -> None:
    keep = {"time_from": "frame-order", "orientation_method": "none", "auto_scale_poses": False}
    move(video, 1.0, 30.0)
    near = parse(video, center_method="none", **keep).cameras.camera_to_worlds
    assert 20 < float(near[..., 3].norm(dim=1).median()) < 40
    move(video, 1.0, 4.512e6)
    far = parse(video, center_method="none", **keep).cameras.camera_to_worlds
    assert float(far[..., 3].norm(dim=1).max()) < 10


def test_a_tripod_is_not_scaled_by_its_rounding_error() -> None:
    """Of its positions some differ in their last digit."""
    poses = torch.tensor([orbit(i / 40) for i in range(7)], dtype=torch.float64)
    poses[:, :3, 3] = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    poses[::2, :3, 3] *= 1 + torch.finfo(torch.float64).eps
    for orientation in ("up", "none"):
        assert fit_poses(poses, orientation, "poses", True, 1.0).scale == 1.0
