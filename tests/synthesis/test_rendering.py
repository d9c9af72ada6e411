"""Cameras, and a few path-traced pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nest_nerfstudio.states import Edit, SunSky
from nest_nerfstudio.synthesis import rendering
from nest_nerfstudio.synthesis.rendering import (
    CAMERA_ANGLE_X,
    CAMERA_RADIUS,
    Cameras,
    RenderJob,
    Sensor,
    look_at_origin,
    render,
    render_missing,
)
from nest_nerfstudio.synthesis.toy import WALKER
from tests.synthesis.some_meshes import RED, floor


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


def test_a_job_renders_its_figure_edited_under_the_edits_light(tmp_path: Path) -> None:
    pytest.importorskip("mitsuba")

    def image(name: str, edit: Edit) -> np.ndarray:
        camera, sensor = look_at_origin(0.0, 0.5), Sensor(16, 16)
        RenderJob(tmp_path / "new" / name, WALKER, 0.2, camera, sensor, seed=0, edit=edit).run()
        return np.asarray(Image.open(tmp_path / "new" / name)).astype(float) / 255

    base = image("base.png", Edit())
    np.testing.assert_array_equal(image("unknown.png", Edit(light=None)), base)
    dark = image("dark.png", Edit(light=SunSky(sun=0.5, ambient=0.1)))
    np.testing.assert_array_equal(dark[..., 3], base[..., 3])
    assert dark[..., :3].sum() < 0.6 * base[..., :3].sum()
    low, high = (image(f"{z}.png", Edit(translate=(0.0, 0.0, z)))[..., 3].any(axis=1) for z in (-0.5, 0.5))
    assert np.flatnonzero(low).mean() > np.flatnonzero(high).mean() + 2, "image rows count downwards"


@pytest.mark.slow
def test_existing_images_are_kept_in_one_process_or_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mitsuba")
    monkeypatch.setattr(rendering, "IMAGES_PER_PROCESS", 1)

    def images(folder: str) -> list[RenderJob]:
        camera, sensor = look_at_origin(0.0, 0.5), Sensor(16, 4)
        paths = [tmp_path / folder / f"{i}.png" for i in range(3)]
        return [RenderJob(path, WALKER, 0.2 * i, camera, sensor, seed=i) for i, path in enumerate(paths)]

    render_missing(images("one"), jobs=1, description="")
    (tmp_path / "two").mkdir()
    Image.new("RGBA", (16, 16)).save(tmp_path / "two" / "0.png")
    render_missing(images("two"), jobs=2, description="")
    assert not np.asarray(Image.open(tmp_path / "two" / "0.png")).any(), "an existing image is kept"
    for name in ("1.png", "2.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert {path.suffix for path in tmp_path.rglob("*.*")} == {".png"}
