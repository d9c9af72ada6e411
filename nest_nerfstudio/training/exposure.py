"""Exposure and white balance of training images, which cameras change from frame to frame."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Exposure(nn.Module):
    """An affine change of colour for each training image; the identity at the start.

    A change that all images share cannot be told from other colours of the scene, so their mean stays the
    identity (`without_drift`): the scene has the colours of an average image, in which others are drawn.

    Args:
        num_images: number of training images.
    """

    def __init__(self, num_images: int) -> None:
        super().__init__()
        self.adjustment = nn.Parameter(torch.zeros(num_images, 3, 4))

    def forward(self, index: int) -> Float[Tensor, "1 3 4"]:
        """(A, b) of an image: it shows A rgb + b."""
        adjustment = self.adjustment[index : index + 1]
        return torch.eye(3, 4, device=adjustment.device) + adjustment

    @torch.no_grad()
    def without_drift(self) -> None:
        """Take out what all images have in common."""
        self.adjustment -= self.adjustment.mean(0)

    def describe(self) -> str:
        """How much exposures differ, in a line."""
        gains = 1 + self.adjustment.detach()[:, :, :3].sum((1, 2)) / 3
        return f"Exposure of the images: gains of {gains.min():.2f} to {gains.max():.2f}."


def distance_from_identity(exposures: Float[Tensor, "v 3 4"]) -> Float[Tensor, ""]:
    """Mean square of what exposures change, the regularisation to none."""
    return (exposures - torch.eye(3, 4, device=exposures.device)).square().mean()
