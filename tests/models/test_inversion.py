"""Inversion of a prior in Python: what it starts from, what it minimises, and what it refuses."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nest_nerfstudio.models.decoded_scene import DecodedScene
from nest_nerfstudio.models.inversion import InversionConfig, Prior, find_start, inversion_objective, invert
from nest_nerfstudio.pipelines.prior_run import find_prior, load_prior
from nest_nerfstudio.types import Views

pytestmark = pytest.mark.slow
WHITE = torch.ones(3)


@pytest.fixture(scope="module")
def prior(small_prior: Path) -> Prior:
    return load_prior(small_prior)


@pytest.fixture(scope="module")
def views(small_prior: Path) -> Views:
    """Of the held-out scene."""
    data = find_prior(small_prior).config.pipeline.datamanager.setup(device="cpu", test_mode="inference")
    return data.contexts[2, 4]


def rendered(prior: Prior, views: Views) -> Views:
    """Images of a training scene as the prior itself draws them, from these cameras."""
    model = prior.model
    with torch.no_grad():
        scene = DecodedScene(prior.latents[0], model.field, model.flow)
        drawn = model.rasterize(scene.gaussians_at(0.0), views, torch.zeros(3))
    return replace(views, images=(drawn.rgb / drawn.alpha.clamp_min(1e-3)).clamp(0, 1), alphas=drawn.alpha)


def psnr(prior: Prior, latent, views: Views) -> float:
    with torch.no_grad():
        return float(-10 * prior.model.view_losses(latent, views, WHITE)[1].log10())


def test_what_the_prior_has_drawn_is_recovered(prior: Prior, views: Views) -> None:
    images = rendered(prior, views)
    assert psnr(prior, prior.latents[0], images) > 40
    start = invert(images, prior, steps=0)
    latent = invert(images, prior, InversionConfig("encoder"), steps=150)
    assert psnr(prior, latent, images) > max(33.0, psnr(prior, start, images) + 4)


@pytest.mark.parametrize("init", ["encoder", "prior", "hybrid"])
def test_each_way_makes_its_loss_smaller_and_leaves_the_weights(prior: Prior, views: Views, init) -> None:
    config, before = InversionConfig(init), {k: v.clone() for k, v in prior.model.state_dict().items()}
    start = find_start(views, prior, config)
    latent = invert(views, prior, config, steps=40)

    def loss(z) -> Tensor:
        with torch.no_grad():
            return inversion_objective(prior, config, len(views), start.encoded)(z, views)

    assert loss(latent) < loss(start.latent)
    for name, value in prior.model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_hybrid_stays_nearer_to_the_encoding(prior: Prior, views: Views) -> None:
    one = views.select(slice(1))
    encoded = invert(one, prior, steps=0)
    free, held = (
        invert(one, prior, InversionConfig("hybrid", latent_prior_weight=weight), steps=40)
        for weight in (0.0, 3.0)
    )
    distances = [float((z.geometry - encoded.geometry).norm()) for z in (free, held)]
    assert distances[1] < 0.5 * distances[0]


def test_the_best_of_several_starts_is_kept(prior: Prior, views: Views) -> None:
    several = InversionConfig("prior", num_starts=4, start_steps=5)
    errors = [
        float(
            inversion_objective(prior, config, len(views)).images(
                find_start(views, prior, config).latent, views
            )
        )
        for config in (several, InversionConfig("prior"))
    ]
    assert errors[0] < errors[1]


def test_no_images_and_settings_that_do_not_go_together(prior: Prior, views: Views) -> None:
    bare = replace(views, alphas=None)
    with pytest.raises(ValueError, match="view 0 has no silhouette"):
        invert(bare, prior)
    assert len(invert(bare, prior, InversionConfig("prior"), steps=1)) > 0
    behind = views.viewmats.clone()
    behind[2, 2, 3] *= -1
    with pytest.raises(ValueError, match="view 2 looks past the object"):
        invert(replace(views, viewmats=behind), prior)
    assert views.alphas is not None
    nothing = views.alphas.clone()
    nothing[1] = 0
    with pytest.raises(ValueError, match="view 1 does not show the object"):
        invert(replace(views, alphas=nothing), prior)
    with pytest.raises(ValueError, match="a single image, and there are 4"):
        invert(views, prior, InversionConfig(unknown_camera=True))
