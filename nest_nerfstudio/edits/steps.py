"""Steps of an edit: each an action on selected tokens, or on the light or the motion of a scene."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool
from torch import Tensor

from nest_nerfstudio.edits.light import sun_sky_light
from nest_nerfstudio.edits.selection import ALL, Selection, Vector
from nest_nerfstudio.geometry.quaternion import quat_exp, quat_to_rotmat
from nest_nerfstudio.geometry.se3 import Pose, se3_apply
from nest_nerfstudio.states import SunSky
from nest_nerfstudio.types import MotionCode, SceneLatent, TimeMap


class EditError(ValueError):
    """A step that a scene cannot carry, or that selects nothing."""


@runtime_checkable
class EditableField(Protocol):
    """What steps ask of the field of a scene; see `fields.base.Field`."""

    knows_light: bool

    def recolor(
        self, latent: SceneLatent, tokens: Bool[Tensor, " k"], hue: float, gain: Vector
    ) -> SceneLatent:
        """The latent with other colours."""
        ...


class Step(ABC):
    """One action on a latent; pure."""

    @abstractmethod
    def apply(self, latent: SceneLatent, field: EditableField) -> SceneLatent:
        """The edited latent.

        Raises:
            EditError: the scene cannot carry the action, or no token is selected.
        """


@dataclass(frozen=True)
class Move(Step):
    """Move tokens, and all that follows them; the light stays.

    Attributes:
        translation: world units.
        rotation: rotation vector (axis times angle in radians), before the translation.
        about: point that the rotation leaves in place; None: the mean position of the tokens.
        tokens: which tokens.
    """

    translation: Vector = (0.0, 0.0, 0.0)
    rotation: Vector = (0.0, 0.0, 0.0)
    about: Vector | None = None
    tokens: Selection = ALL

    def apply(self, latent: SceneLatent, field: EditableField) -> SceneLatent:
        chosen = _selected(self, self.tokens, latent)
        return latent.move(_pose(self, latent.translations[chosen]), chosen)


@dataclass(frozen=True)
class Duplicate(Step):
    """Add a copy of tokens, moved as by `Move`; it moves on its own by the same motion code.

    Attributes:
        translation: world units.
        rotation: rotation vector (axis times angle in radians), before the translation.
        about: point that the rotation leaves in place; None: the mean position of the tokens.
        tokens: which tokens.
    """

    translation: Vector
    rotation: Vector = (0.0, 0.0, 0.0)
    about: Vector | None = None
    tokens: Selection = ALL

    def apply(self, latent: SceneLatent, field: EditableField) -> SceneLatent:
        chosen = _selected(self, self.tokens, latent)
        return latent.duplicate(chosen, _pose(self, latent.translations[chosen]))


@dataclass(frozen=True)
class Keep(Step):
    """Keep tokens and what follows them, and drop all others.

    Attributes:
        tokens: which tokens.
    """

    tokens: Selection

    def apply(self, latent: SceneLatent, field: EditableField) -> SceneLatent:
        return latent.select(_selected(self, self.tokens, latent))


@dataclass(frozen=True)
class Delete(Step):
    """Drop tokens and what follows them.

    Attributes:
        tokens: which tokens.
    """

    tokens: Selection

    def apply(self, latent: SceneLatent, field: EditableField) -> SceneLatent:
        chosen = _selected(self, self.tokens, latent)
        if chosen.all():
            raise EditError("delete: all tokens are selected, so nothing would be left to draw")
        return latent.select(~chosen)


@dataclass(frozen=True)
class Recolor(Step):
    """Shift the hue of tokens' colours, and scale their channels.

    Attributes:
        hue: fraction of a turn.
        gain: factor of red, green and blue, > 0.
        tokens: which tokens.
    """

    hue: float = 0.0
    gain: Vector = (1.0, 1.0, 1.0)
    tokens: Selection = ALL

    def __post_init__(self) -> None:
        if min(self.gain) <= 0:
            raise ValueError(f"gain must be greater than 0, not {self.gain}")

    def apply(self, latent: SceneLatent, field: EditableField) -> SceneLatent:
        return field.recolor(latent, _selected(self, self.tokens, latent), self.hue, self.gain)


@dataclass(frozen=True)
class Relight(Step):
    """Turn and scale the environment light, or replace it by a sun and a sky.

    Attributes:
        rotation: rotation vector (axis times angle in radians).
        gain: factor, ≥ 0.
        light: in place of the scene's own light, before rotation and gain; None: its own.
    """

    rotation: Vector = (0.0, 0.0, 0.0)
    gain: float = 1.0
    light: SunSky | None = None

    def __post_init__(self) -> None:
        if self.gain < 0:
            raise ValueError(f"gain must not be negative, it is {self.gain}")

    def apply(self, latent: SceneLatent, field: EditableField) -> SceneLatent:
        if not field.knows_light:
            raise EditError(
                "relight: the colours of this scene are baked and its light is not known; `recolor` with a "
                "`gain` makes it brighter or darker"
            )
        if self.light is not None:
            latent = replace(latent, light=sun_sky_light(self.light, latent.light))
        rotation = quat_to_rotmat(quat_exp(latent.light.new_tensor(self.rotation)))
        return latent.relight(rotation, self.gain)


@dataclass(frozen=True)
class Oscillate(Step):
    """Give a scene that stands still a motion: tokens swing about their rest poses as a cosine of the time.

    Attributes:
        period: in clips, > 0.
        translation: amplitude, world units, along world axes at rest.
        rotation: amplitude as a rotation vector in radians, world axes at rest, about each token's origin.
        tokens: which tokens.
    """

    period: float
    translation: Vector = (0.0, 0.0, 0.0)
    rotation: Vector = (0.0, 0.0, 0.0)
    tokens: Selection = ALL

    def __post_init__(self) -> None:
        if not self.period > 0:
            raise ValueError(f"period must be greater than 0, not {self.period}")

    def apply(self, latent: SceneLatent, field: EditableField) -> SceneLatent:
        if latent.motion.kind != "still":
            raise EditError("oscillate: the scene moves already")
        chosen = _selected(self, self.tokens, latent)
        world = latent.translations.new_tensor([self.translation, self.rotation])
        twists = (quat_to_rotmat(latent.quats).mT @ world.mT).mT.flatten(1) * chosen[:, None]
        motion = replace(
            latent.motion,
            start=twists.new_tensor([1.0, 0.0]),
            modes=torch.stack([twists, torch.zeros_like(twists), torch.zeros_like(twists)], -1),
            period=twists.new_tensor(self.period),
            kind="cyclic",
        )
        return replace(latent, motion=motion)


@dataclass(frozen=True)
class Retime(Step):
    """Show at clip time t what the scene showed at speed · t + offset.

    Attributes:
        speed: 2 is twice as fast, −1 runs backwards, 0 stands still.
        offset: in clips.
    """

    speed: float = 1.0
    offset: float = 0.0

    def apply(self, latent: SceneLatent, field: EditableField) -> SceneLatent:
        motion = _moving(name_of(self), latent)
        time_map = motion.time_map.after(TimeMap(self.speed, self.offset))
        return replace(latent, motion=replace(motion, time_map=time_map))


@dataclass(frozen=True)
class Loop(Step):
    """Repeat a span of the clip for ever without a seam.

    Attributes:
        start: first clip time of the span.
        end: last one.
        fade: part of the span, in clips, over which poses blend into those on the other side of the seam.
    """

    start: float
    end: float
    fade: float = 0.0

    def __post_init__(self) -> None:
        TimeMap(loop=(self.start, self.end), fade=self.fade)  # checks them

    def apply(self, latent: SceneLatent, field: EditableField) -> SceneLatent:
        motion = _moving(name_of(self), latent)
        clock = motion.time_map
        if clock.loop is not None:
            raise EditError("loop: the motion loops already")
        if clock.speed == 0:
            raise EditError("loop: the motion is frozen")
        ends = sorted(clock.speed * time + clock.offset for time in (self.start, self.end))
        looped = replace(clock, loop=(ends[0], ends[1]), fade=abs(clock.speed) * self.fade)
        return replace(latent, motion=replace(motion, time_map=looped))


@dataclass(frozen=True)
class ShiftPhase(Step):
    """Start a cyclic motion elsewhere in its cycle.

    Attributes:
        turns: fraction of a cycle.
    """

    turns: float

    def apply(self, latent: SceneLatent, field: EditableField) -> SceneLatent:
        motion = _moving(name_of(self), latent)
        if motion.kind != "cyclic":
            raise EditError("shift_phase: the motion is not cyclic; `retime` with an `offset` shifts it")
        return replace(latent, motion=replace(motion, phase=motion.phase + self.turns))


@dataclass(frozen=True)
class Amplify(Step):
    """Larger or smaller motion about the same mean pose.

    Attributes:
        factor: 0 stands still in the mean pose.
    """

    factor: float

    def apply(self, latent: SceneLatent, field: EditableField) -> SceneLatent:
        motion = _moving(name_of(self), latent)
        modes = torch.cat([self.factor * motion.modes[..., :-1], motion.modes[..., -1:]], -1)
        return replace(latent, motion=replace(motion, modes=modes))


STEPS: dict[str, type[Step]] = {
    "move": Move,
    "duplicate": Duplicate,
    "keep": Keep,
    "delete": Delete,
    "recolor": Recolor,
    "relight": Relight,
    "oscillate": Oscillate,
    "retime": Retime,
    "loop": Loop,
    "shift_phase": ShiftPhase,
    "amplify": Amplify,
}
"""Names of the steps in files and messages."""


def name_of(step: Step) -> str:
    """Name of a step in files and messages."""
    return next(name for name, kind in STEPS.items() if type(step) is kind)


def sample_motion(
    latent: SceneLatent, spread: float, scale: float = 0.0, generator: torch.Generator | None = None
) -> SceneLatent:
    """The scene with another start of its motion, drawn from around the learned one.

    Cyclic: each harmonic gets another amplitude (× exp(spread · n)) and phase (+ spread · n radians), for
    good. Free: the start moves by `spread` · `scale` in each component; a field with an attracting path leads
    back to that path.

    Args:
        latent: a scene that moves by an ODE.
        spread: 0 for the same motion; about 0.3 for one that clearly differs.
        scale: of free motion: largest standard deviation of its path, twice `VectorField.scale`.
        generator: of the random numbers n, on the CPU.

    Raises:
        EditError: the scene does not move, or its ODE has not taken over.
    """
    motion = _moving("sample_motion", latent)

    def normal(*shape: int) -> Tensor:
        return spread * torch.randn(*shape, generator=generator).to(motion.start)

    if motion.kind == "free":
        start = motion.start + scale * normal(len(motion.start))
    else:
        harmonics = torch.view_as_complex(motion.start.unflatten(0, (-1, 2)).contiguous())
        change = torch.polar(normal(len(harmonics)).exp(), normal(len(harmonics)))
        start = torch.view_as_real(harmonics * change).flatten()
    return replace(latent, motion=replace(motion, start=start))


def _selected(step: Step, tokens: Selection, latent: SceneLatent) -> Bool[Tensor, " k"]:
    chosen = tokens.mask(latent)
    if not chosen.any():
        low, high = latent.translations.amin(0).tolist(), latent.translations.amax(0).tolist()
        raise EditError(
            f"{name_of(step)}: {tokens} selects none of the {len(latent)} tokens, which lie between "
            f"{[round(x, 3) for x in low]} and {[round(x, 3) for x in high]}"
        )
    return chosen


def _moving(name: str, latent: SceneLatent) -> MotionCode:
    if latent.motion.kind == "still":
        raise EditError(
            f"{name}: the scene does not move by an ODE. One of nest-dynamic does once its training log "
            "says that the ODE takes over, others do after `oscillate`"
        )
    return latent.motion


def _pose(step: Move | Duplicate, positions: Tensor) -> Pose:
    """x ↦ R (x − c) + c + t."""
    quat = quat_exp(positions.new_tensor(step.rotation))
    quat = torch.where(quat[0] < 0, -quat, quat)  # skinning blends quaternions of neighbours, of equal sign
    centre = positions.mean(0) if step.about is None else positions.new_tensor(step.about)
    turned = se3_apply((quat, torch.zeros_like(centre)), centre)
    return quat, centre + positions.new_tensor(step.translation) - turned


def is_finite(value: object) -> bool:
    """Whether a number, or all numbers of a tuple, are finite."""
    return all(map(is_finite, value)) if isinstance(value, tuple) else math.isfinite(value)  # type: ignore[arg-type]
