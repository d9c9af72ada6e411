"""Fitting a latent to images: it fits, turns with the world, and leaves the decoder as it is."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nest_nerfstudio.edits.light import sun_sky_light
from nest_nerfstudio.fields.latent_gaussians import LatentGaussianField, LatentGaussianFieldConfig
from nest_nerfstudio.fields.rig import pose as posed
from nest_nerfstudio.geometry.quaternion import quat_exp
from nest_nerfstudio.models.latent_optimization import Objective, optimize_latent
from nest_nerfstudio.rasterizers.dense import DenseRasterizer
from nest_nerfstudio.states import SunSky
from nest_nerfstudio.types import MotionCode, SceneLatent, Views
from tests.equivariance import latent_distance, pictures, random_pose

TOKENS, GEOMETRY = 24, 8


@pytest.fixture
def field() -> LatentGaussianField:
    torch.manual_seed(0)
    return LatentGaussianFieldConfig(gaussians_per_token=2, hidden_dim=16).setup(geometry_dim=GEOMETRY)


@pytest.fixture
def latent() -> SceneLatent:
    torch.manual_seed(1)
    translations = 0.4 * torch.randn(TOKENS, 3)
    return SceneLatent(
        ids=torch.arange(TOKENS),
        copies=torch.zeros(TOKENS, dtype=torch.long),
        quats=quat_exp(torch.randn(TOKENS, 3)),
        translations=translations,
        geometry=torch.cat([torch.full((TOKENS, 1), -1.5), torch.randn(TOKENS, GEOMETRY - 1)], 1),
        appearance=torch.full((TOKENS, 24), 0.5),
        light=sun_sky_light(SunSky(), torch.zeros(3, 9)),
        motion=MotionCode.still(TOKENS, translations),
    )


def loss_of(field: LatentGaussianField):
    def loss(z: SceneLatent, views: Views) -> Tensor:
        gaussians = posed(field(z), z.poses, z.light)
        shown = DenseRasterizer()(gaussians, views.viewmats, views.Ks, views.width, views.height)
        assert views.images is not None
        assert views.alphas is not None
        return (shown.rgb - views.images * views.alphas).square().mean()

    return loss


def test_images_are_fitted_and_the_decoder_stays(field: LatentGaussianField, latent: SceneLatent) -> None:
    views, loss = pictures(3, size=24), loss_of(field)
    before = {name: p.clone() for name, p in field.named_parameters()}
    with torch.no_grad():  # as viewers and scores call it
        fitted = optimize_latent(latent, views, Objective(loss), 60)
        assert loss(fitted, views) < 0.5 * loss(latent, views)
    assert not fitted.translations.requires_grad
    assert ((fitted.appearance > 0) & (fitted.appearance < 1)).all()
    torch.testing.assert_close(fitted.quats.norm(dim=1), torch.ones(TOKENS))
    for name, p in field.named_parameters():
        assert torch.equal(p, before[name])
        assert p.grad is None


def test_no_step_changes_nothing(field: LatentGaussianField, latent: SceneLatent) -> None:
    assert optimize_latent(latent, pictures(1), Objective(loss_of(field)), 0) is latent


def test_result_turns_with_the_world(field: LatentGaussianField, latent: SceneLatent) -> None:
    field, pose = field.double(), random_pose(torch.float64, 2)
    names = ("quats", "translations", "geometry", "appearance", "light")
    latent = replace(latent, **{name: getattr(latent, name).double() for name in names})
    views, loss = pictures(2, torch.float64, size=24), loss_of(field)
    fitted = optimize_latent(latent, views, Objective(loss), 5)
    turned = optimize_latent(latent.turn_world(pose), views.move(pose), Objective(loss), 5)
    assert latent_distance(turned, fitted.turn_world(pose)) < 1e-8
    assert latent_distance(fitted, latent) > 1e-3
