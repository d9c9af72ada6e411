"""The contract of steps: actions on a latent, with inverses where they exist."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, Literal, Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor

from nest_nerfstudio.edits.selection import ALL, Ids, Selection, Vector
from nest_nerfstudio.types import SceneLatent

Codes = Literal["geometry", "appearance"]
"""Factors of a latent that are codes of its tokens."""


class EditError(ValueError):
    """A step that a scene cannot carry, that selects nothing, or that has no inverse."""


@runtime_checkable
class EditableField(Protocol):
    """What steps ask of the field of a scene; see `fields.base.Field`."""

    knows_light: bool

    def recolor(
        self, latent: SceneLatent, tokens: Bool[Tensor, " k"], hue: float, gain: Vector
    ) -> SceneLatent:
        """The latent with other colours."""
        ...

    def directions(self, factor: Codes) -> Float[Tensor, "d c"]:
        """Principal directions of the codes of training scenes; none where there are no such scenes."""
        ...

    def traverse(
        self, latent: SceneLatent, tokens: Bool[Tensor, " k"], factor: Codes, change: Float[Tensor, " c"]
    ) -> SceneLatent:
        """The latent with other codes."""
        ...


class Step(ABC):
    """One action on a latent; pure.

    Attributes:
        name: of the step in files and messages.
    """

    name: ClassVar[str]

    @abstractmethod
    def apply(self, latent: SceneLatent, field: EditableField) -> SceneLatent:
        """The edited latent.

        Raises:
            EditError: the scene cannot carry the action, or no token is selected.
        """

    def inverse(self, latent: SceneLatent, field: EditableField) -> tuple[Step, ...]:
        """Steps that lead back to a latent from what this step makes of it.

        They name their tokens by id, as this step may move tokens out of its own selection.

        Raises:
            EditError: the step has no inverse, or cannot be applied.
        """
        raise EditError(f"{self.name}: has no inverse, as what it replaces is kept nowhere")


def selected(step: Step, tokens: Selection, latent: SceneLatent) -> Bool[Tensor, " k"]:
    """The tokens of a step; EditError where there are none."""
    chosen = tokens.mask(latent)
    if not chosen.any():
        low, high = latent.translations.amin(0).tolist(), latent.translations.amax(0).tolist()
        raise EditError(
            f"{step.name}: {tokens} selects none of the {len(latent)} tokens, which lie between "
            f"{[round(x, 3) for x in low]} and {[round(x, 3) for x in high]}"
        )
    return chosen


def by_ids(chosen: Bool[Tensor, " k"], latent: SceneLatent) -> list[Selection]:
    """Selections that together are these tokens, wherever they are moved to: one for each copy."""
    if chosen.all():
        return [ALL]
    copies = latent.copies[chosen]
    return [Ids(tuple(latent.ids[chosen][copies == copy].tolist()), (int(copy),)) for copy in copies.unique()]


def is_finite(value: object) -> bool:
    """Whether a number, or all numbers of a tuple, are finite."""
    if isinstance(value, tuple):
        return all(map(is_finite, value))
    try:
        return math.isfinite(value)  # type: ignore[arg-type]
    except OverflowError:  # a whole number of more than 300 digits
        return False
