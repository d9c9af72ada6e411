"""h_φ commutes with its group, for whole and for missing data, and refuses what it cannot encode."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from nest_nerfstudio.encoders.latent_encoder import LatentEncoder, LatentEncoderConfig
from nest_nerfstudio.encoders.proposals import ProposalNetworkConfig
from nest_nerfstudio.encoders.views import alpha_maps
from nest_nerfstudio.encoders.voxels import in_hull
from nest_nerfstudio.fields.latent_gaussians import LatentGaussianField, LatentGaussianFieldConfig
from nest_nerfstudio.fields.rig import pose as pose_rig
from nest_nerfstudio.types import Gaussians, Points, SceneLatent
from tests.equivariance import (
    TOLERANCE,
    gaussians_distance,
    latent_distance,
    pictures,
    random_pose,
    turn_points,
)

GROUPS = ("se3", "so3", "azimuth")
DTYPES = (torch.float32, torch.float64)


@pytest.fixture
def dtype(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    """Constants of e3nn are made in the default precision, so that is what is set."""
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(torch.float32)


def make_encoder(group: str = "so3", cells: int = 32, **settings) -> LatentEncoder:
    """With weights that are not those of a start, where some heads are zero."""
    defaults = {
        "image_size": 48,
        "num_tokens": 40,
        "proposals": ProposalNetworkConfig(cells=cells, patches=16),
    }
    encoder = LatentEncoderConfig(group=group, **{**defaults, **settings}).setup()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    return encoder.eval()


def make_field(encoder: LatentEncoder) -> LatentGaussianField:
    field = LatentGaussianFieldConfig().setup(geometry_dim=encoder.config.geometry_dim)
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    return field


def decode(field: LatentGaussianField, latent: SceneLatent) -> Gaussians:
    """The scene at rest, under its light."""
    return pose_rig(field(latent), (latent.quats, latent.translations), latent.light)


def make_points(count: int = 300) -> Points:
    return Points(positions=torch.randn(count, 3) * torch.tensor([0.7, 0.4, 0.3]), rgb=torch.rand(count, 3))


def pose_of(group: str, dtype: torch.dtype, seed: int):
    return random_pose(dtype, seed, "z" if group == "azimuth" else "any", float(group == "se3"))


@pytest.mark.parametrize("num_views", [1, 2, 5])
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("dtype", DTYPES, indirect=True)
def test_commutes_with_its_group(group: str, dtype: torch.dtype, num_views: int) -> None:
    """h(g·X) = g·h(X) and f(h(g·X)) = g·f(h(X)), spherical harmonics and light included."""
    encoder = make_encoder(group)
    field = make_field(encoder)
    views, pose = pictures(num_views, dtype), pose_of(group, dtype, num_views)
    latent, turned = encoder(views), encoder(views.move(pose))
    assert latent_distance(turned, latent.turn_world(pose)) < TOLERANCE[dtype]
    expected = decode(field, latent).move(pose)
    assert gaussians_distance(decode(field, turned), expected) < TOLERANCE[dtype]


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("dtype", DTYPES, indirect=True)
def test_commutes_on_points_and_images_with_points(group: str, dtype: torch.dtype) -> None:
    encoder, points, pose = make_encoder(group), make_points(), pose_of(group, dtype, 3)
    turned = turn_points(points, pose)
    assert latent_distance(encoder(None, turned), encoder(None, points).turn_world(pose)) < TOLERANCE[dtype]
    views = pictures(2, dtype)
    latent = encoder(views, points)
    assert latent_distance(encoder(views.move(pose), turned), latent.turn_world(pose)) < TOLERANCE[dtype]


def test_gravity_breaks_rotations_about_other_axes() -> None:
    encoder, views, pose = make_encoder("azimuth"), pictures(3), random_pose(torch.float32, 0, "x", 0.0)
    assert latent_distance(encoder(views.move(pose)), encoder(views).turn_world(pose)) > 1e-2


def test_so3_is_about_the_origin() -> None:
    """The distance that the other tests measure can be large."""
    encoder, views, pose = make_encoder("so3"), pictures(3), random_pose(torch.float32, 0, "any", 0.3)
    latent, turned = encoder(views, num_tokens=20), encoder(views.move(pose), num_tokens=20)
    assert latent_distance(turned, latent.turn_world(pose)) > 1e-2


def test_order_of_views_and_points_does_not_matter() -> None:
    encoder, views = make_encoder(), pictures(4)
    order = torch.tensor([2, 0, 3, 1])
    assert latent_distance(encoder(views.select(order)), encoder(views)) == 0
    many = make_points(3000)
    order = torch.randperm(len(many))
    shuffled = encoder(None, Points(many.positions[order], many.rgb[order]))
    latent = encoder(None, many)
    same = torch.cdist(latent.translations, shuffled.translations).argmin(1)
    assert latent_distance(shuffled.permute(same), latent) < 1e-5


def test_field_commutes_with_permutations_of_tokens() -> None:
    encoder = make_encoder()
    field, latent = make_field(encoder), encoder(pictures(2))
    order = torch.randperm(len(latent))
    permuted = decode(field, latent.permute(order))
    expected = decode(field, latent).means.unflatten(0, (len(latent), -1))[order].flatten(0, 1)
    torch.testing.assert_close(permuted.means, expected)


def test_a_camera_inside_the_object_takes_nothing_away() -> None:
    """Its image is covered everywhere, so it carves nothing; tokens are where the others leave room."""
    views, encoder = pictures(4), make_encoder(cells=96)
    assert views.alphas is not None
    viewmats, alphas = views.viewmats.clone(), views.alphas.clone()
    viewmats[1, :3, 3], alphas[1] = 0.0, 1.0
    latent = encoder(replace(views, viewmats=viewmats, alphas=alphas))
    assert all(part.isfinite().all() for part in (latent.translations, latent.quats, latent.geometry))
    others = views.select(torch.tensor([0, 2, 3]))
    near = torch.nn.functional.max_pool2d(alpha_maps(others), 5, 1, 2)
    assert in_hull(others, near, latent.translations).float().mean() > 0.9


@pytest.mark.parametrize("count", [8, 40, 70])
def test_number_of_tokens_is_a_setting_of_the_call(count: int) -> None:
    encoder, views = make_encoder(), pictures(3)
    assert len(encoder(views, num_tokens=count)) == count


def test_fewer_tokens_where_there_are_fewer_positions() -> None:
    assert len(make_encoder()(None, make_points(12))) == 12


def test_resolution_of_images_hardly_matters() -> None:
    encoder = make_encoder()
    coarse, fine = encoder(pictures(3)), encoder(pictures(3, size=96))
    centres = (latent.translations.mean(0) for latent in (coarse, fine))
    torch.testing.assert_close(*centres, atol=0.1, rtol=0)


def test_gradients_reach_every_weight() -> None:
    encoder = make_encoder().train()
    latent, occupancy = encoder.encode(pictures(2), make_points())
    assert occupancy is not None
    loss = occupancy.loss([pictures(3)]) + sum(
        (part * torch.randn_like(part)).sum() for part in (latent.quats, latent.translations)
    )
    loss = loss + sum(
        (p * torch.randn_like(p)).sum() for p in (latent.geometry, latent.appearance, latent.light)
    )
    loss.backward()
    without = [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without


def test_nothing_to_encode() -> None:
    encoder, views = make_encoder(), pictures(1)
    with pytest.raises(ValueError, match="nothing to encode"):
        encoder(None)
    with pytest.raises(ValueError, match="nothing to encode"):
        encoder(replace(views, images=None))


def test_broken_input_is_named() -> None:
    encoder, views, points = make_encoder(), pictures(3), make_points()
    viewmats = views.viewmats.clone()
    viewmats[1, 0, 3] = float("nan")
    with pytest.raises(ValueError, match=r"poses of the views \[1\] are not finite"):
        encoder(replace(views, viewmats=viewmats))
    assert views.images is not None
    images = views.images.clone()
    images[2, 3, 4] = float("nan")
    with pytest.raises(ValueError, match=r"images of the views \[2\] are not finite"):
        encoder(replace(views, images=images))
    with pytest.raises(ValueError, match="point cloud has values"):
        encoder(None, replace(points, positions=points.positions / 0))
    with pytest.raises(ValueError, match="4 distinct positions or more"):
        encoder(None, Points(torch.zeros(9, 3), torch.rand(9, 3)))
    with pytest.raises(ValueError, match="num_tokens must be 1 or more"):
        encoder(views, num_tokens=0)


@pytest.mark.parametrize("irreps", ["16x1e+64x0e", "64x0e+16x1o", "64x0e"])
def test_irreps_that_the_encoder_cannot_read(irreps: str) -> None:
    with pytest.raises(ValueError, match="irreps must be"):
        LatentEncoderConfig(irreps=irreps).setup()


def test_images_of_another_precision() -> None:
    encoder, views = make_encoder(), pictures(2)
    assert views.images is not None
    assert views.alphas is not None
    doubled = replace(views, images=views.images.double(), alphas=views.alphas.double())
    assert latent_distance(encoder(doubled), encoder(views)) < TOLERANCE[torch.float32]


def test_a_one_sided_cloud_does_not_move_what_the_views_look_at() -> None:
    """COLMAP's points may lie anywhere; the views are carved around what the cameras look at."""
    encoder, views = make_encoder("se3"), pictures(3)
    beside = Points(torch.rand(50, 3) + torch.tensor([5.0, 0, 0]), torch.rand(50, 3))
    torch.testing.assert_close(encoder.centre(views, beside), encoder.centre(views))
    assert encoder(views, beside).translations.isfinite().all()


def test_points_that_repeat_give_finite_tokens() -> None:
    points = make_points(100)
    twice = Points(points.positions.repeat(5, 1), points.rgb.repeat(5, 1))
    latent = make_encoder()(None, twice, 300)
    assert all(part.isfinite().all() for part in (latent.quats, latent.geometry, latent.appearance))


def test_silhouettes_that_do_not_meet() -> None:
    views = pictures(3)
    assert views.alphas is not None
    with pytest.raises(ValueError, match="no position is inside all silhouettes"):
        make_encoder()(replace(views, alphas=torch.zeros_like(views.alphas)))


def test_images_without_alpha_fill_the_ball() -> None:
    latent = make_encoder()(replace(pictures(4), alphas=None), num_tokens=200)
    distances = latent.translations.norm(dim=1)
    assert len(latent) == 200
    assert (distances < 0.7).float().mean() > 0.08  # 0.18 of the ball's volume
    assert (distances > 1.0).float().mean() > 0.25  # 0.49
