"""A time-conditioned deformation MLP: the field's usual baseline."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nest_nerfstudio.geometry.quaternion import quat_normalize
from nest_nerfstudio.types import Gaussians


class DeformationMLP(nn.Module):
    """Offsets of means, rotations and scales as an MLP of position and time; zero at the start.

    As Deformable 3D Gaussians (arXiv 2309.13101), with a network sized for a CPU. It knows no tokens; it is
    here to be compared with, and means nothing outside the observed clip.
    """

    position_bands: Tensor
    time_bands: Tensor

    def __init__(self, hidden_dim: int = 64) -> None:
        super().__init__()
        self.register_buffer("position_bands", 2.0 ** torch.arange(6) * torch.pi / 2)
        self.register_buffer("time_bands", 2.0 ** torch.arange(6) * torch.pi / 2)
        inputs = 3 * (1 + 2 * 6) + 1 + 2 * 6
        self.layers = nn.Sequential(
            nn.Linear(inputs, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, 10),
        )
        self.zero_head()

    def zero_head(self) -> None:
        """Deform nothing."""
        nn.init.zeros_(self.layers[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.layers[-1].bias)  # type: ignore[arg-type]

    def forward(self, gaussians: Gaussians, time: Float[Tensor, ""]) -> Gaussians:
        """Gaussians at rest, deformed as at a clip time."""
        times = time.expand(len(gaussians), 1)
        features = [_encode(gaussians.means.detach(), self.position_bands), _encode(times, self.time_bands)]
        offsets = self.layers(torch.cat(features, 1))
        return replace(
            gaussians,
            means=gaussians.means + offsets[:, :3],
            quats=quat_normalize(quat_normalize(gaussians.quats) + offsets[:, 3:7]),
            scales=gaussians.scales * offsets[:, 7:].exp(),
        )


def _encode(x: Float[Tensor, "n c"], bands: Float[Tensor, " b"]) -> Float[Tensor, "n f"]:
    angles = (x[..., None] * bands).flatten(1)
    return torch.cat([x, angles.sin(), angles.cos()], 1)
