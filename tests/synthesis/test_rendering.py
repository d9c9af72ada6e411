"""Cameras, edits, colours, and a few path-traced pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nest_nerfstudio.synthesis import rendering
from nest_nerfstudio.synthesis.rendering import (
    CAMERA_ANGLE_X,
    CAMERA_RADIUS,
    OBJECT_RADIUS,
    Bsdf,
    Cameras,
    Figure,
    Mesh,
    Sensor,
    Shot,
    edited,
    fitted,
    from_srgb,
    look_at_origin,
    render,
    shift_hue,
    take_all,
    to_srgb,
)
from nest_nerfstudio.synthesis.toy import WALKER
from nest_nerfstudio.types import Edit, SunSky

RED: Bsdf = {"type": "diffuse", "reflectance": {"type": "rgb", "value": [0.8, 0.1, 0.1]}}


def floor(bsdf: Bsdf, **attributes: np.ndarray) -> Mesh:
    """A square on z = 0 from −1 to 1, flat, with uv (0, 0) at its far left corner seen from −y."""
    corners = np.array([[-1.0, 1.0, 0.0], [-1.0, -1.0, 0.0], [1.0, -1.0, 0.0], [1.0, 1.0, 0.0]])
    return Mesh(corners, None, np.array([[0, 1, 2], [0, 2, 3]]), bsdf, **attributes)


class Box(Figure):
    """A rod of two vertices and their middle, that runs along x as its phase does."""

    moves = True

    def meshes(self, phase: float) -> list[Mesh]:
        x = 10 + phase % 1
        corners = np.array([[x, 0.0, 0.0], [x, 4.0, 0.0], [x, 2.0, 0.0]])
        return [Mesh(corners, None, np.array([[0, 1, 2]]), RED)]


@given(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True), st.floats(0, 2))
@pytest.mark.parametrize("path", ["random", "orbit", "still"])
def test_cameras_look_at_the_origin_upright(path: str, turn: float, rise: float, time: float) -> None:
    pose = Cameras(path=path).pose(time, (turn, rise))  # pyright: ignore[reportArgumentType]
    np.testing.assert_allclose(pose[:3, :3].T @ pose[:3, :3], np.eye(3), atol=1e-12)
    assert np.linalg.det(pose[:3, :3]) == pytest.approx(1)
    np.testing.assert_allclose(pose[:3, 3], CAMERA_RADIUS * pose[:3, 2])
    assert 0.05 - 1e-9 <= pose[2, 2] <= 0.8 + 1e-9
    assert pose[2, 1] > 0, "the camera's up axis points up"
    assert pose[2, 0] == 0, "no roll"


def test_camera_paths() -> None:
    orbit, still = Cameras("orbit", radius=3.0), Cameras("still", heights=(0.2, 0.4))
    np.testing.assert_allclose(orbit.pose(0.0, (0.0, 0.0)), orbit.pose(1.0, (0.3, 0.5)), atol=1e-12)
    np.testing.assert_allclose(
        orbit.pose(0.5, (0.0, 0.0))[:2, 3], -orbit.pose(0.0, (0.0, 0.0))[:2, 3], atol=1e-12
    )
    np.testing.assert_array_equal(still.pose(0.1, (0.0, 0.0)), still.pose(0.9, (0.3, 0.5)))
    assert still.pose(0.0, (0.0, 0.0))[2, 3] == pytest.approx(0.3 * CAMERA_RADIUS)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"radius": 1.0}, "inside the object"),
        ({"heights": (0.5, 0.2)}, "heights"),
        ({"heights": (0.5, 1.0)}, "heights"),
        ({"angle_x": 0.0}, "angle_x"),
    ],
)
def test_bad_cameras(bad: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Cameras(**bad)


def test_fitting_measures_the_whole_motion() -> None:
    figure = fitted(Box(), num_phases=64)
    points = np.concatenate([figure.meshes(i / 64)[0].vertices for i in range(64)])
    assert np.linalg.norm(points, axis=-1).max() == pytest.approx(OBJECT_RADIUS)
    np.testing.assert_allclose(points.min(axis=0), -points.max(axis=0), atol=1e-12)


def test_fitting_nothing() -> None:
    class Dot(Box):
        def meshes(self, phase: float) -> list[Mesh]:
            return [Mesh(np.zeros((3, 3)), None, np.array([[0, 1, 2]]), RED)]

    with pytest.raises(ValueError, match="nothing to see"):
        fitted(Dot())


def test_an_edit_stretches_turns_then_moves_and_normals_stay_normal() -> None:
    rng = np.random.default_rng(0)
    corners, faces = rng.normal(size=(3, 3)), np.array([[0, 1, 2]])
    across = np.cross(corners[1] - corners[0], corners[2] - corners[0])
    mesh = Mesh(corners, np.tile(across, (3, 1)), faces, RED)
    edit = Edit(yaw=np.pi / 2, translate=(1.0, 2.0, 3.0), stretch=(2.0, 1.0, 0.5))
    after = edited(mesh, edit)
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
    after = edited(floor(bsdf, colors=np.full((4, 3), [0.5, 0.0, 0.0])), Edit(hue=1 / 3))
    nested = after.bsdf["nested"]
    np.testing.assert_allclose(nested["a"]["reflectance"]["value"], [0.1, 0.8, 0.1], atol=1e-9)
    np.testing.assert_allclose(nested["b"]["data"][0, 0], [0, 1, 0], atol=1e-9)
    np.testing.assert_allclose(after.colors, np.full((4, 3), [0.0, 0.5, 0.0]), atol=1e-9)
    assert after.bsdf["opacity"] is not opacity
    np.testing.assert_array_equal(after.bsdf["opacity"]["data"], opacity["data"])
    assert RED["reflectance"]["value"] == [0.8, 0.1, 0.1], "the figure itself stays"


def test_srgb_curve_and_its_inverse() -> None:
    linear = np.array([-1.0, 0.0, 0.0031308, 0.2140411, 1.0, 7.0])
    np.testing.assert_allclose(to_srgb(linear), [0, 0, 0.04045, 0.5, 1, 1], atol=1e-4)
    np.testing.assert_allclose(from_srgb(to_srgb(np.linspace(0, 1, 99))), np.linspace(0, 1, 99), atol=1e-7)


def test_silhouette_agrees_with_the_camera_matrix() -> None:
    """Projecting the meshes' vertices with the OpenGL matrix lands on the rendered alpha."""
    pytest.importorskip("mitsuba")
    size, meshes, camera = 64, WALKER.meshes(0.3), look_at_origin(2.0, 0.4)
    rgba = render(meshes, camera, Sensor(size, samples=16))
    vertices = np.concatenate([mesh.vertices for mesh in meshes])
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


