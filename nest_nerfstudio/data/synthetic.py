"""A small procedural scene that moves: a jointed walker, path-traced under a sun and a constant sky.

The figure stays inside a sphere of radius 1.15 around the origin, cameras look at the origin from radius 4 on
the upper hemisphere, z is up. The result is D-NeRF JSON beside sRGB PNG files with straight alpha.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from PIL import Image
from rich.progress import track

Vector = tuple[float, float, float]
Split = Literal["train", "val", "test", "future"]

SPLITS: tuple[Split, ...] = ("train", "val", "test", "future")
CAMERA_RADIUS = 4.0
CAMERA_ANGLE_X = 0.6911112070083618  # the field of view of the Blender scenes of NeRF and D-NeRF
SUN_DIRECTION: Vector = (-0.3, 0.5, -1.0)
SUN_IRRADIANCE = 3.0
SKY_RADIANCE = 0.6


@dataclass(frozen=True)
class ToySceneConfig:
    """What to render.

    Attributes:
        size: width and height of the pictures, pixels.
        train: number of training frames, t in [0, 1].
        val: number of validation frames, t in (0, 1).
        test: number of test frames, t in (0, 1).
        future: number of frames after the clip, t in (1, 2].
        cycles: gait cycles within the clip; the motion repeats every 1 / cycles of clip time.
        samples: light paths per pixel, rounded up to a square number.
        seed: of the cameras, the times of val and test, and the light paths.
    """

    size: int = 160
    train: int = 60
    val: int = 8
    test: int = 12
    future: int = 8
    cycles: float = 1.5
    samples: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name != "seed" and value <= 0:
                raise ValueError(f"{name} must be greater than 0, got {value}")
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or greater, got {self.seed}")

    @property
    def period(self) -> float:
        """Clip time after which the motion repeats."""
        return 1.0 / self.cycles


@dataclass(frozen=True)
class Joint:
    """A hinge: angle = rest + amplitude · sin(2π (harmonic · phase + shift)), about `axis` at `offset`.

    Attributes:
        name: what parts and other joints call it.
        parent: the joint that carries this one; None for the root.
        offset: where the hinge sits in the parent's frame.
        axis: of rotation, unit.
        rest: mean angle, radians.
        amplitude: of the swing, radians.
        harmonic: swings per gait cycle.
        shift: of the swing, fraction of a turn.
        bob: amplitude of a vertical swing of the hinge itself, twice per cycle.
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
        joint: the joint that carries it.
        material: key of `MATERIALS`.
        center: in the joint's frame.
        radii: semi-axes.
        roundness: 1 is an ellipsoid, towards 0 a box.
    """

    joint: str
    material: str
    center: Vector
    radii: Vector
    roundness: float = 1.0


def _rgb(*value: float) -> dict[str, Any]:
    return {"type": "rgb", "value": list(value)}


MATERIALS: dict[str, dict[str, Any]] = {
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


JOINTS, PARTS = _walker()


def superellipsoid(
    radii: Vector, roundness: float, rings: int = 20
) -> tuple[Float[np.ndarray, "v 3"], Float[np.ndarray, "v 3"], Int[np.ndarray, "f 3"]]:
    """Mesh of x = a c(v)^e c(u)^e, y = b c(v)^e s(u)^e, z = c s(v)^e with signed powers.

    After Barr, "Superquadrics and angle-preserving transformations", 1981.

    Args:
        radii: semi-axes a, b, c.
        roundness: the exponent e, in (0, 2); 1 is an ellipsoid, towards 0 a box.
        rings: faces from pole to pole; twice as many go around.

    Returns:
        Vertices, unit outward normals, and triangles, counter-clockwise from outside.
    """
    u, v = np.meshgrid(
        np.linspace(-np.pi, np.pi, 2 * rings + 1),
        np.linspace(-np.pi / 2, np.pi / 2, rings + 1),
        indexing="ij",
    )
    sphere = np.stack([np.cos(v) * np.cos(u), np.cos(v) * np.sin(u), np.sin(v)], axis=-1).reshape(-1, 3)
    vertices = np.sign(sphere) * np.abs(sphere) ** roundness * radii
    normals = np.sign(sphere) * np.abs(sphere) ** (2 - roundness) / radii
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    corner = (np.arange(2 * rings)[:, None] * (rings + 1) + np.arange(rings)).reshape(-1)
    across = corner + rings + 1
    faces = np.concatenate(
        [np.stack([corner, across, across + 1], -1), np.stack([corner, across + 1, corner + 1], -1)]
    )
    return vertices, normals, faces


def _rotation(axis: Vector, angle: float) -> Float[np.ndarray, "3 3"]:
    """Rodrigues: R = I + sin(θ) [a] + (1 − cos θ) [a]²."""
    x, y, z = axis
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def joint_poses(phase: float) -> dict[str, Float[np.ndarray, "4 4"]]:
    """Joint frame to world, for every joint.

    Args:
        phase: gait cycles since time 0; poses at phase and phase + 1 are equal.
    """
    poses: dict[str, Float[np.ndarray, "4 4"]] = {}
    for joint in JOINTS:
        swing = np.sin(2 * np.pi * (joint.harmonic * phase + joint.shift))
        local = np.eye(4)
        local[:3, :3] = _rotation(joint.axis, joint.rest + joint.amplitude * swing)
        local[:3, 3] = joint.offset
        local[2, 3] += joint.bob * np.sin(4 * np.pi * phase)
        poses[joint.name] = local if joint.parent is None else poses[joint.parent] @ local
    return poses


def posed_meshes(
    phase: float,
) -> Iterator[tuple[str, Float[np.ndarray, "v 3"], Float[np.ndarray, "v 3"], Int[np.ndarray, "f 3"]]]:
    """Material, vertices, normals and faces of every part, world frame.

    Args:
        phase: gait cycles since time 0.
    """
    poses = joint_poses(phase)
    for part in PARTS:
        vertices, normals, faces = superellipsoid(part.radii, part.roundness)
        pose = poses[part.joint]
        rotation, translation = pose[:3, :3], pose[:3, 3]
        yield part.material, (vertices + part.center) @ rotation.T + translation, normals @ rotation.T, faces


def look_at_origin(azimuth: float, height: float, radius: float = CAMERA_RADIUS) -> Float[np.ndarray, "4 4"]:
    """Camera to world, OpenGL axes, without roll.

    Args:
        azimuth: of the camera's place, from +x towards +y, radians.
        height: of the camera's place over its distance, the sine of its elevation.
        radius: distance from the origin, world units.
    """
    ring = np.sqrt(1 - height**2)
    back = np.array([ring * np.cos(azimuth), ring * np.sin(azimuth), height])
    right = np.array([-np.sin(azimuth), np.cos(azimuth), 0.0])
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(back, right), back], axis=-1)
    pose[:3, 3] = radius * back
    return pose


def random_camera(rng: np.random.Generator) -> Float[np.ndarray, "4 4"]:
    """Camera to world, OpenGL axes, from a random place of the upper hemisphere."""
    return look_at_origin(azimuth=rng.uniform(0, 2 * np.pi), height=rng.uniform(0.05, 0.8))


def frames_of(split: Split, config: ToySceneConfig) -> list[tuple[float, Float[np.ndarray, "4 4"]]]:
    """Time and camera of every frame of a split, each drawn from its own seed."""
    count: int = getattr(config, split)
    frames = []
    for i in range(count):
        rng = np.random.default_rng([config.seed, SPLITS.index(split), i])
        camera = random_camera(rng)
        if split == "train":
            time = i / max(count - 1, 1)
        elif split == "future":
            time = 1 + (i + 1) / count
        else:
            time = (i + rng.uniform()) / count
        frames.append((time, camera))
    return frames


def _mitsuba() -> Any:
    """Mitsuba with its scalar variant, the one that needs neither a system LLVM nor CUDA."""
    try:
        mitsuba = import_module("mitsuba")
    except ImportError as error:
        raise ImportError(
            "rendering synthetic scenes needs mitsuba: pip install 'nest-nerfstudio[synth]'"
        ) from error
    mitsuba.set_variant("scalar_rgb")
    return mitsuba


def _mesh(mi: Any, bsdf: Any, vertices: np.ndarray, normals: np.ndarray, faces: np.ndarray) -> Any:
    props = mi.Properties()
    props["bsdf"] = bsdf
    mesh = mi.Mesh("part", len(vertices), len(faces), has_vertex_normals=True, props=props)
    params = mi.traverse(mesh)
    params["vertex_positions"] = vertices.astype(np.float32).ravel()
    params["vertex_normals"] = normals.astype(np.float32).ravel()
    params["faces"] = faces.astype(np.uint32).ravel()
    params.update()
    return mesh


def render_frame(
    phase: float, camera: Float[np.ndarray, "4 4"], size: int, samples: int, seed: int
) -> Float[np.ndarray, "size size 4"]:
    """Path-trace one picture.

    Args:
        phase: gait cycles since time 0.
        camera: camera to world, OpenGL axes.
        size: width and height, pixels.
        samples: light paths per pixel, rounded up to a square number (they are stratified).
        seed: of the light paths.

    Returns:
        Linear RGB with straight alpha; RGB may exceed 1.

    Raises:
        ImportError: mitsuba is not installed.
    """
    mi = _mitsuba()
    bsdfs = {name: mi.load_dict(material) for name, material in MATERIALS.items()}
    # Mitsuba's cameras look along +z with x to the left.
    to_world = camera @ np.diag([-1.0, 1.0, -1.0, 1.0])
    film = {
        "type": "hdrfilm",
        "width": size,
        "height": size,
        "pixel_format": "rgba",
        "rfilter": {"type": "box"},
    }
    scene = {
        "type": "scene",
        "integrator": {"type": "path", "max_depth": 6, "hide_emitters": True},
        "sun": {"type": "directional", "direction": list(SUN_DIRECTION), "irradiance": SUN_IRRADIANCE},
        "sky": {"type": "constant", "radiance": SKY_RADIANCE},
        "sensor": {
            "type": "perspective",
            "fov": float(np.degrees(CAMERA_ANGLE_X)),
            "fov_axis": "x",
            "to_world": mi.ScalarTransform4f(to_world.tolist()),
            "film": film,
            "sampler": {"type": "multijitter", "sample_count": math.ceil(math.sqrt(samples)) ** 2},
        },
    }
    for i, (material, *mesh) in enumerate(posed_meshes(phase)):
        scene[f"part_{i}"] = _mesh(mi, bsdfs[material], *mesh)
    rgba = np.array(mi.render(mi.load_dict(scene), seed=seed), dtype=np.float64)
    rgba[..., :3] /= np.maximum(rgba[..., 3:], 1e-6)
    return rgba


def to_srgb(linear: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Clip to [0, 1] and apply the sRGB transfer curve (IEC 61966-2-1)."""
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _save_png(rgba: Float[np.ndarray, "size size 4"], path: Path) -> None:
    """Write under another name first, so that a killed run leaves no half picture behind."""
    straight = np.concatenate([to_srgb(rgba[..., :3]), np.clip(rgba[..., 3:], 0, 1)], axis=-1)
    straight[rgba[..., 3] <= 0] = 0
    part = path.with_suffix(".part")
    Image.fromarray((straight * 255).round().astype(np.uint8), "RGBA").save(part, format="PNG")
    os.replace(part, path)


