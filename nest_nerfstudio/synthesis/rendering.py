"""Path-traced pictures of meshes under a sun and a sky of one colour, by Mitsuba.

z is up; what is rendered fits a sphere of radius 1.15 around the origin, which all cameras look at. Pictures
are sRGB PNG files with straight alpha.
"""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from rich.progress import track

from nest_nerfstudio.geometry import color
from nest_nerfstudio.types import Edit, SunSky

OBJECT_RADIUS = 1.15
CAMERA_RADIUS = 4.0
PICTURES_PER_PROCESS = 32  # at least: a process takes some seconds to start
CAMERA_ANGLE_X = 0.6911112070083618  # the field of view of the Blender scenes of NeRF and D-NeRF

Bsdf = dict[str, Any]
"""A Mitsuba plugin; its colours are linear RGB, its bitmaps NumPy arrays [h, w, c] under the key `data`."""


@dataclass(frozen=True)
class Mesh:
    """Triangles of one material, world frame.

    Attributes:
        vertices: corners, world units.
        normals: outward, any length > 0; None for flat triangles.
        faces: corners of each triangle, counter-clockwise from outside.
        bsdf: its material.
        uvs: texture coordinates; (0, 0) is the texture's upper left corner.
        colors: linear RGB of the vertices, which the material knows as `vertex_color`.
    """

    vertices: Float[np.ndarray, "v 3"]
    normals: Float[np.ndarray, "v 3"] | None
    faces: Int[np.ndarray, "f 3"]
    bsdf: Bsdf
    uvs: Float[np.ndarray, "v 2"] | None = None
    colors: Float[np.ndarray, "v 3"] | None = None


class Figure(ABC):
    """What is rendered: an object whose motion, if it has any, repeats.

    Figures travel to other processes with every picture, so they are small and pickle.
    """

    @property
    @abstractmethod
    def moves(self) -> bool:
        """Whether the meshes depend on the phase."""

    @abstractmethod
    def meshes(self, phase: float) -> list[Mesh]:
        """The posed object.

        Args:
            phase: cycles since time 0; phase and phase + 1 look the same.
        """


@dataclass(frozen=True)
class Fitted(Figure):
    """A figure moved and scaled.

    Attributes:
        figure: as it is.
        center: what becomes the origin, in the figure's units.
        scale: the figure's units to world units.
    """

    figure: Figure
    center: tuple[float, float, float]
    scale: float

    @property
    def moves(self) -> bool:
        return self.figure.moves

    def meshes(self, phase: float) -> list[Mesh]:
        return [
            replace(mesh, vertices=(mesh.vertices - self.center) * self.scale)
            for mesh in self.figure.meshes(phase)
        ]


def fitted(figure: Figure, num_phases: int = 32) -> Fitted:
    """The figure with the box around its whole motion inside the sphere of radius 1.15 around the origin.

    Args:
        figure: of any size, anywhere.
        num_phases: of its cycle, at which it is measured.

    Raises:
        ValueError: vertices that are not finite or all at one place.
    """
    phases = np.linspace(0, 1, num_phases, endpoint=False).tolist() if figure.moves else [0.0]
    points = np.concatenate([mesh.vertices for phase in phases for mesh in figure.meshes(phase)])
    low, high = points.min(axis=0), points.max(axis=0)
    radius = float(np.linalg.norm(high - low)) / 2
    if not (np.isfinite(radius) and radius > 0):
        raise ValueError("its vertices are not finite, or all at one place: there is nothing to see")
    x, y, z = ((low + high) / 2).tolist()
    return Fitted(figure, (x, y, z), OBJECT_RADIUS / radius)


@dataclass(frozen=True)
class Cameras:
    """Where pictures are taken from; every camera looks at the origin and stands upright.

    Attributes:
        path: `random` places on a band of the sphere, an `orbit` at the band's mean height (one turn in the
            time of the clip), or `still`: one place.
        radius: distance from the origin, world units.
        heights: lowest and highest place over the distance, the sine of the elevation, in (-1, 1).
        angle_x: horizontal field of view, radians.
    """

    path: Literal["random", "orbit", "still"] = "random"
    radius: float = CAMERA_RADIUS
    heights: tuple[float, float] = (0.05, 0.8)
    angle_x: float = CAMERA_ANGLE_X

    def __post_init__(self) -> None:
        if not self.radius > OBJECT_RADIUS:
            raise ValueError(
                f"cameras at radius {self.radius:g} may be inside the object: choose a radius greater than "
                f"{OBJECT_RADIUS}"
            )
        if not -1 < self.heights[0] <= self.heights[1] < 1:
            raise ValueError(f"heights must rise and lie in (-1, 1), got {self.heights}")
        if not 0 < self.angle_x < math.pi:
            raise ValueError(f"angle_x must be in (0, π) radians, got {self.angle_x}")

    def pose(self, time: float, draws: tuple[float, float]) -> Float[np.ndarray, "4 4"]:
        """Camera to world, OpenGL axes.

        Args:
            time: clip time, for the orbit.
            draws: two random numbers in [0, 1), for the random places.
        """
        low, high = self.heights
        if self.path == "random":
            return look_at_origin(2 * np.pi * draws[0], low + (high - low) * draws[1], self.radius)
        azimuth = 2 * np.pi * time if self.path == "orbit" else 0.0
        return look_at_origin(azimuth - np.pi / 2, (low + high) / 2, self.radius)


