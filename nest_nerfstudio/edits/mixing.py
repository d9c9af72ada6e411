"""Steps that take something from outside the scene: a factor of another one, or what a prior has learned."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from nest_nerfstudio.edits.base import EditableField, EditError, Step, selected
from nest_nerfstudio.edits.looks import require_light
from nest_nerfstudio.edits.selection import ALL, Selection
from nest_nerfstudio.geometry.se3 import se3_interpolate
from nest_nerfstudio.types import MotionCode, SceneLatent

MixedFactor = Literal["geometry", "appearance", "poses", "light", "motion"]


@runtime_checkable
class SharedMotion(Protocol):
    """What the scenes of a prior share of their motion: tokens of any of them answer to the code of any."""

    def retarget(self, latent: SceneLatent, motion: MotionCode) -> SceneLatent:
        """The scene with the motion code of another, and the modes that its own tokens have under it."""
        ...

    def generate(self, latent: SceneLatent, seed: int, spread: float) -> SceneLatent:
        """The scene with a new motion, drawn from those of training scenes; ValueError if there are none."""
        ...


@dataclass(frozen=True)
class OtherScene:
    """A scene that a step takes something from.

    Attributes:
        latent: Z.
        knows_light: whether `latent.light` is its light.
        shares_codes: whether its codes mean what those of the edited scene mean: one field decodes both.
        shares_flow: whether one vector field moves both.
        shared_motion: what their prior knows of motion, if both are of one that does.
    """

    latent: SceneLatent
    knows_light: bool
    shares_codes: bool
    shares_flow: bool
    shared_motion: SharedMotion | None = None


@runtime_checkable
class Scenes(Protocol):
    """Finds the scenes that steps name.

    Attributes:
        shared_motion: what the prior of the edited scene knows of motion; None: nothing, or it is of none.
    """

    @property
    def shared_motion(self) -> SharedMotion | None: ...

    def __call__(self, scene: str | None, run: str | None) -> OtherScene:
        """A scene of the edited scene's own run (`run` is None) or of another one; EditError if not there."""
        ...


class _NoScenes:
    """Finds none: for edits applied outside of a run."""

    shared_motion = None

    def __call__(self, scene: str | None, run: str | None) -> OtherScene:
        raise EditError("another scene can be named only where an edit belongs to a run")


NO_SCENES = _NoScenes()


class ScenesStep(Step):
    """A step that needs more than the scene itself."""

    def apply(self, latent: SceneLatent, field: EditableField) -> SceneLatent:
        return self.apply_among(NO_SCENES, latent, field)

    @abstractmethod
    def apply_among(self, scenes: Scenes, latent: SceneLatent, field: EditableField) -> SceneLatent:
        """The edited latent; EditError where one of the scenes cannot carry it."""


class MixingStep(ScenesStep):
    """A step that takes a factor of another scene."""

    factor: MixedFactor
    scene: str | None
    run: str | None
    tokens: Selection


@dataclass(frozen=True)
class Swap(MixingStep):
    """Take a factor from another scene; all other factors stay.

    Between scenes of a prior that has learned motion, a motion code drives any body: the modes of the tokens
    are those that the prior gives them, by their own geometry. Else each token takes the factor from its
    match: the assignment of tokens to tokens with the least squared distances, both scenes shifted and scaled
    to the same mean position and spread.

    Attributes:
        factor: "geometry" (codes, each in its token's frame), "appearance", "poses" (at rest), "light" or
            "motion".
        scene: name of a scene of the run, or of `run`.
        run: another run: its folder or config.yml, relative to the file of the edit.
        tokens: which tokens; all for light and motion.
    """

    name = "swap"
    factor: MixedFactor
    scene: str | None = None
    run: str | None = None
    tokens: Selection = ALL

    def __post_init__(self) -> None:
        _check(self)

    def apply_among(self, scenes: Scenes, latent: SceneLatent, field: EditableField) -> SceneLatent:
        return _mixed(self, latent, field, scenes(self.scene, self.run), 1.0)


