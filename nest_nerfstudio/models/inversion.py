"""Inversion of a prior, min over Z of ‖π f_θ(Z) − I‖ − log p(Z): the latent that renders as given images do.

Encoder, field and flow of the prior stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from nest_nerfstudio.encoders.inputs import some_views
from nest_nerfstudio.encoders.latent_encoder import LatentEncoderConfig
from nest_nerfstudio.geometry.albedo_cube import NUM_CORNERS
from nest_nerfstudio.geometry.multiview import project, visible
from nest_nerfstudio.models.camera_search import (
    FoundCamera,
    azimuth_and_distance,
    cameras_around,
    find_camera,
)
from nest_nerfstudio.models.latent_optimization import CameraPose, Objective, optimize_latent
from nest_nerfstudio.models.latent_prior import LatentPrior
from nest_nerfstudio.models.nest_prior import NestPriorModel
from nest_nerfstudio.types import SceneLatent, Views

MAX_ENCODED = 16
"""Views that a start is encoded from, at most."""
FINAL_RATIO = 0.1
"""Last learning rate of a latent over the first."""


@dataclass
class InversionConfig:
    """Settings of an inversion."""

    init: Literal["encoder", "prior", "hybrid"] = "hybrid"
    """Where the latent starts, and what is minimised. encoder: the encoded views, then the error of the
    renderings alone; without any step that is the encoder's own answer. prior: the training scene nearest to
    the mean of the prior over latents, then error and prior. hybrid: the encoded views, then error and a
    prior that is centred on them."""
    latent_prior_weight: float = 0.3
    """Weight of −log p(Z) beside the photometric error of one view (init prior and hybrid); divided by the
    cube of the number of views, as what few leave open is what the prior is to decide."""
    num_starts: int = 1
    """Number of starts, of which the best is kept: encodings with fewer and fewer tokens, which then stand
    elsewhere (encoder, hybrid), or training scenes unlike each other (prior)."""
    start_steps: int = 20
    """Steps of each start before they are compared, where there are several."""
    unknown_camera: bool = False
    """Find the pose of the camera of a single image, which looks at the object from about the distance that
    its stored pose has; of the stored pose nothing else counts but the azimuth, which no image tells."""

    def prior_weight(self, num_views: int) -> float:
        """Weight of −log p(Z) beside the error of one of so many views."""
        return 0.0 if self.init == "encoder" else self.latent_prior_weight / num_views**3

    @property
    def needs_latents(self) -> bool:
        """Whether latents of training scenes are needed."""
        return self.init == "prior" or self.prior_weight(1) > 0


@dataclass(frozen=True)
class Prior:
    """A trained model of many scenes, and how its latents are distributed.

    Attributes:
        model: encoder, field and flow.
        latents: of training scenes.
        distribution: fitted to them; None where there are no latents.
    """

    model: NestPriorModel
    latents: Sequence[SceneLatent] = ()
    distribution: LatentPrior | None = None

    @property
    def knows_gravity(self) -> bool:
        """Whether the vertical is z in all of its scenes."""
        return self.model.config.encoder.group == "azimuth"

    @staticmethod
    def of(model: NestPriorModel, latents: Sequence[SceneLatent] = ()) -> Prior:
        """A model, with a distribution that is fitted to latents of its training scenes, if there are any."""
        if not latents:
            return Prior(model)
        distribution = latent_prior_for(model.config.encoder).to(model.device)
        distribution.fit(latents)
        return Prior(model, latents, distribution)


def invert(
    views: Views,
    prior: Prior,
    config: InversionConfig = InversionConfig(),  # noqa: B008
    steps: int = 200,
) -> SceneLatent:
    """The latent of a scene from images of it.

    Args:
        views: one or more images in the world of the prior: z up, the object around the origin and as large
            as its training scenes, with silhouettes (alpha) unless `init` is "prior".
        prior: encodes and decodes; stays as it is.
        config: settings.
        steps: steps of Adam, one view each; 0 gives the start.

    Raises:
        ValueError: views that do not show the object, or settings that do not go together.
    """
    start = find_start(views, prior, config)
    camera = CameraPose(start.views.viewmats[0]) if config.unknown_camera else None
    return optimize_latent(
        start.latent,
        start.views if config.unknown_camera else views,
        inversion_objective(prior, config, len(views), start.encoded),
        steps,
        final_ratio=FINAL_RATIO,
        camera=camera,
    )


# ---------------------------------------------------------------- start


def latent_prior_for(encoder: LatentEncoderConfig) -> LatentPrior:
    """A prior over the latents of an encoder, not fitted yet."""
    return LatentPrior(encoder.geometry_dim + 3 * NUM_CORNERS, encoder.group == "azimuth")


@dataclass(frozen=True)
class Start:
    """Where an inversion starts.

    Attributes:
        latent: Z.
        encoded: Z before any step.
        views: the images, with the pose of their camera where it had to be found.
    """

    latent: SceneLatent
    encoded: SceneLatent
    views: Views


def find_start(views: Views, prior: Prior, config: InversionConfig) -> Start:
    """The best start of an inversion; arguments as for `invert`.

    Starts are fitted one after another: a rasterizer draws one scene at a time.
    """
    for i, problem in view_problems(views, prior.model, config):
        raise ValueError(f"view {i} {problem}")
    views = some_views(views, MAX_ENCODED)
    if config.needs_latents and prior.distribution is None:
        raise ValueError(f"init {config.init} needs latents of training scenes, and the prior came with none")
    if config.unknown_camera:
        found = _find_camera(views, prior, config)
        return Start(found.latent, found.encoded, found.view)
    latents = _starts(views, prior, config)
    if len(latents) == 1:
        return Start(latents[0], latents[0], views)
    steps = config.start_steps * min(len(views), 4)

    fitted, errors = [], []
    for latent in latents:
        objective = partial(inversion_objective, prior, config, len(views), latent)
        fitted.append(optimize_latent(latent, views, objective(), steps, final_ratio=FINAL_RATIO))
        with torch.no_grad():
            errors.append(float(objective().images(fitted[-1], views)))
    best = min(range(len(errors)), key=errors.__getitem__)
    CONSOLE.log(
        f"Starts: start {best} of {len(errors)} is kept, loss {errors[best]:.4f} of {max(errors):.4f}"
    )
    return Start(fitted[best], latents[best], views)


@torch.no_grad()
def _starts(views: Views, prior: Prior, config: InversionConfig) -> list[SceneLatent]:
    if config.num_starts < 1:
        raise ValueError(f"num_starts must be 1 or more, not {config.num_starts}")
    if config.init == "prior":
        assert prior.distribution is not None
        return [prior.latents[i] for i in prior.distribution.most_typical(prior.latents, config.num_starts)]
    tokens = prior.model.config.encoder.num_tokens
    counts = [max(4, round(tokens * 0.8**i)) for i in range(config.num_starts)]
    return [prior.model.encoder(views, num_tokens=count) for count in counts]


def _find_camera(views: Views, prior: Prior, config: InversionConfig) -> FoundCamera:
    if len(views) != 1:
        raise ValueError(
            f"unknown_camera finds the pose of a single image, and there are {len(views)}: give one, or the "
            "poses of all"
        )
    if not prior.knows_gravity:
        raise ValueError(
            "the prior commutes with all rotations, so that every pose of a single camera is as good as any "
            "other; leave unknown_camera out"
        )
    azimuth, distance = azimuth_and_distance(views)
    encode = prior.model.encoder
    if config.init == "prior":
        (start,) = _starts(views, prior, replace(config, num_starts=1))
        encode = lambda _: start  # noqa: E731
    starts = cameras_around(distance, (azimuth,))
    return find_camera(views, encode, partial(inversion_objective, prior, config, 1), starts)


# ---------------------------------------------------------------- objective


def inversion_objective(
    prior: Prior, config: InversionConfig, num_views: int, encoded: SceneLatent | None = None
) -> Objective:
    """Photometric error of renderings and weighted −log p(Z); always with the same random numbers.

    Args:
        prior: decodes, draws and knows how latents are distributed.
        config: settings.
        num_views: of how many views the loss is that of one.
        encoded: what the prior over latents is centred on, if `init` is "hybrid".
    """
    generator = torch.Generator().manual_seed(0)
    model, weight = prior.model, config.prior_weight(num_views)

    def images(latent: SceneLatent, views: Views) -> Tensor:
        background = model.shown_background(False)
        if views.alphas is not None:
            background = torch.rand(3, generator=generator).to(background)
        return model.view_losses(latent, views, background)[0]["photometric"]

    distribution = prior.distribution
    if weight == 0 or distribution is None:
        return Objective(images)
    with torch.no_grad():
        around = None
        if config.init == "hybrid" and encoded is not None:
            around = distribution.features(encoded)
    return Objective(images, lambda latent: weight * distribution(latent, around))


# ---------------------------------------------------------------- what cannot be inverted


def view_problems(views: Views, model: NestPriorModel, config: InversionConfig) -> Iterator[tuple[int, str]]:
    """What keeps views from being inverted: number of the view, and what it does.

    Args:
        views: with images.
        model: the prior.
        config: settings of the inversion.
    """
    silhouettes = views.alphas if views.masks is None or views.alphas is None else views.alphas * views.masks
    if silhouettes is None and config.init != "prior":
        yield (
            0,
            "has no silhouette, which the encoder needs: cut the object out (alpha channel or mask_path), or "
            "start without the encoder (init prior)",
        )
    for i, cover in enumerate([] if silhouettes is None else silhouettes.amax((1, 2, 3)).tolist()):
        if cover < _EMPTY:
            yield i, "does not show the object: its silhouette is empty; leave it out"
    if config.unknown_camera:
        return
    radius = model.config.encoder.radius
    along = torch.linspace(-radius, radius, 9)
    ball = torch.cartesian_prod(along, along, along)
    ball = ball[ball.norm(dim=1) <= radius].to(views.viewmats) + model.encoder.centre(views)
    for i, seen in enumerate(visible(*project(views, ball)).any(1).tolist()):
        if not seen:
            yield (
                i,
                f"looks past the object: nothing of the ball of radius {radius:g} where the prior has its "
                "scenes is in its image; check its pose, or leave it out",
            )


_EMPTY = 0.1
"""Largest alpha of a silhouette that counts as empty."""
