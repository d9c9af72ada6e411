"""Procedural figures: a jointed walker, and random figures of several categories."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int
from matplotlib.colors import hsv_to_rgb
from scipy.spatial.transform import Rotation

from nest_nerfstudio.synthesis.meshes import Bsdf, Figure, Mesh, fit_to_sphere

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Joint:
    """A hinge: angle = rest + amplitude · sin(2π (harmonic · phase + shift)), about `axis` at `offset`.

    Attributes:
        name: by which parts and other joints refer to it.
        parent: the joint that carries this one; None for the root.
        offset: position of the hinge in the parent's frame.
        axis: of rotation, unit.
        rest: mean angle, radians.
        amplitude: of the oscillation, radians.
        harmonic: oscillations per cycle of the motion.
        shift: of the oscillation's phase, fraction of a turn.
        bob: amplitude of a vertical oscillation of the hinge itself, two per cycle of the motion.
    """

    name: str
    parent: str | None
    offset: Vector
    axis: Vector = (0.0, 1.0, 0.0)
    rest: float = 0.0
    amplitude: float = 0.0
    harmonic: int = 1
    shift: float = 0.0
    bob: float = 0.0


@dataclass(frozen=True)
class Part:
    """A superellipsoid fixed to a joint's frame.

    Attributes:
        joint: name of the joint that carries it.
        material: key of the figure's materials.
        center: in the joint's frame.
        radii: semi-axes.
        roundness: 1 is an ellipsoid, towards 0 a box.
        wheel: round about its y axis; `roundness` is that of its edges.
    """

    joint: str
    material: str
    center: Vector
    radii: Vector
    roundness: float = 1.0
    wheel: bool = False


@dataclass(frozen=True)
class JointedFigure(Figure):
    """Parts carried by a tree of hinges.

    Attributes:
        joints: parents before children.
        parts: carried by the joints.
        materials: of the parts, by name.
    """

    joints: tuple[Joint, ...]
    parts: tuple[Part, ...]
    materials: dict[str, Bsdf]

    @property
    def moves(self) -> bool:
        return any(joint.amplitude or joint.bob for joint in self.joints)

    def joint_poses(self, phase: float) -> dict[str, Float[np.ndarray, "4 4"]]:
        """Joint frame to world, for every joint.

        Args:
            phase: cycles since time 0; poses at phase and phase + 1 are equal.
        """
        poses: dict[str, Float[np.ndarray, "4 4"]] = {}
        for joint in self.joints:
            angle = joint.rest + joint.amplitude * np.sin(2 * np.pi * (joint.harmonic * phase + joint.shift))
            local = np.eye(4)
            local[:3, :3] = Rotation.from_rotvec(angle * np.array(joint.axis)).as_matrix()
            local[:3, 3] = joint.offset
            local[2, 3] += joint.bob * np.sin(4 * np.pi * phase)
            poses[joint.name] = local if joint.parent is None else poses[joint.parent] @ local
        return poses

    def meshes(self, phase: float) -> list[Mesh]:
        poses, meshes = self.joint_poses(phase), []
        for part in self.parts:
            vertices, normals, faces = part_mesh(part)
            rotation, translation = poses[part.joint][:3, :3], poses[part.joint][:3, 3]
            bsdf = self.materials[part.material]
            meshes.append(Mesh(vertices @ rotation.T + translation, normals @ rotation.T, faces, bsdf))
        return meshes


@lru_cache(maxsize=256)  # a figure is posed anew for every image, and its parts stay the same
def part_mesh(
    part: Part,
) -> tuple[Float[np.ndarray, "v 3"], Float[np.ndarray, "v 3"], Int[np.ndarray, "f 3"]]:
    """Vertices, unit normals and faces of a part in its joint's frame."""
    if not part.wheel:
        vertices, normals, faces = superellipsoid(part.radii, part.roundness)
        return vertices + part.center, normals, faces
    x, y, z = part.radii
    vertices, normals, faces = superellipsoid((z, x, y), part.roundness, around=1.0)
    # Poles on the y axis: a cyclic change of axes keeps triangles counter-clockwise.
    return np.roll(vertices, -1, axis=1) + part.center, np.roll(normals, -1, axis=1), faces