@dataclass(frozen=True)
class Sensor:
    """How a picture is taken.

    Attributes:
        size: width and height, pixels.
        samples: light paths per pixel, rounded up to a square number (they are stratified).
        angle_x: horizontal field of view, radians.
    """

    size: int
    samples: int
    angle_x: float = CAMERA_ANGLE_X


@dataclass(frozen=True)
class Shot:
    """A picture to take.

    Attributes:
        path: of the PNG file.
        figure: what is to be seen.
        phase: of its motion, cycles.
        camera: camera to world, OpenGL axes.
        sensor: how.
        seed: of the light paths.
        edit: state that the figure is in.
    """

    path: Path
    figure: Figure
    phase: float
    camera: Float[np.ndarray, "4 4"]
    sensor: Sensor
    seed: int
    edit: Edit = field(default_factory=Edit)

    def take(self) -> None:
        """Render the picture and write it."""
        meshes = [edited(mesh, self.edit) for mesh in self.figure.meshes(self.phase)]
        light = self.edit.light or SunSky()  # the usual one where it is not known
        rgba = render(meshes, self.camera, self.sensor, light, self.seed)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _save_png(rgba, self.path)


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


def rotation_matrix(axis: tuple[float, float, float], angle: float) -> Float[np.ndarray, "3 3"]:
    """Rodrigues: R = I + sin(θ) [a] + (1 − cos θ) [a]², for a unit axis and an angle in radians."""
    x, y, z = axis
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def edited(mesh: Mesh, edit: Edit) -> Mesh:
    """The mesh in another state: stretched, turned and moved, with its colours shifted; not its light."""
    stretch, turn = np.array(edit.stretch), rotation_matrix((0.0, 0.0, 1.0), edit.yaw)
    return replace(
        mesh,
        vertices=mesh.vertices * stretch @ turn.T + np.array(edit.translate),
        normals=None if mesh.normals is None else mesh.normals / stretch @ turn.T,
        bsdf=_shift_colors(mesh.bsdf, edit.hue) if edit.hue else mesh.bsdf,
        colors=mesh.colors if mesh.colors is None or not edit.hue else shift_hue(mesh.colors, edit.hue),
    )


def shift_hue(rgb: Float[np.ndarray, "*shape 3"], hue: float) -> Float[np.ndarray, "*shape 3"]:
    """Shift the hue of linear RGB in [0, 1] by a fraction of a turn; saturation and value (HSV) stay."""
    return color.shift_hue(torch.from_numpy(np.clip(rgb, 0.0, 1.0)), hue).numpy()


def _shift_colors(plugin: Bsdf, hue: float) -> Bsdf:
    """The plugin with the hue of all its colours shifted, in nested plugins too."""
    plugin = {key: _shift_colors(v, hue) if isinstance(v, dict) else v for key, v in plugin.items()}
    if plugin["type"] == "rgb":
        plugin["value"] = shift_hue(np.array(plugin["value"]), hue).tolist()
    elif plugin["type"] == "bitmap" and plugin["data"].shape[-1] == 3:
        plugin["data"] = shift_hue(plugin["data"], hue)
    return plugin


def require_mitsuba() -> Any:
    """Mitsuba with its scalar variant, the one that needs neither a system LLVM nor CUDA.

    Raises:
        ImportError: it is not installed.
    """
    try:
        mitsuba = import_module("mitsuba")
    except ImportError as error:
        raise ImportError(
            "rendering synthetic scenes needs mitsuba: pip install 'nest-nerfstudio[synth]'"
        ) from error
    mitsuba.set_variant("scalar_rgb")
    return mitsuba


def _with_tensors(mi: Any, plugin: Bsdf) -> Bsdf:
    """The plugin with its bitmaps as Mitsuba takes them."""
    return {
        key: _with_tensors(mi, value)
        if isinstance(value, dict)
        else (mi.TensorXf(value.astype(np.float32)) if isinstance(value, np.ndarray) else value)
        for key, value in plugin.items()
    }


