"""Binary glTF 2.0 (GLB) as posed triangle meshes: nodes, skins, morph targets, animations and base colours.

Implements https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html, because trimesh reads neither skins nor
morph targets nor animations. Materials are reduced to base colour and opacity: surfaces are diffuse, and the
light is that of the data set.
"""

from __future__ import annotations

import base64
import io
import json
import struct
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from PIL import Image
from scipy.spatial.transform import Rotation, Slerp

from nest_nerfstudio.synthesis.colors import from_srgb
from nest_nerfstudio.synthesis.meshes import Bsdf, Figure, Mesh, fit_to_sphere

Z_UP = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
"""Rotation from glTF's frame (y up, facing +z) to the data sets' (z up, facing -y)."""

_COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_SHAPES = {
    "SCALAR": (),
    "VEC2": (2,),
    "VEC3": (3,),
    "VEC4": (4,),
    "MAT2": (2, 2),
    "MAT3": (3, 3),
    "MAT4": (4, 4),
}
_TRIANGLES, _STRIP, _FAN = 4, 5, 6


@dataclass(frozen=True)
class Channel:
    """One animated property of one node.

    Attributes:
        node: index of the node.
        path: the property.
        interpolation: between the keyframes.
        times: of the keyframes, seconds, increasing.
        values: at the keyframes; rotations are xyzw. CUBICSPLINE has an in-tangent, a value and an
            out-tangent for each keyframe.
    """

    node: int
    path: Literal["translation", "rotation", "scale", "weights"]
    interpolation: Literal["LINEAR", "STEP", "CUBICSPLINE"]
    times: Float[np.ndarray, " k"]
    values: Float[np.ndarray, "k *value"]

    def at(self, time: float) -> Float[np.ndarray, " c"]:
        """The property at a time in seconds, constant before the first and after the last keyframe."""
        i = max(int(np.searchsorted(self.times, time, side="right")) - 1, 0)
        j = min(i + 1, len(self.times) - 1)
        span = self.times[j] - self.times[i]
        u = float(np.clip((time - self.times[i]) / span, 0, 1)) if span > 0 else 0.0
        if self.interpolation == "CUBICSPLINE":
            value = _hermite(self.values[i], self.values[j], span, u)
            return value / np.linalg.norm(value) if self.path == "rotation" else value
        if self.interpolation == "STEP" or u == 0:
            return self.values[i]
        if self.path == "rotation":
            return Slerp([0, 1], Rotation.from_quat(self.values[[i, j]]))(u).as_quat()
        return (1 - u) * self.values[i] + u * self.values[j]


@dataclass(frozen=True)
class Clip:
    """A named animation.

    Attributes:
        name: of the animation.
        channels: the properties that it animates.
    """

    name: str
    channels: tuple[Channel, ...]

    @property
    def span(self) -> tuple[float, float]:
        """Times of the first and the last keyframe, seconds."""
        times = [channel.times for channel in self.channels]
        return min(t[0] for t in times), max(t[-1] for t in times)


@dataclass(frozen=True)
class Skin:
    """Joints that deform a mesh.

    Attributes:
        joints: indices of their nodes.
        inverse_binds: mesh frame to joint frame in the bind pose.
    """

    joints: Int[np.ndarray, " j"]
    inverse_binds: Float[np.ndarray, "j 4 4"]


@dataclass(frozen=True)
class Primitive:
    """Triangles of one material, in the frame of their mesh.

    Attributes:
        mesh: at rest, without morph targets.
        position_targets: offset of every vertex for weight 1 of each morph target.
        normal_targets: the same for the normals; None without any.
        joints: indices into the skin's joints; None without a skin.
        weights: of these joints, summing to 1.
    """

    mesh: Mesh
    position_targets: Float[np.ndarray, "m v 3"]
    normal_targets: Float[np.ndarray, "m v 3"] | None = None
    joints: Int[np.ndarray, "v w"] | None = None
    weights: Float[np.ndarray, "v w"] | None = None


