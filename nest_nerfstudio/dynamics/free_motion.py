"""Motion without an ODE: a free curve of the state and an MLP that reads it, for the free fit to images."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nest_nerfstudio.dynamics.base import Dynamics
from nest_nerfstudio.dynamics.trajectory import Trajectory, fourier_trajectory, smooth_trajectory
from nest_nerfstudio.types import MotionCode, SceneLatent


class FreeMotion(Dynamics):
    """z(t) is a smooth curve through free nodes over the clip, and ξ_k = MLP(code of token k, z).

    Beyond the clip it stands still. It belongs to one scene.

    Args:
        num_tokens: K, tokens of the scene.
        state_dim: size of z.
        token_code_dim: size of a token's code.
        hidden_dim: width of the MLP.
        num_nodes: nodes of the curve, evenly spaced over the clip.
    """

    def __init__(
        self, num_tokens: int, state_dim: int, token_code_dim: int, hidden_dim: int, num_nodes: int
    ) -> None:
        super().__init__()
        self.pose_decoder = PoseDecoder(state_dim, token_code_dim, hidden_dim)
        self.token_codes = nn.Parameter(torch.zeros(num_tokens, token_code_dim))
        self.path_values = nn.Parameter(fourier_trajectory(num_nodes, state_dim).values)

    @torch.no_grad()
    def start_codes(self, positions: Float[Tensor, "k 3"]) -> None:
        """Start the codes as smooth functions of the tokens' positions at rest: neighbours then move alike.

        Codes are random Fourier features (Rahimi and Recht 2007) of the positions scaled to unit spread. From
        then on they are free parameters, which no motion of the world changes.
        """
        centred = positions - positions.mean(0)
        unit = centred / centred.std().clamp_min(1e-6)
        half = self.token_codes.shape[1] // 2
        generator = torch.Generator().manual_seed(0)
        octaves = 2.0 ** torch.linspace(-1, 3, half)
        directions = (torch.randn(3, half, generator=generator) * octaves).to(positions.device)
        phases = unit @ directions
        codes = torch.cat([phases.sin(), phases.cos()], 1) * math.sqrt(2)
        self.token_codes[:, : 2 * half].copy_(codes)

    def follow(self, twists: Float[Tensor, "s k 6"], iterations: int = 400, batch: int = 64) -> float:
        """Fit the motion to twists of all tokens at evenly spaced times; returns the error left, as a share.

        Args:
            twists: of all tokens, in their own frames.
            iterations: steps of the fit.
            batch: tokens in each step.
        """
        times = torch.linspace(0, 1, len(twists)).to(twists)
        optimizer = torch.optim.Adam(self.parameters(), lr=5e-3)
        size = twists.square().mean().clamp_min(1e-12)
        loss = size
        with torch.enable_grad():
            for _ in range(iterations):
                optimizer.zero_grad()
                some = torch.randint(len(self.token_codes), (batch,), device=twists.device)
                codes = self.token_codes[some]
                found = self.pose_decoder(codes, self.solve()(times)[:, None])
                loss = (found - twists[:, some]).square().mean() / size
                loss.backward()
                optimizer.step()
        self.zero_grad(set_to_none=True)
        return loss.detach().sqrt().item()

    def stand_still(self) -> None:
        """Forget all motion, but not what a token's code and the state say."""
        self.pose_decoder.zero_head()

    def is_still(self, motion: MotionCode) -> bool:
        return False

    def solve(self, motion: MotionCode | None = None, t0: float = 0.0, t1: float = 1.0) -> Trajectory:
        """The free curve, which spans [0, 1] whatever is asked for."""
        return smooth_trajectory(self.path_values)

    def twists(self, latent: SceneLatent, z: Float[Tensor, " d"]) -> Float[Tensor, "k 6"]:
        return self.pose_decoder(self.token_codes[latent.ids], z)

    @torch.no_grad()
    def observed_twists(self, count: int) -> Float[Tensor, "s k 6"]:
        """Twists of all tokens at evenly spaced times of the clip."""
        times = torch.linspace(0, 1, count).to(self.path_values)
        return torch.stack([self.pose_decoder(self.token_codes, z) for z in self.solve()(times)])

    def roughness(self) -> Float[Tensor, ""]:
        """Mean square of the curve's second differences, over the variance of its values."""
        values = self.path_values
        bends = values[2:] - 2 * values[1:-1] + values[:-2]
        return bends.square().mean() / (values - values.mean(0)).square().mean().clamp_min(1e-12)


class PoseDecoder(nn.Module):
    """ξ(e_k, z): an MLP from a token's code and the state to a body-frame twist; zero at the start."""

    def __init__(self, state_dim: int, token_code_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.from_token = nn.Linear(token_code_dim, hidden_dim)
        self.from_state = nn.Linear(state_dim, hidden_dim)
        self.head = nn.Sequential(
            nn.SiLU(), nn.Linear(hidden_dim, hidden_dim), nn.SiLU(), nn.Linear(hidden_dim, 6)
        )
        self.zero_head()

    def zero_head(self) -> None:
        """No token moves, whatever the state."""
        nn.init.zeros_(self.head[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.head[-1].bias)  # type: ignore[arg-type]

    def forward(self, token_codes: Float[Tensor, "k e"], z: Float[Tensor, "... d"]) -> Float[Tensor, "... 6"]:
        return self.head(self.from_token(token_codes) + self.from_state(z))
