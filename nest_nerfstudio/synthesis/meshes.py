"""What is rendered: triangle meshes with materials, figures that pose them, and edits of both."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial.transform import Rotation

from nest_nerfstudio.data.scenes.index import OBJECT_RADIUS
from nest_nerfstudio.states import Edit
from nest_nerfstudio.synthesis.colors import shift_hue

Bsdf = dict[str, Any]
"""A Mitsuba plugin; its colours are linear RGB, its bitmaps NumPy arrays [h, w, c] under the key `data`."""


@dataclass(frozen=True)
class Mesh:
    """Triangles of one material, world frame, z up.

    Attributes:
        vertices: positions, world units.
        normals: outward, any length > 0; None for flat shading.
        faces: vertices of each triangle, counter-clockwise from outside.
        bsdf: the material.
        uvs: texture coordinates; (0, 0) is the texture's upper left corner.
        colors: linear RGB of the vertices, which the material reads as the attribute `vertex_color`.
    """

    vertices: Float[np.ndarray, "v 3"]
    normals: Float[np.ndarray, "v 3"] | None
    faces: Int[np.ndarray, "f 3"]
    bsdf: Bsdf
    uvs: Float[np.ndarray, "v 2"] | None = None
    colors: Float[np.ndarray, "v 3"] | None = None


class Figure(ABC):
    """An object that can be rendered; its motion, if it has any, is cyclic.

    A figure is pickled and sent to another process with every image, so it must be small.
    """

    @property
    @abstractmethod
    def moves(self) -> bool:
        """Whether the meshes depend on the phase."""

    @abstractmethod
    def meshes(self, phase: float) -> list[Mesh]:
        """The posed object.

        Args:
            phase: cycles since time 0; the poses at phase and phase + 1 are equal.
        """


@dataclass(frozen=True)
class Fitted(Figure):
    """A figure shifted and scaled.

    Attributes:
        figure: the original.
        center: point that becomes the origin, in the original's units.
        scale: world units per unit of the original.
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


def fit_to_sphere(figure: Figure, num_phases: int = 32) -> Fitted:
    """Shift and scale a figure: the bounding box of its whole motion fits `OBJECT_RADIUS`.

    Args:
        figure: of any size and position.
        num_phases: phases of the cycle at which the bounding box is measured.

    Raises:
        ValueError: vertices that are not finite or all coincide.
    """
    phases = np.linspace(0, 1, num_phases, endpoint=False).tolist() if figure.moves else [0.0]
    points = np.concatenate([mesh.vertices for phase in phases for mesh in figure.meshes(phase)])
    low, high = points.min(axis=0), points.max(axis=0)
    radius = float(np.linalg.norm(high - low)) / 2
    if not (np.isfinite(radius) and radius > 0):
        raise ValueError("its vertices are not finite, or all coincide: there is nothing to see")
    x, y, z = ((low + high) / 2).tolist()
    return Fitted(figure, (x, y, z), OBJECT_RADIUS / radius)


def edit_mesh(mesh: Mesh, edit: Edit) -> Mesh:
    """Apply an edit: stretch, then turn, then move the mesh, and shift the hue of its colours.

    The edit's light is not the mesh's; see `RenderJob`.
    """
    stretch = np.array(edit.stretch)
    turn = Rotation.from_euler("z", edit.yaw).as_matrix()
    return replace(
        mesh,
        vertices=mesh.vertices * stretch @ turn.T + np.array(edit.translate),
        normals=None if mesh.normals is None else mesh.normals / stretch @ turn.T,
        bsdf=_shift_colors(mesh.bsdf, edit.hue) if edit.hue else mesh.bsdf,
        colors=shift_hue(mesh.colors, edit.hue) if edit.hue and mesh.colors is not None else mesh.colors,
    )


def _shift_colors(plugin: Bsdf, hue: float) -> Bsdf:
    """The plugin with the hue of all its colours shifted, those of nested plugins included."""
    plugin = {key: _shift_colors(v, hue) if isinstance(v, dict) else v for key, v in plugin.items()}
    if plugin["type"] == "rgb":
        plugin["value"] = shift_hue(np.array(plugin["value"]), hue).tolist()
    elif plugin["type"] == "bitmap" and plugin["data"].shape[-1] == 3:
        plugin["data"] = shift_hue(plugin["data"], hue)
    return plugin
