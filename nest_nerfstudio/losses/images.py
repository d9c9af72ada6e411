"""Losses of a rendering against the images of its views."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from nest_nerfstudio.losses.photometric import depth_loss, photometric_loss
from nest_nerfstudio.types import Rendering, Views


def image_losses(
    rendering: Rendering, views: Views, background: Float[Tensor, " 3"], ssim_lambda: float
) -> dict[str, Float[Tensor, ""]]:
    """Means over all views: "photometric"; "alpha", squared error of coverage, and "depth" where known.

    Args:
        rendering: of the same cameras, over the background.
        views: with images; the error of pixels outside their masks is zero.
        background: colour behind images that have alpha.
        ssim_lambda: share of D-SSIM in the photometric loss.
    """
    target = views.over(background)
    masks = [None] * len(views) if views.masks is None else list(views.masks)
    images = zip(rendering.rgb, target, masks, strict=True)
    losses = {"photometric": _mean([photometric_loss(a, b, ssim_lambda, mask) for a, b, mask in images])}
    if views.alphas is not None:
        errors = (rendering.alpha - views.alphas).square()
        losses["alpha"] = (errors if views.masks is None else errors * views.masks).mean()
    if views.depths is not None:
        assert rendering.depth is not None
        known = views.depths if views.masks is None else views.depths * views.masks
        triples = zip(rendering.depth, known, rendering.alpha, strict=True)
        losses["depth"] = _mean([depth_loss(*triple) for triple in triples])
    return losses


def squared_error(rendering: Rendering, views: Views, background: Float[Tensor, " 3"]) -> Float[Tensor, ""]:
    """Mean squared error of the colours of pixels to use, without gradient, for a PSNR."""
    return mean_of_used((rendering.rgb.detach() - views.over(background)).square(), views.masks)


def mean_of_used(
    values: Float[Tensor, "v h w c"], masks: Float[Tensor, "v h w 1"] | None
) -> Float[Tensor, ""]:
    """Mean over the pixels to use; 0 where there are none.

    Args:
        values: of all pixels.
        masks: 1 for the pixels to use, 0 for the others; None uses all.
    """
    if masks is None:
        return values.mean()
    return (values * masks).sum() / (masks.sum() * values.shape[-1]).clamp_min(1)


def _mean(values: list[Tensor]) -> Tensor:
    return values[0] if len(values) == 1 else torch.stack(values).mean()
