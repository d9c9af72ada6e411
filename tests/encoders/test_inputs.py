"""What an encoder is given is checked, resized and sorted."""

from dataclasses import replace

import pytest
import torch

from nest_nerfstudio.encoders.inputs import prepare_inputs, resize_views, sort_views
from nest_nerfstudio.encoders.views import without_masks
from nest_nerfstudio.geometry.multiview import project
from nest_nerfstudio.types import Points
from tests.equivariance import pictures


def test_order_of_views_is_their_own() -> None:
    views = pictures(5)
    order = torch.tensor([3, 1, 4, 0, 2])
    one, other = sort_views(views), sort_views(views.select(order))
    assert torch.equal(one.viewmats, other.viewmats)


def test_resized_images_keep_colour_and_rays() -> None:
    views = pictures(2, size=96)
    small = resize_views(views, 48)
    assert (small.width, small.height) == (48, 48)
    assert small.images is not None
    assert small.alphas is not None
    assert views.images is not None
    assert views.alphas is not None
    torch.testing.assert_close(small.alphas.mean(), views.alphas.mean())
    assert resize_views(views, 96) is views
    # over any background, as it would have looked from farther away: colour does not fade at the silhouette
    torch.testing.assert_close((small.images * small.alphas).mean(), (views.images * views.alphas).mean())
    points = torch.randn(20, 3) * 0.3
    torch.testing.assert_close(project(small, points)[0], project(views, points)[0], atol=1e-5, rtol=1e-5)


def test_wide_images_keep_their_shape() -> None:
    views = replace(pictures(1, size=48), height=24)
    assert views.images is not None
    assert views.alphas is not None
    views = replace(views, images=views.images[:, :24], alphas=views.alphas[:, :24])
    small = resize_views(views, 16)
    assert (small.width, small.height) == (16, 8)
    assert small.images is not None
    assert small.images.shape == (1, 8, 16, 3)


def test_poses_become_double_and_colours_the_precision_of_the_encoder() -> None:
    views, points = pictures(2, size=96), Points(torch.randn(9, 3), torch.rand(9, 3).double())
    prepared, cloud = prepare_inputs(views, points, 48, like=torch.zeros(()))
    assert prepared is not None
    assert cloud is not None
    assert prepared.images is not None
    assert prepared.alphas is not None
    assert prepared.viewmats.dtype == prepared.Ks.dtype == cloud.positions.dtype == torch.float64
    assert prepared.images.dtype == prepared.alphas.dtype == cloud.rgb.dtype == torch.float32
    assert prepared.images.shape == (2, 48, 48, 3)


def test_views_without_images_count_as_none() -> None:
    points = Points(torch.randn(9, 3), torch.rand(9, 3))
    bare = replace(pictures(2), images=None, alphas=None)
    prepared, cloud = prepare_inputs(bare, points, 48, like=torch.zeros(()))
    assert prepared is None
    assert cloud is not None
    with pytest.raises(ValueError, match="nothing to encode"):
        prepare_inputs(bare, None, 48, like=torch.zeros(()))


def test_what_is_masked_out_is_unknown_but_no_end_of_the_silhouette() -> None:
    views = pictures(2, size=96)
    masks = torch.ones(2, 96, 96, 1)
    masks[:, 40:70, 30:60] = 0
    assert views.images is not None
    assert views.alphas is not None
    found = []
    for value in (0.0, 1.0):
        hidden = replace(
            views,
            masks=masks,
            images=torch.where(masks > 0, views.images, torch.rand_like(views.images)),
            alphas=torch.where(masks > 0, views.alphas, value),
        )
        prepared, _ = prepare_inputs(hidden, None, 48, like=torch.zeros(()))
        assert prepared is not None
        found.append(prepared)
    assert found[0].masks is None
    assert torch.equal(found[0].images, found[1].images)
    assert torch.equal(found[0].alphas, found[1].alphas)
    assert (found[0].alphas[:, 21:34, 16:29] == 1).all()
    assert without_masks(views) is views
