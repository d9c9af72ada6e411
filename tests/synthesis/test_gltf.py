"""GLB files against poses that are known without any code of ours."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import trimesh
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.spatial.transform import Rotation

from nest_nerfstudio.data.scenes.index import OBJECT_RADIUS
from nest_nerfstudio.synthesis.colors import from_srgb
from nest_nerfstudio.synthesis.gltf import Channel, gltf_figure, load_glb
from nest_nerfstudio.synthesis.meshes import Mesh
from tests.synthesis.small_glb import ARM, QUARTER_TURN_Z, GlbWriter, animate, arm, triangle

REST = (0.0, 0.0, 0.0, 1.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.glb"


def pose(path: Path, clip: str | None = None, time: float = 0.0) -> Mesh:
    """The only mesh of a file."""
    model = load_glb(path)
    (mesh,) = model.posed(None if clip is None else model.clip(clip), time)
    return mesh


def test_the_bind_pose_is_the_mesh_as_stored(path: Path) -> None:
    mesh = pose(arm().write(path))
    np.testing.assert_allclose(mesh.vertices, ARM, atol=1e-6)
    np.testing.assert_allclose(mesh.normals, np.tile([0, 1, 0], (4, 1)), atol=1e-6)
    np.testing.assert_array_equal(mesh.faces, [[0, 1, 3], [1, 2, 3]])


def test_a_bent_arm_has_its_hand_where_geometry_says(path: Path) -> None:
    mesh = pose(arm().write(path), "bend", 1.0)
    assert mesh.normals is not None
    hand, thumb = [1.0, 1.0, 0.0], [0.5, 1.0, 0.0]
    np.testing.assert_allclose(mesh.vertices, [[0, 0, 0], [1, 0, 0], hand, thumb], atol=1e-6)
    np.testing.assert_allclose(mesh.normals[[0, 2]], [[0, 1, 0], [-1, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(mesh.normals[1], [-(0.5**0.5), 0.5**0.5, 0], atol=1e-6)
    half = pose(path, "bend", 0.5).vertices[2]
    np.testing.assert_allclose(half, [1 + 0.5**0.5, 0.5**0.5, 0], atol=1e-6)
    for outside, inside in ((-1.0, 0.0), (9.0, 1.0)):
        held = pose(path, "bend", outside).vertices
        np.testing.assert_array_equal(held, pose(path, "bend", inside).vertices)


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.tuples(*[st.floats(-3, 3)] * 3), st.tuples(*[st.floats(-2, 2)] * 3), st.floats(0, 1))
def test_what_moves_the_root_joint_moves_everything(
    tmp_path: Path, turn: tuple[float, ...], shift: tuple[float, ...], time: float
) -> None:
    plain = arm().write(tmp_path / "plain.glb")
    load_glb.cache_clear()
    rotation, moved = Rotation.from_rotvec(turn), arm()
    moved.header["nodes"].append(
        {"children": [1], "rotation": rotation.as_quat().tolist(), "translation": list(shift)}
    )
    moved.header["scenes"][0]["nodes"] = [0, 3]
    before, after = pose(plain, "bend", time), pose(moved.write(tmp_path / "moved.glb"), "bend", time)
    np.testing.assert_allclose(after.vertices, rotation.apply(before.vertices) + shift, atol=1e-5)
    np.testing.assert_allclose(after.normals, rotation.apply(before.normals), atol=1e-5)


def test_a_mesh_without_a_skin_follows_its_nodes_as_trimesh_says(path: Path) -> None:
    glb = triangle()
    glb.header["meshes"][0]["primitives"][0]["indices"] = glb.accessor([0, 1, 2], "u2")
    glb.header["scenes"] = [{"nodes": [1]}]
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec([0.3, -0.5, 1.0]).as_matrix() @ np.diag([1.0, 2.0, -0.5])
    matrix[:3, 3] = 1, 2, 3
    glb.header["nodes"] = [
        {
            "mesh": 0,
            "rotation": list(QUARTER_TURN_Z),
            "scale": [2.0, 1.0, 1.0],
            "translation": [0.0, 0.0, 4.0],
        },
        {"children": [0], "matrix": matrix.T.flatten().tolist()},
    ]
    expected = trimesh.load_scene(glb.write(path)).to_geometry().vertices  # pyright: ignore
    np.testing.assert_allclose(pose(path).vertices, expected, atol=1e-5)


def test_a_normal_stays_perpendicular_under_uneven_scale(path: Path) -> None:
    glb = triangle(NORMAL=(np.full((3, 3), 3**-0.5), "f4"))
    glb.header["nodes"][0].update(scale=[3.0, 1.0, 0.5], rotation=list(QUARTER_TURN_Z))
    mesh = pose(glb.write(path))
    edges = mesh.vertices[1:] - mesh.vertices[0]
    np.testing.assert_allclose(mesh.normals @ edges.T, 0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(mesh.normals, axis=-1), 1, atol=1e-6)


def test_morph_targets_add_up_and_are_animated(path: Path) -> None:
    glb = triangle()
    up, out = np.tile([0.0, 0.0, 1.0], (3, 1)), np.eye(3)
    primitive = glb.header["meshes"][0]["primitives"][0]
    primitive["targets"] = [{"POSITION": glb.accessor(up)}, {"POSITION": glb.accessor(out)}]
    glb.header["meshes"][0]["weights"] = [0.5, 0.0]
    animate(glb, "grow", 0, "weights", [0.0, 2.0], [0.0, 0.0, 1.0, 0.5])
    np.testing.assert_allclose(pose(glb.write(path)).vertices, np.eye(3) + 0.5 * up, atol=1e-6)
    halfway = pose(path, "grow", 1.0).vertices
    np.testing.assert_allclose(halfway, np.eye(3) + 0.5 * up + 0.25 * out, atol=1e-6)


def test_sparse_interleaved_and_normalized_accessors(path: Path) -> None:
    glb = triangle(COLOR_0=([[255, 0, 51], [0, 255, 0], [0, 0, 255]], "u1"))
    rows = np.concatenate([np.eye(3), 9 * np.ones((3, 1))], axis=1).astype("<f4")
    accessor = glb.header["accessors"][0]
    accessor["bufferView"] = glb.view(rows.tobytes(), byteStride=16)
    accessor["sparse"] = {
        "count": 1,
        "indices": {"bufferView": glb.view(np.array([2], "<u2").tobytes()), "componentType": 5123},
        "values": {"bufferView": glb.view(np.array([5, 6, 7], "<f4").tobytes())},
    }
    mesh = pose(glb.write(path))
    np.testing.assert_allclose(mesh.vertices, [[1, 0, 0], [0, 1, 0], [5, 6, 7]])
    assert mesh.colors is not None
    np.testing.assert_allclose(mesh.colors[0], [1.0, 0.0, 0.2])
    assert mesh.bsdf["nested"]["reflectance"]["type"] == "mesh_attribute"


@pytest.mark.parametrize(("mode", "faces"), [(5, [[0, 1, 2], [2, 1, 3]]), (6, [[1, 2, 0], [2, 3, 0]])])
def test_strips_and_fans(path: Path, mode: int, faces: list[list[int]]) -> None:
    glb = GlbWriter(nodes=[{"mesh": 0}])
    primitive = {"attributes": {"POSITION": glb.accessor(ARM)}, "mode": mode}
    glb.header["meshes"] = [{"primitives": [primitive, {**primitive, "mode": 1}]}]
    found = {tuple(np.roll(face, -face.argmin())) for face in pose(glb.write(path)).faces}
    assert found == {tuple(np.roll(face, -np.argmin(face))) for face in faces}


def channel(interpolation: str, values: object, path: str = "translation") -> Channel:
    return Channel(0, path, interpolation, np.array([1.0, 3.0]), np.array(values, dtype=float))  # pyright: ignore


def test_interpolation_at_known_values() -> None:
    linear = channel("LINEAR", [[0, 0, 0], [4, 8, 0]])
    np.testing.assert_allclose(linear.at(1.5), [1, 2, 0])
    step = channel("STEP", [[1, 0, 0], [4, 8, 0]])
    np.testing.assert_allclose([step.at(2.99), step.at(3.0)], [[1, 0, 0], [4, 8, 0]])
    # The shorter way round, whatever the sign of the quaternions.
    turn = channel("LINEAR", [REST, [-x for x in QUARTER_TURN_Z]], "rotation")
    assert Rotation.from_quat(turn.at(2.0)).magnitude() == pytest.approx(np.pi / 4)


@given(st.lists(st.floats(-2, 2), min_size=4, max_size=4), st.floats(1, 3))
def test_a_cubic_spline_reproduces_every_cubic(coefficients: list[float], time: float) -> None:
    """Keys with the values and slopes of a cubic: between them lies that cubic."""
    cubic = np.polynomial.Polynomial(coefficients)
    slope = cubic.deriv()
    keys = [[[slope(t)] * 3, [cubic(t)] * 3, [slope(t)] * 3] for t in (1.0, 3.0)]
    np.testing.assert_allclose(channel("CUBICSPLINE", keys).at(time), cubic(time), atol=1e-9)


def test_cubic_rotations_are_unit_and_files_have_their_tangents(path: Path) -> None:
    glb, zero = arm(animated=False), (0.0,) * 4
    keys = [zero, REST, zero, zero, QUARTER_TURN_Z, zero]
    animate(glb, "bend", 2, "rotation", [0.0, 1.0], keys, "CUBICSPLINE")
    glb.write(path)
    value = load_glb(path).clip().channels[0].at(0.5)
    assert np.linalg.norm(value) == pytest.approx(1)
    np.testing.assert_allclose(pose(path, "bend", 1.0).vertices[2], [1, 1, 0], atol=1e-6)
    np.testing.assert_allclose(pose(path, "bend", 0.5).vertices[2], [1 + 0.5**0.5, 0.5**0.5, 0], atol=1e-6)


def test_a_vertex_without_weight_follows_its_first_joint(path: Path) -> None:
    mesh = pose(arm(weights=((0, 0), (1, 1), (0, 1), (0, 2))).write(path), "bend", 1.0)
    np.testing.assert_allclose(mesh.vertices[[0, 2]], [[0, 0, 0], [1, 1, 0]], atol=1e-6)
    np.testing.assert_allclose(
        mesh.vertices[3], [0.5, 1, 0], atol=1e-6, err_msg="weights are brought to sum 1"
    )


def test_a_textured_material(path: Path) -> None:
    pixels = np.array([[[255, 0, 0, 255], [128, 128, 128, 0]]], dtype=np.uint8)
    stored = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(stored, "PNG")
    glb = triangle(TEXCOORD_1=([[0, 0], [1, 0], [0, 1]], "f4"))
    base = {"baseColorTexture": {"index": 0, "texCoord": 1}, "baseColorFactor": [0.5, 1.0, 1.0, 1.0]}
    glb.header.update(
        materials=[{"pbrMetallicRoughness": base, "alphaMode": "MASK"}],
        textures=[{"source": 0}],
        images=[{"bufferView": glb.view(stored.getvalue()), "mimeType": "image/png"}],
    )
    glb.header["meshes"][0]["primitives"][0]["material"] = 0
    mesh = pose(glb.write(path))
    np.testing.assert_allclose(mesh.uvs, [[0, 0], [1, 0], [0, 1]])
    assert mesh.bsdf["type"] == "mask"
    np.testing.assert_array_equal(mesh.bsdf["opacity"]["data"][..., 0], [[1, 0]])
    grey = float(from_srgb(np.array(128 / 255)))
    color = mesh.bsdf["nested"]["nested"]["reflectance"]["data"]
    np.testing.assert_allclose(color, [[[0.5, 0, 0], [0.5 * grey, grey, grey]]])


def test_a_figure_is_upright_fitted_and_repeats(path: Path) -> None:
    figure = gltf_figure(arm().write(path))
    points = np.stack([figure.meshes(phase)[0].vertices for phase in np.linspace(0, 1, 33)])
    assert 0.7 * OBJECT_RADIUS < np.linalg.norm(points, axis=-1).max() <= OBJECT_RADIUS
    np.testing.assert_allclose(points[0], points[-1], err_msg="phase 1 is phase 0")
    assert np.ptp(points[:, 2, 2]) > 0.5, "glTF's y is up: the hand rises"
    np.testing.assert_allclose(points[..., 1], 0, atol=1e-6)


def test_a_model_without_animation(path: Path) -> None:
    arm(animated=False).write(path)
    with pytest.raises(ValueError, match=r"model\.glb has no animation.*--edits"):
        gltf_figure(path)
    assert not gltf_figure(path, still=True).moves


def test_clips_by_name(path: Path) -> None:
    glb = arm()
    animate(glb, "bend twice", 2, "rotation", [0.0, 1.0], [REST, QUARTER_TURN_Z])
    model = load_glb(glb.write(path))
    assert model.clip().name == model.clip("bend").name == "bend"
    assert model.clip("TWICE").name == "bend twice"
    with pytest.raises(ValueError, match=r"no animation.*'walk'; choose of: bend, bend twice"):
        model.clip("walk")
    with pytest.raises(ValueError, match=r"2 animation.*'ben'"):
        model.clip("ben")


def test_bad_files(path: Path) -> None:
    path.write_bytes(b"solid cube")
    with pytest.raises(ValueError, match=r"not a binary glTF 2\.0 file"):
        load_glb(path)
    path.write_bytes(struct.pack("<4sIII4s", b"glTF", 2, 24, 4, b"JSON") + b"{{{{")
    with pytest.raises(ValueError, match=r"model\.glb: Expecting property name"):
        load_glb(path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda glb: glb.header.update(extensionsRequired=["KHR_draco_mesh_compression"]),
            "it needs KHR_draco_mesh_compression, which is not supported",
        ),
        (lambda glb: glb.header["meshes"][0]["primitives"][0].update(mode=0), "no triangles"),
        (lambda glb: glb.header["accessors"][1].update(count=999), "cut off"),
        (lambda glb: glb.header["nodes"][0].update(mesh=3), "is broken"),
        (lambda glb: glb.header["nodes"][2].update(children=[1]), "do not form a tree"),
        (lambda glb: glb.header["nodes"][2].update(rotation=[0, 0, 0, 0]), r"model\.glb: .*zero norm"),
        (lambda glb: glb.header["skins"][0].update(joints=[1]), "is broken|matmul"),
        (lambda glb: glb.header["animations"][0]["channels"][0]["target"].update(node=9), "is broken"),
        (lambda glb: glb.header["accessors"][1].update(count=3), "is broken"),
        (lambda glb: glb.header["meshes"][0]["primitives"][0]["attributes"].pop("JOINTS_0"), "no joints"),
    ],
)
def test_spoilt_files(path: Path, spoil, message: str) -> None:
    glb = arm()
    spoil(glb)
    with pytest.raises(ValueError, match=message):
        gltf_figure(glb.write(path))


def test_all_weights_zero(path: Path) -> None:
    with pytest.raises(ValueError, match="all skin weights of mesh 'arm' are zero"):
        load_glb(arm(weights=np.zeros((4, 2))).write(path))


def test_vertices_that_are_not_finite(path: Path) -> None:
    glb = triangle(POSITION=([[np.nan, 0, 0], [1, 0, 0], [0, 1, 0]], "f4"))
    with pytest.raises(ValueError, match=r"model\.glb: its vertices are not finite"):
        gltf_figure(glb.write(path), still=True)


@pytest.mark.parametrize("name", ["Horse", "Knight", "sedan"])
def test_real_models_rest_as_trimesh_poses_what_has_no_skin(shared_data: Path, name: str) -> None:
    figure = gltf_figure(shared_data / "assets" / f"{name}.glb", still=True)
    assert all(np.isfinite(mesh.vertices).all() for mesh in figure.meshes(0.4))
    assert figure.moves == (name != "sedan")
    if name == "sedan":
        scene = trimesh.load_scene(shared_data / "assets" / "sedan.glb")
        points = np.concatenate([m.vertices for m in load_glb(shared_data / "assets/sedan.glb").posed()])
        np.testing.assert_allclose([points.min(axis=0), points.max(axis=0)], scene.bounds, atol=1e-5)


def test_a_real_horse_is_where_the_data_set_shows_it(shared_data: Path) -> None:
    """`horse_walk` was rendered from this file by a program that is not ours."""
    folder = shared_data / "motion" / "horse_walk"
    meta = json.loads((folder / "transforms_test.json").read_text())
    figure = gltf_figure(shared_data / "assets" / "Horse.glb", "Walk")
    for frame in meta["frames"][::6]:
        seen = np.asarray(Image.open(folder / f"{frame['file_path']}.png"))[..., 3] > 127
        points = np.concatenate([mesh.vertices for mesh in figure.meshes(1.5 * frame["time"])])
        camera = np.array(frame["transform_matrix"])
        inside = (points - camera[:3, 3]) @ camera[:3, :3]
        half = len(seen) / 2
        focal = half / np.tan(meta["camera_angle_x"] / 2)
        x, y = half - focal * inside[:, 0] / inside[:, 2], half + focal * inside[:, 1] / inside[:, 2]
        rows, columns = np.nonzero(seen)
        edges = [columns.min(), columns.max() + 1, rows.min(), rows.max() + 1]
        np.testing.assert_allclose([x.min(), x.max(), y.min(), y.max()], edges, atol=2.0)
