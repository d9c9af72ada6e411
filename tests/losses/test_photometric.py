"""Photometric losses against pytorch_msssim and plain formulas."""

import pytest
import torch
from pytorch_msssim import ssim

from nest_nerfstudio.losses.photometric import (
    SSIM_WINDOW,
    depth_loss,
    photometric_loss,
    photometric_loss_reference,
    ssim_loss,
    ssim_map,
)
from nest_nerfstudio.thread_pool import SHARED


def test_equal_images_have_no_loss() -> None:
    image = torch.rand(24, 20, 3)
    assert photometric_loss(image, image) == pytest.approx(0, abs=1e-6)


def test_ssim_lambda_weights_l1_and_ssim() -> None:
    a, b = torch.rand(24, 20, 3), torch.rand(24, 20, 3)
    l1 = photometric_loss(a, b, ssim_lambda=0.0)
    torch.testing.assert_close(l1, (a - b).abs().mean())
    ssim_alone = photometric_loss(a, b, ssim_lambda=1.0)
    assert (ssim_alone - l1).abs() > 0.1  # else the weights below would prove nothing
    torch.testing.assert_close(photometric_loss(a, b, 0.2), 0.8 * l1 + 0.2 * ssim_alone)


def test_masked_pixels_do_not_count() -> None:
    target, mask = torch.rand(24, 20, 3), torch.ones(24, 20, 1)
    mask[:10] = 0
    rgb = target.clone()
    rgb[:10] = torch.rand(10, 20, 3)
    assert photometric_loss(rgb, target, mask=mask) == pytest.approx(0, abs=1e-6)
    assert photometric_loss(rgb, target) > 0.1
    shown = (target + 0.1 * torch.randn_like(target)).clamp(0, 1)
    losses = []
    for _ in range(2):  # whatever the target shows there, also in windows that reach beyond the mask
        target[:10] = torch.rand(10, 20, 3)
        losses.append(photometric_loss(shown, target, mask=mask))
    assert losses[0] == pytest.approx(losses[1].item(), abs=1e-7)
    assert losses[0] > 0.01


def test_images_smaller_than_the_window_have_l1_alone() -> None:
    a, b = torch.rand(8, 20, 3), torch.rand(8, 20, 3)
    torch.testing.assert_close(photometric_loss(a, b), (a - b).abs().mean())


def _images(height: int, width: int, differing: slice, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Two images that differ in some rows, and a mask."""
    generator = torch.Generator().manual_seed(height * width)
    target = torch.rand(height, width, 3, dtype=dtype, generator=generator)
    rgb = target.clone()
    rgb[differing, width // 3 :] += 0.2 * torch.randn(rgb[differing, width // 3 :].shape, generator=generator)
    mask = torch.rand(height, width, 1, generator=generator) > 0.2
    return rgb.requires_grad_(), target, mask.to(dtype)


@pytest.mark.parametrize("ssim_lambda", [0.2, 1.0])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("height", "width", "differing"),
    [(11, 11, slice(None)), (13, 40, slice(0, 2)), (57, 33, slice(55, 57)), (64, 48, slice(20, 30))],
)
def test_kernels_and_torch_agree(height, width, differing, masked, ssim_lambda) -> None:
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 1e-4)):
        rgb, target, mask = _images(height, width, differing, dtype)
        found = []
        for loss, to in ((photometric_loss, dtype), (photometric_loss_reference, torch.float64)):
            value = loss(rgb.to(to), target.to(to), ssim_lambda, mask.to(to) if masked else None)
            found.append((value.double(), torch.autograd.grad(3 * value, rgb)[0]))
        (value, gradient), (expected, slope) = found
        assert slope.abs().max() > 0
        torch.testing.assert_close(value, expected, rtol=tolerance, atol=0)
        assert (gradient - slope).abs().max() < tolerance * slope.abs().max()


def test_kernels_give_the_same_on_any_number_of_threads(monkeypatch) -> None:
    rgb, target, mask = _images(73, 51, slice(None), torch.float32)
    found = []
    for threads in (1, 2):
        monkeypatch.setattr(SHARED, "threads", threads)
        loss = photometric_loss(rgb, target, mask=mask)
        found.append((loss, *torch.autograd.grad(loss, rgb)))
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


def test_kernels_give_no_gradient_of_equal_images() -> None:
    rgb, target, _ = _images(20, 20, slice(0, 0), torch.float32)
    loss = photometric_loss(rgb, target)
    (gradient,) = torch.autograd.grad(loss, rgb)
    assert loss == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize(("rows", "columns"), [((0, 5), (3, 9)), ((30, 40), (40, 50)), ((58, 60), (0, 70))])
def test_ssim_loss_of_a_local_difference_equals_that_of_the_whole_image(rows, columns) -> None:
    target = torch.rand(60, 70, 3, dtype=torch.float64)
    rgb = target.clone()
    rgb[slice(*rows), slice(*columns)] = torch.rand(rgb[slice(*rows), slice(*columns)].shape).double()
    rgb.requires_grad_()
    whole = 1 - ssim(rgb.permute(2, 0, 1)[None], target.permute(2, 0, 1)[None], data_range=1.0)
    (expected,) = torch.autograd.grad(whole, rgb)
    part = ssim_loss(rgb, target)
    (actual,) = torch.autograd.grad(part, rgb)
    torch.testing.assert_close(part, whole)
    differing = (rgb != target).any(-1)
    torch.testing.assert_close(actual[differing], expected[differing])


def test_ssim_map_has_one_value_per_full_window_and_their_mean_is_ssim() -> None:
    a, b = torch.rand(2, 3, 16, 13, dtype=torch.float64)
    values = ssim_map(a, b)
    assert values.shape == (3, 16 - SSIM_WINDOW + 1, 13 - SSIM_WINDOW + 1)
    # the window of pytorch_msssim has single precision
    torch.testing.assert_close(values.mean(), ssim(a[None], b[None], data_range=1.0), rtol=0, atol=1e-6)


def test_ssim_loss_of_equal_images_has_zero_gradient() -> None:
    image = torch.rand(12, 14, 3)
    rgb = image.clone().requires_grad_()
    ssim_loss(rgb, image).backward()
    assert rgb.grad is not None
    assert (rgb.grad == 0).all()


def test_depth_counts_where_known_and_covered() -> None:
    target = torch.tensor([[[2.0], [0.0]], [[3.0], [4.0]]])
    depth, alpha = torch.full((2, 2, 1), 2.5), torch.tensor([[[1.0], [1.0]], [[1.0], [0.0]]])
    torch.testing.assert_close(depth_loss(depth, target, alpha), torch.tensor(0.5))
    assert depth_loss(depth, torch.zeros_like(target), alpha) == 0
