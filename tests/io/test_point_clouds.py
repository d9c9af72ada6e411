"""Point clouds as other libraries write them."""

from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from nest_nerfstudio.io.point_clouds import read_cloud

PLACES = np.array([[0.0, 0.5, -1.0], [0.25, 0.0, 2.0], [1.0, 1.0, 1.0]])
COLORS = np.array([[255, 0, 51], [0, 102, 0], [204, 255, 255]], dtype=np.uint8)


def test_a_ply_of_trimesh(tmp_path: Path) -> None:
    trimesh.PointCloud(PLACES, COLORS).export(str(tmp_path / "cloud.ply"))
    points = read_cloud(tmp_path / "cloud.ply")
    torch.testing.assert_close(points.positions, torch.tensor(PLACES, dtype=torch.float32))
    torch.testing.assert_close(points.rgb, torch.tensor(COLORS / 255, dtype=torch.float32))


def test_without_colours(tmp_path: Path) -> None:
    np.savetxt(tmp_path / "cloud.xyz", PLACES)
    with pytest.raises(ValueError, match=r"cloud\.xyz have no colours"):
        read_cloud(tmp_path / "cloud.xyz")
    points = read_cloud(tmp_path / "cloud.xyz", grey=True)
    torch.testing.assert_close(points.positions, torch.tensor(PLACES, dtype=torch.float32))
    assert (points.rgb == 0.5).all()


def test_files_that_are_no_clouds(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no point cloud at .*gone\.ply"):
        read_cloud(tmp_path / "gone.ply")
    (tmp_path / "cut.ply").write_text("ply\nformat ascii 1.0\n")
    with pytest.raises(ValueError, match=r"no points could be read from .*cut\.ply"):
        read_cloud(tmp_path / "cut.ply")
