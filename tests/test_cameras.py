"""Camera conventions against the rays that nerfstudio itself makes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from nerfstudio.cameras.camera_paths import get_interpolated_camera_path, get_spiral_path
from nerfstudio.cameras.cameras import Cameras, CameraType
from scipy.spatial.transform import Rotation
from torch import Tensor

from nest_nerfstudio.cameras import (
    cameras_to_views,
    is_one_moving_camera,
    ray_lengths,
    time_on_way,
)

WIDTH, HEIGHT = 12, 8


def random_poses(count: int) -> Tensor:
    rotations = torch.from_numpy(Rotation.random(count, random_state=0).as_matrix()).float()
    return torch.cat([rotations, torch.randn(count, 3, 1)], dim=-1)


def make_cameras(poses: Tensor, times: Tensor | None = None, width: Tensor | int = WIDTH) -> Cameras:
    return Cameras(
        camera_to_worlds=poses, fx=15.0, fy=13.0, cx=5.5, cy=4.25, width=width, height=HEIGHT, times=times
    )


def test_points_on_nerfstudios_rays_project_to_their_pixel_centres() -> None:
    cameras = make_cameras(random_poses(3))
    views = cameras_to_views(cameras)
    for i in range(3):
        rays = cameras.generate_rays(camera_indices=i)
        points = rays.origins + 2.5 * rays.directions  # [h, w, 3]
        local = points @ views.viewmats[i, :3, :3].T + views.viewmats[i, :3, 3]
        pixels = local @ views.Ks[i].T
        v, u = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
        torch.testing.assert_close(
            pixels[..., :2] / pixels[..., 2:], torch.stack([u, v], dim=-1), rtol=0, atol=1e-4
        )
        assert (local[..., 2] > 0).all()


def test_ray_lengths_turn_z_into_distance_along_nerfstudios_rays() -> None:
    cameras = make_cameras(random_poses(2))
    views = cameras_to_views(cameras)
    rays = cameras.generate_rays(camera_indices=1)
    local = 2.5 * rays.directions @ views.viewmats[1, :3, :3].T
    lengths = ray_lengths(views.Ks, WIDTH, HEIGHT)
    assert lengths.shape == (2, HEIGHT, WIDTH, 1)
    torch.testing.assert_close(local[..., 2:] * lengths[1], torch.full((HEIGHT, WIDTH, 1), 2.5))


def test_ray_lengths_with_skew() -> None:
    K = torch.tensor([[15.0, 2, 5.5], [0, 13, 4.25], [0, 0, 1]], dtype=torch.float64)
    v, u = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    pixels = torch.stack([u, v, torch.ones_like(u)], dim=-1).double()
    expected = (pixels @ torch.linalg.inv(K).T).norm(dim=-1, keepdim=True)
    torch.testing.assert_close(ray_lengths(K, WIDTH, HEIGHT), expected)


def test_poses_come_back() -> None:
    poses = random_poses(4)
    views = cameras_to_views(make_cameras(poses))
    rotations = views.viewmats[:, :3, :3]
    backward = torch.tensor([1.0, -1.0, -1.0])  # OpenGL looks along −z
    torch.testing.assert_close(rotations.mT * backward, poses[:, :, :3], rtol=0, atol=1e-6)
    centres = -(rotations.mT @ views.viewmats[:, :3, 3:])
    torch.testing.assert_close(centres, poses[:, :, 3:], rtol=0, atol=1e-6)
    torch.testing.assert_close(rotations @ rotations.mT, torch.eye(3).expand(4, 3, 3), rtol=0, atol=1e-6)


def test_one_camera_without_batch_and_times() -> None:
    cameras = make_cameras(random_poses(3), times=torch.tensor([[0.0], [0.5], [1.25]]))
    views = cameras_to_views(cameras)
    assert (len(views), views.width, views.height) == (3, WIDTH, HEIGHT)
    torch.testing.assert_close(views.times, torch.tensor([0.0, 0.5, 1.25]))
    one = cameras_to_views(cameras[2])
    assert len(one) == 1
    assert one.times is not None
    assert one.times.tolist() == [1.25]
    torch.testing.assert_close(one.viewmats, views.viewmats[2:])
    assert cameras_to_views(make_cameras(random_poses(2))).times is None


def test_gradient_reaches_the_poses() -> None:
    poses = random_poses(2).requires_grad_()
    cameras_to_views(make_cameras(poses)).viewmats.square().sum().backward()
    assert poses.grad is not None
    assert (poses.grad[:, :, 3] != 0).all()


def test_mixed_sizes_are_refused() -> None:
    cameras = make_cameras(random_poses(2), width=torch.tensor([[10], [12]]))
    with pytest.raises(ValueError, match=r"one image size.*10×8, 12×8"):
        cameras_to_views(cameras)


@pytest.mark.parametrize("field", ["camera_to_worlds", "fx", "times"])
def test_values_that_are_not_finite_are_refused(field: str) -> None:
    cameras = make_cameras(random_poses(3), times=torch.zeros(3, 1))
    values = getattr(cameras, field).clone()
    values[1] = float("nan")
    with pytest.raises(ValueError, match=rf"{field} of camera \[1\] is not finite"):
        cameras_to_views(replace(cameras, **{field: values}))


@pytest.mark.parametrize("kind", [CameraType.FISHEYE, CameraType.EQUIRECTANGULAR])
def test_other_kinds_than_pinholes_are_refused_by_name(kind: CameraType) -> None:
    cameras = make_cameras(random_poses(1))
    cameras.camera_type = torch.full_like(cameras.camera_type, kind.value)
    with pytest.raises(ValueError, match=kind.name):
        cameras_to_views(cameras)


def test_lens_distortion_is_refused() -> None:
    cameras = make_cameras(random_poses(2))
    cameras.distortion_params = torch.zeros(2, 6)
    cameras_to_views(cameras)
    cameras.distortion_params[1, 0] = 0.1
    with pytest.raises(ValueError, match="undistort them first"):
        cameras_to_views(cameras)


def test_no_cameras_are_refused() -> None:
    with pytest.raises(ValueError, match="no cameras"):
        cameras_to_views(make_cameras(random_poses(2))[:0])


# ---------------------------------------------------------------- one moving camera


def walk(count: int = 12) -> Cameras:
    """A camera that walks past a scene; its times are not even, its frames not in order."""
    turns = torch.linspace(0, 1, count)
    rotations = torch.from_numpy(Rotation.from_rotvec(np.outer(turns, [0, 1, 0])).as_matrix()).float()
    places = torch.stack([2 * turns, 0.1 * turns.square(), torch.ones(count)], 1)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    poses = torch.cat([rotations, places[..., None]], -1)
    return make_cameras(poses[order], turns.square()[order, None])


@pytest.mark.parametrize("order_poses", [False, True])
def test_a_path_through_the_poses_of_a_moving_camera_has_its_times(order_poses: bool) -> None:
    way = walk()
    path = get_interpolated_camera_path(way, steps=5, order_poses=order_poses)
    assert way.times is not None
    times = way.times.flatten()
    for frame in range(len(path)):
        found = time_on_way(path[frame : frame + 1], way)
        assert found is not None
        segment, part = divmod(frame, 5)
        if not order_poses:
            expected = times[segment] + (times[segment + 1] - times[segment]) * part / 4
            assert found == pytest.approx(float(expected), abs=1e-6)
        if part in (0, 4):  # it stands where a frame was taken
            place = path.camera_to_worlds[frame]
            nearest = (way.camera_to_worlds - place).flatten(1).norm(dim=1).argmin()
            assert found == pytest.approx(float(times[nearest]), abs=1e-6)


def test_other_paths_have_no_times() -> None:
    way = walk()
    spiral = get_spiral_path(way[:1], steps=22, radius=0.1)
    other = get_interpolated_camera_path(make_cameras(random_poses(12)), steps=5, order_poses=False)
    for path in (spiral, other, way[:5]):
        assert time_on_way(path[3:4], way) is None


def test_what_is_one_moving_camera() -> None:
    way = walk()
    assert is_one_moving_camera(way)
    assert way.times is not None
    assert not is_one_moving_camera(make_cameras(random_poses(12), way.times))  # leaps
    assert not is_one_moving_camera(make_cameras(way.camera_to_worlds))
    assert not is_one_moving_camera(make_cameras(way.camera_to_worlds, torch.zeros(12, 1)))  # a rig
    tripod = way.camera_to_worlds[:1].expand(12, -1, -1)
    assert not is_one_moving_camera(make_cameras(tripod, way.times))
