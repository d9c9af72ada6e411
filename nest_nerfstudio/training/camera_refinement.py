"""Refinement of camera poses beside the scene: what nerfstudio's camera optimizer leaves to the method."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def without_drift(adjustments: Float[Tensor, "v 6"], centres: Float[Tensor, "v 3"]) -> Float[Tensor, "v 6"]:
    """Small changes of camera poses, less what all of them have in common.

    A shift, turn or scale of all cameras changes no image, as the scene follows it; without it, the world
    stays where the data put it. What is taken out is the least-squares fit of τ_i = T + Ω × c_i + s c_i,
    ω_i = Ω, in which a turn counts by how far it moves what is as far off as cameras are spread.

    Args:
        adjustments: (τ, ω) of each camera, world units and radians: c → c + τ, R → exp(ω) R, as nerfstudio's
            SO3xR3.
        centres: c, of the cameras, world units.

    Returns:
        Adjustments; zero for fewer than three cameras, which have nothing else in common.
    """
    if len(centres) < 3:
        return torch.zeros_like(adjustments)
    arms = (centres - centres.mean(0)).double()
    spread = arms.square().sum(1).mean().sqrt().clamp_min(1e-3)
    units = torch.eye(3, dtype=torch.float64, device=arms.device).expand(len(arms), 3, 3)
    turned = torch.linalg.cross(units, arms[:, None].expand_as(units)).mT  # a column for each axis of Ω
    of_shifts = torch.cat([units, turned, arms[..., None]], 2)
    of_turns = torch.cat([torch.zeros_like(units), units, torch.zeros_like(arms[..., None])], 2)
    common = torch.cat([of_shifts, of_turns], 1)
    weights = torch.cat([spread.new_ones(3), spread.expand(3)])
    design = (common * weights[:, None]).flatten(0, 1)
    fit = torch.linalg.pinv(design.mT @ design) @ (design.mT @ (adjustments.double() * weights).flatten())
    return (adjustments.double() - common @ fit).to(adjustments)


def describe_moves(adjustments: Float[Tensor, "v 6"]) -> str:
    """How far cameras were moved, in a line."""
    shifts, turns = adjustments.detach().unflatten(1, (2, 3)).norm(dim=-1).unbind(1)
    turns = turns * (180 / math.pi)
    return (
        f"Cameras moved by {shifts.mean():.2g} world units and {turns.mean():.2g}° on average, by "
        f"{shifts.max():.2g} and {turns.max():.2g}° at most."
    )
