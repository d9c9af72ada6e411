"""The contract of f_θ: a posed latent to Gaussians."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import nn

from nest_nerfstudio.types import Gaussians, SceneLatent


class Field(nn.Module, ABC):
    """Decodes a latent into Gaussians in the frame of the latent's poses."""

    @abstractmethod
    def forward(self, latent: SceneLatent) -> Gaussians:
        """Gaussians of the scene as its tokens now stand, world frame."""