@dataclass(frozen=True)
class Node:
    """A coordinate frame of the hierarchy.

    Attributes:
        parent: index of the parent node; None for a root.
        pose: rest values of `translation`, `rotation` (xyzw) and `scale`, and `weights` of the morph targets.
        matrix: replaces translation, rotation and scale.
        primitives: geometry in this frame.
        skin: poses the primitives instead of this frame.
    """

    parent: int | None
    pose: dict[str, Float[np.ndarray, " c"]]
    matrix: Float[np.ndarray, "4 4"] | None = None
    primitives: tuple[Primitive, ...] = ()
    skin: Skin | None = None


@dataclass(frozen=True)
class Model:
    """A glTF scene that can be posed.

    Attributes:
        name: of the file, for error messages.
        nodes: in any order.
        clips: the animations.
    """

    name: str
    nodes: tuple[Node, ...]
    clips: tuple[Clip, ...] = ()

    def clip(self, name: str | None = None) -> Clip:
        """Find an animation by its name or a unique part of it; None is the first.

        Raises:
            ValueError: no animation, or not exactly one of this name.
        """
        if not self.clips:
            raise ValueError(
                f"{self.name} has no animation to render as a moving scene; use --edits for a static model"
            )
        if name is None:
            return self.clips[0]
        exact = [clip for clip in self.clips if clip.name == name]
        found = exact or [clip for clip in self.clips if name.lower() in clip.name.lower()]
        if len(found) == 1:
            return found[0]
        there = ", ".join(clip.name for clip in found or self.clips)
        raise ValueError(
            f"{self.name} has {len(found) or 'no'} animation(s) named {name!r}; choose of: {there}"
        )

    def posed(self, clip: Clip | None = None, time: float = 0.0) -> list[Mesh]:
        """All meshes in glTF's world frame.

        Args:
            clip: the animation; None for the rest pose.
            time: of the animation, seconds.
        """
        poses = [dict(node.pose) for node in self.nodes]
        for channel in clip.channels if clip else ():
            poses[channel.node][channel.path] = channel.at(time)
        to_world = self._to_world(poses)
        return [
            _posed(primitive, poses[i]["weights"], self._skinning(node, primitive, i, to_world))
            for i, node in enumerate(self.nodes)
            for primitive in node.primitives
        ]

    def _to_world(self, poses: list[dict[str, np.ndarray]]) -> Float[np.ndarray, "n 4 4"]:
        """Node frame to world, for every node."""
        local = [_local(node, pose) for node, pose in zip(self.nodes, poses, strict=True)]
        done: dict[int, np.ndarray] = {}
        for i in self._parents_first:
            parent = self.nodes[i].parent
            done[i] = local[i] if parent is None else done[parent] @ local[i]
        return np.stack([done[i] for i in range(len(local))])

    @cached_property
    def _parents_first(self) -> list[int]:
        order: list[int] = []
        children: dict[int | None, list[int]] = {}
        for i, node in enumerate(self.nodes):
            children.setdefault(node.parent, []).append(i)
        waiting = list(children.get(None, []))
        while waiting:
            order.append(waiting.pop())
            waiting += children.get(order[-1], [])
        if len(order) < len(self.nodes):
            raise ValueError("its nodes do not form a tree")
        return order

    @staticmethod
    def _skinning(
        node: Node, primitive: Primitive, index: int, to_world: Float[np.ndarray, "n 4 4"]
    ) -> Float[np.ndarray, "#v 4 4"]:
        """Mesh to world for every vertex: Σ_w weight · joint to world · mesh to joint (section 3.7.3.3)."""
        if node.skin is None or primitive.joints is None or primitive.weights is None:
            return to_world[index][None]
        matrices = to_world[node.skin.joints] @ node.skin.inverse_binds
        return np.einsum("vw,vwab->vab", primitive.weights, matrices[primitive.joints])


def _local(node: Node, pose: dict[str, np.ndarray]) -> Float[np.ndarray, "4 4"]:
    """Node to parent: translation · rotation · scale."""
    if node.matrix is not None:
        return node.matrix
    local = np.eye(4)
    local[:3, :3] = Rotation.from_quat(pose["rotation"]).as_matrix() * pose["scale"]
    local[:3, 3] = pose["translation"]
    return local


