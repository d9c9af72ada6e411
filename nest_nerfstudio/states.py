"""Known states of the scenes of a data set, and training samples of them."""

from __future__ import annotations

from dataclasses import dataclass, fields

from nest_nerfstudio.types import Views


@dataclass(frozen=True)
class SunSky:
    """A light: a sun and a sky of uniform colour.

    Attributes:
        direction: along the sunlight's travel, world frame, any length > 0.
        sun: irradiance of the sun on a surface that faces it.
        ambient: radiance of the sky.
    """

    direction: tuple[float, float, float] = (-0.3, 0.5, -1.0)
    sun: float = 3.0
    ambient: float = 0.6


@dataclass(frozen=True)
class Edit:
    """How a state of a scene in a data set differs from its base state; by default not at all.

    Attributes:
        light: its light; None where it is not known.
        hue: shift of every material's hue, fraction of a turn.
        yaw: turn of the object about z, radians.
        translate: shift of the object, world units, after its turn.
        stretch: factors along the object's own x, y, z, before its turn.
    """

    light: SunSky | None = SunSky()
    hue: float = 0.0
    yaw: float = 0.0
    translate: tuple[float, float, float] = (0.0, 0.0, 0.0)
    stretch: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @property
    def pose(self) -> tuple[float, tuple[float, float, float], tuple[float, float, float]]:
        """Where the object is and of which form: views of states that agree in it show one silhouette."""
        return self.yaw, self.translate, self.stretch

    def differences(self, other: Edit) -> list[str]:
        """Names of the attributes in which two states differ."""
        return [part.name for part in fields(self) if getattr(self, part.name) != getattr(other, part.name)]


@dataclass(frozen=True)
class SceneSample:
    """Views of one scene for one training step.

    Attributes:
        name: name of the scene.
        category: category of the scene.
        context: images of one state, for the encoder.
        edit: that state.
        targets: images of one or more states, none of them in `context`.
        observed: images of the same state at other times, from which its motion is read; None: it is still.
        timed: images of it at further times, as targets.
        clip: which motion they show: number n of the scene, or `~n`, its mirror image; None: unknown.
    """

    name: str
    category: str
    context: Views
    edit: Edit
    targets: tuple[tuple[Edit, Views], ...]
    observed: Views | None = None
    timed: Views | None = None
    clip: int | None = None
