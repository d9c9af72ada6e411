"""A plain backdrop is found, and what stands before it."""

from dataclasses import replace

import pytest
import torch

from nest_nerfstudio.training.backdrop import find_backdrop, with_silhouettes
from nest_nerfstudio.types import Views
from tests.equivariance import pictures


def opaque(backdrop: tuple[float, float, float]) -> tuple[list[Views], Views]:
    """Six pictures of balls before a colour, one by one, without alpha; and the pictures with alpha."""
    together = pictures(6)
    images = together.over(torch.tensor(backdrop))
    plain = replace(together, images=images, alphas=None)
    return [plain.select(slice(i, i + 1)) for i in range(6)], together


@pytest.mark.parametrize("color", [(1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (0.1, 0.7, 0.2)])
def test_the_colour_and_the_silhouettes_are_found(color: tuple[float, float, float]) -> None:
    views, together = opaque(color)
    found = find_backdrop(views)
    torch.testing.assert_close(found, torch.tensor(color), atol=0.01, rtol=0)
    assert together.alphas is not None
    for view, alpha in zip(views, together.alphas, strict=True):
        silhouette = with_silhouettes(view, found).alphas
        assert silhouette is not None
        clear = (alpha > 0.9) | (alpha < 0.01)
        assert ((silhouette[0] > 0.5) == (alpha > 0.5))[clear].float().mean() > 0.97


def test_noise_of_a_camera_is_no_other_colour() -> None:
    views, _ = opaque((0.5, 0.5, 0.5))
    noisy = [replace(view, images=view.images + 0.01 * torch.randn_like(view.images)) for view in views]
    assert find_backdrop(noisy) is not None


def test_a_room_is_no_backdrop() -> None:
    views, _ = opaque((0.5, 0.5, 0.5))
    rooms = [replace(view, images=torch.rand_like(view.images)) for view in views]
    assert find_backdrop(rooms) is None


def test_images_before_two_colours_have_no_backdrop() -> None:
    views = opaque((1.0, 1.0, 1.0))[0][:3] + opaque((0.0, 0.0, 0.0))[0][3:]
    assert find_backdrop(views) is None


def test_masked_pixels_do_not_count() -> None:
    views, _ = opaque((1.0, 1.0, 1.0))
    masks = torch.ones_like(views[0].images[..., :1])
    masks[:, :10] = 0.0
    painted = [
        replace(v, images=torch.where(masks > 0, v.images, torch.rand_like(v.images)), masks=masks)
        for v in views
    ]
    torch.testing.assert_close(find_backdrop(painted), torch.ones(3), atol=0.01, rtol=0)


def test_no_views_have_no_backdrop() -> None:
    assert find_backdrop([]) is None
