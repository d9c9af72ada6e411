"""One `pose` for every field: exact under rigid motions, and light that follows what it shades."""

from dataclasses import replace

import pytest
import torch

from nest_nerfstudio.edits.light import sun_sky_light
from nest_nerfstudio.fields.bound_gaussians import COLOR_DIM, BoundGaussians
from nest_nerfstudio.fields.latent_gaussians import LatentGaussianFieldConfig
from nest_nerfstudio.fields.rig import irradiance, pose, resize, shade
from nest_nerfstudio.geometry.quaternion import quat_exp, quat_normalize, quat_to_rotmat
from nest_nerfstudio.geometry.se3 import se3_exp
from nest_nerfstudio.states import SunSky
from nest_nerfstudio.types import Gaussians, MotionCode, RiggedGaussians, SceneLatent
from tests.equivariance import TOLERANCE, gaussians_distance, random_pose

TOKENS, GEOMETRY = 9, 10


def make_scene(kind: str, dtype: torch.dtype):
    """A field and a latent of it, with light and, for "latent", a material."""
    torch.manual_seed(1)
    if kind == "latent":
        field = LatentGaussianFieldConfig(gaussians_per_token=5, hidden_dim=16).setup(geometry_dim=GEOMETRY)
        with torch.no_grad():
            for parameter in field.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        quats, translations = quat_exp(torch.randn(TOKENS, 3)), torch.randn(TOKENS, 3)
        geometry, appearance = torch.randn(TOKENS, GEOMETRY) - 1, 0.2 + 0.6 * torch.rand(TOKENS, 24)
    else:
        field = BoundGaussians(60, TOKENS, sh_degree=2)
        field.initialize(torch.randn(60, 3), torch.rand(60, 3), opacity=0.4)
        torch.nn.init.normal_(field.params["features_rest"])
        quats, translations = se3_exp(torch.randn(TOKENS, 6))
        geometry, appearance = torch.zeros(TOKENS, 0), 0.3 * torch.randn(TOKENS, COLOR_DIM)
    latent = SceneLatent(
        ids=torch.arange(TOKENS),
        copies=torch.zeros(TOKENS, dtype=torch.long),
        quats=quat_normalize(quats.to(dtype)),
        translations=translations.to(dtype),
        geometry=geometry.to(dtype),
        appearance=appearance.to(dtype),
        light=sun_sky_light(SunSky(), torch.zeros(3, 9, dtype=dtype)),
        motion=MotionCode.still(TOKENS, torch.zeros((), dtype=dtype)),
    )
    field = field.to(dtype).eval()
    if kind == "bound":
        field.bind(latent.poses)
    return field, latent


def shown(field, latent: SceneLatent) -> Gaussians:
    return pose(field(latent), latent.poses, latent.light)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["latent", "bound"])
@pytest.mark.parametrize("edit", ["whole", "cut", "doubled"])
def test_moving_the_world_moves_what_is_shown(kind: str, dtype: torch.dtype, edit: str) -> None:
    field, latent = make_scene(kind, dtype)
    latent = latent.move(random_pose(dtype, 5, shift=0.3), torch.tensor([0, 3]))
    some = torch.arange(TOKENS) % 3 != 1
    if edit == "cut":
        latent = latent.select(some)
    elif edit == "doubled":
        latent = latent.duplicate(some, random_pose(dtype, 6))
    g = random_pose(dtype, 7)
    with torch.no_grad():
        turned, expected = shown(field, latent.turn_world(g)), shown(field, latent).move(g)
    assert gaussians_distance(turned, expected) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["latent", "bound"])
def test_permuting_selecting_and_duplicating_are_what_they_say(kind: str, dtype: torch.dtype) -> None:
    """Keeping all, permuting there and back, and dropping a copy change nothing, to the last digits."""
    field, latent = make_scene(kind, dtype)
    before = shown(field, latent)
    order = torch.randperm(TOKENS)
    some = torch.arange(TOKENS) < 4
    doubled = latent.duplicate(some, random_pose(dtype, 2))
    for same in (
        latent.select(torch.ones(TOKENS, dtype=torch.bool)),
        latent.permute(order).permute(order.argsort()),
        doubled.select(doubled.copies == 0),
    ):
        assert gaussians_distance(shown(field, same), before) < TOLERANCE[dtype]
    permuted = shown(field, latent.permute(order))
    rows = [g.means.sum(1).argsort() for g in (before, permuted)]
    assert gaussians_distance(permuted.select(rows[1]), before.select(rows[0])) < TOLERANCE[dtype]


