"""Figures fitted to their sphere, edits of meshes, colours."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nest_nerfstudio.data.scenes.index import OBJECT_RADIUS
from nest_nerfstudio.states import Edit
from nest_nerfstudio.synthesis.colors import from_srgb, shift_hue, to_srgb
from nest_nerfstudio.synthesis.meshes import Bsdf, Figure, Mesh, edit_mesh, fit_to_sphere
from tests.synthesis.some_meshes import RED, floor


class Rod(Figure):
    """A rod of three vertices that moves along x with its phase."""

    moves = True

    def meshes(self, phase: float) -> list[Mesh]:
        x = 10 + phase % 1
        corners = np.array([[x, 0.0, 0.0], [x, 4.0, 0.0], [x, 2.0, 0.0]])
        return [Mesh(corners, None, np.array([[0, 1, 2]]), RED)]


def test_fitting_measures_the_whole_motion() -> None:
    figure = fit_to_sphere(Rod(), num_phases=64)
    points = np.concatenate([figure.meshes(i / 64)[0].vertices for i in range(64)])
    assert np.linalg.norm(points, axis=-1).max() == pytest.approx(OBJECT_RADIUS)
    np.testing.assert_allclose(points.min(axis=0), -points.max(axis=0), atol=1e-12)


def test_fitting_nothing() -> None:
    class Dot(Rod):
        def meshes(self, phase: float) -> list[Mesh]:
            return [Mesh(np.zeros((3, 3)), None, np.array([[0, 1, 2]]), RED)]

    with pytest.raises(ValueError, match="nothing to see"):
        fit_to_sphere(Dot())


def test_an_edit_stretches_turns_then_moves_and_normals_stay_normal() -> None:
    rng = np.random.default_rng(0)
    corners, faces = rng.normal(size=(3, 3)), np.array([[0, 1, 2]])
    across = np.cross(corners[1] - corners[0], corners[2] - corners[0])
    mesh = Mesh(corners, np.tile(across, (3, 1)), faces, RED)
    edit = Edit(yaw=np.pi / 2, translate=(1.0, 2.0, 3.0), stretch=(2.0, 1.0, 0.5))
    after = edit_mesh(mesh, edit)
    x, y, z = corners.T
    np.testing.assert_allclose(after.vertices, np.stack([1 - y, 2 + 2 * x, 3 + 0.5 * z], axis=-1), atol=1e-12)
    assert after.normals is not None
    for edge in (after.vertices[1] - after.vertices[0], after.vertices[2] - after.vertices[0]):
        np.testing.assert_allclose(after.normals @ edge, 0, atol=1e-12)
    assert after.bsdf is mesh.bsdf


@settings(max_examples=30)
@given(st.tuples(*[st.floats(0.01, 1)] * 3), st.floats(0, 1), st.floats(0, 1))
def test_hue_shifts_add_and_keep_value(rgb: tuple[float, ...], first: float, second: float) -> None:
    color = np.array(rgb)
    once = shift_hue(shift_hue(color, first), second)
    np.testing.assert_allclose(once, shift_hue(color, first + second), atol=1e-6)
    assert once.max() == pytest.approx(color.max())
    assert once.min() == pytest.approx(color.min())


def test_recoloring_reaches_colours_bitmaps_and_vertices_but_not_opacity() -> None:
    bitmap = {"type": "bitmap", "data": np.full((2, 2, 3), [1.0, 0.0, 0.0]), "raw": True}
    opacity = {"type": "bitmap", "data": np.full((2, 2, 1), 0.5), "raw": True}
    bsdf: Bsdf = {"type": "mask", "opacity": opacity, "nested": {"type": "twosided", "a": RED, "b": bitmap}}
    after = edit_mesh(floor(bsdf, colors=np.full((4, 3), [0.5, 0.0, 0.0])), Edit(hue=1 / 3))
    nested = after.bsdf["nested"]
    np.testing.assert_allclose(nested["a"]["reflectance"]["value"], [0.1, 0.8, 0.1], atol=1e-9)
    np.testing.assert_allclose(nested["b"]["data"][0, 0], [0, 1, 0], atol=1e-9)
    np.testing.assert_allclose(after.colors, np.full((4, 3), [0.0, 0.5, 0.0]), atol=1e-9)
    assert after.bsdf["opacity"] is not opacity
    np.testing.assert_array_equal(after.bsdf["opacity"]["data"], opacity["data"])
    assert RED["reflectance"]["value"] == [0.8, 0.1, 0.1], "the original is unchanged"


def test_srgb_curve_and_its_inverse() -> None:
    linear = np.array([-1.0, 0.0, 0.0031308, 0.2140411, 1.0, 7.0])
    np.testing.assert_allclose(to_srgb(linear), [0, 0, 0.04045, 0.5, 1, 1], atol=1e-4)
    np.testing.assert_allclose(from_srgb(to_srgb(np.linspace(0, 1, 99))), np.linspace(0, 1, 99), atol=1e-7)
