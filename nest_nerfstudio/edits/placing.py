"""Steps that place tokens: move, turn, scale, copy and drop them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nest_nerfstudio.edits.base import EditableField, EditError, Step, by_ids, selected
from nest_nerfstudio.edits.selection import ALL, Copies, Selection, Vector
from nest_nerfstudio.geometry.quaternion import quat_exp, quat_log, rotmat_to_quat
from nest_nerfstudio.geometry.se3 import Pose, se3_apply
from nest_nerfstudio.types import SceneLatent

Matrix = tuple[Vector, Vector, Vector]


@dataclass(frozen=True)
class Move(Step):
    """Move tokens, and all that follows them; the light stays.

    Attributes:
        translation: world units.
        rotation: rotation vector (axis times angle in radians), before the translation.
        about: point that the rotation leaves in place; None: the mean position of the tokens.
        tokens: which tokens.
    """

    name = "move"
    translation: Vector = (0.0, 0.0, 0.0)
    rotation: Vector = (0.0, 0.0, 0.0)
    about: Vector | None = None
    tokens: Selection = ALL

    def apply(self, latent: SceneLatent, field: EditableField) -> SceneLatent:
        chosen = selected(self, self.tokens, latent)
        moved = latent.move(_pose(self, centre_of(self.about, latent, chosen)), chosen)
        return moved if any(self.rotation) else replace(moved, quats=latent.quats)

    def inverse(self, latent: SceneLatent, field: EditableField) -> tuple[Step, ...]:
        chosen = selected(self, self.tokens, latent)
        centre = centre_of(self.about, latent, chosen) + latent.quats.new_tensor(self.translation)
        about = tuple(centre.tolist())
        back = Move(negated(self.translation), negated(self.rotation), about)  # type: ignore[arg-type]
        return tuple(replace(back, tokens=some) for some in by_ids(chosen, latent))


@dataclass(frozen=True)
class Turn(Step):
    """Turn tokens, and all that follows them, about an axis; the light stays.

    Attributes:
        degrees: angle, counterclockwise where the axis points at the viewer.
        axis: world frame, of any length > 0.
        matrix: a rotation matrix by rows, in place of angle and axis.
        about: point of the axis; None: the mean position of the tokens.
        tokens: which tokens.
    """

    name = "turn"
    degrees: float | None = None
    axis: Vector = (0.0, 0.0, 1.0)
    matrix: Matrix | None = None
    about: Vector | None = None
    tokens: Selection = ALL

    def __post_init__(self) -> None:
        if (self.degrees is None) == (self.matrix is None):
            raise ValueError("give either `degrees` (with an `axis`) or a `matrix`")
        if not any(self.axis):
            raise ValueError("`axis` has no direction; [0, 0, 1] points up")
        if self.matrix is not None:
            matrix = torch.tensor(self.matrix, dtype=torch.float64)
            if (matrix @ matrix.mT - torch.eye(3)).abs().max() > _ORTHOGONAL or matrix.det() < 0:
                raise ValueError(
                    "`matrix` is no rotation: its rows must be of length one and at right angles to each "
                    f"other, and its determinant one, not {matrix.det().item():.3g}; or give `axis` and "
                    "`degrees`"
                )

    def apply(self, latent: SceneLatent, field: EditableField) -> SceneLatent:
        return self._move(selected(self, self.tokens, latent), latent).apply(latent, field)

    def inverse(self, latent: SceneLatent, field: EditableField) -> tuple[Step, ...]:
        return self._move(selected(self, self.tokens, latent), latent).inverse(latent, field)

    def _move(self, chosen: Bool[Tensor, " k"], latent: SceneLatent) -> Move:
        if self.matrix is None:
            assert self.degrees is not None
            x, y, z = self.axis
            scale = math.radians(self.degrees) / math.hypot(x, y, z)
            vector = scale * x, scale * y, scale * z
        else:
            matrix = torch.tensor(self.matrix, dtype=torch.float64)
            vector = tuple(quat_log(rotmat_to_quat(matrix)).tolist())
        about = tuple(centre_of(self.about, latent, chosen).tolist())
        return Move(rotation=vector, about=about, tokens=self.tokens)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Scale(Step):
    """Scale tokens' arrangement, all that follows them, and the translations of their motion.

    Attributes:
        factor: > 0.
        about: point that stays in place; None: the mean position of the tokens.
        tokens: which tokens.
    """

    name = "scale"
    factor: float
    about: Vector | None = None
    tokens: Selection = ALL

    def __post_init__(self) -> None:
        if not self.factor > 0:
            raise ValueError(f"factor must be greater than 0, not {self.factor}")

    def apply(self, latent: SceneLatent, field: EditableField) -> SceneLatent:
        chosen = selected(self, self.tokens, latent)
        return latent.scale(self.factor, centre_of(self.about, latent, chosen), chosen)

    def inverse(self, latent: SceneLatent, field: EditableField) -> tuple[Step, ...]:
        chosen = selected(self, self.tokens, latent)
        about = tuple(centre_of(self.about, latent, chosen).tolist())
        back = Scale(1 / self.factor, about)  # type: ignore[arg-type]
        return tuple(replace(back, tokens=some) for some in by_ids(chosen, latent))


@dataclass(frozen=True)
class Duplicate(Step):
    """Add a copy of tokens, moved as by `Move`; it moves on its own by the same motion code.

    Attributes:
        translation: world units.
        rotation: rotation vector (axis times angle in radians), before the translation.
        about: point that the rotation leaves in place; None: the mean position of the tokens.
        tokens: which tokens.
    """

    name = "duplicate"
    translation: Vector
    rotation: Vector = (0.0, 0.0, 0.0)
    about: Vector | None = None
    tokens: Selection = ALL

    def apply(self, latent: SceneLatent, field: EditableField) -> SceneLatent:
        chosen = selected(self, self.tokens, latent)
        return latent.duplicate(chosen, _pose(self, centre_of(self.about, latent, chosen)))

    def inverse(self, latent: SceneLatent, field: EditableField) -> tuple[Step, ...]:
        copies = self.apply(latent, field).copies[len(latent) :]
        return (Delete(Copies(tuple(copies.unique().tolist()))),)


@dataclass(frozen=True)
class Keep(Step):
    """Keep tokens and what follows them, and drop all others.

    Attributes:
        tokens: which tokens.
    """

    name = "keep"
    tokens: Selection

    def apply(self, latent: SceneLatent, field: EditableField) -> SceneLatent:
        return latent.select(selected(self, self.tokens, latent))


@dataclass(frozen=True)
class Delete(Step):
    """Drop tokens and what follows them.

    Attributes:
        tokens: which tokens.
    """

    name = "delete"
    tokens: Selection

    def apply(self, latent: SceneLatent, field: EditableField) -> SceneLatent:
        chosen = selected(self, self.tokens, latent)
        if chosen.all():
            raise EditError("delete: all tokens are selected, so nothing would be left to draw")
        return latent.select(~chosen)


_ORTHOGONAL = 1e-3
"""Largest error of a matrix that is written with few digits."""


def centre_of(about: Vector | None, latent: SceneLatent, chosen: Bool[Tensor, " k"]) -> Float[Tensor, " 3"]:
    positions = latent.translations
    return positions[chosen].mean(0) if about is None else positions.new_tensor(about)


def _pose(step: Move | Duplicate, centre: Float[Tensor, " 3"]) -> Pose:
    """x ↦ R (x − c) + c + t."""
    quat = quat_exp(centre.new_tensor(step.rotation))
    quat = torch.where(quat[0] < 0, -quat, quat)  # skinning blends quaternions of neighbours, of equal sign
    turned = se3_apply((quat, torch.zeros_like(centre)), centre)
    return quat, centre + centre.new_tensor(step.translation) - turned


def negated(vector: Vector) -> Vector:
    return -vector[0], -vector[1], -vector[2]