@pytest.mark.parametrize("kind", ["latent", "bound"])
def test_a_scene_that_is_scaled_is_that_scene_scaled(kind: str) -> None:
    """Exactly where all of it is; of a part, Gaussians that follow other tokens most stay as they are."""
    field, latent = make_scene(kind, torch.float64)
    plain, centre = shown(field, latent), torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)

    def scaled(tokens: torch.Tensor) -> Gaussians:
        small = latent.scale(0.4, centre, tokens)
        assert small.sizes is not None
        return pose(resize(field(small), small.sizes), small.poses, small.light)

    whole = scaled(torch.ones(TOKENS, dtype=torch.bool))
    expected = replace(plain, means=centre + 0.4 * (plain.means - centre), scales=0.4 * plain.scales)
    assert gaussians_distance(whole, expected) < 1e-10
    chosen = torch.arange(TOKENS) < 4
    part, rigged = scaled(chosen), field(latent)
    most = chosen[rigged.tokens.gather(1, rigged.weights.argmax(1, keepdim=True))[:, 0]]
    torch.testing.assert_close(part.scales, torch.where(most[:, None], 0.4, 1.0) * plain.scales)
    inside = (rigged.weights * chosen[rigged.tokens]).sum(1)
    for alone, like in ((inside == 1, whole), (inside == 0, plain)):
        assert alone.any() or kind == "bound"  # few of which follow tokens on one side alone
        assert not alone.any() or gaussians_distance(part.select(alone), like.select(alone)) < 1e-10


def test_light_shades_a_material_as_it_turns() -> None:
    """Turning an object under a light that stays is turning the light the other way."""
    field, latent = make_scene("latent", torch.float64)
    g = random_pose(torch.float64, 4, shift=0.0)
    rigged = field(latent)
    assert rigged.material is not None
    turned = latent.move(g)
    back = latent.relight(torch.linalg.inv(quat_to_rotmat(g[0])))
    one = shade(rigged, rigged.material, turned.quats, turned.light)
    other = shade(rigged, rigged.material, back.quats, back.light)
    torch.testing.assert_close(one, other)
    assert (one - shade(rigged, rigged.material, latent.quats, latent.light)).abs().max() > 0.01


def test_shading_blends_the_lights_of_several_tokens() -> None:
    """A rigid motion of all tokens shades as one of a single token, whatever the weights are."""
    field, latent = make_scene("latent", torch.float64)
    rigged = field(latent)
    assert rigged.material is not None
    weights = torch.rand(len(rigged), 3, dtype=torch.float64)
    weights = weights / weights.sum(1, keepdim=True)
    tokens = torch.randint(0, TOKENS, weights.shape)
    blended = replace(rigged, tokens=tokens, weights=weights)
    quats = random_pose(torch.float64, 8)[0].expand(TOKENS, -1)
    torch.testing.assert_close(
        shade(blended, rigged.material, quats, latent.light),
        shade(rigged, rigged.material, quats, latent.light),
    )


def test_colours_without_a_material_ignore_the_light() -> None:
    field, latent = make_scene("bound", torch.float32)
    dark = replace(latent, light=torch.zeros(3, 9))
    assert torch.equal(shown(field, latent).sh, shown(field, dark).sh)


def test_irradiance_stays_positive_and_is_linear_above_a_hundredth() -> None:
    light, transfer = torch.zeros(1, 9, 3), torch.zeros(1, 3, 9)
    light[:, 0], transfer[0, :, 0] = 1.0, torch.tensor([2.0, 0.01, -0.02])
    gathered = irradiance(light, transfer)[0, :, 0]
    torch.testing.assert_close(gathered[:2], torch.tensor([2.0, 0.01]))
    assert 0 < gathered[2] < 0.01


def test_a_rig_is_checked() -> None:
    field, latent = make_scene("bound", torch.float32)
    rigged = field(latent)
    with pytest.raises(ValueError, match="as many poses"):
        pose(rigged, latent.select(torch.arange(TOKENS) > 1).poses, latent.light)
    assert isinstance(rigged, RiggedGaussians)
