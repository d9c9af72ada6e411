"""Cameras with a lens, drawn by the faces of a cube, against the rays that nerfstudio casts."""

import math
from dataclasses import replace

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from torch import Tensor

from nest_nerfstudio.cameras import cameras_to_views, ray_lengths
from nest_nerfstudio.rasterizers.numba_cpu import NumbaRasterizer
from nest_nerfstudio.sight import Sight, sight_of
from nest_nerfstudio.types import Gaussians
from tests.test_cameras import random_poses

WIDTH, HEIGHT = 72, 48
SIZE = 0.2
"""Of balls, their standard deviation."""
LENS = torch.tensor([[-0.12, 0.03, 0.0, 0.0, 0.01, -0.02]])
COLORS = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.8, 0.2], [0.2, 0.2, 0.9], [0.9, 0.8, 0.1], [0.7, 0.1, 0.8]])


def camera_of(
    kind: CameraType, fx: float = 40.0, lens: Tensor | None = None, times: Tensor | None = None
) -> Cameras:
    return Cameras(
        random_poses(1),
        fx=fx,
        fy=fx,
        cx=WIDTH / 2 + 1.25,
        cy=HEIGHT / 2 - 0.5,
        width=WIDTH,
        height=HEIGHT,
        camera_type=kind,
        distortion_params=lens,
        times=times,
    )


def balls_around(camera: Cameras, count: int = 60, distance: float = 3.0) -> Gaussians:
    """Small balls of five colours in all directions from a camera."""
    steps = torch.arange(count) + 0.5
    z, turn = 1 - 2 * steps / count, math.pi * (1 + 5**0.5) * steps
    r = (1 - z * z).sqrt()
    directions = torch.stack([r * turn.cos(), r * turn.sin(), z], -1)
    return Gaussians(
        means=camera.camera_to_worlds[0, :, 3] + distance * directions,
        quats=torch.tensor([[1.0, 0, 0, 0]]).repeat(count, 1),
        scales=torch.full((count, 3), SIZE),
        opacities=torch.full((count,), 0.99),
        sh=((COLORS[torch.arange(count) % 5] - 0.5) / 0.28209479177387814)[:, None],
    )


def drawn(sight: Sight, gaussians: Gaussians) -> Tensor:
    """RGB and alpha over black."""
    views = sight.views
    found = NumbaRasterizer()(gaussians, views.viewmats, views.Ks, views.width, views.height)
    return torch.cat([sight.image(found.rgb), sight.image(found.alpha)], -1)


def by_rays(camera: Cameras, gaussians: Gaussians) -> Tensor:
    """The same by their closest approach to each ray that nerfstudio casts; they do not overlap."""
    rays = camera.generate_rays(camera_indices=0)
    offsets = gaussians.means - rays.origins[..., None, :]
    along = (offsets * rays.directions[..., None, :]).sum(-1)
    beside = (offsets.square().sum(-1) - along.square()).clamp_min(0)
    alphas = 0.99 * torch.exp(-0.5 * beside / SIZE**2) * (along > 0)
    alpha, nearest = alphas.max(-1)
    colors = gaussians.sh[:, 0] * 0.28209479177387814 + 0.5
    return torch.cat([colors[nearest] * alpha[..., None], alpha[..., None]], -1)


LENSES = {
    "fisheye": camera_of(CameraType.FISHEYE, 22.0),
    "distorted fisheye": camera_of(
        CameraType.FISHEYE, 22.0, torch.tensor([[0.05, -0.01, 0.0, 0.0, 0.0, 0.0]])
    ),
    "panorama": camera_of(CameraType.EQUIRECTANGULAR, WIDTH / 2),
    "distorted": camera_of(CameraType.PERSPECTIVE, 30.0, LENS),
}


@pytest.mark.parametrize("camera", LENSES.values(), ids=LENSES.keys())
def test_what_is_drawn_is_where_rays_meet_it(camera: Cameras) -> None:
    if camera.camera_type == CameraType.EQUIRECTANGULAR.value:
        camera = replace(camera, cx=torch.tensor([[WIDTH / 2]]), cy=torch.tensor([[HEIGHT / 2]]))
        camera.fy = torch.tensor([[float(HEIGHT)]])
    gaussians = balls_around(camera)
    found, expected = drawn(sight_of(camera), gaussians), by_rays(camera, gaussians)
    assert expected[..., 3].max() > 0.9
    assert (expected[..., 3] > 0.5).sum() > 20
    assert (found - expected).abs().mean() < 0.02
    assert torch.corrcoef(torch.stack([found.flatten(), expected.flatten()]))[0, 1] > 0.97


def test_a_pinhole_is_drawn_itself() -> None:
    camera = camera_of(CameraType.PERSPECTIVE)
    sight = sight_of(camera)
    assert sight.faces is None
    image = torch.rand(1, HEIGHT, WIDTH, 3)
    assert torch.equal(sight.image(image), image[0])
    assert torch.equal(sight.views.viewmats, cameras_to_views(camera).viewmats)
    assert sight_of(camera_of(CameraType.PERSPECTIVE, lens=torch.zeros(1, 6))).faces is None


def test_a_narrow_lens_sees_one_face_and_a_panorama_all() -> None:
    assert len(sight_of(camera_of(CameraType.PERSPECTIVE, 60.0, LENS)).views) == 1
    assert len(sight_of(LENSES["panorama"]).views) == 6


def test_a_fisheye_sees_the_pixel_on_its_axis_ahead() -> None:
    """Where nerfstudio divides zero by zero."""
    camera = replace(camera_of(CameraType.FISHEYE, 22.0), cx=torch.tensor([[WIDTH / 2 + 1.5]]))
    sight = sight_of(camera)
    assert sight.grid is not None
    assert sight.faces is not None
    assert camera.generate_rays(camera_indices=0).directions.isnan().any()
    assert sight.grid.isfinite().all()
    row, column = HEIGHT // 2 - 1, WIDTH // 2 + 1
    torch.testing.assert_close(sight.grid[row, column], torch.zeros(2))
    ahead = sight.views.viewmats[sight.faces[row, column]]
    torch.testing.assert_close(ahead, cameras_to_views(replace_kind(camera)).viewmats[0])


def replace_kind(camera: Cameras) -> Cameras:
    return replace(camera, camera_type=torch.full_like(camera.camera_type, CameraType.PERSPECTIVE.value))


def test_faces_have_the_time_of_the_camera() -> None:
    views = sight_of(camera_of(CameraType.FISHEYE, 20.0, times=torch.tensor([[1.25]]))).views
    assert views.times is not None
    assert set(views.times.tolist()) == {1.25}


def test_distances_are_smooth_across_faces() -> None:
    """On a sphere around the camera all are alike, also at the seams."""
    sight = sight_of(LENSES["panorama"])
    views = sight.views
    z = 3.0 / ray_lengths(views.Ks, views.width, views.height)
    distances = sight.image(z * ray_lengths(views.Ks, views.width, views.height))
    torch.testing.assert_close(distances, torch.full((HEIGHT, WIDTH, 1), 3.0))
    direction = sight.image(z)  # of the axis that is nearest
    assert direction.min() > 3.0 / 3**0.5 - 0.05
    assert direction.max() < 3.0 + 1e-4


@pytest.mark.parametrize("kind", [CameraType.OMNIDIRECTIONALSTEREO_L, CameraType.ORTHOPHOTO])
def test_cameras_without_a_single_centre_are_refused_by_name(kind: CameraType) -> None:
    with pytest.raises(ValueError, match=f"kind {kind.name} .*perspective, fisheye or equirectangular"):
        sight_of(camera_of(kind))
