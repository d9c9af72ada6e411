"""A time-conditioned deformation MLP: the field's usual baseline."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nest_nerfstudio.fields.bound_gaussians import BoundGaussians
from nest_nerfstudio.geometry.quaternion import quat_normalize
from nest_nerfstudio.types import Gaussians, SceneLatent


class DeformedGaussians(BoundGaussians):
    """Canonical Gaussians whose means, rotations and scales an MLP of position and time offsets.

    As Deformable 3D Gaussians (arXiv 2309.13101), with a network sized for a CPU. Ignores token poses; it is
    here to be compared with, and means nothing outside the observed clip.
    """

    position_bands: Tensor
    time_bands: Tensor

    def __init__(self, *args, hidden_dim: int = 64, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.register_buffer("position_bands", 2.0 ** torch.arange(6) * torch.pi / 2)
        self.register_buffer("time_bands", 2.0 ** torch.arange(6) * torch.pi / 2)
        inputs = 3 * (1 + 2 * 6) + 1 + 2 * 6
        self.deformation = nn.Sequential(
            nn.Linear(inputs, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, 10),
        )
        nn.init.zeros_(self.deformation[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.deformation[-1].bias)  # type: ignore[arg-type]

    def forward(self, latent: SceneLatent) -> Gaussians:
        rest = self.canonical()
        time = latent.motion.time.expand(len(rest), 1)
        features = [_encode(rest.means.detach(), self.position_bands), _encode(time, self.time_bands)]
        offsets = self.deformation(torch.cat(features, 1))
        return Gaussians(
            means=rest.means + offsets[:, :3],
            quats=quat_normalize(rest.quats + offsets[:, 3:7]),
            scales=rest.scales * offsets[:, 7:].exp(),
            opacities=rest.opacities,
            sh=rest.sh,
        )


def _encode(x: Float[Tensor, "n c"], bands: Float[Tensor, " b"]) -> Float[Tensor, "n f"]:
    angles = (x[..., None] * bands).flatten(1)
    return torch.cat([x, angles.sin(), angles.cos()], 1)