def _mitsuba_mesh(mi: Any, mesh: Mesh) -> Any:
    props = mi.Properties()
    props["bsdf"] = mi.load_dict(_with_tensors(mi, mesh.bsdf))
    smooth, textured = mesh.normals is not None, mesh.uvs is not None
    made = mi.Mesh("part", len(mesh.vertices), len(mesh.faces), props, smooth, textured)
    if mesh.colors is not None:
        made.add_attribute("vertex_color", 3, mesh.colors.astype(np.float32).ravel())
    params = mi.traverse(made)
    params["vertex_positions"] = mesh.vertices.astype(np.float32).ravel()
    if mesh.normals is not None:
        params["vertex_normals"] = mesh.normals.astype(np.float32).ravel()
    if mesh.uvs is not None:
        params["vertex_texcoords"] = mesh.uvs.astype(np.float32).ravel()
    params["faces"] = mesh.faces.astype(np.uint32).ravel()
    params.update()
    return made


def render(
    meshes: Sequence[Mesh],
    camera: Float[np.ndarray, "4 4"],
    sensor: Sensor,
    light: SunSky = SunSky(),  # noqa: B008 (frozen)
    seed: int = 0,
) -> Float[np.ndarray, "size size 4"]:
    """Path-trace one picture.

    Args:
        meshes: what is to be seen.
        camera: camera to world, OpenGL axes.
        sensor: size, quality and field of view.
        light: the sun and the sky; neither is seen itself.
        seed: of the light paths.

    Returns:
        Linear RGB with straight alpha; RGB may exceed 1.

    Raises:
        ImportError: mitsuba is not installed.
    """
    mi = require_mitsuba()
    # Mitsuba's cameras look along +z with x to the left.
    to_world = camera @ np.diag([-1.0, 1.0, -1.0, 1.0])
    film = {
        "type": "hdrfilm",
        "width": sensor.size,
        "height": sensor.size,
        "pixel_format": "rgba",
        "rfilter": {"type": "box"},
    }
    scene = {
        "type": "scene",
        "integrator": {"type": "path", "max_depth": 6, "hide_emitters": True},
        "sun": {"type": "directional", "direction": list(light.direction), "irradiance": light.sun},
        "sky": {"type": "constant", "radiance": light.ambient},
        "sensor": {
            "type": "perspective",
            "fov": float(np.degrees(sensor.angle_x)),
            "fov_axis": "x",
            "to_world": mi.ScalarTransform4f(to_world.tolist()),
            "film": film,
            "sampler": {"type": "multijitter", "sample_count": math.ceil(math.sqrt(sensor.samples)) ** 2},
        },
    }
    for i, mesh in enumerate(meshes):
        scene[f"part_{i}"] = _mitsuba_mesh(mi, mesh)
    rgba = np.array(mi.render(mi.load_dict(scene), seed=seed), dtype=np.float64)
    rgba[..., :3] /= np.maximum(rgba[..., 3:], 1e-6)
    return rgba


def to_srgb(linear: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Clip to [0, 1] and apply the sRGB transfer curve (IEC 61966-2-1)."""
    return color.linear_to_srgb(torch.from_numpy(np.clip(linear, 0.0, 1.0))).numpy()


def from_srgb(encoded: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """The inverse of `to_srgb` on [0, 1]."""
    return color.srgb_to_linear(torch.from_numpy(encoded)).numpy()


def _save_png(rgba: Float[np.ndarray, "size size 4"], path: Path) -> None:
    """Write under another name first, so that a killed run leaves no half picture behind."""
    straight = np.concatenate([to_srgb(rgba[..., :3]), np.clip(rgba[..., 3:], 0, 1)], axis=-1)
    straight[rgba[..., 3] <= 0] = 0
    part = path.with_suffix(".part")
    Image.fromarray((straight * 255).round().astype(np.uint8), "RGBA").save(part, format="PNG")
    os.replace(part, path)


def _use_one_thread() -> None:
    require_mitsuba()
    import_module("drjit").set_thread_count(1)


def take_all(shots: Sequence[Shot], jobs: int, description: str) -> None:
    """Take all pictures that are not there yet, with a progress bar.

    Args:
        shots: the pictures.
        jobs: most processes to share them; one renders here, with a thread for every core.
        description: what the bar says.
    """
    missing = [shot for shot in shots if not shot.path.exists()]
    processes = min(jobs, len(missing) // PICTURES_PER_PROCESS)
    if processes <= 1:
        for shot in track(missing, description):
            shot.take()
        return
    # Not forked: Mitsuba's own threads would not survive it.
    with ProcessPoolExecutor(processes, get_context("spawn"), _use_one_thread) as pool:
        for _ in track(pool.map(Shot.take, missing), description, total=len(missing)):
            pass
