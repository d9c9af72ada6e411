"""A clip as a prior that knows motion sees it, for a training to start from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from nerfstudio.utils.rich_utils import CONSOLE

from nest_nerfstudio.models.decoded_scene import DecodedScene
from nest_nerfstudio.models.inversion import InversionConfig, view_problems
from nest_nerfstudio.models.motion_prior import rest_time
from nest_nerfstudio.models.nest_prior import NestPriorModel
from nest_nerfstudio.types import Gaussians, Views

MAX_CONTEXT = 8
"""Views of one time that a scene is encoded from, at most."""
MAX_FRAMES = 24
"""Frames at other times that its motion is read from, at most."""
_KNOWN = 0.5
"""Error of the decoded scene, over that of an empty image, up to which a prior knows an object."""


@dataclass(frozen=True)
class StartFromPrior:
    """Where a training starts.

    Attributes:
        scene: with its motion.
        known: its Gaussians at rest; None where the prior does not know the object.
    """

    scene: DecodedScene
    known: Gaussians | None


@torch.no_grad()
def start_from_prior(prior: NestPriorModel, context: Views, frames: Views) -> StartFromPrior:
    """Encode a clip; its motion code is found by the encoder, if the prior has one, and by gradient steps.

    Args:
        prior: has learned motion.
        context: views of one time, with silhouettes.
        frames: views at other times.

    Raises:
        ValueError: views that the prior cannot encode.
    """
    for i, problem in view_problems(context, prior, InversionConfig()):
        raise ValueError(f"--pipeline.model.init: view {i} of the time at rest {problem}")
    motion = prior.motion_prior
    assert motion is not None
    if motion.config.code == "encoder":
        motion.config = replace(motion.config, code="hybrid")
    latent = prior.moving(prior.encoder(context), context, frames)
    scene = DecodedScene(latent, prior.field, prior.flow)
    rest = rest_time(context)
    gaussians = scene.gaussians_at(rest)
    background = prior.shown_background(True)
    target, drawn = context.over(background), prior.rasterize(gaussians, context, background).rgb
    share = float((drawn - target).square().mean() / (background - target).square().mean().clamp_min(1e-9))
    is_known = share <= _KNOWN
    how = "its Gaussians are taken" if is_known else "only tokens and motion are taken"
    CONSOLE.log(
        f"The prior sees {len(context)} views at time {rest:g} with {share:.0%} of the error of an empty "
        f"image: {how}. Motion is {latent.motion.kind}, {latent.motion.period.item():.3f} clips a cycle."
    )
    return StartFromPrior(scene, gaussians if is_known else None)