def _posed(
    primitive: Primitive, morph: Float[np.ndarray, " m"], to_world: Float[np.ndarray, "#v 4 4"]
) -> Mesh:
    """Morph, then skin. Normals are transformed by the cofactor matrices, which need no inverse."""
    rest, linear = primitive.mesh, to_world[:, :3, :3]
    vertices = rest.vertices + np.tensordot(morph, primitive.position_targets, 1)
    normals = rest.normals
    if normals is not None:
        if primitive.normal_targets is not None:
            normals = normals + np.tensordot(morph, primitive.normal_targets, 1)
        a, b, c = linear.transpose(1, 0, 2)
        cofactors = np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)], axis=1)
        normals = _unit((cofactors @ normals[..., None])[..., 0])
    vertices = (linear @ vertices[..., None])[..., 0] + to_world[:, :3, 3]
    return replace(rest, vertices=vertices, normals=normals)


def _unit(vectors: Float[np.ndarray, "v 3"]) -> Float[np.ndarray, "v 3"]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-30)


def _hermite(
    left: Float[np.ndarray, "3 c"], right: Float[np.ndarray, "3 c"], span: float, u: float
) -> Float[np.ndarray, " c"]:
    """The cubic spline of appendix C.5 between two keyframes `span` seconds apart, at u in [0, 1]."""
    (_, p0, m0), (m1, p1, _) = left, right
    curve = (2 * u**3 - 3 * u**2 + 1) * p0 + (3 * u**2 - 2 * u**3) * p1
    return curve + span * ((u**3 - 2 * u**2 + u) * m0 + (u**3 - u**2) * m1)


@dataclass(frozen=True)
class GltfFigure(Figure):
    """A GLB file as a figure, z up.

    Attributes:
        path: of the file, which every process reads for itself.
        clip: name of the animation, one run of which is a cycle; None for the rest pose.
    """

    path: Path
    clip: str | None = None

    @property
    def moves(self) -> bool:
        return self.clip is not None

    def meshes(self, phase: float) -> list[Mesh]:
        model = load_glb(self.path)
        clip = None if self.clip is None else model.clip(self.clip)
        start, end = clip.span if clip else (0.0, 0.0)
        return [
            replace(
                mesh,
                vertices=mesh.vertices @ Z_UP.T,
                normals=None if mesh.normals is None else mesh.normals @ Z_UP.T,
            )
            for mesh in model.posed(clip, start + (phase % 1.0) * (end - start))
        ]


def gltf_figure(path: Path, clip: str | None = None, still: bool = False) -> Figure:
    """The figure of a GLB file, scaled to fit `OBJECT_RADIUS` during its whole animation.

    Args:
        path: of the file.
        clip: name of the animation, or a unique part of it; None is the first.
        still: use the rest pose if the file has no animation and `clip` names none.

    Raises:
        ValueError: the file cannot be read, has no visible geometry, or has no such animation.
    """
    model = load_glb(path)
    name = None if still and clip is None and not model.clips else model.clip(clip).name
    try:
        return fit_to_sphere(GltfFigure(path, name))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


@lru_cache(maxsize=4)
def load_glb(path: Path) -> Model:
    """Read a GLB file.

    Returns:
        Its default scene, with all animations.

    Raises:
        OSError: no such file.
        ValueError: not a GLB file, a broken one, one that needs an unsupported extension, or no triangles.
    """
    content = path.read_bytes()
    if content[:4] != b"glTF" or content[4:8] != struct.pack("<I", 2):
        raise ValueError(f"{path} is not a binary glTF 2.0 file; export the model as .glb")
    try:
        model = _Reader(path, content).model()
        model.posed()  # finds indices out of range
    except (KeyError, IndexError, TypeError, AttributeError, struct.error, UnicodeError) as error:
        raise ValueError(f"{path} is broken ({type(error).__name__}: {error}); export it again") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not any(node.primitives for node in model.nodes):
        raise ValueError(f"{path} has no triangles to render")
    return model


