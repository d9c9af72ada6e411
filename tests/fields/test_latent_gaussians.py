"""f_θ of many scenes: every factor of the latent changes what it stands for, and nothing else."""

from dataclasses import replace

import pytest
import torch

from nest_nerfstudio.edits.actions import recolor, sun_sky_light
from nest_nerfstudio.fields.latent_gaussians import LatentGaussianField, LatentGaussianFieldConfig
from nest_nerfstudio.geometry.albedo_cube import albedo_at
from nest_nerfstudio.geometry.color import linear_to_srgb
from nest_nerfstudio.geometry.quaternion import quat_exp, quat_to_rotmat
from nest_nerfstudio.geometry.sh import SH_C0
from nest_nerfstudio.types import Gaussians, MotionCode, SceneLatent, SunSky
from tests.equivariance import gaussians_distance, random_pose

TOKENS, SHAPE, EACH = 7, 10, 4


@pytest.fixture
def field() -> LatentGaussianField:
    made = LatentGaussianFieldConfig(gaussians_per_token=EACH, hidden_dim=16).setup(shape_dim=SHAPE)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


@pytest.fixture
def latent() -> SceneLatent:
    empty = torch.zeros(0)
    return SceneLatent(
        quats=quat_exp(torch.randn(TOKENS, 3)),
        translations=torch.randn(TOKENS, 3),
        shape=torch.cat([torch.full((TOKENS, 1), -2.0), torch.randn(TOKENS, SHAPE - 1)], 1),
        appearance=0.2 + 0.6 * torch.rand(TOKENS, 24),
        light=sun_sky_light(SunSky(), torch.zeros(3, 9)),
        motion=MotionCode(empty, torch.zeros(TOKENS, 0), torch.zeros(TOKENS, 6, 1), empty, torch.zeros(())),
    )


def changed(a: Gaussians, b: Gaussians) -> set[str]:
    parts = ("means", "quats", "scales", "opacities", "sh")
    return {part for part in parts if (getattr(a, part) - getattr(b, part)).abs().max() > 1e-4}


def test_each_token_has_its_gaussians_near_it(field: LatentGaussianField, latent: SceneLatent) -> None:
    gaussians = field(latent)
    assert len(gaussians) == TOKENS * EACH
    assert gaussians.sh_degree == 1
    offsets = gaussians.means.unflatten(0, (TOKENS, EACH)) - latent.translations[:, None]
    size = latent.shape[:, 0].exp().max()
    assert offsets.abs().max() <= 2 * 3**0.5 * size
    assert (gaussians.scales > 0).all()
    assert ((gaussians.opacities > 0) & (gaussians.opacities < 1)).all()
    torch.testing.assert_close(gaussians.quats.norm(dim=1), torch.ones(TOKENS * EACH))


def test_size_scales_geometry(field: LatentGaussianField, latent: SceneLatent) -> None:
    """The network sees the size as well, so it is taken out of its input here."""
    with torch.no_grad():
        field.trunk[0].weight[:, 0] = 0
    larger = replace(latent, shape=latent.shape + torch.eye(SHAPE)[0] * torch.log(torch.tensor(2.0)))
    small, large = field(latent), field(larger)
    torch.testing.assert_close(large.scales, 2 * small.scales)
    centres = latent.translations.repeat_interleave(EACH, 0)
    torch.testing.assert_close(large.means - centres, 2 * (small.means - centres), atol=1e-5, rtol=1e-4)


def test_light_and_albedo_change_colours_only(field: LatentGaussianField, latent: SceneLatent) -> None:
    before = field(latent)
    assert changed(field(replace(latent, light=0.5 * latent.light)), before) == {"sh"}
    assert changed(field(recolor(latent, 0.3)), before) == {"sh"}
    assert changed(field(replace(latent, shape=latent.shape + 0.5)), before) >= {"means", "scales"}


def test_no_light_is_dark(field: LatentGaussianField, latent: SceneLatent) -> None:
    """Irradiance is kept above a hundredth, and albedo below one, so sRGB stays below 0.04."""
    dark = field(replace(latent, light=torch.zeros(3, 9)))
    assert (dark.sh[:, 0] * 0.28209479177387814 + 0.5).max() < 0.045


def test_moving_an_object_under_a_light_changes_its_shading(
    field: LatentGaussianField, latent: SceneLatent
) -> None:
    pose = random_pose(torch.float32, 0)
    moved = field(latent.move(pose))
    turned_world = field(latent.turn_world(pose))
    assert gaussians_distance(turned_world, field(latent).move(pose)) < 1e-5
    assert changed(moved, turned_world) == {"sh"}


def test_an_open_surface_at_first_and_shade_that_is_learned(latent: SceneLatent) -> None:
    """The start is Lambert's cosine of a normal; what is learned beyond it changes nothing but colour."""
    field = LatentGaussianFieldConfig(gaussians_per_token=EACH).setup(shape_dim=SHAPE)
    sky = sun_sky_light(SunSky(sun=0.0, ambient=0.6), latent.light)
    open_to_it = linear_to_srgb(albedo_at(latent.appearance, _offsets(field, latent)) * 0.6)
    before = field(replace(latent, light=sky))
    torch.testing.assert_close(before.sh[:, 0] * SH_C0 + 0.5, open_to_it.flatten(0, 1), atol=1e-5, rtol=0)
    with torch.no_grad():  # every ninth of a token's last numbers is the transfer of the even light
        field.head.bias.view(EACH, -1)[:, -9] -= 0.5
    shaded = field(replace(latent, light=sky))
    assert changed(shaded, before) == {"sh"}
    assert (shaded.sh[:, 0] < before.sh[:, 0]).all()


def _offsets(field: LatentGaussianField, latent: SceneLatent) -> torch.Tensor:
    """Where a token's Gaussians are in its frame, in its sizes."""
    away = field(latent).means.unflatten(0, (-1, EACH)) - latent.translations[:, None]
    local = torch.einsum("kji,kmj->kmi", quat_to_rotmat(latent.quats), away)
    return local / latent.shape[:, None, :1].clamp(-8, 3).exp()


def test_without_view_dependence(latent: SceneLatent) -> None:
    config = LatentGaussianFieldConfig(gaussians_per_token=EACH, residual_degree=0)
    assert config.setup(shape_dim=SHAPE)(latent).sh_degree == 0


def test_gradients_are_finite_and_reach_every_part(field: LatentGaussianField, latent: SceneLatent) -> None:
    names = ("quats", "translations", "shape", "appearance", "light")
    parts = {name: getattr(latent, name).clone().requires_grad_() for name in names}
    gaussians = field(replace(latent, **parts))
    loss = sum(
        (getattr(gaussians, n) * torch.randn_like(getattr(gaussians, n))).sum() for n in ("means", "sh")
    )
    (loss + gaussians.scales.sum() + gaussians.opacities.sum()).backward()
    for name, part in parts.items():
        assert part.grad is not None
        assert part.grad.isfinite().all(), name
        assert part.grad.any(), name
