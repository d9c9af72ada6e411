"""The toy scene: kinematics, cameras, and a few path-traced pixels."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nest_nerfstudio.data.synthetic import (
    CAMERA_ANGLE_X,
    CAMERA_RADIUS,
    ToySceneConfig,
    frames_of,
    joint_poses,
    make_toy_scene,
    posed_meshes,
    random_camera,
    render_frame,
    superellipsoid,
    to_srgb,
)

TINY = ToySceneConfig(size=24, train=2, val=1, test=1, future=1, samples=4)


@pytest.mark.parametrize("roundness", [1.0, 0.6])
def test_superellipsoid_fulfils_its_equation_and_faces_outwards(roundness: float) -> None:
    radii = (0.5, 0.3, 0.2)
    vertices, normals, faces = superellipsoid(radii, roundness)
    implicit = (np.abs(vertices / radii) ** (2 / roundness)).sum(axis=-1)
    np.testing.assert_allclose(implicit, 1, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=-1), 1)
    a, b, c = vertices[faces].transpose(1, 0, 2)
    face_normals = np.cross(b - a, c - a)
    assert ((face_normals * normals[faces].mean(axis=1)).sum(axis=-1) >= -1e-12).all()
    # The divergence theorem: a positive volume means outward triangles, 4/3 π abc is the ellipsoid's.
    volume = (a * np.cross(b, c)).sum() / 6
    assert volume > 0.95 * 4 / 3 * np.pi * np.prod(radii)


def test_motion_is_cyclic_rigid_and_inside_the_sphere() -> None:
    phases = np.linspace(0, 1, 25)
    for phase in phases:
        for name, pose in joint_poses(phase).items():
            np.testing.assert_allclose(pose, joint_poses(phase + 1)[name], atol=1e-9)
            np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-12)
        assert max(np.linalg.norm(mesh[1], axis=-1).max() for mesh in posed_meshes(phase)) < 1.15
    feet = np.stack([joint_poses(phase)["front left knee"][:3, 3] for phase in phases])
    assert np.ptp(feet[:, 0]) > 0.2


def test_cameras_look_at_the_origin_from_above() -> None:
    for seed in range(20):
        pose = random_camera(np.random.default_rng(seed))
        np.testing.assert_allclose(pose[:3, :3].T @ pose[:3, :3], np.eye(3), atol=1e-12)
        assert np.linalg.det(pose[:3, :3]) == pytest.approx(1)
        np.testing.assert_allclose(pose[:3, 3], CAMERA_RADIUS * pose[:3, 2])
        assert pose[2, 3] > 0
        assert pose[2, 1] > 0, "the camera's up axis points up"
        assert pose[2, 0] == 0, "no roll"


def test_split_times_and_seeds() -> None:
    config = ToySceneConfig()
    times = {
        split: np.array([t for t, _ in frames_of(split, config)]) for split in ("train", "test", "future")
    }
    assert times["train"][0] == 0
    assert times["train"][-1] == 1
    assert ((times["test"] >= 0) & (times["test"] <= 1)).all()
    assert (times["future"] > 1).all()
    assert times["future"][-1] == 2
    cameras = np.stack([camera for split in ("train", "test") for _, camera in frames_of(split, config)])
    assert len(np.unique(cameras.round(6), axis=0)) == len(cameras), "a fresh camera for every frame"
    assert not np.allclose(cameras[0], frames_of("train", ToySceneConfig(seed=1))[0][1])
    np.testing.assert_array_equal(cameras[0], frames_of("train", config)[0][1])


def test_srgb_curve() -> None:
    linear = np.array([-1.0, 0.0, 0.0031308, 0.2140411, 1.0, 7.0])
    np.testing.assert_allclose(to_srgb(linear), [0, 0, 0.04045, 0.5, 1, 1], atol=1e-4)


@pytest.mark.parametrize("bad", [{"size": 0}, {"train": -1}, {"cycles": 0.0}, {"seed": -1}])
def test_bad_settings(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        ToySceneConfig(**bad)  # pyright: ignore[reportArgumentType]


def test_missing_mitsuba_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mitsuba", None)
    with pytest.raises(ImportError, match=r"nest-nerfstudio\[synth\]"):
        make_toy_scene(tmp_path / "scene", TINY)
    assert not (tmp_path / "scene").exists()


def test_silhouette_agrees_with_the_camera_matrix() -> None:
    """Projecting the meshes' vertices with the OpenGL matrix lands on the rendered alpha."""
    pytest.importorskip("mitsuba")
    size, phase, camera = 64, 0.3, random_camera(np.random.default_rng(3))
    rgba = render_frame(phase, camera, size, samples=16, seed=0)
    vertices = np.concatenate([mesh[1] for mesh in posed_meshes(phase)])
    inside = (vertices - camera[:3, 3]) @ camera[:3, :3]
    focal = size / 2 / np.tan(CAMERA_ANGLE_X / 2)
    x = focal * inside[:, 0] / -inside[:, 2] + size / 2
    y = size / 2 - focal * inside[:, 1] / -inside[:, 2]
    projected = np.zeros((size, size), dtype=bool)
    projected[y.astype(int), x.astype(int)] = True
    covered = rgba[..., 3] > 0
    # Vertices on the outline may touch pixels that no light path hit.
    assert (projected & covered).sum() / projected.sum() > 0.95
    rows, columns = np.nonzero(covered)
    assert abs(rows.min() - y.min()) <= 1.5
    assert abs(rows.max() - y.max()) <= 1.5
    assert abs(columns.min() - x.min()) <= 1.5
    assert abs(columns.max() - x.max()) <= 1.5


def test_scene_resumes_and_refuses_other_settings(tmp_path: Path) -> None:
    pytest.importorskip("mitsuba")
    scene = make_toy_scene(tmp_path / "scene", TINY)
    first, second = scene / "train" / "r_000.png", scene / "train" / "r_001.png"
    kept, redone = first.stat().st_mtime_ns, second.read_bytes()
    second.unlink()
    make_toy_scene(scene, TINY)
    assert first.stat().st_mtime_ns == kept
    assert second.read_bytes() == redone, "the same seed gives the same picture"
    with pytest.raises(ValueError, match="other settings"):
        make_toy_scene(scene, ToySceneConfig(size=32))
    with pytest.raises(ValueError, match="not empty"):
        make_toy_scene(scene / "train", TINY)

    transforms = json.loads((scene / "transforms_train.json").read_text())
    assert transforms["period"] == pytest.approx(1 / TINY.cycles)
    assert [frame["time"] for frame in transforms["frames"]] == [0.0, 1.0]
    pixels = np.asarray(Image.open(scene / f"{transforms['frames'][0]['file_path']}.png"))
    assert pixels.shape == (24, 24, 4)
    assert pixels[0, 0, 3] == 0
    assert pixels[12, 12, 3] == 255
