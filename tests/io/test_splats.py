"""Splat PLY files, read back with another library and by the original 3D Gaussian Splatting's formulas."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.base_dataparser import transform_poses_to_original_space
from plyfile import PlyData, PlyElement
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn import functional as F

from nest_nerfstudio.geometry.quaternion import quat_exp, quat_to_rotmat
from nest_nerfstudio.geometry.sh import eval_sh
from nest_nerfstudio.io.splats import (
    only_finite,
    read_splat_ply,
    undo_transform,
    with_sh_degree,
    write_splat_ply,
)
from nest_nerfstudio.types import Gaussians
from tests.io.some_gaussians import assert_same, make_gaussians, make_transform


def columns(path: Path, *names: str) -> np.ndarray:
    vertices = PlyData.read(str(path))["vertex"]
    return np.stack([vertices[name] for name in names], axis=-1)


@pytest.mark.parametrize("degree", range(4))
def test_properties_are_the_originals_in_name_and_order(tmp_path: Path, degree: int) -> None:
    write_splat_ply(tmp_path / "a.ply", make_gaussians(degree=degree))
    ply = PlyData.read(str(tmp_path / "a.ply"))
    names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
    names += [f"f_rest_{i}" for i in range(3 * ((degree + 1) ** 2 - 1))]
    names += ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    assert [p.name for p in ply["vertex"].properties] == names
    assert {p.val_dtype for p in ply["vertex"].properties} == {"f4"}
    assert (ply.byte_order, ply.text, ply["vertex"].count) == ("<", False, 20)


def test_values_are_the_activations_inverse(tmp_path: Path) -> None:
    gaussians = make_gaussians()
    write_splat_ply(path := tmp_path / "a.ply", gaussians)
    np.testing.assert_array_equal(columns(path, "x", "y", "z"), gaussians.means.numpy())
    np.testing.assert_array_equal(columns(path, "nx", "ny", "nz"), 0)
    opacities = 1 / (1 + np.exp(-columns(path, "opacity")[:, 0]))
    np.testing.assert_allclose(opacities, gaussians.opacities.numpy(), rtol=1e-5)
    scales = np.exp(columns(path, "scale_0", "scale_1", "scale_2"))
    np.testing.assert_allclose(scales, gaussians.scales.numpy(), rtol=1e-5)


def test_rotation_by_the_originals_formula(tmp_path: Path) -> None:
    gaussians = make_gaussians()
    write_splat_ply(path := tmp_path / "a.ply", gaussians)
    r, x, y, z = columns(path, "rot_0", "rot_1", "rot_2", "rot_3").T
    matrix = [  # build_rotation of graphdeco-inria/gaussian-splatting
        [1 - 2 * (y * y + z * z), 2 * (x * y - r * z), 2 * (x * z + r * y)],
        [2 * (x * y + r * z), 1 - 2 * (x * x + z * z), 2 * (y * z - r * x)],
        [2 * (x * z - r * y), 2 * (y * z + r * x), 1 - 2 * (x * x + y * y)],
    ]
    found = np.moveaxis(np.array(matrix), -1, 0)
    np.testing.assert_allclose(found, quat_to_rotmat(gaussians.quats).numpy(), atol=1e-6)
    scipy = Rotation.from_quat(np.stack([x, y, z, r], axis=-1)).as_matrix()
    np.testing.assert_allclose(found, scipy, atol=1e-6)


def test_colour_by_the_originals_formula(tmp_path: Path) -> None:
    gaussians = make_gaussians()
    write_splat_ply(path := tmp_path / "a.ply", gaussians)
    dc = columns(path, "f_dc_0", "f_dc_1", "f_dc_2")[:, :, None]
    rest = columns(path, *[f"f_rest_{i}" for i in range(45)]).reshape(-1, 3, 15)
    sh = np.concatenate([dc, rest], axis=2)  # [n, channel, coefficient], as its load_ply does
    dirs = F.normalize(torch.randn(20, 3), dim=-1)
    colour = original_eval_sh(sh, dirs.numpy())
    np.testing.assert_allclose(colour, eval_sh(3, dirs, gaussians.sh).numpy(), atol=1e-5)


def original_eval_sh(sh: np.ndarray, dirs: np.ndarray) -> np.ndarray:
    """Degree 3 in the form of the original's `eval_sh`: signs and order as there."""
    C0, C1 = 0.28209479177387814, 0.4886025119029199
    C2 = [
        1.0925484305920792,
        -1.0925484305920792,
        0.31539156525252005,
        -1.0925484305920792,
        0.5462742152960396,
    ]
    C3 = [-0.5900435899266435, 2.890611442640554, -0.4570457994644658, 0.3731763325901154]
    C3 += [-0.4570457994644658, 1.445305721320277, -0.5900435899266435]
    x, y, z = dirs.T[:, :, None]
    xx, yy, zz = x * x, y * y, z * z
    result = C0 * sh[..., 0] - C1 * y * sh[..., 1] + C1 * z * sh[..., 2] - C1 * x * sh[..., 3]
    result += C2[0] * x * y * sh[..., 4] + C2[1] * y * z * sh[..., 5]
    result += C2[2] * (2 * zz - xx - yy) * sh[..., 6]
    result += C2[3] * x * z * sh[..., 7] + C2[4] * (xx - yy) * sh[..., 8]
    result += C3[0] * y * (3 * xx - yy) * sh[..., 9] + C3[1] * x * y * z * sh[..., 10]
    result += C3[2] * y * (4 * zz - xx - yy) * sh[..., 11]
    result += C3[3] * z * (2 * zz - 3 * xx - 3 * yy) * sh[..., 12]
    result += C3[4] * x * (4 * zz - xx - yy) * sh[..., 13] + C3[5] * z * (xx - yy) * sh[..., 14]
    return result + C3[6] * x * (xx - 3 * yy) * sh[..., 15]


