"""Equivariant layers on a graph of tokens. All irreps are even: rotations, no reflections."""

from __future__ import annotations

import math
from typing import cast

import torch
from e3nn import nn as enn
from e3nn import o3
from jaxtyping import Float, Int
from torch import Tensor, nn


def mlp(before: int, hidden: int, after: int) -> nn.Sequential:
    """Two linear layers with a layer norm between them, without which signals fade from stage to stage."""
    return nn.Sequential(nn.Linear(before, hidden), nn.LayerNorm(hidden), nn.SiLU(), nn.Linear(hidden, after))


class Interaction(nn.Module):
    """A convolution over neighbouring tokens: x_i ← x_i + gate(W x_i + Σ_j s_ij (V x_j) ⊗ Y(r_ij)).

    The convolution of NequIP (arXiv 2101.03164). The weights of the tensor product come from an MLP of the
    distance and, unlike there, of the scalars of both tokens.

    Args:
        irreps: of the features, scalars first; all even.
        irreps_sent: of the messages V x_j.
        irreps_sh: of the spherical harmonics Y.
        num_radial: number of radial functions of the distance.
        hidden: width of the hidden layer of the MLP.
    """

    def __init__(
        self,
        irreps: o3.Irreps,
        irreps_sent: o3.Irreps,
        irreps_sh: o3.Irreps,
        num_radial: int,
        hidden: int,
    ) -> None:
        super().__init__()
        scalars, gated = (
            cast(o3.Irreps, o3.Irreps([part for part in irreps if (part.ir.l == 0) == is_scalar]))
            for is_scalar in (True, False)
        )
        gates = o3.Irreps(f"{gated.num_irreps}x0e")
        self.gate = enn.Gate(scalars, [torch.nn.functional.silu], gates, [torch.sigmoid], gated)
        before_gate = cast(o3.Irreps, self.gate.irreps_in)
        self.num_scalars = scalars.dim
        self.to_messages = o3.Linear(irreps, irreps_sent)
        self.product = _channelwise_product(irreps_sent, irreps_sh, before_gate)
        self.product_weights = nn.Sequential(
            nn.Linear(num_radial + 2 * hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, cast(int, self.product.weight_numel)),
        )
        self.scalar_embedding = nn.Sequential(nn.LayerNorm(scalars.dim), nn.Linear(scalars.dim, hidden))
        self.mix = o3.Linear(self.product.irreps_out, before_gate)
        self.self_connection = o3.Linear(irreps, before_gate)

    def forward(
        self,
        x: Float[Tensor, "k d"],
        neighbors: Int[Tensor, "k j"],
        shares: Float[Tensor, "k j"],
        harmonics: Float[Tensor, "k j m"],
        radial: Float[Tensor, "k j r"],
    ) -> Float[Tensor, "k d"]:
        """New features of all tokens.

        Args:
            x: features, of the layer's irreps.
            neighbors: indices of the neighbours of each token.
            shares: s_ij, weight of each neighbour in the sum.
            harmonics: Y of the direction to each neighbour.
            radial: radial functions of the distance to it.
        """
        embedded = self.scalar_embedding(x[:, : self.num_scalars])
        receivers = embedded[:, None].expand(-1, neighbors.shape[1], -1)
        weights = self.product_weights(torch.cat([radial, receivers, embedded[neighbors]], -1))
        messages = self.product(
            self.to_messages(x)[neighbors].flatten(0, 1), harmonics.flatten(0, 1), weights.flatten(0, 1)
        )
        received = (shares[..., None] * messages.unflatten(0, neighbors.shape)).sum(1)
        return x + self.gate(self.self_connection(x) + self.mix(received))


def _channelwise_product(
    irreps_in: o3.Irreps, irreps_sh: o3.Irreps, irreps_out: o3.Irreps
) -> o3.TensorProduct:
    """Tensor product of each channel with each harmonic, on all paths to irreps in `irreps_out`; one external
    weight a channel and path.
    """
    wanted = {ir for _, ir in irreps_out}
    paths = [
        (i, j, mul, ir)
        for i, (mul, ir_in) in enumerate(irreps_in)
        for j, (_, ir_sh) in enumerate(irreps_sh)
        for ir in ir_in * ir_sh
        if ir in wanted
    ]
    order = sorted(range(len(paths)), key=lambda n: paths[n][3])
    irreps_mid = o3.Irreps([(paths[n][2], paths[n][3]) for n in order])
    instructions = [(*paths[n][:2], slot, "uvu", True) for slot, n in enumerate(order)]
    return o3.TensorProduct(
        irreps_in, irreps_sh, irreps_mid, instructions, shared_weights=False, internal_weights=False
    )


def radial_basis(distances: Float[Tensor, "*b"], count: int, reach: float) -> Float[Tensor, "*b n"]:
    """Gaussian functions of the distance, centred at even steps over [0, reach].

    Args:
        distances: in the unit of `reach`.
        count: number of functions, 2 or more.
        reach: distance at which the last one is centred.
    """
    centres = torch.linspace(0, reach, count).to(distances)
    width = reach / (count - 1)
    return (-0.5 * ((distances[..., None] - centres) / width).square()).exp() * math.sqrt(2)
