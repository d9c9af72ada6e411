"""Procedural figures: shapes, kinematics, and the random ones of every category."""

from __future__ import annotations

import numpy as np
import pytest

from nest_nerfstudio.data.scenes.index import OBJECT_RADIUS
from nest_nerfstudio.synthesis.toy import CATEGORIES, WALKER, Part, part_mesh, random_figure, superellipsoid


def assert_closed_and_outward(vertices: np.ndarray, normals: np.ndarray, faces: np.ndarray) -> float:
    """Normals are unit and on the side of their triangles; returns the volume inside (divergence theorem)."""
    np.testing.assert_allclose(np.linalg.norm(normals, axis=-1), 1)
    a, b, c = vertices[faces].transpose(1, 0, 2)
    face_normals = np.cross(b - a, c - a)
    assert ((face_normals * normals[faces].mean(axis=1)).sum(axis=-1) >= -1e-12).all()
    return (a * np.cross(b, c)).sum() / 6


@pytest.mark.parametrize("roundness", [1.0, 0.6])
def test_superellipsoid_fulfils_its_equation_and_faces_outwards(roundness: float) -> None:
    radii = (0.5, 0.3, 0.2)
    vertices, normals, faces = superellipsoid(radii, roundness)
    implicit = (np.abs(vertices / radii) ** (2 / roundness)).sum(axis=-1)
    np.testing.assert_allclose(implicit, 1, atol=1e-9)
    volume = assert_closed_and_outward(vertices, normals, faces)
    assert volume > 0.95 * 4 / 3 * np.pi * np.prod(radii), "4/3 π abc is the ellipsoid's"


def test_a_wheel_is_round_about_y_and_nearly_a_cylinder() -> None:
    vertices, normals, faces = part_mesh(Part("j", "m", (0.0, 0.0, 0.0), (0.3, 0.1, 0.3), 0.2, wheel=True))
    volume = assert_closed_and_outward(vertices, normals, faces)
    assert 0.9 < volume / (np.pi * 0.3**2 * 0.2) < 1
    np.testing.assert_allclose(np.abs(vertices).max(axis=0), (0.3, 0.1, 0.3), atol=1e-9)
    rim = np.hypot(vertices[:, 0], vertices[:, 2]).reshape(41, 21)
    np.testing.assert_allclose(rim - rim[:1], 0, atol=1e-9)


def test_motion_is_cyclic_rigid_and_inside_the_sphere() -> None:
    phases = np.linspace(0, 1, 25)
    for phase in phases:
        for name, pose in WALKER.joint_poses(phase).items():
            np.testing.assert_allclose(pose, WALKER.joint_poses(phase + 1)[name], atol=1e-9)
            np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-12)
        assert max(np.linalg.norm(m.vertices, axis=-1).max() for m in WALKER.meshes(phase)) < OBJECT_RADIUS
    feet = np.stack([WALKER.joint_poses(phase)["front left knee"][:3, 3] for phase in phases])
    assert np.ptp(feet[:, 0]) > 0.2


@pytest.mark.parametrize("category", CATEGORIES)
def test_random_figures_differ_repeat_and_fit(category: str) -> None:
    def points(index: int, phase: float = 0.0, seed: int = 0) -> np.ndarray:
        return np.concatenate([m.vertices for m in random_figure(category, index, seed).meshes(phase)])

    figure = random_figure(category, 0)
    assert figure.moves == (category in ("quadruped", "fish", "snake"))
    np.testing.assert_array_equal(points(0), points(0))
    assert points(0).shape != points(1).shape or not np.allclose(points(0), points(1))
    assert points(0).shape != points(0, seed=1).shape or not np.allclose(points(0), points(0, seed=1))
    np.testing.assert_allclose(points(2, 0.3), points(2, 1.3), atol=1e-9)
    assert figure.moves == (np.abs(points(0) - points(0, 0.25)).max() > 0.02)
    reach = max(np.linalg.norm(points(0, phase), axis=-1).max() for phase in np.linspace(0, 1, 9))
    assert 0.6 * OBJECT_RADIUS < reach <= OBJECT_RADIUS + 1e-6
