"""How much of what the images show is drawn at all."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

_CHECK_AT = 0.9
"""Fraction of the training by which the object should be drawn."""
_TOO_MUCH = 0.1
"""Missing share that is worth a warning."""


class SilhouetteCoverage(nn.Module):
    """Running share of the silhouettes where hardly anything is drawn, over the last hundred images or so."""

    missing: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("missing", torch.zeros(()))

    @torch.no_grad()
    def update(
        self,
        drawn: Float[Tensor, "v h w 1"],
        alphas: Float[Tensor, "v h w 1"],
        masks: Float[Tensor, "v h w 1"] | None = None,
    ) -> Float[Tensor, ""]:
        """Take images into account; returns the share so far.

        Args:
            drawn: accumulated opacity of the renderings.
            alphas: coverage in the images.
            masks: 1 for the pixels to use, 0 for the others; None uses all.
        """
        shown = (alphas if masks is None else alphas * masks) > 0.5
        share = (shown & (drawn < 0.5)).sum() / shown.sum().clamp_min(1)
        return self.missing.lerp_(share, 1 / 100)

    def warning(self, before: float, progress: float) -> str | None:
        """A warning, once, when the training passes nine tenths and much is missing.

        Args:
            before: fraction of the training at the last call.
            progress: fraction of the training now.
        """
        if not before < _CHECK_AT <= progress or self.missing <= _TOO_MUCH:
            return None
        return (
            f"[yellow]Nothing is drawn on {self.missing:.0%} of what the images show: it moves too fast to "
            "follow. Of --pipeline.model.curriculum, widen-steps 1500 and widen-until 0.45 give it more "
            "time, first-window 0.04 a start with less motion."
        )
