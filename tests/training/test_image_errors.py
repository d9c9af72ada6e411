"""Errors of images against the scene at other times."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nest_nerfstudio.training.image_errors import image_errors
from nest_nerfstudio.types import Views

BLACK = torch.zeros(3)


def view_of(brightness: float, time: float, size: tuple[int, int] = (16, 12), alpha: float | None = None):
    width, height = size
    return Views(
        viewmats=torch.eye(4)[None],
        Ks=torch.tensor([[[20.0, 0, width / 2], [0, 20, height / 2], [0, 0, 1]]]),
        width=width,
        height=height,
        times=torch.tensor([time]),
        images=torch.full((1, height, width, 3), brightness),
        alphas=None if alpha is None else torch.full((1, height, width, 1), alpha),
    )


def as_bright_as_late(views: Views, time: Tensor) -> Tensor:
    return time.expand(1, views.height, views.width, 3)


def test_every_image_is_compared_with_every_time() -> None:
    views = [view_of(0.0, 0.1), view_of(0.5, 0.4), view_of(1.0, 0.9)]
    errors, times = image_errors(iter(views), as_bright_as_late, BLACK, 5)
    expected = (torch.tensor([0.0, 0.5, 1.0])[:, None] - torch.linspace(0, 1, 5)).square()
    torch.testing.assert_close(errors, expected)
    torch.testing.assert_close(times, torch.tensor([0.1, 0.4, 0.9]))


def test_images_with_alpha_are_put_over_the_background() -> None:
    """Half covered black over white is grey."""
    errors, _ = image_errors([view_of(0.0, 0.0, alpha=0.5)], as_bright_as_late, torch.ones(3), 3)
    torch.testing.assert_close(errors, torch.tensor([[0.25, 0.0, 0.25]]))


@pytest.mark.parametrize(
    ("size", "drawn"), [((128, 96), (128, 96)), ((129, 96), (64, 48)), ((800, 600), (100, 75))]
)
def test_large_images_are_compared_at_a_smaller_size(size: tuple[int, int], drawn: tuple[int, int]) -> None:
    sizes = []

    def render(views: Views, time: Tensor) -> Tensor:
        sizes.append((views.width, views.height))
        return as_bright_as_late(views, time)

    errors, _ = image_errors([view_of(0.5, 0.0, size)], render, BLACK, 3)
    assert sizes == [drawn] * 3
    torch.testing.assert_close(errors, torch.tensor([[0.25, 0.0, 0.25]]))


def test_no_gradient_is_kept() -> None:
    weight = torch.ones((), requires_grad=True)
    errors, _ = image_errors(
        [view_of(0.5, 0.0)], lambda views, time: weight * as_bright_as_late(views, time), BLACK, 2
    )
    assert not errors.requires_grad


def test_pixels_that_are_masked_out_do_not_count() -> None:
    masks, noise = torch.ones(1, 12, 16, 1), torch.rand(1, 12, 16, 3)
    masks[:, :, 5:] = 0
    view = view_of(0.5, 0.4)
    assert view.images is not None
    noisy = replace(view, images=torch.where(masks > 0, view.images, noise), masks=masks)
    errors, _ = image_errors([noisy], as_bright_as_late, BLACK, 5)
    torch.testing.assert_close(errors, (0.5 - torch.linspace(0, 1, 5)).square()[None])