def superellipsoid(
    radii: Vector, roundness: float, rings: int = 20, around: float | None = None
) -> tuple[Float[np.ndarray, "v 3"], Float[np.ndarray, "v 3"], Int[np.ndarray, "f 3"]]:
    """Mesh of x = a c(v)^e c(u)^f, y = b c(v)^e s(u)^f, z = c s(v)^e with signed powers.

    After Barr, "Superquadrics and angle-preserving transformations", 1981.

    Args:
        radii: semi-axes a, b, c.
        roundness: the exponent e, in (0, 2); 1 is an ellipsoid, towards 0 a box.
        rings: number of faces from pole to pole; twice as many go around.
        around: the exponent f, about the z axis; by default e.

    Returns:
        Vertices, unit outward normals, and triangles, counter-clockwise from outside.
    """
    u, v = np.meshgrid(
        np.linspace(-np.pi, np.pi, 2 * rings + 1),
        np.linspace(-np.pi / 2, np.pi / 2, rings + 1),
        indexing="ij",
    )
    f = roundness if around is None else around
    meridian = np.stack([np.cos(v), np.cos(v), np.sin(v)], axis=-1).reshape(-1, 3)
    parallel = np.stack([np.cos(u), np.sin(u), np.ones_like(u)], axis=-1).reshape(-1, 3)
    vertices = _signed_power(meridian, roundness) * _signed_power(parallel, f) * radii
    normals = _signed_power(meridian, 2 - roundness) * _signed_power(parallel, 2 - f) / radii
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    corner = (np.arange(2 * rings)[:, None] * (rings + 1) + np.arange(rings)).reshape(-1)
    across = corner + rings + 1
    faces = np.concatenate(
        [np.stack([corner, across, across + 1], -1), np.stack([corner, across + 1, corner + 1], -1)]
    )
    return vertices, normals, faces


def _signed_power(x: Float[np.ndarray, "*shape"], exponent: float) -> Float[np.ndarray, "*shape"]:
    return np.sign(x) * np.abs(x) ** exponent


def _rgb(*value: float) -> Bsdf:
    return {"type": "rgb", "value": list(value)}


MATERIALS: dict[str, Bsdf] = {
    "shell": {"type": "roughplastic", "diffuse_reflectance": _rgb(0.75, 0.16, 0.04), "alpha": 0.2},
    "skin": {"type": "diffuse", "reflectance": _rgb(0.06, 0.38, 0.42)},
    "cream": {"type": "diffuse", "reflectance": _rgb(0.8, 0.72, 0.5)},
    "metal": {"type": "roughconductor", "material": "Au", "alpha": 0.35},
    "dark": {"type": "roughplastic", "diffuse_reflectance": _rgb(0.02, 0.02, 0.03), "alpha": 0.1},
}


def _leg(name: str, x: float, y: float, shift: float, bend: float) -> tuple[list[Joint], list[Part]]:
    """A hip and a knee with a thigh, a ball joint, a shin and a foot."""
    hip, knee = f"{name} hip", f"{name} knee"
    joints = [
        Joint(hip, "body", (x, y, -0.06), rest=-0.4 * bend, amplitude=0.45, shift=shift),
        Joint(knee, hip, (0.0, 0.0, -0.4), rest=0.8 * bend, amplitude=0.35, shift=shift + 0.25),
    ]
    parts = [
        Part(hip, "skin", (0.0, 0.0, -0.18), (0.12, 0.09, 0.25)),
        Part(knee, "metal", (0.0, 0.0, 0.0), (0.085, 0.085, 0.085)),
        Part(knee, "cream", (0.0, 0.0, -0.2), (0.06, 0.06, 0.2), 0.6),
        Part(knee, "dark", (0.03, 0.0, -0.4), (0.11, 0.08, 0.05), 0.6),
    ]
    return joints, parts


