"""The contract of f_θ: a latent to rigged Gaussians."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nest_nerfstudio.types import RiggedGaussians, SceneLatent

Codes = Literal["geometry", "appearance"]
"""Factors of a latent that are codes of its tokens."""


class Field(nn.Module, ABC):
    """Decodes a latent once for a scene, whatever its time, light and the poses of its tokens.

    Rows of the result's rig are rows of Z: tokens that are not in Z take their Gaussians with them, and a
    token that is there twice brings them twice. So f(p·Z) and f(Z) are one scene for every permutation p.
    """

    knows_light: bool
    """Whether its scenes have a material, which light shades."""

    @abstractmethod
    def forward(self, latent: SceneLatent) -> RiggedGaussians:
        """The scene at rest, with a rig and, where the field knows it, a material."""

    @abstractmethod
    def recolor(
        self, latent: SceneLatent, tokens: Bool[Tensor, " k"], hue: float, gain: tuple[float, float, float]
    ) -> SceneLatent:
        """The latent with other colours, an action on `appearance` alone.

        Args:
            latent: of a scene of this field.
            tokens: which tokens are recoloured.
            hue: shift of the hue, as a fraction of a turn.
            gain: factor of red, green and blue, > 0.
        """

    def directions(self, factor: Codes) -> Float[Tensor, "d c"]:
        """Principal directions of the codes of training scenes, each one standard deviation long.

        Args:
            factor: which codes.

        Returns:
            From the largest to the smallest; none where the field has not been trained on many scenes.
        """
        return torch.zeros(0, 0)

    def traverse(
        self, latent: SceneLatent, tokens: Bool[Tensor, " k"], factor: Codes, change: Float[Tensor, " c"]
    ) -> SceneLatent:
        """The latent whose codes of some tokens are all changed alike.

        Args:
            latent: of a scene of this field.
            tokens: which tokens are changed.
            factor: which codes.
            change: in the space of `directions`.
        """
        codes = getattr(latent, factor)
        return replace(latent, **{factor: torch.where(tokens[:, None], codes + change, codes)})
