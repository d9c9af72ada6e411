import pytest
import torch

from nest_nerfstudio.geometry.quaternion import quat_multiply, quat_normalize
from nest_nerfstudio.geometry.se3 import se3_exp
from nest_nerfstudio.losses.motion import as_rigid_as_possible_loss, nearest_tokens, smoothness_loss
from nest_nerfstudio.losses.photometric import depth_loss, photometric_loss


def test_equal_pictures_cost_nothing() -> None:
    picture = torch.rand(24, 20, 3)
    assert photometric_loss(picture, picture) == pytest.approx(0, abs=1e-6)


def test_weights_l1_and_structure() -> None:
    a, b = torch.rand(24, 20, 3), torch.rand(24, 20, 3)
    l1 = photometric_loss(a, b, ssim_weight=0.0)
    torch.testing.assert_close(l1, (a - b).abs().mean())
    structure = photometric_loss(a, b, ssim_weight=1.0)
    torch.testing.assert_close(photometric_loss(a, b, 0.2), 0.8 * l1 + 0.2 * structure)


def test_masked_pixels_do_not_count() -> None:
    target, mask = torch.rand(24, 20, 3), torch.ones(24, 20, 1)
    mask[:10] = 0
    rgb = target.clone()
    rgb[:10] = torch.rand(10, 20, 3)
    assert photometric_loss(rgb, target, mask=mask) == pytest.approx(0, abs=1e-6)
    assert photometric_loss(rgb, target) > 0.1


def test_pictures_smaller_than_the_window_have_l1_alone() -> None:
    a, b = torch.rand(8, 20, 3), torch.rand(8, 20, 3)
    torch.testing.assert_close(photometric_loss(a, b), (a - b).abs().mean())


def test_depth_counts_where_known_and_covered() -> None:
    target = torch.tensor([[[2.0], [0.0]], [[3.0], [4.0]]])
    depth, alpha = torch.full((2, 2, 1), 2.5), torch.tensor([[[1.0], [1.0]], [[1.0], [0.0]]])
    torch.testing.assert_close(depth_loss(depth, target, alpha), torch.tensor(0.5))
    assert depth_loss(depth, torch.zeros_like(target), alpha) == 0


def rigid(points: torch.Tensor):
    """One rigid motion for all tokens."""
    quats, translations = se3_exp(torch.randn(1, 6))
    return quats.expand(len(points), 4), translations.expand(len(points), 3)


def test_rigid_motion_is_free() -> None:
    points = torch.randn(30, 3)
    neighbors = nearest_tokens(points, 5)
    assert as_rigid_as_possible_loss(rigid(points), points, neighbors, 1.0) < 1e-5
    assert smoothness_loss(rigid(points), neighbors) < 1e-5


def test_stretching_costs_its_relative_length() -> None:
    points = torch.randn(30, 3)
    neighbors = nearest_tokens(points, 5)
    identity = torch.tensor([1.0, 0, 0, 0]).expand(30, 4)
    stretched = (identity, 0.5 * points)  # moved = 1.5 × points
    spacing = float((points[neighbors] - points[:, None]).norm(dim=-1).mean())
    torch.testing.assert_close(
        as_rigid_as_possible_loss(stretched, points, neighbors, spacing), torch.tensor(0.5), atol=1e-4, rtol=0
    )


def test_energies_do_not_depend_on_the_world_frame() -> None:
    points = torch.randn(30, 3)
    neighbors = nearest_tokens(points, 5)
    quats, translations = se3_exp(0.3 * torch.randn(30, 6))
    g = quat_normalize(torch.randn(4))
    from nest_nerfstudio.geometry.quaternion import quat_rotate

    turned = quat_multiply(g, quats), quat_rotate(g, translations)
    torch.testing.assert_close(
        as_rigid_as_possible_loss((quats, translations), points, neighbors, 1.0),
        as_rigid_as_possible_loss(turned, points, neighbors, 1.0),
    )


def test_gradient_at_rest_is_finite() -> None:
    points = torch.randn(10, 3)
    twists = torch.zeros(10, 6, requires_grad=True)
    neighbors = nearest_tokens(points, 3)
    deltas = se3_exp(twists)
    loss = as_rigid_as_possible_loss(deltas, points, neighbors, 1.0) + smoothness_loss(deltas, neighbors)
    loss.backward()
    assert twists.grad.isfinite().all()


def test_nearest_tokens_exclude_the_token_itself() -> None:
    neighbors = nearest_tokens(torch.randn(6, 3), 10)
    assert neighbors.shape == (6, 5)
    assert not (neighbors == torch.arange(6)[:, None]).any()


@pytest.mark.parametrize(("rows", "columns"), [((0, 5), (3, 9)), ((30, 40), (40, 50)), ((58, 60), (0, 70))])
def test_structure_of_a_small_difference_equals_that_of_the_whole_picture(rows, columns) -> None:
    from pytorch_msssim import ssim

    from nest_nerfstudio.losses.photometric import dissimilarity

    target = torch.rand(60, 70, 3, dtype=torch.float64)
    rgb = target.clone()
    rgb[slice(*rows), slice(*columns)] = torch.rand(rgb[slice(*rows), slice(*columns)].shape).double()
    rgb.requires_grad_()
    whole = 1 - ssim(rgb.permute(2, 0, 1)[None], target.permute(2, 0, 1)[None], data_range=1.0)
    (expected,) = torch.autograd.grad(whole, rgb)
    part = dissimilarity(rgb, target)
    (actual,) = torch.autograd.grad(part, rgb)
    torch.testing.assert_close(part, whole)
    differing = (rgb != target).any(-1)
    torch.testing.assert_close(actual[differing], expected[differing])
