"""Steps that change motion and time."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from nest_nerfstudio.edits.base import EditableField, EditError, Step, by_ids, selected
from nest_nerfstudio.edits.placing import centre_of, negated
from nest_nerfstudio.edits.selection import ALL, Selection, Vector
from nest_nerfstudio.geometry.quaternion import quat_to_rotmat
from nest_nerfstudio.geometry.se3 import se3_in_frames
from nest_nerfstudio.types import MotionCode, SceneLatent, TimeMap


@dataclass(frozen=True)
class Oscillate(Step):
    """Give a scene that stands still a motion: tokens swing about their rest poses as a cosine of the time.

    Attributes:
        period: in clips, > 0.
        translation: amplitude, world units, along world axes at rest.
        rotation: amplitude as a rotation vector in radians, world axes at rest, about each token's origin.
        tokens: which tokens.
    """

    name = "oscillate"
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
        chosen = selected(self, self.tokens, latent)
        world = latent.translations.new_tensor([self.translation, self.rotation])
        twists = (quat_to_rotmat(latent.quats).mT @ world.mT).mT.flatten(1) * chosen[:, None]
        return replace(latent, motion=_swinging(latent, twists, self.period))


@dataclass(frozen=True)
class Travel(Step):
    """Let tokens go on by so much per clip while they move: what walks on the spot walks across the scene.

    A scene that stands still travels as a whole thing does. Adds to the drift that is there.

    Attributes:
        translation: world units per clip, along world axes.
        rotation: rotation vector, radians per clip: round a bend.
        about: point that the rotation leaves in place; None: the mean position of the tokens.
        tokens: which tokens.
    """

    name = "travel"
    translation: Vector = (0.0, 0.0, 0.0)
    rotation: Vector = (0.0, 0.0, 0.0)
    about: Vector | None = None
    tokens: Selection = ALL

    def apply(self, latent: SceneLatent, field: EditableField) -> SceneLatent:
        chosen, motion = selected(self, self.tokens, latent), latent.motion
        straight, turn = latent.translations.new_tensor([self.translation, self.rotation])
        twist = torch.cat([straight - torch.linalg.cross(turn, centre_of(self.about, latent, chosen)), turn])
        if motion.kind == "still":
            motion = _swinging(latent, torch.zeros_like(motion.drift), 1.0)
        drift = motion.drift + se3_in_frames(twist, latent.poses) * chosen[:, None]
        return replace(latent, motion=replace(motion, drift=drift))

    def inverse(self, latent: SceneLatent, field: EditableField) -> tuple[Step, ...]:
        if latent.motion.kind == "still":
            raise EditError("travel: has no inverse where the scene stood still before")
        chosen = selected(self, self.tokens, latent)
        about = tuple(centre_of(self.about, latent, chosen).tolist())
        back = Travel(negated(self.translation), negated(self.rotation), about)  # type: ignore[arg-type]
        return tuple(replace(back, tokens=tokens) for tokens in by_ids(chosen, latent))


def _swinging(latent: SceneLatent, twists: Float[Tensor, "k 6"], period: float) -> MotionCode:
    """The motion by twists that go as a cosine of the time: no prior's, so it has no scene code."""
    return replace(
        latent.motion,
        start=twists.new_tensor([1.0, 0.0]),
        modes=torch.stack([twists, torch.zeros_like(twists), torch.zeros_like(twists)], -1),
        scene_code=twists.new_zeros(0),
        period=twists.new_tensor(period),
        kind="cyclic",
    )


@dataclass(frozen=True)
class Retime(Step):
    """Show at clip time t what the scene showed at speed · t + offset.

    Attributes:
        speed: 2 is twice as fast, −1 runs backwards, 0 stands still.
        offset: in clips.
    """

    name = "retime"
    speed: float = 1.0
    offset: float = 0.0

    def apply(self, latent: SceneLatent, field: EditableField) -> SceneLatent:
        return _retimed(self, latent, TimeMap(self.speed, self.offset))

    def inverse(self, latent: SceneLatent, field: EditableField) -> tuple[Step, ...]:
        if self.speed == 0:
            raise EditError("retime: a speed of 0 stops time, which has no inverse")
        return (Retime(1 / self.speed, -self.offset / self.speed),)


@dataclass(frozen=True)
class Reverse(Step):
    """Run the clip backwards: show at clip time t what the scene showed at 1 − t."""

    name = "reverse"

    def apply(self, latent: SceneLatent, field: EditableField) -> SceneLatent:
        return _retimed(self, latent, TimeMap(-1.0, 1.0))

    def inverse(self, latent: SceneLatent, field: EditableField) -> tuple[Step, ...]:
        return (Reverse(),)


@dataclass(frozen=True)
class Freeze(Step):
    """Show one moment for ever.

    Attributes:
        time: clip time of the moment.
    """

    name = "freeze"
    time: float

    def apply(self, latent: SceneLatent, field: EditableField) -> SceneLatent:
        return _retimed(self, latent, TimeMap(0.0, self.time))


@dataclass(frozen=True)
class Loop(Step):
    """Repeat a span of the clip for ever without a seam.

    Attributes:
        start: first clip time of the span.
        end: last one.
        fade: part of the span, in clips, over which poses blend into those on the other side of the seam.
    """

    name = "loop"
    start: float
    end: float
    fade: float = 0.0

    def __post_init__(self) -> None:
        TimeMap(loop=(self.start, self.end), fade=self.fade)  # checks them

    def apply(self, latent: SceneLatent, field: EditableField) -> SceneLatent:
        motion = _moving(self.name, latent)
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

    name = "shift_phase"
    turns: float

    def apply(self, latent: SceneLatent, field: EditableField) -> SceneLatent:
        motion = _moving(self.name, latent)
        if motion.kind != "cyclic":
            raise EditError("shift_phase: the motion is not cyclic; `retime` with an `offset` shifts it")
        return replace(latent, motion=replace(motion, phase=motion.phase + self.turns))

    def inverse(self, latent: SceneLatent, field: EditableField) -> tuple[Step, ...]:
        return (ShiftPhase(-self.turns),)


@dataclass(frozen=True)
class Amplify(Step):
    """Larger or smaller motion about the same mean pose; what travels also gets further, or less far.

    Attributes:
        factor: 0 stands still in the mean pose.
    """

    name = "amplify"
    factor: float

    def apply(self, latent: SceneLatent, field: EditableField) -> SceneLatent:
        motion = _moving(self.name, latent)
        modes = torch.cat([self.factor * motion.modes[..., :-1], motion.modes[..., -1:]], -1)
        return replace(latent, motion=replace(motion, modes=modes, drift=self.factor * motion.drift))

    def inverse(self, latent: SceneLatent, field: EditableField) -> tuple[Step, ...]:
        if self.factor == 0:
            raise EditError("amplify: a factor of 0 forgets the motion, which has no inverse")
        return (Amplify(1 / self.factor),)


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


def _retimed(step: Step, latent: SceneLatent, inner: TimeMap) -> SceneLatent:
    motion = _moving(step.name, latent)
    return replace(latent, motion=replace(motion, time_map=motion.time_map.after(inner)))


def _moving(name: str, latent: SceneLatent) -> MotionCode:
    if latent.motion.kind == "still":
        raise EditError(
            f"{name}: the scene does not move by an ODE. One of nest-dynamic does once its training log "
            "says that the ODE takes over, others do after `oscillate`, or with a motion by `swap` or "
            "`generate_motion`"
        )
    return latent.motion
