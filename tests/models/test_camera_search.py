"""The unknown camera of an image: poses on a sphere, and a fit that ends where the image was taken."""

import math

import pytest
import torch

from nest_nerfstudio.geometry.multiview import camera_centres
from nest_nerfstudio.models.camera_search import azimuth_and_distance, cameras_around, find_camera
from nest_nerfstudio.models.latent_optimization import CameraPose, Objective
from nest_nerfstudio.rasterizers.dense import DenseRasterizer
from nest_nerfstudio.types import MotionCode, SceneLatent, Views
from tests.small_capture import blobs

SIZE = 32
SCENE = SceneLatent(
    ids=torch.arange(1),
    copies=torch.zeros(1, dtype=torch.long),
    quats=torch.tensor([[1.0, 0, 0, 0]]),
    translations=torch.zeros(1, 3),
    geometry=torch.zeros(1, 2),
    appearance=torch.full((1, 24), 0.5),
    light=torch.zeros(3, 9),
    motion=MotionCode.still(1, torch.zeros(1)),
)


def draw(views: Views) -> torch.Tensor:
    """Three balls of different colours, one of them higher, whatever the latent."""
    return DenseRasterizer()(blobs(0.2), views.viewmats, views.Ks, SIZE, SIZE).rgb


def objective(_: SceneLatent | None = None) -> Objective:
    return Objective(lambda latent, views: (draw(views) - views.images).square().mean())


def view_from(viewmat: torch.Tensor) -> Views:
    K = torch.tensor([[[1.4 * SIZE, 0, SIZE / 2], [0, 1.4 * SIZE, SIZE / 2], [0, 0, 1.0]]])
    view = Views(viewmat[None], K, SIZE, SIZE)
    return Views(viewmat[None], K, SIZE, SIZE, images=draw(view))


def test_cameras_stand_around_the_origin_and_look_at_it() -> None:
    viewmats = cameras_around(3.0, (0.0, 90.0), (0.0, 30.0), (0.0, 15.0))
    assert len(viewmats) == 8
    centres = camera_centres(viewmats)
    torch.testing.assert_close(centres.norm(dim=1), torch.full((8,), 3.0))
    torch.testing.assert_close(centres[0], torch.tensor([3.0, 0, 0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(centres[6, 2], torch.tensor(1.5))
    rotations = viewmats[:, :3, :3]
    torch.testing.assert_close(rotations @ rotations.mT, torch.eye(3).expand(8, 3, 3), atol=1e-6, rtol=0)
    assert (torch.linalg.det(rotations) > 0).all()
    torch.testing.assert_close(viewmats[:, :3, 3], torch.tensor([0.0, 0, 3]).expand(8, 3))
    up = rotations @ torch.tensor([0.0, 0, 1])
    assert (up[:, 1] < 0).all(), "up is up in the image"
    torch.testing.assert_close(up[0], torch.tensor([0.0, -1, 0]), atol=1e-6, rtol=0)
    assert azimuth_and_distance(view_from(viewmats[4])) == pytest.approx((90.0, 3.0), abs=1e-4)


def test_the_twist_of_a_camera_starts_at_its_pose_and_has_gradients() -> None:
    view = view_from(cameras_around(4.0, (10.0,), (20.0,), (0.0,))[0])
    camera = CameraPose(view.viewmats[0])
    torch.testing.assert_close(camera(view).viewmats, view.viewmats)
    with torch.no_grad():
        camera.twist[:3] = -0.5 * camera_centres(view.viewmats)[0] / 4.0  # of the scene, away from it
    assert float(camera_centres(camera(view).viewmats).norm()) == pytest.approx(4.5, abs=1e-5)
    draw(camera(view)).sum().backward()
    assert camera.twist.grad is not None
    assert camera.twist.grad.isfinite().all()
    assert camera.twist.grad.any()


@pytest.mark.parametrize("azimuth", [40.0, 200.0])
def test_an_image_of_a_known_scene_gets_its_pose(azimuth: float) -> None:
    true = view_from(cameras_around(4.1, (azimuth,), (23.0,), (4.0,))[0])
    starts = cameras_around(4.0, tuple(30.0 * i for i in range(12)), (0.0, 30.0, 60.0), (0.0,))
    moved = view_from(torch.eye(4))
    found = find_camera(
        Views(moved.viewmats, true.Ks, SIZE, SIZE, images=true.images),
        lambda _: SCENE,
        objective,
        starts,
        steps=150,
        kept=2,
        scene_is_known=True,
    )
    assert found.latent is SCENE
    rotation = found.view.viewmats[0, :3, :3] @ true.viewmats[0, :3, :3].mT
    assert math.degrees(math.acos(min(1.0, float(rotation.trace() - 1) / 2))) < 2
    assert float((camera_centres(found.view.viewmats) - camera_centres(true.viewmats)).norm()) < 0.15


def test_an_image_that_suits_no_pose() -> None:
    def encode(view: Views) -> SceneLatent:
        raise ValueError("no position is inside the silhouette")

    view = view_from(cameras_around(4.0, (0.0,), (0.0,), (0.0,))[0])
    with pytest.raises(ValueError, match="no pose of the camera suits the image: no position is inside"):
        find_camera(view, encode, objective, view.viewmats)