def _claim(output: Path, config: ToySceneConfig) -> None:
    """Make the folder, or make sure that the frames in it come from the same settings."""
    settings = output / "toy.json"
    if settings.exists():
        if json.loads(settings.read_text()) != asdict(config):
            raise ValueError(f"{output} holds a scene of other settings; remove it or choose another folder")
        return
    if output.exists() and any(output.iterdir()):
        raise ValueError(f"{output} is not empty and holds no toy scene; choose another folder")
    output.mkdir(parents=True, exist_ok=True)
    settings.write_text(json.dumps(asdict(config), indent=1))


def make_toy_scene(output: Path, config: ToySceneConfig) -> Path:
    """Render the walker; frames that are there already are kept, so a broken run goes on.

    Args:
        output: folder to write, made if missing.
        config: what to render.

    Returns:
        `output`, with `transforms_{train,val,test,future}.json` (key `period`: clip time of one gait cycle).

    Raises:
        ImportError: mitsuba is not installed.
        ValueError: `output` holds something else.
    """
    _mitsuba()
    _claim(output, config)
    jobs = [(split, i, *frame) for split in SPLITS for i, frame in enumerate(frames_of(split, config))]
    missing = [job for job in jobs if not (output / job[0] / f"r_{job[1]:03d}.png").exists()]
    for split, i, time, camera in track(missing, description="Rendering the toy scene"):
        (output / split).mkdir(exist_ok=True)
        seed = int(np.random.SeedSequence([config.seed, SPLITS.index(split), i]).generate_state(1)[0])
        rgba = render_frame(time * config.cycles, camera, config.size, config.samples, seed)
        _save_png(rgba, output / split / f"r_{i:03d}.png")
    for split in SPLITS:
        frames = [
            {"file_path": f"./{split}/r_{i:03d}", "time": time, "transform_matrix": camera.tolist()}
            for name, i, time, camera in jobs
            if name == split
        ]
        transforms = {"camera_angle_x": CAMERA_ANGLE_X, "period": config.period, "frames": frames}
        (output / f"transforms_{split}.json").write_text(json.dumps(transforms, indent=1))
    return output
