"""Free Gaussians of one scene, bound to its tokens by skinning weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nest_nerfstudio.fields.base import Field
from nest_nerfstudio.fields.skinning import skin, skinning_weights
from nest_nerfstudio.geometry.points import nearest_distances
from nest_nerfstudio.geometry.quaternion import quat_normalize
from nest_nerfstudio.geometry.se3 import Pose
from nest_nerfstudio.geometry.sh import rgb_to_sh
from nest_nerfstudio.types import Gaussians, SceneLatent

PARAMETERS = ("means", "scales", "quats", "opacities", "sh_dc", "sh_rest")
"""Names of the free parameters. gsplat's strategies ask for the first four by these names, although scales
are stored as logarithms and opacities as logits."""


class BoundGaussians(Field):
    """N canonical Gaussians that follow K tokens by linear blend skinning.

    x(t) = Σ_k w_k(x) A_k(t) x with A_k(t) = T_k(t) B_k⁻¹, B_k the pose in which token k was bound, and
    w_k ∝ exp(−‖x − b_k‖² / 2r_k²) over the nearest tokens (as the control points of SC-GS, arXiv 2312.14937).
    Rotations blend as normalised quaternions. Turning all tokens by g turns the Gaussians by g, SH included.
    """

    bind_quats: Tensor
    bind_translations: Tensor

    def __init__(self, num_gaussians: int, num_tokens: int, sh_degree: int, num_neighbors: int = 4) -> None:
        super().__init__()
        self.num_neighbors = min(num_neighbors, num_tokens)
        n, k = num_gaussians, num_tokens
        shapes = {
            "means": (n, 3),
            "scales": (n, 3),
            "quats": (n, 4),
            "opacities": (n,),
            "sh_dc": (n, 1, 3),
            "sh_rest": (n, (sh_degree + 1) ** 2 - 1, 3),
        }
        self.params = nn.ParameterDict({name: nn.Parameter(torch.zeros(s)) for name, s in shapes.items()})
        self.token_log_radii = nn.Parameter(torch.zeros(k))
        self.register_buffer("bind_quats", torch.tensor([1.0, 0, 0, 0]).repeat(k, 1))
        self.register_buffer("bind_translations", torch.zeros(k, 3))
        self._neighbors: Int[Tensor, "n j"] | None = None

    def __len__(self) -> int:
        return self.params["means"].shape[0]

    @torch.no_grad()
    def initialize(
        self,
        points: Float[Tensor, "n 3"],
        rgb: Float[Tensor, "n 3"],
        opacity: float,
        scale_factor: float = 1.0,
    ) -> None:
        """Start from coloured points: round Gaussians as large as the spacing of the points."""
        spacing = nearest_distances(points, 3).mean(1).clamp_min(1e-6) * scale_factor
        quats = points.new_zeros(len(points), 4)
        quats[:, 0] = 1.0
        start = {
            "means": points,
            "scales": spacing.log()[:, None].expand(-1, 3),
            "quats": quats,
            "opacities": torch.full_like(spacing, opacity).logit(),
            "sh_dc": rgb_to_sh(rgb)[:, None],
            "sh_rest": points.new_zeros(len(points), self.params["sh_rest"].shape[1], 3),
        }
        for name, value in start.items():
            self.params[name] = nn.Parameter(value.clone())
        self.forget_neighbors()

    @torch.no_grad()
    def bind(self, poses: Pose) -> None:
        """Bind the Gaussians, where they now are, to tokens at these poses; radii follow the spacing."""
        self.bind_quats.copy_(poses[0])
        self.bind_translations.copy_(poses[1])
        self.token_log_radii.copy_(nearest_distances(poses[1], 3).mean(1).clamp_min(1e-6).log())
        self.forget_neighbors()

    def canonical(self) -> Gaussians:
        """The Gaussians as bound, before any motion."""
        rest = self._rest()
        return replace(rest, quats=quat_normalize(rest.quats))

    def _rest(self) -> Gaussians:
        """As `canonical`, but with quaternions of any length: `skin` normalises them."""
        p = self.params
        return Gaussians(
            means=p["means"],
            quats=p["quats"],
            scales=p["scales"].exp(),
            opacities=p["opacities"].sigmoid(),
            sh=torch.cat([p["sh_dc"], p["sh_rest"]], 1),
        )

    def forward(self, latent: SceneLatent) -> Gaussians:
        rest = self._rest()
        poses = latent.quats, latent.translations
        bind_poses = self.bind_quats, self.bind_translations
        return skin(rest, poses, bind_poses, self.token_log_radii, self._nearest_tokens(rest.means))

    def skinning(self, means: Float[Tensor, "n 3"]) -> tuple[Int[Tensor, "n j"], Float[Tensor, "n j"]]:
        """Nearest tokens of each Gaussian and their weights, which sum to one."""
        neighbors = self._nearest_tokens(means)
        return neighbors, skinning_weights(means, self.bind_translations, self.token_log_radii, neighbors)

    def _nearest_tokens(self, means: Float[Tensor, "n 3"]) -> Int[Tensor, "n j"]:
        if self._neighbors is None or len(self._neighbors) != len(means):
            with torch.no_grad():
                distances = torch.cdist(means, self.bind_translations)
                self._neighbors = distances.topk(self.num_neighbors, largest=False).indices
        return self._neighbors

    def forget_neighbors(self) -> None:
        """Look the nearest tokens up again at the next use: after Gaussians moved, came or went."""
        self._neighbors = None

    def train(self, mode: bool = True) -> BoundGaussians:
        """Nearest tokens wait for a while in training, but what is shown is what a checkpoint would show."""
        if self.training and not mode:
            self.forget_neighbors()
        return super().train(mode)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Take over as many Gaussians as the checkpoint holds, in the parameters that optimizers hold."""
        for name in PARAMETERS:
            stored = state_dict.get(f"{prefix}params.{name}")
            if stored is not None and stored.shape != self.params[name].shape:
                self.params[name].data = self.params[name].data.new_empty(stored.shape)
        self.forget_neighbors()
        super()._load_from_state_dict(state_dict, prefix, *args)