@pytest.mark.parametrize("degree", range(4))
def test_reading_inverts_writing(tmp_path: Path, degree: int) -> None:
    gaussians = make_gaussians(degree=degree)
    write_splat_ply(tmp_path / "a.ply", gaussians)
    assert_same(read_splat_ply(tmp_path / "a.ply"), gaussians)


def test_extreme_values_stay_finite(tmp_path: Path) -> None:
    gaussians = make_gaussians(2)
    gaussians.opacities[:] = torch.tensor([0.0, 1.0])
    gaussians.scales[0] = 0.0
    write_splat_ply(tmp_path / "a.ply", gaussians)
    found = read_splat_ply(tmp_path / "a.ply")
    torch.testing.assert_close(found.opacities, gaussians.opacities, rtol=0, atol=2e-6)
    torch.testing.assert_close(found.scales, gaussians.scales)


@pytest.mark.parametrize(("byte_order", "text"), [("<", False), (">", False), ("=", True)])
def test_reads_what_another_library_wrote(tmp_path: Path, byte_order: str, text: bool) -> None:
    gaussians = make_gaussians(degree=0)
    write_splat_ply(tmp_path / "a.ply", gaussians)
    vertex = PlyData.read(str(tmp_path / "a.ply"))["vertex"]
    keep = [name for name in vertex.data.dtype.names if not name.startswith("n")]
    types = [("red", "u1"), *[(name, "f8") for name in reversed(keep)]]
    table = np.zeros(vertex.count, dtype=types)
    for name in keep:
        table[name] = vertex[name]
    element = PlyElement.describe(table, "vertex")
    ply = PlyData([element], text=text, byte_order=byte_order, comments=["by another program"])
    ply.write(str(tmp_path / "b.ply"))
    assert_same(read_splat_ply(tmp_path / "b.ply"), gaussians)


