"""Path-traced images of figures, lit by a sun and a sky of one colour, with Mitsuba.

z is up, and all cameras look at the origin. Images are sRGB PNG files with straight alpha.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from PIL import Image
from rich.progress import track

from nest_nerfstudio.data.scenes.index import OBJECT_RADIUS
from nest_nerfstudio.files import written_whole
from nest_nerfstudio.states import Edit, SunSky
from nest_nerfstudio.synthesis.colors import to_srgb
from nest_nerfstudio.synthesis.meshes import Bsdf, Figure, Mesh, edit_mesh

CAMERA_RADIUS = 4.0
CAMERA_ANGLE_X = 0.6911112070083618  # the field of view of the Blender scenes of NeRF and D-NeRF
IMAGES_PER_PROCESS = 32  # at least: a process takes some seconds to start


@dataclass(frozen=True)
class Cameras:
    """Camera positions and field of view; every camera looks at the origin, without roll.

    Attributes:
        path: Random positions between the two heights, one orbit from time 0 to 1, or one position.
        radius: Distance of the cameras from the origin; the object has radius 1.15.
        heights: Lowest and highest camera position: z divided by the radius.
        angle_x: Horizontal field of view, radians.
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
            raise ValueError(f"heights must be in ascending order and in (-1, 1), got {self.heights}")
        if not 0 < self.angle_x < math.pi:
            raise ValueError(f"angle_x must be in (0, π) radians, got {self.angle_x}")

    def pose(self, time: float, uniform: tuple[float, float]) -> Float[np.ndarray, "4 4"]:
        """Camera to world, OpenGL axes.

        Args:
            time: clip time, which an orbit depends on.
            uniform: two random numbers in [0, 1), which random positions depend on.
        """
        low, high = self.heights
        if self.path == "random":
            return look_at_origin(2 * np.pi * uniform[0], low + (high - low) * uniform[1], self.radius)
        azimuth = 2 * np.pi * time if self.path == "orbit" else 0.0
        return look_at_origin(azimuth - np.pi / 2, (low + high) / 2, self.radius)


def look_at_origin(azimuth: float, height: float, radius: float = CAMERA_RADIUS) -> Float[np.ndarray, "4 4"]:
    """Camera to world, OpenGL axes, without roll.

    Args:
        azimuth: of the camera's position, from +x towards +y, radians.
        height: of the camera's position over its distance, the sine of its elevation.
        radius: distance from the origin, world units.
    """
    ring = np.sqrt(1 - height**2)
    back = np.array([ring * np.cos(azimuth), ring * np.sin(azimuth), height])
    right = np.array([-np.sin(azimuth), np.cos(azimuth), 0.0])
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(back, right), back], axis=-1)
    pose[:3, 3] = radius * back
    return pose


@dataclass(frozen=True)
class Sensor:
    """Size, quality and field of view of an image.

    Attributes:
        size: width and height, pixels.
        samples: samples per pixel, rounded up to a square number (they are stratified).
        angle_x: horizontal field of view, radians.
    """

    size: int
    samples: int
    angle_x: float = CAMERA_ANGLE_X


@dataclass(frozen=True)
class RenderJob:
    """An image to render.

    Attributes:
        path: of the PNG file.
        figure: the object.
        phase: of the figure's motion, cycles.
        camera: camera to world, OpenGL axes.
        sensor: size, quality and field of view.
        seed: of the path tracer.
        edit: applied to the figure and the light.
    """

    path: Path
    figure: Figure
    phase: float
    camera: Float[np.ndarray, "4 4"]
    sensor: Sensor
    seed: int
    edit: Edit = field(default_factory=Edit)

    def run(self) -> None:
        """Render the image and write its file."""
        meshes = [edit_mesh(mesh, self.edit) for mesh in self.figure.meshes(self.phase)]
        light = self.edit.light or SunSky()  # the default light where the edit's is unknown
        rgba = render(meshes, self.camera, self.sensor, light, self.seed)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _save_png(rgba, self.path)


def render_missing(images: Sequence[RenderJob], jobs: int, description: str) -> None:
    """Render all images whose files do not exist yet, with a progress bar.

    Args:
        images: what to render.
        jobs: maximum number of processes; one renders in this process, with a thread per core.
        description: label of the progress bar.
    """
    missing = [image for image in images if not image.path.exists()]
    processes = min(jobs, len(missing) // IMAGES_PER_PROCESS)
    if processes <= 1:
        for image in track(missing, description):
            image.run()
        return
    # Not forked: Mitsuba's own threads would not survive it.
    with ProcessPoolExecutor(processes, get_context("spawn"), _use_one_thread) as pool:
        for _ in track(pool.map(RenderJob.run, missing), description, total=len(missing)):
            pass


def render(
    meshes: Sequence[Mesh],
    camera: Float[np.ndarray, "4 4"],
    sensor: Sensor,
    light: SunSky = SunSky(),  # noqa: B008 (frozen)
    seed: int = 0,
) -> Float[np.ndarray, "size size 4"]:
    """Path-trace one image.

    Args:
        meshes: all objects.
        camera: camera to world, OpenGL axes.
        sensor: size, quality and field of view.
        light: the sun and the sky; neither is visible to the camera.
        seed: of the path tracer.

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


def require_mitsuba() -> Any:
    """Mitsuba with its scalar variant, the one that needs neither a system LLVM nor CUDA.

    Raises:
        ImportError: it is not installed.
    """
    try:
        mitsuba = import_module("mitsuba")
    except ImportError as error:
        raise ImportError("rendering needs mitsuba: pip install 'nest-nerfstudio[synth]'") from error
    mitsuba.set_variant("scalar_rgb")
    return mitsuba


def _use_one_thread() -> None:
    require_mitsuba()
    import_module("drjit").set_thread_count(1)


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


def _with_tensors(mi: Any, plugin: Bsdf) -> Bsdf:
    """The plugin with its bitmaps as Mitsuba's tensors."""
    return {
        key: _with_tensors(mi, value)
        if isinstance(value, dict)
        else (mi.TensorXf(value.astype(np.float32)) if isinstance(value, np.ndarray) else value)
        for key, value in plugin.items()
    }


def _save_png(rgba: Float[np.ndarray, "size size 4"], path: Path) -> None:
    """Write under another name first, so that an interrupted run leaves no incomplete image behind."""
    straight = np.concatenate([to_srgb(rgba[..., :3]), np.clip(rgba[..., 3:], 0, 1)], axis=-1)
    straight[rgba[..., 3] <= 0] = 0
    with written_whole(path) as part:
        Image.fromarray((straight * 255).round().astype(np.uint8), "RGBA").save(part, format="PNG")
