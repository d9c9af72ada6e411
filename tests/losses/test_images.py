"""Losses of a rendering against images, over all views."""

from dataclasses import replace

import pytest
import torch

from nest_nerfstudio.losses.images import image_losses, squared_error
from nest_nerfstudio.losses.photometric import depth_loss, photometric_loss
from nest_nerfstudio.types import Rendering, Views

BACKGROUND = torch.tensor([0.2, 0.4, 0.6])


def random_views(count: int = 3) -> Views:
    return Views(
        torch.eye(4).repeat(count, 1, 1),
        torch.eye(3).repeat(count, 1, 1),
        width=14,
        height=12,
        images=torch.rand(count, 12, 14, 3),
    )


def random_rendering(count: int = 3) -> Rendering:
    return Rendering(
        torch.rand(count, 12, 14, 3), torch.rand(count, 12, 14, 1), torch.rand(count, 12, 14, 1) + 1
    )


def test_opaque_images_have_a_photometric_loss_alone() -> None:
    views, rendering = random_views(), random_rendering()
    assert views.images is not None
    losses = image_losses(rendering, views, BACKGROUND, 0.3)
    each = [photometric_loss(a, b, 0.3) for a, b in zip(rendering.rgb, views.images, strict=True)]
    assert losses.keys() == {"photometric"}
    torch.testing.assert_close(losses["photometric"], torch.stack(each).mean())


def test_images_with_alpha_are_compared_over_the_background() -> None:
    alphas = torch.rand(3, 12, 14, 1)
    views, rendering = replace(random_views(), alphas=alphas), random_rendering()
    assert views.images is not None
    losses = image_losses(rendering, views, BACKGROUND, 0.0)
    target = alphas * views.images + (1 - alphas) * BACKGROUND
    torch.testing.assert_close(losses["photometric"], (rendering.rgb - target).abs().mean())
    torch.testing.assert_close(losses["alpha"], (rendering.alpha - alphas).square().mean())
    torch.testing.assert_close(
        squared_error(rendering, views, BACKGROUND), (rendering.rgb - target).square().mean()
    )


def test_masked_pixels_do_not_count() -> None:
    masks = torch.ones(3, 12, 14, 1)
    masks[1:] = 0
    views = replace(random_views(), masks=masks)
    assert views.images is not None
    rgb = views.images.clone()
    rgb[1:] = torch.rand(2, 12, 14, 3)
    rendering = replace(random_rendering(), rgb=rgb)
    assert float(image_losses(rendering, views, BACKGROUND, 0.2)["photometric"]) == pytest.approx(0, abs=1e-6)
    unmasked = replace(views, masks=None)
    assert float(image_losses(rendering, unmasked, BACKGROUND, 0.2)["photometric"]) > 0.1


def test_depth_is_compared_where_it_is_known() -> None:
    depths = (torch.rand(3, 12, 14, 1) * 4 - 2).clamp_min(0)  # half of it unknown
    views, rendering = replace(random_views(), depths=depths), random_rendering()
    assert rendering.depth is not None
    each = [depth_loss(*triple) for triple in zip(rendering.depth, depths, rendering.alpha, strict=True)]
    loss = image_losses(rendering, views, BACKGROUND, 0.2)["depth"]
    torch.testing.assert_close(loss, torch.stack(each).mean())
    assert loss > 0.05


def test_squared_error_has_no_gradient() -> None:
    rendering = random_rendering()
    rendering.rgb.requires_grad_()
    assert not squared_error(rendering, random_views(), BACKGROUND).requires_grad


def test_masked_pixels_count_in_no_loss_and_no_score() -> None:
    masks = torch.ones(3, 12, 14, 1)
    masks[:, 3:9, 4:12] = 0
    views = replace(
        random_views(), masks=masks, alphas=torch.rand(3, 12, 14, 1), depths=torch.rand(3, 12, 14, 1) + 1
    )
    rendering = random_rendering()
    other = random_rendering()
    changed = Rendering(
        *(
            torch.where(masks > 0, getattr(rendering, name), getattr(other, name))
            for name in ("rgb", "alpha", "depth")
        )
    )
    before, after = (image_losses(drawn, views, BACKGROUND, 0.2) for drawn in (rendering, changed))
    assert before.keys() == {"photometric", "alpha", "depth"}
    for name in before:
        torch.testing.assert_close(after[name], before[name])
    error = squared_error(rendering, views, BACKGROUND)
    torch.testing.assert_close(squared_error(changed, views, BACKGROUND), error)
    kept = masks[0, ..., 0] > 0
    difference = (rendering.rgb - views.over(BACKGROUND))[:, kept]
    torch.testing.assert_close(error, difference.square().mean())


def test_where_no_pixel_is_to_be_used_there_is_no_error() -> None:
    views = replace(random_views(), masks=torch.zeros(3, 12, 14, 1))
    assert squared_error(random_rendering(), views, BACKGROUND) == 0
