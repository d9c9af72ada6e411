"""A latent as trainable parameters, each factor in a chart in which plain steps are steps on its manifold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nest_nerfstudio.geometry.albedo_cube import albedo_logits
from nest_nerfstudio.geometry.se3 import se3_plus
from nest_nerfstudio.types import WORLD, MotionCode, MotionKind, SceneLatent

Factor = Literal["poses", "geometry", "appearance", "light", "motion", "motion_code"]
"""What can be learned of a latent; `motion_code` is scene code, period and phase alone, where a `MotionMap`
of many scenes gives the rest of the motion."""
KINDS: tuple[MotionKind, ...] = ("still", "free", "cyclic")
_FIXED = ("ids", "copies", "quats", "translations", "geometry", "appearance", "light")
_MOTION = ("start", "modes", "drift", "scene_code", "period", "phase")
_LEARNED_MOTION: dict[Factor, tuple[str, ...]] = {
    "motion": ("start", "modes", "scene_code"),
    "motion_code": ("scene_code", "phase"),
}


class LatentParameters(nn.Module):
    """Holds a `SceneLatent`, some factors of which are learned; call it to get the latent.

    Charts: poses T · exp ξ with ξ = 0 at the start, so that steps are in each token's own frame; albedo as
    logits; the period as its logarithm; codes, light and the other parts of the motion as they are.

    Parameters (of the learned factors): `shifts` [K, 3] and `turns` [K, 3], the parts of ξ in world units and
    radians; `geometry`; `appearance`; `light`; `start`, `modes`, `scene_code` and `log_period` of the motion,
    or `scene_code`, `phase` and `log_period` of a motion code. Everything else is in buffers, so the state
    dict holds the whole latent but its time map, which edits alone change.
    """

    learn_period: Tensor
    kind: Tensor
    base_ids: Tensor
    base_quats: Tensor
    base_translations: Tensor
    base_modes: Tensor
    base_drift: Tensor
    base_scene_code: Tensor
    shifts: Tensor
    turns: Tensor
    appearance: Tensor
    log_period: Tensor

    def __init__(self, latent: SceneLatent, learn: Iterable[Factor] = (), albedo: bool = False) -> None:
        super().__init__()
        self.learned, self.albedo = frozenset(learn), albedo
        self.time_map = latent.motion.time_map
        self.register_buffer("learn_period", torch.tensor(True))
        self.register_buffer("kind", torch.tensor(KINDS.index(latent.motion.kind)))
        for name in _FIXED:
            self.register_buffer(f"base_{name}", getattr(latent, name).detach().clone())
        for name in _MOTION:
            self.register_buffer(f"base_{name}", getattr(latent.motion, name).detach().clone())
        zeros = torch.zeros_like(latent.translations)
        charts: dict[Factor, dict[str, Tensor]] = {
            "poses": {"shifts": zeros, "turns": zeros.clone()},
            "geometry": {"geometry": latent.geometry},
            "appearance": {"appearance": albedo_logits(latent.appearance) if albedo else latent.appearance},
            "light": {"light": latent.light},
            **{factor: _motion_chart(latent.motion, factor) for factor in _LEARNED_MOTION},
        }
        for factor in self.learned:
            for name, value in charts[factor].items():
                self.register_parameter(name, nn.Parameter(value.detach().clone()))

    @classmethod
    def from_latent(
        cls, latent: SceneLatent, learn: Iterable[Factor], albedo: bool = False
    ) -> LatentParameters:
        """Make factors of a latent trainable.

        Args:
            latent: the start.
            learn: factors that are learned; the others stay as they are.
            albedo: `appearance` holds albedo in (0, 1), which is learned as logits.
        """
        return cls(latent, learn, albedo)

    def forward(self) -> SceneLatent:
        base = {name: getattr(self, f"base_{name}") for name in _FIXED}
        if "poses" in self.learned:
            poses = base["quats"], base["translations"]
            twists = torch.cat([self.shifts, self.turns], 1)
            base["quats"], base["translations"] = se3_plus(poses, twists)
        for name in ("geometry", "light"):
            if name in self.learned:
                base[name] = getattr(self, name)
        if "appearance" in self.learned:
            base["appearance"] = self.appearance.sigmoid() if self.albedo else self.appearance
        return SceneLatent(**base, motion=self._motion())

    def _motion(self) -> MotionCode:
        kind = KINDS[int(self.kind)]
        parts = {name: getattr(self, f"base_{name}") for name in _MOTION}
        for factor in self.learned & _LEARNED_MOTION.keys():
            parts |= {name: getattr(self, name) for name in _LEARNED_MOTION[factor]}
            period = self.log_period.exp()
            parts["period"] = period if self.learn_period else period.detach()
        return MotionCode(**parts, kind=kind, time_map=self.time_map)

    @torch.no_grad()
    def set_poses(self, quats: Tensor, translations: Tensor) -> None:
        """Put the tokens at rest at these poses."""
        self.base_quats.copy_(quats)
        self.base_translations.copy_(translations)
        if "poses" in self.learned:
            self.shifts.zero_()
            self.turns.zero_()

    @torch.no_grad()
    def add_world(self) -> None:
        """Make the last token that of the world, which no motion moves."""
        self.base_ids[-1] = WORLD

    @torch.no_grad()
    def set_motion(self, motion: MotionCode, learn_period: bool = True) -> None:
        """Replace the motion code by another of the same sizes, and say whether its period is learned."""
        for name in _MOTION:
            getattr(self, f"base_{name}").copy_(getattr(motion, name))
        for factor in self.learned & _LEARNED_MOTION.keys():
            for name, value in _motion_chart(motion, factor).items():
                getattr(self, name).copy_(value)
        self.kind.fill_(KINDS.index(motion.kind))
        self.learn_period.fill_(learn_period)
        self.time_map = motion.time_map

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """A latent that was stored without a drift does not travel."""
        state_dict.setdefault(f"{prefix}base_drift", torch.zeros_like(self.base_drift))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def stand_still(self) -> None:
        """Forget the motion code."""
        tokens, _, state_dim = self.base_modes.shape
        self.set_motion(
            MotionCode.still(tokens, self.base_modes, state_dim - 1, self.base_scene_code.shape[0])
        )


def _motion_chart(motion: MotionCode, factor: Factor) -> dict[str, Tensor]:
    parts = {name: getattr(motion, name) for name in _LEARNED_MOTION[factor]}
    return {**parts, "log_period": motion.period.log()}


def detached(latent: SceneLatent) -> SceneLatent:
    """The same latent outside the graph."""
    parts = {name: getattr(latent, name).detach() for name in _FIXED}
    motion = {name: getattr(latent.motion, name).detach() for name in _MOTION}
    return replace(latent, **parts, motion=replace(latent.motion, **motion))


def still_latent(
    num_tokens: int, appearance_dim: int, state_dim: int, code_dim: int = 0, geometry_dim: int = 0
) -> SceneLatent:
    """Tokens at the origin that do not move, of zero geometry, appearance and light."""
    zeros = torch.zeros(num_tokens, 3)
    return SceneLatent(
        ids=torch.arange(num_tokens),
        copies=torch.zeros(num_tokens, dtype=torch.long),
        quats=torch.tensor([1.0, 0, 0, 0]).repeat(num_tokens, 1),
        translations=zeros,
        geometry=torch.zeros(num_tokens, geometry_dim),
        appearance=torch.zeros(num_tokens, appearance_dim),
        light=torch.zeros(3, 9),
        motion=MotionCode.still(num_tokens, zeros, state_dim, code_dim),
    )