def _walker() -> tuple[tuple[Joint, ...], tuple[Part, ...]]:
    """Joints, parents before children, and parts of the figure; it walks along +x on the spot."""
    joints = [
        Joint("body", None, (-0.05, 0.0, 0.14), amplitude=0.06, harmonic=2, bob=0.04),
        Joint("neck", "body", (0.46, 0.0, 0.12), rest=-0.7, amplitude=0.16, harmonic=2, shift=0.3),
        Joint("nod", "neck", (0.36, 0.0, 0.0), rest=0.65, amplitude=0.16, harmonic=2, shift=0.8),
        Joint("head", "nod", (0.0, 0.0, 0.0), axis=(0.0, 0.0, 1.0), amplitude=0.45, shift=0.1),
        Joint("tail", "body", (-0.5, 0.0, 0.1), axis=(0.0, 0.0, 1.0), amplitude=0.45, shift=0.0),
        Joint("tail tip", "tail", (-0.27, 0.0, 0.05), axis=(0.0, 0.0, 1.0), amplitude=0.6, shift=-0.15),
    ]
    parts = [
        Part("body", "shell", (0.0, 0.0, 0.0), (0.54, 0.27, 0.25)),
        Part("body", "cream", (0.0, 0.0, 0.12), (0.13, 0.255, 0.16), 0.8),
        Part("body", "metal", (-0.27, 0.0, 0.21), (0.07, 0.07, 0.07)),
        Part("body", "metal", (0.27, 0.0, 0.21), (0.07, 0.07, 0.07)),
        Part("neck", "skin", (0.17, 0.0, 0.0), (0.26, 0.1, 0.12)),
        Part("head", "shell", (0.07, 0.0, 0.02), (0.21, 0.15, 0.14), 0.6),
        Part("head", "dark", (0.2, 0.1, 0.1), (0.045, 0.045, 0.045)),
        Part("head", "dark", (0.2, -0.1, 0.1), (0.045, 0.045, 0.045)),
        Part("head", "cream", (-0.06, 0.13, 0.1), (0.08, 0.04, 0.13)),
        Part("head", "cream", (-0.06, -0.13, 0.1), (0.08, 0.04, 0.13)),
        Part("tail", "skin", (-0.13, 0.0, 0.02), (0.18, 0.06, 0.06)),
        Part("tail tip", "metal", (0.0, 0.0, 0.0), (0.06, 0.06, 0.06)),
        Part("tail tip", "shell", (-0.1, 0.0, 0.0), (0.14, 0.05, 0.05)),
    ]
    for name, x, y, shift, bend in (
        ("front left", 0.3, 0.2, 0.0, 1.0),
        ("front right", 0.3, -0.2, 0.5, 1.0),
        ("hind left", -0.3, 0.2, 0.75, 1.0),
        ("hind right", -0.3, -0.2, 0.25, 1.0),
    ):
        leg_joints, leg_parts = _leg(name, x, y, shift, bend)
        joints += leg_joints
        parts += leg_parts
    return tuple(joints), tuple(parts)


WALKER = JointedFigure(*_walker(), MATERIALS)
"""The toy scene's figure; it stays inside `OBJECT_RADIUS`."""


def _materials(rng: np.random.Generator, *names: str) -> dict[str, Bsdf]:
    """A diffuse material of a random colour for every name, and the material `dark`."""
    hsv = rng.uniform((0.0, 0.4, 0.25), (1.0, 0.9, 0.8), (len(names), 3))
    materials = {name: _diffuse(*rgb) for name, rgb in zip(names, hsv_to_rgb(hsv).tolist(), strict=True)}
    return {**materials, "dark": _diffuse(0.02, 0.02, 0.03)}


def _diffuse(*rgb: float) -> Bsdf:
    return {"type": "diffuse", "reflectance": _rgb(*rgb)}