def test_a_matte_floor_is_as_bright_as_theory_says() -> None:
    """Radiance = albedo · (irradiance · cos / π + sky)."""
    pytest.importorskip("mitsuba")
    light = SunSky(direction=(0.0, -3.0, -4.0), sun=2.0, ambient=0.3)
    rgba = render([floor(RED)], look_at_origin(0.0, 0.99), Sensor(9, samples=64), light)
    expected = np.array([0.8, 0.1, 0.1]) * (2.0 * 0.8 / np.pi + 0.3)
    np.testing.assert_allclose(rgba[4, 4], [*expected, 1.0], rtol=0.02)
    assert rgba[0, 0, 3] == 0


def test_textures_vertex_colours_and_opacity_are_where_they_belong() -> None:
    pytest.importorskip("mitsuba")
    camera, light = look_at_origin(-np.pi / 2, 0.999), SunSky((0.0, 0.0, -1.0), 0.0, 1.0)
    uvs = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
    corners = np.array([[[1.0, 0, 0], [0, 1.0, 0]], [[0, 0, 1.0], [1.0, 1.0, 1.0]]])
    texture = {"type": "bitmap", "data": corners, "raw": True, "filter_type": "nearest"}
    for bsdf, mesh_data in (
        ({"type": "diffuse", "reflectance": texture}, {"uvs": uvs}),
        (
            {"type": "diffuse", "reflectance": {"type": "mesh_attribute", "name": "vertex_color"}},
            {"colors": corners.reshape(4, 3)[[0, 2, 3, 1]]},
        ),
    ):
        rgb = render([floor(bsdf, **mesh_data)], camera, Sensor(32, samples=16), light)[..., :3]
        assert rgb[11, 11].argmax() == 0, "red at uv (0, 0)"
        assert rgb[11, 20].argmax() == 1
        assert rgb[20, 11].argmax() == 2
        assert rgb[20, 20].min() > 0.4
    glass = {"type": "mask", "opacity": 0.25, "nested": RED}
    assert render([floor(glass)], camera, Sensor(16, samples=256), light)[
        6:10, 6:10, 3
    ].mean() == pytest.approx(0.25, abs=0.03)


@pytest.mark.slow
def test_taking_keeps_what_is_there_in_one_process_or_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mitsuba")
    monkeypatch.setattr(rendering, "PICTURES_PER_PROCESS", 1)

    def shots(folder: str) -> list[Shot]:
        camera, sensor = look_at_origin(0.0, 0.5), Sensor(16, 4)
        paths = [tmp_path / folder / f"{i}.png" for i in range(3)]
        return [Shot(path, WALKER, 0.2 * i, camera, sensor, seed=i) for i, path in enumerate(paths)]

    take_all(shots("one"), jobs=1, description="")
    (tmp_path / "two").mkdir()
    Image.new("RGBA", (16, 16)).save(tmp_path / "two" / "0.png")
    take_all(shots("two"), jobs=2, description="")
    assert not np.asarray(Image.open(tmp_path / "two" / "0.png")).any(), "what is there is kept"
    for name in ("1.png", "2.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert {path.suffix for path in tmp_path.rglob("*.*")} == {".png"}