@pytest.mark.parametrize("kept", [-1, -1000, 300, 3, 0])
def test_files_that_are_cut_off(tmp_path: Path, kept: int) -> None:
    write_splat_ply(path := tmp_path / "a.ply", make_gaussians())
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"a\.ply is not a PLY file, or it is cut off"):
        read_splat_ply(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"binary_little_endian", b"ascii", "not a PLY file"),
        (b"element vertex", b"element corner", "no vertices"),
        (b" opacity\n", b" opazity\n", "no numeric property opacity"),
        (b"property float f_rest_44\n", b"", "44 properties f_rest"),
        (b"property float x\n", b"property list uchar int x\n", "not a PLY file|no numeric property x"),
    ],
)
def test_files_that_are_no_splats(tmp_path: Path, old: bytes, new: bytes, message: str) -> None:
    write_splat_ply(path := tmp_path / "a.ply", make_gaussians())
    path.write_bytes(path.read_bytes().replace(old, new))
    with pytest.raises(ValueError, match=message):
        read_splat_ply(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.ply"):
        read_splat_ply(tmp_path / "gone.ply")


def test_nothing_or_nan_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no Gaussians"):
        write_splat_ply(tmp_path / "a.ply", make_gaussians(0))
    broken = make_gaussians()
    broken.sh[3, 2, 1] = float("inf")
    with pytest.raises(ValueError, match="not finite"):
        write_splat_ply(tmp_path / "a.ply", broken)
    assert list(tmp_path.iterdir()) == []


@contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process can grow beyond 1000 bytes; for as short as possible, as pytest writes too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_leaves_the_older_file(tmp_path: Path) -> None:
    gaussians = make_gaussians()
    write_splat_ply(tmp_path / "a.ply", gaussians)
    with pytest.raises(OSError, match="File too large"), full_disk():
        write_splat_ply(tmp_path / "a.ply", make_gaussians())
    assert [p.name for p in tmp_path.iterdir()] == ["a.ply"]
    assert_same(read_splat_ply(tmp_path / "a.ply"), gaussians)


def test_only_finite_gaussians_are_kept_in_order() -> None:
    gaussians = make_gaussians(6)
    gaussians.means[0, 1] = float("nan")
    gaussians.opacities[2] = float("inf")
    gaussians.sh[3, 2, 0] = float("-inf")
    kept = only_finite(gaussians)
    torch.testing.assert_close(kept.means, gaussians.means[[1, 4, 5]])
    assert_same(only_finite(kept), kept)


@pytest.mark.parametrize(("stored", "wanted"), [(3, 0), (3, 1), (1, 3), (0, 2), (2, 2)])
def test_degree_is_cut_or_filled(stored: int, wanted: int) -> None:
    gaussians = make_gaussians(degree=stored)
    dirs = torch.randn(20, 3)
    expected = eval_sh(min(stored, wanted), dirs, gaussians.sh)
    changed = with_sh_degree(gaussians, wanted)
    assert changed.sh_degree == wanted
    torch.testing.assert_close(eval_sh(wanted, dirs, changed.sh), expected)


def test_original_frame_is_seen_alike_from_nerfstudios_original_poses() -> None:
    gaussians, (transform, scale) = make_gaussians(), make_transform()
    rotation = quat_to_rotmat(quat_exp(torch.tensor([1.0, 0.4, -0.2])))
    pose = torch.cat([rotation, torch.randn(3, 1)], dim=1)
    original_pose = transform_poses_to_original_space(pose[None], transform, scale, "opengl")[0]
    original = undo_transform(gaussians, transform, scale)
    here, there = seen_from(gaussians, pose), seen_from(original, original_pose)
    torch.testing.assert_close(here[0], there[0] * scale, rtol=0, atol=1e-5)
    torch.testing.assert_close(here[1], there[1] * scale**2, rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(here[2], there[2], rtol=0, atol=1e-4)
    torch.testing.assert_close(gaussians.opacities, original.opacities)


def seen_from(gaussians: Gaussians, pose: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Centres and covariances in the camera's axes, and colours."""
    axes, rays = quat_to_rotmat(gaussians.quats), gaussians.means - pose[:, 3]
    local_axes = pose[:, :3].T @ axes * gaussians.scales[:, None, :]
    return rays @ pose[:, :3], local_axes @ local_axes.mT, eval_sh(3, rays, gaussians.sh)


@pytest.mark.parametrize("offset", [1e3, 4.512e6])
def test_the_original_frame_of_a_map(offset: float) -> None:
    """Positions are rounded once, to float32; where that would merge Gaussians, it is refused."""
    gaussians, (transform, scale) = make_gaussians(), make_transform()
    transform = transform.double()
    transform[:, 3] -= transform[:, :3] @ torch.tensor(
        [0.8 * offset, -0.6 * offset, 1.0], dtype=torch.float64
    )
    if offset > 1e6:
        with pytest.raises(ValueError, match=r"4\.512e\+06 units away.*dataparser_transforms\.json"):
            undo_transform(gaussians, transform, scale)
        return
    inverse = torch.linalg.inv(transform[:, :3])
    expected = (gaussians.means.double() / scale - transform[:, 3]) @ inverse.mT
    torch.testing.assert_close(
        undo_transform(gaussians, transform, scale).means, expected.float(), rtol=1e-6, atol=1e-4
    )


@pytest.mark.parametrize("change", ["reflection", "stretch", "scale"])
def test_transforms_that_are_not_rigid_are_refused(change: str) -> None:
    transform, scale = make_transform()
    if change == "reflection":
        transform[:, 0] *= -1
    elif change == "stretch":
        transform[:, 0] *= 1.1
    else:
        scale = 0.0
    with pytest.raises(ValueError, match="cannot be undone"):
        undo_transform(make_gaussians(), transform, scale)