@dataclass(frozen=True)
class Interpolate(MixingStep):
    """Go a part of the way to another scene in one factor; as `Swap` at the end of the way.

    Attributes:
        factor: as for `Swap`.
        amount: from 0, the scene as it is, to 1.
        scene: as for `Swap`.
        run: as for `Swap`.
        tokens: as for `Swap`.
    """

    name = "interpolate"
    factor: MixedFactor
    amount: float
    scene: str | None = None
    run: str | None = None
    tokens: Selection = ALL

    def __post_init__(self) -> None:
        _check(self)
        if not 0 <= self.amount <= 1:
            raise ValueError(f"`amount` is from 0 to 1, not {self.amount}")

    def apply_among(self, scenes: Scenes, latent: SceneLatent, field: EditableField) -> SceneLatent:
        return _mixed(self, latent, field, scenes(self.scene, self.run), self.amount)


def _check(step: MixingStep) -> None:
    if step.scene is None and step.run is None:
        raise ValueError("name a `scene` of this run, or another `run`")
    if step.factor in ("light", "motion") and step.tokens != ALL:
        raise ValueError(f"{step.factor} is one for the whole scene; leave out `tokens`")


def _mixed(
    step: MixingStep, latent: SceneLatent, field: EditableField, other: OtherScene, amount: float
) -> SceneLatent:
    if step.factor == "light":
        require_light(step, field)
        if not other.knows_light:
            raise EditError(f"{step.name}: the light of the other scene is not known, its colours are baked")
        return replace(latent, light=torch.lerp(latent.light, other.latent.light.to(latent.light), amount))
    has_code = other.latent.motion.kind == "still" or len(other.latent.motion.scene_code) > 0
    if step.factor == "motion" and other.shared_motion is not None and has_code:
        return _retargeted(step, latent, other, other.shared_motion, amount)
    matches = correspondences(latent, other.latent)
    if step.factor == "motion":
        return replace(latent, motion=_mixed_motion(step, latent, other, matches, amount))
    if not other.shares_codes:
        raise EditError(
            f"{step.name}: the other scene is of another model, whose {step.factor} means something else; "
            "light and cyclic motion can be taken from it"
        )
    chosen = selected(step, step.tokens, latent)[:, None]
    theirs = other.latent.select(matches)
    if step.factor == "poses":
        between = theirs.poses if amount == 1 else se3_interpolate(latent.poses, theirs.poses, amount)
        quats, translations = between
        quats = torch.where(chosen, quats, latent.quats)
        return replace(
            latent, quats=quats, translations=torch.where(chosen, translations, latent.translations)
        )
    ours = getattr(latent, step.factor)
    if not ours.shape[1]:
        raise EditError(f"{step.name}: this scene has no codes of {step.factor}; its Gaussians are free")
    mixed = torch.lerp(ours, getattr(theirs, step.factor), amount)
    return replace(latent, **{step.factor: torch.where(chosen, mixed, ours)})


def _retargeted(
    step: MixingStep, latent: SceneLatent, other: OtherScene, shared: SharedMotion, amount: float
) -> SceneLatent:
    """The code goes a part of the way; a scene that stands still takes the other's, of a part of its size."""
    ours, theirs = latent.motion, other.latent.motion
    if theirs.kind == "still":
        raise EditError(f"{step.name}: the other scene stands still, so it has no motion to give")
    if amount == 0:
        return latent
    code = theirs
    if ours.kind == theirs.kind and len(ours.scene_code) == len(theirs.scene_code):
        code = replace(theirs, **_between(ours, theirs, ("scene_code", "phase"), amount))
    elif ours.kind != "still" and amount < 1:
        raise EditError(
            f"{step.name}: this scene moves otherwise than by a code of its prior; `swap` replaces its motion"
        )
    moved = shared.retarget(latent, replace(code, time_map=ours.time_map))
    if ours.kind == "still" and amount < 1:
        return replace(moved, motion=replace(moved.motion, modes=amount * moved.motion.modes))
    return moved


def _between(
    ours: MotionCode, theirs: MotionCode, names: tuple[str, ...], amount: float
) -> dict[str, Tensor]:
    """Parts of two codes a part of the way from ours to theirs, and their period."""
    parts = {name: torch.lerp(getattr(ours, name), getattr(theirs, name), amount) for name in names}
    return {**parts, "period": torch.lerp(ours.period.log(), theirs.period.log(), amount).exp()}


def correspondences(latent: SceneLatent, other: SceneLatent) -> Int[Tensor, " k"]:
    """The token of another scene that each token matches in place; each is taken once if there are enough."""
    ours, theirs = (_normalized(scene.translations) for scene in (latent, other))
    costs = torch.cdist(ours, theirs).square()
    matches = costs.argmin(1)  # for those that are more than the others
    rows, columns = linear_sum_assignment(costs.numpy(force=True))
    matches[torch.from_numpy(rows).to(matches)] = torch.from_numpy(columns).to(matches)
    return matches


