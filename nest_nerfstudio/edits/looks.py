"""Steps that change colours and light."""

from __future__ import annotations

from dataclasses import dataclass, replace

from nest_nerfstudio.edits.base import Codes, EditableField, EditError, Step, by_ids, selected
from nest_nerfstudio.edits.light import sun_sky_light
from nest_nerfstudio.edits.selection import ALL, Selection, Vector
from nest_nerfstudio.geometry.quaternion import quat_exp, quat_to_rotmat
from nest_nerfstudio.states import SunSky
from nest_nerfstudio.types import SceneLatent

Coefficients = tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class Recolor(Step):
    """Shift the hue of tokens' colours, and then scale their channels.

    Attributes:
        hue: fraction of a turn.
        gain: factor of red, green and blue, > 0.
        tokens: which tokens.
    """

    name = "recolor"
    hue: float = 0.0
    gain: Vector = (1.0, 1.0, 1.0)
    tokens: Selection = ALL

    def __post_init__(self) -> None:
        if min(self.gain) <= 0:
            raise ValueError(f"gain must be greater than 0, not {self.gain}")

    def apply(self, latent: SceneLatent, field: EditableField) -> SceneLatent:
        return field.recolor(latent, selected(self, self.tokens, latent), self.hue, self.gain)

    def inverse(self, latent: SceneLatent, field: EditableField) -> tuple[Step, ...]:
        red, green, blue = self.gain
        steps = (Recolor(gain=(1 / red, 1 / green, 1 / blue)), Recolor(-self.hue))
        chosen = by_ids(selected(self, self.tokens, latent), latent)
        return tuple(replace(step, tokens=some) for some in chosen for step in steps)


@dataclass(frozen=True)
class Traverse(Step):
    """Change codes of tokens along the principal directions in which those of training scenes differ.

    Each token's code changes by the same, Σ_i c_i σ_i v_i, whichever tokens stand beside it.

    Attributes:
        factor: "geometry" (size and form of what each token carries) or "appearance".
        coefficients: c of the first directions, in standard deviations σ of the training scenes' tokens.
        tokens: which tokens.
    """

    name = "traverse"
    factor: Codes
    coefficients: tuple[float, ...]
    tokens: Selection = ALL

    def __post_init__(self) -> None:
        if not self.coefficients:
            raise ValueError("`coefficients` needs a number or more")

    def apply(self, latent: SceneLatent, field: EditableField) -> SceneLatent:
        directions, count = field.directions(self.factor), len(self.coefficients)
        if not len(directions):
            raise EditError(
                f"{self.name}: no principal directions of {self.factor} are known; scenes of a nest-prior "
                "that was trained by this version have them, and inverted ones that are not refined"
            )
        if count > len(directions):
            raise EditError(
                f"{self.name}: {count} `coefficients`, but {self.factor} has {len(directions)} directions"
            )
        change = latent.geometry.new_tensor(self.coefficients) @ directions[:count].to(latent.geometry)
        return field.traverse(latent, selected(self, self.tokens, latent), self.factor, change)

    def inverse(self, latent: SceneLatent, field: EditableField) -> tuple[Step, ...]:
        back = replace(self, coefficients=tuple(-c for c in self.coefficients))
        chosen = by_ids(selected(self, self.tokens, latent), latent)
        return tuple(replace(back, tokens=some) for some in chosen)


@dataclass(frozen=True)
class Relight(Step):
    """Turn and scale the environment light, or replace it.

    Attributes:
        rotation: rotation vector (axis times angle in radians).
        gain: factor, ≥ 0.
        light: a sun and a sky in place of the scene's own light, before rotation and gain.
        coefficients: spherical harmonics in its place: 9 numbers for red, green and blue, as in
            `SceneLatent.light`.
    """

    name = "relight"
    rotation: Vector = (0.0, 0.0, 0.0)
    gain: float = 1.0
    light: SunSky | None = None
    coefficients: Coefficients | None = None

    def __post_init__(self) -> None:
        if self.gain < 0:
            raise ValueError(f"gain must not be negative, it is {self.gain}")
        if self.light is not None:
            if not any(self.light.direction):
                raise ValueError("the `direction` of the light must not be zero; [0, 0, -1] shines down")
            if min(self.light.sun, self.light.ambient) < 0:
                raise ValueError("`sun` and `ambient` of the light must not be negative")
        if self.coefficients is not None:
            if self.light is not None:
                raise ValueError("give either a `light` or its `coefficients`")
            if any(len(channel) != 9 for channel in self.coefficients):
                raise ValueError("`coefficients` are 9 numbers for each of red, green and blue")

    def apply(self, latent: SceneLatent, field: EditableField) -> SceneLatent:
        require_light(self, field)
        if self.light is not None:
            latent = replace(latent, light=sun_sky_light(self.light, latent.light))
        if self.coefficients is not None:
            latent = replace(latent, light=latent.light.new_tensor(self.coefficients))
        if not any(self.rotation) and self.gain == 1:
            return latent
        rotation = quat_to_rotmat(quat_exp(latent.light.new_tensor(self.rotation)))
        return latent.relight(rotation, self.gain)

    def inverse(self, latent: SceneLatent, field: EditableField) -> tuple[Step, ...]:
        require_light(self, field)
        if self.light is None and self.coefficients is None and self.gain > 0:
            x, y, z = self.rotation
            return (Relight((-x, -y, -z), 1 / self.gain),)
        red, green, blue = (tuple(channel) for channel in latent.light.tolist())
        return (Relight(coefficients=(red, green, blue)),)


def require_light(step: Step, field: EditableField) -> None:
    """EditError for a scene whose light is not known."""
    if not field.knows_light:
        raise EditError(
            f"{step.name}: the colours of this scene are baked and its light is not known; `recolor` with a "
            "`gain` makes it brighter or darker"
        )
