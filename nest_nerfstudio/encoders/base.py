"""The contract of h_φ: from observations of a scene to its latent."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import nn

from nest_nerfstudio.types import Points, SceneLatent, Views


class Encoder(nn.Module, ABC):
    """Encodes a scene, equivariantly under its group: h(g·X) = g·h(X)."""

    @abstractmethod
    def forward(
        self, views: Views | None, points: Points | None = None, num_tokens: int | None = None
    ) -> SceneLatent:
        """The latent of a scene that is given by images, by points, or by both.

        Args:
            views: V ≥ 1 posed images, in any order.
            points: a coloured point cloud, in any order.
            num_tokens: largest number of tokens; None takes the encoder's default. There are fewer where the
                scene has fewer distinct positions.

        Raises:
            ValueError: nothing to encode, or input that cannot be encoded.
        """