def _normalized(positions: Tensor) -> Tensor:
    centred = (positions - positions.mean(0)).double()
    return centred / _spread(positions)


def _spread(positions: Tensor) -> float:
    return max(positions.double().std(0, correction=0).norm().item(), 1e-9)


def _mixed_motion(
    step: MixingStep, latent: SceneLatent, other: OtherScene, matches: Int[Tensor, " k"], amount: float
) -> MotionCode:
    """Twists keep their angles; their translations are scaled by the sizes of the two scenes."""
    ours, theirs = latent.motion, other.latent.motion
    if theirs.kind == "still":
        raise EditError(f"{step.name}: the other scene does not move by an ODE, so it has no motion to give")
    if theirs.kind == "free" and not other.shares_flow:
        raise EditError(
            f"{step.name}: the other scene's motion does not repeat, and the vector field that leads it is "
            "in its own run; cyclic motion can be taken from any run"
        )
    scale = _spread(latent.translations) / _spread(other.latent.translations)
    units = theirs.modes.new_tensor([scale] * 3 + [1.0] * 3)
    modes, drift = (theirs.modes * units[:, None])[matches], (theirs.drift * units)[matches]
    theirs = replace(theirs, modes=modes, drift=drift, time_map=ours.time_map)
    theirs = _like(theirs, latent)
    if amount == 1:
        return theirs
    if amount == 0:
        return ours
    if ours.kind == "still":  # as theirs, but of no size
        return replace(theirs, modes=amount * theirs.modes, drift=amount * theirs.drift)
    if ours.kind != theirs.kind or len(ours.start) != len(theirs.start):
        raise EditError(
            f"{step.name}: one motion is {ours.kind} with {len(ours.start)} numbers of state, the other "
            f"{theirs.kind} with {len(theirs.start)}; `swap` replaces it"
        )
    if ours.kind == "cyclic":
        ours, theirs = _from_unit_start(ours), _from_unit_start(theirs)
    parts = _between(ours, theirs, ("start", "modes", "drift", "phase"), amount)
    return replace(ours, **parts, scene_code=theirs.scene_code)


def _like(motion: MotionCode, latent: SceneLatent) -> MotionCode:
    """The code on the device of a latent. What repeats needs no scene code, and one of another run says
    nothing here."""
    parts = ("start", "modes", "drift", "scene_code", "period", "phase")
    moved = {name: getattr(motion, name).to(latent.quats) for name in parts}
    if motion.kind == "cyclic":
        moved["scene_code"] = latent.motion.scene_code.new_zeros(0)
    return replace(motion, **moved)


def _from_unit_start(motion: MotionCode) -> MotionCode:
    """The same cyclic motion with every harmonic starting at (1, 0): its start goes into the modes."""
    x, y = motion.start.unflatten(0, (-1, 2)).unbind(-1)
    turns = torch.stack([torch.stack([x, -y], -1), torch.stack([y, x], -1)], -2)  # z_h = A_h z'_h
    modes = motion.modes[..., :-1].unflatten(-1, (-1, 2))[..., None, :] @ turns
    start = torch.zeros_like(motion.start)
    start[::2] = 1.0
    return replace(
        motion, start=start, modes=torch.cat([modes[..., 0, :].flatten(-2), motion.modes[..., -1:]], -1)
    )


@dataclass(frozen=True)
class GenerateMotion(ScenesStep):
    """Move as no scene does: by a motion drawn from a Gaussian fitted to the codes of the training scenes.

    Attributes:
        seed: which one.
        spread: factor of the standard deviations; 0 gives the mean motion.
    """

    name = "generate_motion"
    seed: int = 0
    spread: float = 1.0

    def __post_init__(self) -> None:
        if self.spread < 0 or self.seed < 0:
            raise ValueError(f"`seed` and `spread` are 0 or more, not {self.seed} and {self.spread}")

    def apply_among(self, scenes: Scenes, latent: SceneLatent, field: EditableField) -> SceneLatent:
        if scenes.shared_motion is None:
            raise EditError(
                f"{self.name}: motion is drawn from what a nest-prior has learned of it (dynamics), and this "
                "scene is of none that has, or it was refined"
            )
        try:
            return scenes.shared_motion.generate(latent, self.seed, self.spread)
        except ValueError as error:
            raise EditError(f"{self.name}: {error}") from error
