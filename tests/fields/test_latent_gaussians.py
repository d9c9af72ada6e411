"""f_θ of many scenes: every factor of the latent changes what it stands for, and nothing else."""

from dataclasses import replace

import pytest
import torch

from nest_nerfstudio.edits.light import sun_sky_light
from nest_nerfstudio.fields.latent_gaussians import LatentGaussianField, LatentGaussianFieldConfig
from nest_nerfstudio.fields.rig import pose
from nest_nerfstudio.geometry.albedo_cube import albedo_at
from nest_nerfstudio.geometry.color import linear_to_srgb
from nest_nerfstudio.geometry.quaternion import quat_exp, quat_to_rotmat
from nest_nerfstudio.geometry.sh import SH_C0
from nest_nerfstudio.models.latent_parameters import still_latent
from nest_nerfstudio.states import SunSky
from nest_nerfstudio.types import Gaussians, MotionCode, SceneLatent
from tests.equivariance import gaussians_distance, random_pose

TOKENS, GEOMETRY, EACH = 7, 10, 4


@pytest.fixture
def field() -> LatentGaussianField:
    made = LatentGaussianFieldConfig(gaussians_per_token=EACH, hidden_dim=16).setup(geometry_dim=GEOMETRY)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


@pytest.fixture
def latent() -> SceneLatent:
    return SceneLatent(
        ids=torch.arange(TOKENS),
        copies=torch.zeros(TOKENS, dtype=torch.long),
        quats=quat_exp(torch.randn(TOKENS, 3)),
        translations=torch.randn(TOKENS, 3),
        geometry=torch.cat([torch.full((TOKENS, 1), -2.0), torch.randn(TOKENS, GEOMETRY - 1)], 1),
        appearance=0.2 + 0.6 * torch.rand(TOKENS, 24),
        light=sun_sky_light(SunSky(), torch.zeros(3, 9)),
        motion=MotionCode.still(TOKENS, torch.zeros(())),
    )


def shown(field: LatentGaussianField, latent: SceneLatent) -> Gaussians:
    """The scene of a latent at rest."""
    return pose(field(latent), latent.poses, latent.light)


def recolor(field: LatentGaussianField, latent: SceneLatent, hue: float) -> SceneLatent:
    return field.recolor(latent, torch.ones(len(latent), dtype=torch.bool), hue, (1.0, 1.0, 1.0))


def changed(a: Gaussians, b: Gaussians) -> set[str]:
    parts = ("means", "quats", "scales", "opacities", "sh")
    return {part for part in parts if (getattr(a, part) - getattr(b, part)).abs().max() > 1e-4}


def test_each_token_has_its_gaussians_near_it(field: LatentGaussianField, latent: SceneLatent) -> None:
    gaussians = shown(field, latent)
    assert len(gaussians) == TOKENS * EACH
    assert gaussians.sh_degree == 1
    offsets = gaussians.means.unflatten(0, (TOKENS, EACH)) - latent.translations[:, None]
    size = latent.geometry[:, 0].exp().max()
    assert offsets.abs().max() <= 2 * 3**0.5 * size
    assert (gaussians.scales > 0).all()
    assert ((gaussians.opacities > 0) & (gaussians.opacities < 1)).all()
    torch.testing.assert_close(gaussians.quats.norm(dim=1), torch.ones(TOKENS * EACH))


def test_size_scales_geometry(field: LatentGaussianField, latent: SceneLatent) -> None:
    """The network sees the size as well, so it is taken out of its input here."""
    with torch.no_grad():
        field.trunk[0].weight[:, 0] = 0
    larger = replace(latent, geometry=latent.geometry + torch.eye(GEOMETRY)[0] * torch.log(torch.tensor(2.0)))
    small, large = shown(field, latent), shown(field, larger)
    torch.testing.assert_close(large.scales, 2 * small.scales)
    centres = latent.translations.repeat_interleave(EACH, 0)
    torch.testing.assert_close(large.means - centres, 2 * (small.means - centres), atol=1e-5, rtol=1e-4)


