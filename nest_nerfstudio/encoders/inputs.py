"""Checks and preparation of an encoder's input: images of one size, in one order, double-precision poses."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from nest_nerfstudio.encoders.views import without_masks
from nest_nerfstudio.geometry.multiview import resize_rgba
from nest_nerfstudio.spread import spread
from nest_nerfstudio.types import Points, Views


def prepare_inputs(
    views: Views | None, points: Points | None, image_size: int, like: Tensor
) -> tuple[Views | None, Points | None]:
    """Checked views and points with double-precision positions, and colours of the encoder's precision.

    Args:
        views: posed images; views without images count as None.
        points: a coloured cloud.
        image_size: longer side of the images that the encoder reads, pixels.
        like: gives device and dtype of the colours.

    Returns:
        The views, resized and sorted (see `sort_views`), without masks (see `without_masks`), and the points.

    Raises:
        ValueError: nothing to encode, values that are not finite, or a cloud of fewer than 4 distinct
            positions.
    """
    _check_views(views)
    _check_points(points)
    if views is not None and views.images is None:
        views = None
    if views is None and points is None:
        raise ValueError("nothing to encode: give views with images, points, or both")
    if points is not None:
        points = Points(points.positions.double(), points.rgb.to(like))
    if views is not None:
        views = sort_views(resize_views(without_masks(views), image_size))
        assert views.images is not None
        views = replace(
            views,
            viewmats=views.viewmats.double(),
            Ks=views.Ks.double(),
            images=views.images.to(like),
            alphas=None if views.alphas is None else views.alphas.to(like),
        )
    return views, points


def sort_views(views: Views) -> Views:
    """The views, ordered by a hash of the content of their images, so that their given order does not matter.

    Views with equal images stay in the given order.
    """
    assert views.images is not None
    rgba = views.images if views.alphas is None else torch.cat([views.images, views.alphas], -1)
    contents = rgba.double().flatten(1)
    weights = torch.arange(contents.shape[1], device=contents.device).to(contents).sin()
    return views.select((contents @ weights).argsort())


def some_views(views: Views, most: int) -> Views:
    """At most so many of the views, evenly spread over their order."""
    return views.select(torch.tensor(spread(range(len(views)), most)))


def resize_views(views: Views, longest: int) -> Views:
    """The views with images of `longest` pixels along their longer side, averaged over areas; no depths."""
    assert views.images is not None
    factor = longest / max(views.width, views.height)
    if factor == 1:
        return views
    width, height = max(1, round(views.width * factor)), max(1, round(views.height * factor))
    alphas = torch.ones_like(views.images[..., :1]) if views.alphas is None else views.alphas
    rgba = resize_rgba(torch.cat([views.images, alphas], -1), height, width)
    scale = views.Ks.new_tensor([width / views.width, height / views.height, 1.0])[:, None]
    return Views(
        viewmats=views.viewmats,
        Ks=views.Ks * scale,
        width=width,
        height=height,
        times=views.times,
        images=rgba[..., :3],
        alphas=None if views.alphas is None else rgba[..., 3:],
    )


def _check_views(views: Views | None) -> None:
    """Raise where poses, intrinsics or images are not finite."""
    if views is None:
        return
    names = {"viewmats": "poses", "Ks": "intrinsics", "images": "images", "alphas": "alphas"}
    for name, described in names.items():
        values = getattr(views, name)
        if values is not None and not values.isfinite().all():
            bad = (~values.isfinite().flatten(1).all(1)).nonzero().flatten().tolist()
            raise ValueError(f"the {described} of the views {bad[:8]} are not finite; leave these views out")


def _check_points(points: Points | None) -> None:
    """Raise where points are not finite or too few."""
    if points is None:
        return
    if not (points.positions.isfinite().all() and points.rgb.isfinite().all()):
        raise ValueError("the point cloud has values that are not finite; leave these points out")
    if len(points.positions.unique(dim=0)) < 4:
        raise ValueError(
            f"a point cloud needs 4 distinct positions or more; this one has {len(points)} points"
        )