class _Reader:
    """Reads one file."""

    def __init__(self, path: Path, content: bytes):
        self.path = path
        length = struct.unpack_from("<I", content, 12)[0]
        self.header: dict[str, Any] = json.loads(content[20 : 20 + length])
        self.binary = content[20 + length + 8 :]
        required = set(self.header.get("extensionsRequired", ()))
        unknown = sorted(required - {"KHR_mesh_quantization", "KHR_materials_unlit"})
        if unknown:
            raise ValueError(f"it needs {', '.join(unknown)}, which is not supported; export it without")

    def table(self, name: str) -> list[dict[str, Any]]:
        return self.header.get(name, [])

    def model(self) -> Model:
        parents = {child: i for i, n in enumerate(self.table("nodes")) for child in n.get("children", ())}
        shown = self._shown()
        nodes = tuple(self._node(n, parents.get(i), i in shown) for i, n in enumerate(self.table("nodes")))
        clips = tuple(self._clip(i, animation) for i, animation in enumerate(self.table("animations")))
        return Model(self.path.name, nodes, tuple(clip for clip in clips if clip.channels))

    def _shown(self) -> set[int]:
        """Nodes of the default scene; all nodes if the file has no scenes."""
        scenes, nodes = self.table("scenes"), self.table("nodes")
        if not scenes:
            return set(range(len(nodes)))
        shown: set[int] = set()
        waiting = list(scenes[self.header.get("scene", 0)].get("nodes", ()))
        while waiting:
            node = waiting.pop()
            if node not in shown:
                shown.add(node)
                waiting += nodes[node].get("children", ())
        return shown

    def _node(self, node: dict[str, Any], parent: int | None, shown: bool) -> Node:
        mesh: dict[str, Any] = {"primitives": []}
        if "mesh" in node and shown:
            mesh = self.table("meshes")[node["mesh"]]
        targets = max((len(p.get("targets", ())) for p in mesh["primitives"]), default=0)
        pose = {
            "translation": node.get("translation", [0.0] * 3),
            "rotation": node.get("rotation", [0.0, 0.0, 0.0, 1.0]),
            "scale": node.get("scale", [1.0] * 3),
            "weights": node.get("weights", mesh.get("weights", [0.0] * targets)),
        }
        skin = self._skin(self.table("skins")[node["skin"]]) if "skin" in node and shown else None
        primitives = (self._primitive(p, skin, mesh.get("name", "")) for p in mesh["primitives"])
        return Node(
            parent=parent,
            pose={key: np.array(value, dtype=np.float64) for key, value in pose.items()},
            # Column-major in the file.
            matrix=np.array(node["matrix"], dtype=np.float64).reshape(4, 4).T if "matrix" in node else None,
            primitives=tuple(primitive for primitive in primitives if primitive is not None),
            skin=skin,
        )

    def _skin(self, skin: dict[str, Any]) -> Skin:
        joints = np.array(skin["joints"])
        if "inverseBindMatrices" not in skin:
            return Skin(joints, np.tile(np.eye(4), (len(joints), 1, 1)))
        return Skin(joints, self.accessor(skin["inverseBindMatrices"]).transpose(0, 2, 1))

    def _primitive(self, primitive: dict[str, Any], skin: Skin | None, name: str) -> Primitive | None:
        """Triangles with all their attributes; None for points and lines."""
        attributes = primitive["attributes"]
        read = {key: self.accessor(index) for key, index in attributes.items()}
        positions = read["POSITION"]
        faces = self._faces(primitive, len(positions))
        if faces is None or not len(faces):
            return None
        positions[faces.max()]  # raises if out of range
        bsdf, uv_set = self._material(primitive.get("material"), read)
        colors = read.get("COLOR_0")
        mesh = Mesh(
            vertices=positions,
            normals=read.get("NORMAL"),
            faces=faces,
            bsdf=bsdf,
            uvs=read.get(f"TEXCOORD_{uv_set}"),
            colors=None if colors is None else colors[:, :3],
        )
        targets = primitive.get("targets", [])
        joints, weights = self._weights(read, name) if skin is not None else (None, None)
        return Primitive(
            mesh=mesh,
            position_targets=self._targets(targets, "POSITION", positions),
            normal_targets=self._targets(targets, "NORMAL", positions) if targets else None,
            joints=joints,
            weights=weights,
        )

    def _targets(
        self, targets: list[dict[str, int]], attribute: str, like: Float[np.ndarray, "v 3"]
    ) -> Float[np.ndarray, "m v 3"]:
        offsets = [self.accessor(t[attribute]) if attribute in t else np.zeros_like(like) for t in targets]
        return np.stack(offsets) if offsets else np.zeros((0, *like.shape))

    def _faces(self, primitive: dict[str, Any], count: int) -> Int[np.ndarray, "f 3"] | None:
        corners = np.arange(count)
        if "indices" in primitive:
            corners = self.accessor(primitive["indices"]).astype(np.int64)
        mode = primitive.get("mode", _TRIANGLES)
        if mode == _TRIANGLES:
            return corners.reshape(-1, 3)
        if mode == _STRIP:
            from trimesh.util import triangle_strips_to_faces  # slow to import, and few files have strips

            return triangle_strips_to_faces([corners])
        if mode == _FAN:
            return np.stack([corners[1:-1], corners[2:], np.full(len(corners) - 2, corners[0])], axis=-1)
        return None

    def _weights(
        self, read: dict[str, np.ndarray], name: str
    ) -> tuple[Int[np.ndarray, "v w"], Float[np.ndarray, "v w"]]:
        """Joints and weights of every vertex; one without any weight follows the first joint in its list."""
        sets = sorted(key.removeprefix("JOINTS_") for key in read if key.startswith("JOINTS_"))
        if not sets:
            raise ValueError(f"mesh {name!r} has a skin but no joints; bind it again, or remove its skin")
        joints = np.concatenate([read[f"JOINTS_{i}"] for i in sets], axis=1).astype(np.int64)
        weights = np.concatenate([read[f"WEIGHTS_{i}"] for i in sets], axis=1)
        total = weights.sum(axis=1, keepdims=True)
        if not total.any():
            raise ValueError(f"all skin weights of mesh {name!r} are zero; bind it to its joints again")
        weights[total[:, 0] == 0, 0] = 1.0
        return joints, weights / np.where(total == 0, 1.0, total)

    def _clip(self, index: int, animation: dict[str, Any]) -> Clip:
        channels = []
        for channel in animation["channels"]:
            node, path = channel["target"].get("node"), channel["target"]["path"]
            if node is None or path not in ("translation", "rotation", "scale", "weights"):
                continue  # target of an extension
            self.table("nodes")[node]  # raises if out of range
            sampler = animation["samplers"][channel["sampler"]]
            interpolation = sampler.get("interpolation", "LINEAR")
            times, values = self.accessor(sampler["input"]), self.accessor(sampler["output"])
            shape = (len(times), 3) if interpolation == "CUBICSPLINE" else (len(times),)
            values = values.reshape(*shape, -1)
            channels.append(Channel(node, path, interpolation, times, values))
        return Clip(animation.get("name", f"animation {index}"), tuple(channels))

    def _material(self, index: int | None, read: dict[str, np.ndarray]) -> tuple[Bsdf, int]:
        """The base colour as a two-sided diffuse material, and its set of texture coordinates.

        With both a texture and vertex colours, the texture is multiplied by the mean vertex colour.
        """
        material = self.table("materials")[index] if index is not None else {}
        pbr = material.get("pbrMetallicRoughness", {})
        factor = np.array(pbr.get("baseColorFactor", [1.0] * 4))
        texture, alpha = pbr.get("baseColorTexture"), factor[3:]
        if texture is not None:
            pixels = self._pixels(texture["index"])
            tint = factor[:3] * (read["COLOR_0"][:, :3].mean(axis=0) if "COLOR_0" in read else 1.0)
            color, alpha = _bitmap(from_srgb(pixels[..., :3]) * tint), pixels[..., 3:] * alpha
        elif "COLOR_0" in read:
            read["COLOR_0"] = read["COLOR_0"][:, :3] * factor[:3]
            color = {"type": "mesh_attribute", "name": "vertex_color"}
        else:
            color = {"type": "rgb", "value": factor[:3].tolist()}
        bsdf = {"type": "twosided", "nested": {"type": "diffuse", "reflectance": color}}
        mode = material.get("alphaMode", "OPAQUE")
        if mode == "MASK":
            alpha = (alpha >= material.get("alphaCutoff", 0.5)).astype(np.float64)
        if mode != "OPAQUE" and alpha.min() < 1:
            opacity = _bitmap(alpha) if alpha.ndim == 3 else float(alpha[0])
            bsdf = {"type": "mask", "opacity": opacity, "nested": bsdf}
        return bsdf, (texture or {}).get("texCoord", 0)

    def _pixels(self, texture: int) -> Float[np.ndarray, "h w 4"]:
        """RGBA in [0, 1], sRGB."""
        image = self.table("images")[self.table("textures")[texture]["source"]]
        content = self._view(image["bufferView"]) if "bufferView" in image else self._fetch(image["uri"])
        try:
            return np.asarray(Image.open(io.BytesIO(content)).convert("RGBA")) / 255
        except OSError as error:
            raise ValueError(f"cannot read its texture {texture}: {error}") from error

    def _fetch(self, uri: str) -> bytes:
        if uri.startswith("data:"):
            return base64.b64decode(uri.partition(",")[2])
        return (self.path.parent / uri).read_bytes()

    def _view(self, index: int) -> bytes:
        view = self.table("bufferViews")[index]
        buffer = self.table("buffers")[view["buffer"]]
        content = self._fetch(buffer["uri"]) if "uri" in buffer else self.binary
        start = view.get("byteOffset", 0)
        return content[start : start + view["byteLength"]]

    def accessor(self, index: int) -> Float[np.ndarray, "n *value"]:
        """The values of an accessor, normalized integers as [0, 1] or [-1, 1]; MATn stay column-major."""
        accessor = self.table("accessors")[index]
        dtype = np.dtype(_COMPONENTS[accessor["componentType"]])
        shape = _SHAPES[accessor["type"]]
        values = np.zeros((accessor["count"], *shape), dtype)
        if "bufferView" in accessor:
            values = self._array(accessor, dtype, accessor["count"], shape)
        if "sparse" in accessor:
            sparse = accessor["sparse"]
            index_dtype = np.dtype(_COMPONENTS[sparse["indices"]["componentType"]])
            rows = self._array(sparse["indices"], index_dtype, sparse["count"], ())
            values[rows] = self._array(sparse["values"], dtype, sparse["count"], shape)
        values = values.astype(np.float64)
        if accessor.get("normalized", False):
            values = np.maximum(values / np.iinfo(dtype).max, -1.0)
        return values

    def _array(
        self, location: dict[str, Any], dtype: np.dtype, count: int, shape: tuple[int, ...]
    ) -> np.ndarray:
        """`count` items from a buffer view, `byteStride` bytes apart."""
        content, start = self._view(location["bufferView"]), location.get("byteOffset", 0)
        size = dtype.itemsize * int(np.prod(shape))
        stride = self.table("bufferViews")[location["bufferView"]].get("byteStride", size)
        if start + (count - 1) * stride + size > len(content):
            raise ValueError("it is cut off: a buffer is shorter than its accessors need")
        strides = (stride, *(dtype.itemsize * int(np.prod(shape[i + 1 :])) for i in range(len(shape))))
        return np.ndarray((count, *shape), dtype, content, start, strides).copy()


def _bitmap(pixels: Float[np.ndarray, "h w c"]) -> Bsdf:
    return {"type": "bitmap", "data": pixels, "raw": True}
