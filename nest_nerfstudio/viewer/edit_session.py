"""What a person has done in the edit panel, as an edit; without any element of the viewer."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from nest_nerfstudio.edits.base import Codes
from nest_nerfstudio.edits.mixing import MixedFactor
from nest_nerfstudio.edits.scene_edit import SceneEdit
from nest_nerfstudio.edits.selection import ALL, Selection, Vector
from nest_nerfstudio.edits.steps import (
    GenerateMotion,
    Interpolate,
    Move,
    Recolor,
    Relight,
    Retime,
    ShiftPhase,
    Step,
    Traverse,
)
from nest_nerfstudio.geometry.quaternion import quat_exp, quat_log, quat_multiply

TRAVERSED: tuple[Codes, ...] = ("geometry", "appearance")
NUM_DIRECTIONS = 3
"""Principal directions of each that have a control."""
_NOWHERE = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class TokenChange:
    """What was done to one selection of tokens.

    Attributes:
        tokens: the selection.
        centre: that their rotation leaves in place, world units.
        translation: world units.
        rotation: rotation vector.
        hue: fraction of a turn.
        gain: factor of all channels.
        geometry_1: along the first principal direction of geometry, standard deviations; 2 and 3 as well.
        appearance_1: the same of appearance.
    """

    tokens: Selection = ALL
    centre: Vector = _NOWHERE
    translation: Vector = _NOWHERE
    rotation: Vector = _NOWHERE
    hue: float = 0.0
    gain: float = 1.0
    geometry_1: float = 0.0
    geometry_2: float = 0.0
    geometry_3: float = 0.0
    appearance_1: float = 0.0
    appearance_2: float = 0.0
    appearance_3: float = 0.0

    def steps(self) -> tuple[Step, ...]:
        """As steps; those that would change nothing are left out."""
        steps: tuple[Step, ...] = ()
        if any(self.translation) or any(self.rotation):
            steps += (Move(self.translation, self.rotation, self.centre, self.tokens),)
        for factor in TRAVERSED:
            coefficients = tuple(getattr(self, f"{factor}_{i}") for i in range(1, NUM_DIRECTIONS + 1))
            if any(coefficients):
                steps += (Traverse(factor, coefficients, self.tokens),)
        if self.hue or self.gain != 1:
            steps += (Recolor(self.hue, (self.gain, self.gain, self.gain), self.tokens),)
        return steps


@dataclass(frozen=True)
class SceneChange:
    """What was done to the light and the motion, and taken from another scene.

    Attributes:
        azimuth: turn of the light about z, degrees, after its elevation.
        elevation: turn of the light about x, degrees.
        light_gain: its factor.
        speed: of time.
        phase: shift of cyclic motion, fraction of a cycle.
        scene: another scene of the run.
        factor: what is taken from it.
        amount: how much.
        new_motion: number of a motion that is drawn anew; 0: its own.
    """

    azimuth: float = 0.0
    elevation: float = 0.0
    light_gain: float = 1.0
    speed: float = 1.0
    phase: float = 0.0
    scene: str | None = None
    factor: MixedFactor = "appearance"
    amount: float = 0.0
    new_motion: int = 0

    def steps(self) -> tuple[Step, ...]:
        """As steps; those that would change nothing are left out."""
        steps: tuple[Step, ...] = ()
        if self.new_motion:
            steps += (GenerateMotion(seed=self.new_motion),)
        if self.scene is not None and self.amount:
            steps += (Interpolate(self.factor, self.amount, self.scene),)
        if self.azimuth or self.elevation or self.light_gain != 1:
            about_z, about_x = quat_exp(
                torch.tensor(
                    [[0.0, 0.0, math.radians(self.azimuth)], [math.radians(self.elevation), 0.0, 0.0]]
                )
            )
            x, y, z = quat_log(quat_multiply(about_z, about_x)).tolist()
            steps += (Relight((x, y, z), self.light_gain),)
        if self.phase:
            steps += (ShiftPhase(self.phase),)
        if self.speed != 1:
            steps += (Retime(self.speed),)
        return steps


@dataclass(frozen=True)
class _State:
    changes: tuple[TokenChange, ...] = (TokenChange(),)
    scene: SceneChange = SceneChange()


@dataclass
class EditSession:
    """Changes made so far, the last of which controls are still changing.

    Attributes:
        base: the edit that the scene had before.
        first_scene: the other scene from which something is taken until another is chosen.
    """

    base: SceneEdit = field(default_factory=SceneEdit)
    first_scene: str | None = None
    _state: _State = field(init=False)
    _past: list[_State] = field(default_factory=list)
    _last: tuple[str, int] | None = None

    def __post_init__(self) -> None:
        self._state = self._nothing_done()

    @property
    def tokens(self) -> TokenChange:
        """What is done to the tokens that are selected now."""
        return self._state.changes[-1]

    @property
    def scene(self) -> SceneChange:
        """What is done to the whole scene."""
        return self._state.scene

    def edit(self) -> SceneEdit:
        """All of it."""
        steps = [step for change in self._state.changes for step in change.steps()]
        return self.base.then(SceneEdit((*steps, *self._state.scene.steps())))

    def select(self, tokens: Selection, centre: Vector) -> None:
        """Change these tokens from now on; `centre` is their mean position at rest."""
        kept = [change for change in self._state.changes if change.steps()]
        self._keep("select")
        self._state = replace(self._state, changes=(*kept, TokenChange(tokens, centre)))

    def change_tokens(self, **values: Any) -> None:
        """Set attributes of what is done to the selected tokens."""
        self._keep(*values)
        *before, last = self._state.changes
        self._state = replace(self._state, changes=(*before, replace(last, **values)))

    def change_scene(self, **values: Any) -> None:
        """Set attributes of what is done to the whole scene."""
        self._keep(*values)
        self._state = replace(self._state, scene=replace(self._state.scene, **values))

    def undo(self) -> bool:
        """Take the last change back, a whole drag of a control at once; False if there is none."""
        self._last = None
        if not self._past:
            return False
        self._state = self._past.pop()
        return True

    def reset(self) -> None:
        """Take everything back; `undo` brings it again."""
        self._keep("reset")
        self._state = self._nothing_done()

    def _nothing_done(self) -> _State:
        return _State(scene=SceneChange(scene=self.first_scene))

    def _keep(self, *names: str) -> None:
        """Remember the state before a change, unless the last one was of the same control."""
        what = " ".join(names), len(self._state.changes)
        if what != self._last or names[0] in ("select", "reset"):
            self._past.append(self._state)
        self._last = what