def _scaled(vector: Vector, factors: Float[np.ndarray, "3"]) -> Vector:
    x, y, z = (np.array(vector) * factors).tolist()
    return x, y, z


def quadruped(rng: np.random.Generator) -> JointedFigure:
    """The walker with other proportions, another gait and other colours."""
    limbs = {"body": "body", "neck": "neck", "nod": "head", "head": "head", "tail": "tail", "tip": "tail"}
    factors = {limb: rng.uniform(0.7, 1.4, 3) for limb in ("body", "neck", "head", "tail", "leg")}
    gait = rng.uniform(0.6, 1.2)

    def size(joint: str) -> Float[np.ndarray, "3"]:
        return factors[limbs.get(joint.split()[-1], "leg")]

    joints = tuple(
        replace(
            joint,
            offset=_scaled(joint.offset, size(joint.parent)) if joint.parent else joint.offset,
            amplitude=gait * joint.amplitude,
        )
        for joint in WALKER.joints
    )
    parts = tuple(
        replace(
            part, center=_scaled(part.center, size(part.joint)), radii=_scaled(part.radii, size(part.joint))
        )
        for part in WALKER.parts
    )
    return JointedFigure(joints, parts, _materials(rng, "shell", "skin", "cream", "metal"))


def _chain(
    rng: np.random.Generator, count: int, step: float, height: float, width: float, swing: float, waves: float
) -> tuple[list[Joint], list[Part]]:
    """A body of `count` segments along −x; a wave of rotations about z travels from its front to its end."""
    joints, parts = [], []
    for i in range(count):
        offset, parent = ((0.0, 0.0, 0.0), None) if i == 0 else ((-step, 0.0, 0.0), f"segment {i - 1}")
        amplitude = swing * (0.4 + 0.6 * i / count)
        shift = -waves * i / count
        joints.append(Joint(f"segment {i}", parent, offset, (0.0, 0.0, 1.0), 0.0, amplitude, shift=shift))
        girth = np.sin(np.pi * (i + 1.2) / (count + 1.4)) ** 0.6
        material = "back" if i % 2 else "skin"
        radii = (0.75 * step, float(width * girth), float(height * girth))
        parts.append(Part(f"segment {i}", material, (-step / 2, 0.0, 0.0), radii))
    parts += [
        Part("segment 0", "dark", (0.0, side * width, 0.25 * height), (0.05, 0.05, 0.05))
        for side in (-0.6, 0.6)
    ]
    return joints, parts


def fish(rng: np.random.Generator) -> JointedFigure:
    """A short, high body with fins, whose tail swings."""
    count, step = int(rng.integers(4, 7)), 0.3
    height, width = rng.uniform(0.25, 0.5), rng.uniform(0.12, 0.22)
    joints, parts = _chain(rng, count, step, height, width, rng.uniform(0.15, 0.35), rng.uniform(0.3, 0.7))
    fin, tail = rng.uniform(0.15, 0.35), f"segment {count - 1}"
    parts += [
        Part(tail, "fin", (-step - 0.1, 0.0, 0.0), (0.2, 0.03, 1.3 * fin), 0.7),
        Part(f"segment {count // 2}", "fin", (0.0, 0.0, height), (0.25, 0.03, fin), 0.8),
    ]
    for side in (-1.0, 1.0):
        joints.append(
            Joint(
                f"fin {side}", "segment 1", (0.0, side * width, -0.3 * height), (1.0, 0.0, 0.0), amplitude=0.5
            )
        )
        parts.append(Part(f"fin {side}", "fin", (0.0, side * 0.7 * fin, 0.0), (0.12, fin, 0.03)))
    return JointedFigure(tuple(joints), tuple(parts), _materials(rng, "skin", "back", "fin"))