def test_light_and_albedo_change_colours_only(field: LatentGaussianField, latent: SceneLatent) -> None:
    before = shown(field, latent)
    assert changed(shown(field, replace(latent, light=0.5 * latent.light)), before) == {"sh"}
    assert changed(shown(field, recolor(field, latent, 0.3)), before) == {"sh"}
    assert changed(shown(field, replace(latent, geometry=latent.geometry + 0.5)), before) >= {
        "means",
        "scales",
    }


def test_no_light_is_dark(field: LatentGaussianField, latent: SceneLatent) -> None:
    """Irradiance is kept above a hundredth, and albedo below one, so sRGB stays below 0.04."""
    dark = shown(field, replace(latent, light=torch.zeros(3, 9)))
    assert (dark.sh[:, 0] * 0.28209479177387814 + 0.5).max() < 0.045


def test_moving_an_object_under_a_light_changes_its_shading(
    field: LatentGaussianField, latent: SceneLatent
) -> None:
    pose = random_pose(torch.float32, 0)
    moved = shown(field, latent.move(pose))
    turned_world = shown(field, latent.turn_world(pose))
    assert gaussians_distance(turned_world, shown(field, latent).move(pose)) < 1e-5
    assert changed(moved, turned_world) == {"sh"}


def test_an_open_surface_at_first_and_shade_that_is_learned(latent: SceneLatent) -> None:
    """The start is Lambert's cosine of a normal; what is learned beyond it changes nothing but colour."""
    field = LatentGaussianFieldConfig(gaussians_per_token=EACH).setup(geometry_dim=GEOMETRY)
    sky = sun_sky_light(SunSky(sun=0.0, ambient=0.6), latent.light)
    open_to_it = linear_to_srgb(albedo_at(latent.appearance, _offsets(field, latent)) * 0.6)
    before = shown(field, replace(latent, light=sky))
    torch.testing.assert_close(before.sh[:, 0] * SH_C0 + 0.5, open_to_it.flatten(0, 1), atol=1e-5, rtol=0)
    with torch.no_grad():  # every ninth of a token's last numbers is the transfer of the even light
        field.head.bias.view(EACH, -1)[:, -9] -= 0.5
    shaded = shown(field, replace(latent, light=sky))
    assert changed(shaded, before) == {"sh"}
    assert (shaded.sh[:, 0] < before.sh[:, 0]).all()


def _offsets(field: LatentGaussianField, latent: SceneLatent) -> torch.Tensor:
    """Where a token's Gaussians are in its frame, in its sizes."""
    away = shown(field, latent).means.unflatten(0, (-1, EACH)) - latent.translations[:, None]
    local = torch.einsum("kji,kmj->kmi", quat_to_rotmat(latent.quats), away)
    return local / latent.geometry[:, None, :1].clamp(-8, 3).exp()


def test_without_view_dependence(latent: SceneLatent) -> None:
    config = LatentGaussianFieldConfig(gaussians_per_token=EACH, residual_degree=0)
    assert config.setup(geometry_dim=GEOMETRY)(latent).rest.sh_degree == 0


def test_gradients_are_finite_and_reach_every_part(field: LatentGaussianField, latent: SceneLatent) -> None:
    names = ("quats", "translations", "geometry", "appearance", "light")
    parts = {name: getattr(latent, name).clone().requires_grad_() for name in names}
    gaussians = shown(field, replace(latent, **parts))
    loss = sum(
        (getattr(gaussians, n) * torch.randn_like(getattr(gaussians, n))).sum() for n in ("means", "sh")
    )
    (loss + gaussians.scales.sum() + gaussians.opacities.sum()).backward()
    for name, part in parts.items():
        assert part.grad is not None
        assert part.grad.isfinite().all(), name
        assert part.grad.any(), name


def test_what_is_decoded_does_not_depend_on_poses(field: LatentGaussianField, latent: SceneLatent) -> None:
    moved = field(latent.move(random_pose(torch.float32, 3)))
    before = field(latent)
    for part in ("means", "quats", "scales", "opacities", "sh"):
        assert torch.equal(getattr(moved.rest, part), getattr(before.rest, part)), part


