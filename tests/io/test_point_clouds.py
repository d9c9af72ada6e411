"""Point clouds as other libraries write them."""

from pathlib import Path

import numpy as np
import open3d
import pytest
import torch
import trimesh
from plyfile import PlyData, PlyElement

from nest_nerfstudio.io.point_clouds import read_cloud, write_cloud
from nest_nerfstudio.types import Points

POSITIONS = np.array([[0.0, 0.5, -1.0], [0.25, 0.0, 2.0], [1.0, 1.0, 1.0]])
COLORS = np.array([[255, 0, 51], [0, 102, 0], [204, 255, 255]], dtype=np.uint8)


def assert_the_cloud(points: Points) -> None:
    torch.testing.assert_close(points.positions, torch.tensor(POSITIONS, dtype=torch.float32))
    torch.testing.assert_close(points.rgb, torch.tensor(COLORS / 255, dtype=torch.float32))


def write_ply(path: Path, columns: dict[str, np.ndarray], text: bool = False) -> Path:
    table = np.zeros(len(next(iter(columns.values()))), [(name, v.dtype) for name, v in columns.items()])
    for name, values in columns.items():
        table[name] = values
    PlyData([PlyElement.describe(table, "vertex")], text=text).write(str(path))
    return path


@pytest.mark.parametrize("encoding", ["binary", "ascii"])
def test_a_ply_of_trimesh(tmp_path: Path, encoding: str) -> None:
    trimesh.PointCloud(POSITIONS, COLORS).export(str(tmp_path / "cloud.ply"), encoding=encoding)
    assert_the_cloud(read_cloud(tmp_path / "cloud.ply"))


@pytest.mark.parametrize("name", ["cloud.PLY", "mesh.ply"])
def test_a_mesh_gives_its_vertices(tmp_path: Path, name: str) -> None:
    trimesh.Trimesh(POSITIONS, [[0, 1, 2]], vertex_colors=COLORS, process=False).export(tmp_path / "a.ply")
    assert_the_cloud(read_cloud((tmp_path / "a.ply").rename(tmp_path / name)))


@pytest.mark.parametrize("name", ["cloud.ply", "cloud.pcd", "cloud.xyzrgb", "cloud.pts"])
def test_formats_of_open3d(tmp_path: Path, name: str) -> None:
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(POSITIONS))
    cloud.colors = open3d.utility.Vector3dVector(COLORS / 255)
    assert open3d.io.write_point_cloud(str(tmp_path / name), cloud)
    assert_the_cloud(read_cloud(tmp_path / name))


@pytest.mark.parametrize(
    "colors", [COLORS / 255, (COLORS / 255).astype(np.float32), COLORS.astype(np.uint16) * 257]
)
def test_colours_of_other_types(tmp_path: Path, colors: np.ndarray) -> None:
    columns = dict(zip(("x", "y", "z"), POSITIONS.T, strict=True))
    columns |= dict(zip(("blue", "green", "red"), colors.T[::-1], strict=True))
    assert_the_cloud(read_cloud(write_ply(tmp_path / "cloud.ply", columns)))


@pytest.mark.parametrize("name", ["cloud.xyz", "cloud.ply"])
def test_without_colours(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "cloud.ply":
        write_ply(path, dict(zip("xyz", POSITIONS.T, strict=True)))
    else:
        np.savetxt(path, POSITIONS)
    with pytest.raises(ValueError, match=rf"{name} have no colours"):
        read_cloud(path)
    points = read_cloud(path, grey=True)
    torch.testing.assert_close(points.positions, torch.tensor(POSITIONS, dtype=torch.float32))
    assert (points.rgb == 0.5).all()


def test_files_that_are_no_clouds(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no point cloud at .*gone\.ply"):
        read_cloud(tmp_path / "gone.ply")
    (tmp_path / "cut.ply").write_text("ply\nformat ascii 1.0\n")
    with pytest.raises(ValueError, match=r"cut\.ply is not a PLY file, or it is cut off"):
        read_cloud(tmp_path / "cut.ply")
    (tmp_path / "cut.pcd").write_text("# .PCD v0.7\n")
    with pytest.raises(ValueError, match=r"no points could be read from .*cut\.pcd"):
        read_cloud(tmp_path / "cut.pcd")
    path = write_ply(tmp_path / "flat.ply", dict(zip("xy", POSITIONS.T, strict=False)))
    with pytest.raises(ValueError, match=r"flat\.ply is no point cloud: its vertices have no x, y, z"):
        read_cloud(path)
    path = write_ply(tmp_path / "empty.ply", dict(zip("xyz", POSITIONS.T[:, :0], strict=True)), text=True)
    with pytest.raises(ValueError, match=r"no points could be read from .*empty\.ply"):
        read_cloud(path)


def test_a_written_cloud_is_read_back(tmp_path: Path) -> None:
    points = Points(torch.randn(20, 3), torch.randint(0, 256, (20, 3)) / 255)
    write_cloud(tmp_path / "cloud.ply", points)
    read = read_cloud(tmp_path / "cloud.ply")
    torch.testing.assert_close(read.positions, points.positions)
    torch.testing.assert_close(read.rgb, points.rgb)
