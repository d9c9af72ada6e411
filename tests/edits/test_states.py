"""Known edits as actions on a latent: each on its own part, and undone by its inverse."""

import math
from dataclasses import replace

import pytest
import torch

from nest_nerfstudio.edits.light import sun_sky_light
from nest_nerfstudio.edits.states import to_state
from nest_nerfstudio.fields.latent_gaussians import LatentGaussianFieldConfig, clamped_cosine
from nest_nerfstudio.fields.rig import irradiance
from nest_nerfstudio.geometry.quaternion import quat_exp, quat_rotate
from nest_nerfstudio.states import Edit, SunSky
from nest_nerfstudio.types import MotionCode, SceneLatent
from tests.equivariance import latent_distance

DUSK = SunSky((1.0, 0.2, -0.4), 1.5, 0.3)
FIELD = LatentGaussianFieldConfig().setup(geometry_dim=6)
EDITED = Edit(DUSK, hue=0.2, yaw=0.7, translate=(0.1, -0.2, 0.3))


def make_latent(tokens: int = 5) -> SceneLatent:
    return SceneLatent(
        ids=torch.arange(tokens),
        copies=torch.zeros(tokens, dtype=torch.long),
        quats=quat_exp(torch.randn(tokens, 3)),
        translations=torch.randn(tokens, 3),
        geometry=torch.randn(tokens, 6),
        appearance=torch.rand(tokens, 6),
        light=sun_sky_light(SunSky(), torch.zeros(3, 9)),
        motion=MotionCode.still(tokens, torch.zeros(())),
    )


def test_no_edit_changes_nothing() -> None:
    latent = make_latent()
    assert latent_distance(to_state(latent, FIELD, Edit()), latent) < 1e-6
    assert latent_distance(to_state(latent, FIELD, EDITED, EDITED), latent) < 1e-6


def test_an_edit_and_its_way_back() -> None:
    latent = make_latent()
    there = to_state(latent, FIELD, EDITED)
    assert latent_distance(there, latent) > 0.1
    assert latent_distance(to_state(there, FIELD, Edit(), seen_as=EDITED), latent) < 1e-5


@pytest.mark.parametrize(
    ("edit", "changed"),
    [
        (Edit(DUSK), {"light"}),
        (Edit(hue=0.3), {"appearance"}),
        (Edit(yaw=0.5), {"quats", "translations"}),
        (Edit(translate=(0.0, 0.1, 0.0)), {"translations"}),
    ],
)
def test_each_edit_acts_on_its_own_part_only(edit: Edit, changed: set[str]) -> None:
    latent = make_latent()
    edited = to_state(latent, FIELD, edit)
    for part in ("quats", "translations", "geometry", "appearance", "light"):
        distance = (getattr(edited, part) - getattr(latent, part)).abs().max()
        assert (distance > 1e-3) == (part in changed), part


def test_turn_about_z_then_move() -> None:
    latent = make_latent()
    edited = to_state(latent, FIELD, Edit(yaw=math.pi / 2, translate=(1.0, 0.0, 0.0)))
    x, y, z = latent.translations.unbind(1)
    torch.testing.assert_close(edited.translations, torch.stack([1 - y, x, z], 1))
    front = torch.tensor([[1.0, 0.0, 0.0]]).expand(5, 3)
    before, after = quat_rotate(latent.quats, front), quat_rotate(edited.quats, front)
    torch.testing.assert_close(after, torch.stack([-before[:, 1], before[:, 0], before[:, 2]], 1))


def test_an_unknown_light_stays() -> None:
    latent = make_latent()
    assert to_state(latent, FIELD, Edit(light=None)).light is latent.light


def test_stretching_is_refused() -> None:
    with pytest.raises(ValueError, match="stretch"):
        to_state(make_latent(), FIELD, Edit(stretch=(1.0, 2.0, 1.0)))


def test_recolor_is_an_action_of_the_circle() -> None:
    latent, everything = make_latent(), torch.ones(5, dtype=torch.bool)

    def recolor(z: SceneLatent, hue: float) -> SceneLatent:
        return FIELD.recolor(z, everything, hue, (1.0, 1.0, 1.0))

    torch.testing.assert_close(
        recolor(recolor(latent, 0.3), 0.9).appearance, recolor(latent, 1.2).appearance, atol=1e-5, rtol=0
    )


def test_irradiance_of_sun_and_sky() -> None:
    """A sky of radiance a gives π a everywhere; a sun E cos θ, but for what degree 2 leaves out."""
    light = torch.zeros(3, 9)
    normals = torch.nn.functional.normalize(torch.randn(1, 200, 3), dim=-1)
    sky = sun_sky_light(SunSky(sun=0.0, ambient=0.6), light).mT[None]
    torch.testing.assert_close(
        irradiance(sky, clamped_cosine(normals)), torch.full((1, 200, 3), 0.6 * math.pi)
    )
    direction = torch.tensor([-0.3, 0.5, -1.0])
    sun = sun_sky_light(SunSky(tuple(direction.tolist()), 3.0, 0.0), light).mT[None]
    cosine = (normals @ -direction / direction.norm()).clamp_min(0)
    assert (irradiance(sun, clamped_cosine(normals))[..., 0] - 3 * cosine).abs().max() < 0.3
    towards = irradiance(sun, clamped_cosine(-direction[None, None] / direction.norm()))
    assert towards[0, 0, 0] == pytest.approx(3 * (1 / 4 + 1 / 2 + 5 / 16 * 1), rel=0.02)


def test_turning_the_light_is_turning_the_sun() -> None:
    turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    latent = make_latent()
    expected = sun_sky_light(replace(SunSky(), direction=(-0.5, -0.3, -1.0)), latent.light)
    torch.testing.assert_close(latent.relight(turn).light, expected, atol=1e-5, rtol=0)