def snake(rng: np.random.Generator) -> JointedFigure:
    """A long, thin, undulating body."""
    count, girth = int(rng.integers(8, 12)), rng.uniform(0.12, 0.18)
    swing, waves = rng.uniform(0.35, 0.6), rng.uniform(0.9, 1.4)
    joints, parts = _chain(rng, count, 0.18, girth, girth * rng.uniform(1.0, 1.5), swing, waves)
    head = Part("segment 0", "head", (0.05, 0.0, 0.02), (1.8 * girth, 1.3 * girth, girth), 0.8)
    return JointedFigure(tuple(joints), (*parts, head), _materials(rng, "skin", "back", "head"))


def vehicle(rng: np.random.Generator) -> JointedFigure:
    """A chassis on wheels with a cabin and sometimes a load; it does not move."""
    length, width, height = rng.uniform((0.7, 0.3, 0.12), (1.1, 0.42, 0.25)).tolist()
    wheel, cabin, seat = rng.uniform((0.14, 0.2, -0.4), (0.26, 0.4, 0.4)).tolist()
    roof = height + rng.uniform(0.12, 0.3)
    parts = [
        Part("body", "paint", (0.0, 0.0, 0.0), (length, width, height), 0.3),
        Part("body", "cabin", (seat * length, 0.0, roof), (cabin * length, 0.85 * width, roof - height), 0.4),
        Part("body", "glass", (seat * length, 0.0, roof), (cabin * length, 0.87 * width, 0.1), 0.3),
    ]
    if abs(seat) > 0.15:
        center = (-np.sign(seat) * 0.35 * length, 0.0, 1.4 * height)
        parts.append(Part("body", "load", center, (0.45 * length, 0.8 * width, height), 0.25))
    axles = np.linspace(-0.65 * length, 0.65 * length, int(rng.integers(2, 4))).tolist()
    for side in (-width, width):
        parts.append(Part("body", "lamp", (0.98 * length, 0.6 * side, 0.2 * height), (0.04, 0.06, 0.06), 0.7))
        for x in axles:
            parts.append(Part("body", "dark", (x, side, -height), (wheel, 0.08, wheel), 0.3, wheel=True))
            parts.append(
                Part("body", "lamp", (x, side, -height), (0.5 * wheel, 0.09, 0.5 * wheel), 0.3, wheel=True)
            )
    body = Joint("body", None, (0.0, 0.0, 0.0))
    return JointedFigure((body,), tuple(parts), _materials(rng, "paint", "cabin", "glass", "load", "lamp"))


def stack(rng: np.random.Generator) -> JointedFigure:
    """Blocks, drums and pebbles on top of each other; it does not move."""
    joints, parts, top = [], [], 0.0
    count = int(rng.integers(3, 7))
    for i in range(count):
        x, y, z = rng.uniform((0.2, 0.2, 0.1), (0.55, 0.55, 0.3)).tolist()
        shift = rng.uniform(-0.1, 0.1, 2).tolist()
        turn, roundness, wheel = rng.uniform(0, np.pi), rng.uniform(0.2, 1.0), bool(rng.uniform() < 0.3)
        joints.append(Joint(f"block {i}", None, (*shift, top + z), (0.0, 0.0, 1.0), rest=turn))
        parts.append(Part(f"block {i}", f"paint {i}", (0.0, 0.0, 0.0), (x, y, z), roundness, wheel))
        top += 1.9 * z
    return JointedFigure(tuple(joints), tuple(parts), _materials(rng, *(f"paint {i}" for i in range(count))))


CATEGORIES: dict[str, Callable[[np.random.Generator], JointedFigure]] = {
    "quadruped": quadruped,
    "fish": fish,
    "snake": snake,
    "vehicle": vehicle,
    "stack": stack,
}


def random_figure(category: str, index: int, seed: int = 0) -> Figure:
    """A random figure of a category, scaled to fit `OBJECT_RADIUS`.

    Args:
        category: key of `CATEGORIES`.
        index: of the figure among those of the category and seed.
        seed: of all figures.
    """
    rng = np.random.default_rng([seed, list(CATEGORIES).index(category), index])
    return fit_to_sphere(CATEGORIES[category](rng))