def test_copies_and_cuts_bring_and_take_their_gaussians(
    field: LatentGaussianField, latent: SceneLatent
) -> None:
    g, some = random_pose(torch.float32, 1), torch.tensor([True, False, True, False, False, False, True])
    before, kept = shown(field, latent), shown(field, latent.select(some))
    expected = before.select(some.repeat_interleave(EACH))
    assert gaussians_distance(kept, expected) < 1e-6
    doubled = shown(field, latent.duplicate(some, g))
    assert len(doubled) == len(before) + len(kept)
    assert gaussians_distance(doubled.select(torch.arange(len(before))), before) < 1e-6
    order = torch.randperm(TOKENS)
    rows = (order[:, None] * EACH + torch.arange(EACH)).flatten()
    assert gaussians_distance(shown(field, latent.permute(order)), before.select(rows)) < 1e-6


def test_recolouring_acts_on_chosen_tokens(field: LatentGaussianField, latent: SceneLatent) -> None:
    some = torch.tensor([True] + [False] * (TOKENS - 1))
    changed_latent = field.recolor(latent, some, 0.4, (1.5, 1.0, 0.7))
    assert torch.equal(changed_latent.appearance[1:], latent.appearance[1:])
    difference = (shown(field, changed_latent).sh - shown(field, latent).sh).abs().amax((1, 2))
    assert difference[:EACH].min() > 1e-3
    assert difference[EACH:].max() == 0


def test_principal_directions_are_those_of_the_codes_that_were_seen() -> None:
    torch.manual_seed(0)
    field = LatentGaussianFieldConfig().setup(geometry_dim=4)
    assert len(field.directions("geometry")) == len(field.directions("appearance")) == 0
    scales = torch.tensor([0.5, 3.0, 0.1, 1.0])
    axes = torch.linalg.qr(torch.randn(4, 4))[0]
    for _ in range(600):
        geometry = (torch.randn(50, 4) * scales) @ axes.mT + 2.0
        albedo = (0.3 * torch.randn(50, 1)).sigmoid().expand(50, 24)
        field.observe(replace(still_latent(50, 24, 0), geometry=geometry, appearance=albedo))
    found = field.directions("geometry")
    torch.testing.assert_close(found.norm(dim=1), torch.tensor([3.0, 1.0, 0.5, 0.1]), rtol=0.1, atol=0)
    along = (found[0] @ axes / found[0].norm()).abs()
    assert along[1] > 0.99
    grey = field.directions("appearance")
    torch.testing.assert_close(grey[0], torch.full_like(grey[0], 0.3), rtol=0.1, atol=0)
    assert grey[1:].abs().max() < 0.01
    loaded = LatentGaussianFieldConfig().setup(geometry_dim=4)
    state = field.state_dict()
    loaded.load_state_dict(state)
    assert torch.equal(loaded.directions("geometry"), found)
    del state["moments"]  # of a prior that was trained before there were any
    LatentGaussianFieldConfig().setup(geometry_dim=4).load_state_dict(state)


def test_traversing_changes_all_tokens_by_the_same_function() -> None:
    torch.manual_seed(0)
    field = LatentGaussianFieldConfig().setup(geometry_dim=4)
    latent = replace(still_latent(6, 24, 0), geometry=torch.randn(6, 4), appearance=torch.rand(6, 24))
    order, every = torch.randperm(6), torch.ones(6, dtype=torch.bool)
    for factor, dim in (("geometry", 4), ("appearance", 24)):
        change = torch.randn(dim)
        permuted = field.traverse(latent.permute(order), every, factor, change)
        expected = field.traverse(latent, every, factor, change).permute(order)
        assert torch.equal(getattr(permuted, factor), getattr(expected, factor))
        changed = field.traverse(latent, every, factor, 100 * change)
        assert 0 <= changed.appearance.min() <= changed.appearance.max() <= 1
