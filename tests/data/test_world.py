import math
from typing import Any

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.scene_box import SceneBox
from torch import Tensor

from nest_nerfstudio.data.world import EXTENT, GIVEN_BOX, World, find_world
from nest_nerfstudio.geometry.quaternion import quat_to_rotmat
from tests.small_capture import ANGLE, orbit

FOCAL = 50 / math.tan(ANGLE / 2)


def parsed(poses: Tensor, half: float = 1.5, **metadata: Any) -> DataparserOutputs:
    cameras = Cameras(poses[:, :3].float(), FOCAL, FOCAL, 50.0, 50.0, 100, 100)
    box = SceneBox(aabb=torch.tensor([[-half] * 3, [half] * 3]))
    return DataparserOutputs([], cameras, scene_box=box, metadata=metadata)


def ring(count: int = 8, arc: float = 1.0, distance: float = 4.0) -> Tensor:
    return torch.stack([orbit(arc * i / count, distance, 0.3 * distance + 0.2 * i) for i in range(count)])


def moved(poses: Tensor, scale: float, seed: int, offset: float) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    rotation = quat_to_rotmat(torch.nn.functional.normalize(torch.randn(4, generator=generator), dim=0))
    poses = poses.clone()
    poses[:, :3, :3] = rotation @ poses[:, :3, :3]
    poses[:, :3, 3] = scale * (poses[:, :3, 3] @ rotation.T + offset)
    return poses


def test_a_scene_of_the_usual_size_keeps_its_coordinates() -> None:
    outputs = parsed(ring())
    world = find_world(outputs)
    assert world.is_as_parsed
    assert world.apply(outputs) is outputs


@pytest.mark.parametrize("scale", [1e-3, 0.1, 10.0, 1e3])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_any_scale_offset_and_rotation_gives_one_size(scale: float, offset: float) -> None:
    outputs = parsed(moved(ring(), scale, 1, offset))
    seen = find_world(outputs).apply(outputs)
    distances = seen.cameras.camera_to_worlds[:, :, 3].norm(dim=1)
    usual = ring()[:, :3, 3].norm(dim=1)
    torch.testing.assert_close(distances / distances.median(), usual / usual.median(), rtol=1e-3, atol=1e-3)
    assert distances.median().item() * math.tan(ANGLE / 2) == pytest.approx(EXTENT, rel=0.05)
    assert seen.scene_box.aabb.tolist() == [[-EXTENT] * 3, [EXTENT] * 3]


def test_a_rig_of_few_cameras_is_centred_on_what_it_looks_at() -> None:
    poses = moved(ring(4, arc=0.2), 0.25, 2, 1.0)
    outputs = parsed(poses, half=1.0)
    seen = find_world(outputs).apply(outputs).cameras.camera_to_worlds
    ahead = (seen[:, :, :3].mT @ -seen[:, :, 3:])[:, :, 0]  # of the origin, camera frame
    assert (ahead[:, :2].abs().amax(1) < 0.1 * -ahead[:, 2]).all()


def test_one_position_keeps_a_box_it_looks_at() -> None:
    assert find_world(parsed(ring(1))).is_as_parsed
    away = ring(1)
    away[:, :3, 3] *= 100
    world = find_world(parsed(away))
    centre = world(away[:, :3, 3] - away[:, :3, 2])
    torch.testing.assert_close(centre, torch.zeros(1, 3), atol=1e-3, rtol=0)


def test_parallel_cameras_look_at_their_seed_points() -> None:
    poses = torch.eye(4).repeat(5, 1, 1)
    poses[:, 0, 3] = torch.linspace(-1, 1, 5)
    points = torch.rand(1000, 3) + torch.tensor([0.0, 0.0, -20.0])
    outputs = parsed(poses, half=1.0, points3D_xyz=points)
    seen = find_world(outputs).apply(outputs).metadata["points3D_xyz"]
    assert seen.median(0).values.abs().max() < 0.1
    assert 0.8 < seen.abs().max() < 2 * EXTENT


def test_a_given_box_stays() -> None:
    outputs = parsed(ring(distance=40.0), half=9.0, **{GIVEN_BOX: True})
    world = find_world(outputs)
    torch.testing.assert_close(world.apply(outputs).scene_box.aabb, world(outputs.scene_box.aabb))


def test_the_way_back_is_in_the_transform() -> None:
    outputs = parsed(moved(ring(), 7.0, 3, 5.0))
    outputs.dataparser_scale = 0.5
    outputs.dataparser_transform[:, 3] = torch.tensor([1.0, 2.0, 3.0])
    stored = torch.randn(20, 3)
    seen = find_world(outputs).apply(outputs)

    def parse(of: DataparserOutputs) -> Tensor:
        matrix = of.dataparser_transform
        return of.dataparser_scale * (stored @ matrix[:, :3].T + matrix[:, 3])

    torch.testing.assert_close(find_world(outputs)(parse(outputs)), parse(seen), rtol=1e-4, atol=1e-4)


def test_from_one_world_to_another() -> None:
    points = torch.randn(20, 3)
    first, second = (World(torch.randn(3).double(), scale) for scale in (0.5, 7.0))
    torch.testing.assert_close(first.until(second)(first(points)), second(points), rtol=1e-4, atol=1e-4)
    assert first.until(first).is_as_parsed
