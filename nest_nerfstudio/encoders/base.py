"""The contract of h_φ: observations of a scene to its latent."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import nn

from nest_nerfstudio.types import Points, SceneLatent, Views


class Encoder(nn.Module, ABC):
    """Encodes a scene; commutes with its group: turning what is observed by g turns the latent by g."""

    @abstractmethod
    def forward(
        self, views: Views | None, points: Points | None = None, num_tokens: int | None = None
    ) -> SceneLatent:
        """The latent of a scene that was seen in pictures, as points, or both.

        Args:
            views: V ≥ 1 posed pictures, in any order.
            points: a coloured point cloud, in any order.
            num_tokens: K, at most; None takes the encoder's default. Fewer where there are fewer sites.

        Raises:
            ValueError: nothing to encode.
        """
