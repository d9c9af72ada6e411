"""The latent of one scene as trainable parameters."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nest_nerfstudio.types import MotionCode, SceneLatent


class TrainableLatent(nn.Module):
    """Holds a `SceneLatent` in its rest pose; call it to get the latent.

    A refined scene keeps geometry and colour in its bound Gaussians, so shape and appearance codes are empty.
    """

    quats: Tensor
    translations: Tensor
    light: Tensor

    def __init__(self, num_tokens: int, state_dim: int, token_code_dim: int) -> None:
        super().__init__()
        self.register_buffer("quats", torch.tensor([1.0, 0, 0, 0]).repeat(num_tokens, 1))
        self.register_buffer("translations", torch.zeros(num_tokens, 3))
        self.register_buffer("light", torch.zeros(3, 9))
        self.start = nn.Parameter(torch.zeros(state_dim))
        self.token_codes = nn.Parameter(torch.zeros(num_tokens, token_code_dim))
        self.token_modes = nn.Parameter(torch.zeros(num_tokens, 6, state_dim + 1))

    @torch.no_grad()
    def place_tokens(self, positions: Float[Tensor, "k 3"]) -> None:
        """Put the tokens at rest, and start their codes as smooth functions of their places.

        Codes are random Fourier features (Rahimi and Recht 2007) of the positions scaled to unit spread, so
        that neighbours begin to move alike. From then on they are plain numbers, which no motion of the world
        changes.
        """
        self.translations.copy_(positions)
        spread = (positions - positions.mean(0)).std().clamp_min(1e-6)
        unit = (positions - positions.mean(0)) / spread
        half = self.token_codes.shape[1] // 2
        generator = torch.Generator().manual_seed(0)
        octaves = 2.0 ** torch.linspace(-1, 3, half)
        directions = (torch.randn(3, half, generator=generator) * octaves).to(positions.device)
        phases = unit @ directions
        codes = torch.cat([phases.sin(), phases.cos()], 1) * math.sqrt(2)
        self.token_codes[:, : 2 * half].copy_(codes)

    def forward(self) -> SceneLatent:
        empty = self.translations.new_zeros(len(self.translations), 0)
        return SceneLatent(
            quats=self.quats,
            translations=self.translations,
            shape=empty,
            appearance=empty,
            light=self.light,
            motion=MotionCode(
                start=self.start,
                token_codes=self.token_codes,
                token_modes=self.token_modes,
                scene_code=self.start.new_zeros(0),
                time=self.start.new_zeros(()),
            ),
        )
