"""Multi-view geometry: where world points are seen in images, and what images and maps hold there.

Cameras are pinholes: world-to-camera OpenCV matrices (`viewmats`) and intrinsics in pixels (`Ks`). The centre
of the top-left pixel is at (0.5, 0.5), so an image spans [0, width] × [0, height]. Positions in images are
given as `grid` coordinates, those of `torch.nn.functional.grid_sample` with align_corners=False: (-1, -1) is
the top-left corner of the image and (1, 1) the bottom-right one, whatever the resolution of the map that is
sampled.
"""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


@runtime_checkable
class PinholeCameras(Protocol):
    """V cameras with images of one size, such as `types.Views`.

    Attributes:
        viewmats: world to camera, OpenCV axes (x right, y down, z forward).
        Ks: pinhole intrinsics, pixels.
        width: image width, pixels.
        height: image height, pixels.
    """

    @property
    def viewmats(self) -> Float[Tensor, "v 4 4"]: ...
    @property
    def Ks(self) -> Float[Tensor, "v 3 3"]: ...
    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...


# -------------------------------------------------------------------- cameras


def camera_centres(viewmats: Float[Tensor, "v 4 4"]) -> Float[Tensor, "v 3"]:
    """Centres of projection of the cameras, world frame."""
    return -(viewmats[:, :3, :3].mT @ viewmats[:, :3, 3:])[..., 0]


def focus_of_attention(
    viewmats: Float[Tensor, "v 4 4"], distance: float, trust: float = 1e-2
) -> Float[Tensor, " 3"]:
    """The point nearest to all optical axes in the least-squares sense.

    Minimises Σ_v ‖(I − a aᵀ)(c − o)‖² + trust · ‖c − (o + distance · a)‖² over c, with a the optical axis of
    view v and o its centre. For one view the solution is o + distance · a.

    Args:
        viewmats: world to camera.
        distance: from a camera to the point, where the axes do not determine it; world units.
        trust: weight of that distance.
    """
    centres, axes = camera_centres(viewmats).double(), F.normalize(viewmats[:, 2, :3].double(), dim=1)
    middle = centres.mean(0)
    identity = torch.eye(3).to(axes)
    across = identity - axes[:, :, None] * axes[:, None]
    target = (across @ (centres - middle)[..., None])[..., 0] + trust * (centres - middle + distance * axes)
    return (middle + torch.linalg.solve((across + trust * identity).sum(0), target.sum(0))).to(viewmats)


# -------------------------------------------------------------------- projection


def project(
    cameras: PinholeCameras, positions: Float[Tensor, "n 3"]
) -> tuple[Float[Tensor, "v n 2"], Float[Tensor, "v n"]]:
    """Project points into all images.

    Args:
        cameras: V cameras.
        positions: in the frame that `cameras.viewmats` map from.

    Returns:
        Grid coordinates; meaningless for points behind a camera (see `visible`).
        Camera-space z, in the unit of `positions`.
    """
    to_grid = cameras.Ks * cameras.Ks.new_tensor([2 / cameras.width, 2 / cameras.height, 1.0])[:, None]
    matrices = to_grid @ cameras.viewmats[:, :3]  # [V, 3, 4]; one product for all views, as points are many
    x, y, depths = (
        (matrices[..., :3].flatten(0, 1) @ positions.mT)
        .unflatten(0, (-1, 3))
        .add(matrices[..., 3:])
        .unbind(1)
    )
    return torch.stack([x, y], -1) / depths.clamp_min(1e-6)[..., None] - 1, depths


def visible(
    grid: Float[Tensor, "v n 2"],
    depths: Float[Tensor, "v n"],
    masks: Float[Tensor, "v h w 1"] | None = None,
) -> Bool[Tensor, "v n"]:
    """Whether projected points are in front of a camera and inside its image, on pixels to use.

    Args:
        grid: grid coordinates.
        depths: camera-space z.
        masks: 1 for the pixels to use, 0 for the others; None uses all. All pixels count that a bilinear
            sample reads.
    """
    seen = (grid.abs() <= 1).all(-1) & (depths > 0)
    return seen if masks is None else seen & (sample_images(masks, grid)[..., 0] > 1 - 1e-4)


def pixel_indices(grid: Float[Tensor, "v n 2"], height: int, width: int) -> Int[Tensor, "v n"]:
    """Index (row · width + column) of the pixel that a grid coordinate is in; the nearest one outside the
    image.

    Args:
        grid: grid coordinates.
        height: rows of the map, which need not have the resolution of the image.
        width: its columns.
    """
    size = grid.new_tensor([width, height])
    x, y = ((grid + 1) * 0.5 * size).long().clamp_min(0).minimum((size - 1).long()).unbind(-1)
    return y * width + x


# -------------------------------------------------------------------- sampling


def sample_maps(maps: Float[Tensor, "v c p q"], grid: Float[Tensor, "v n 2"]) -> Float[Tensor, "v n c"]:
    """Bilinear values of each view's map at grid coordinates; those of its border outside it."""
    values = F.grid_sample(maps, grid[:, None].to(maps), align_corners=False, padding_mode="border")
    return values[:, :, 0].mT


def sample_images(images: Float[Tensor, "v h w c"], grid: Float[Tensor, "v n 2"]) -> Float[Tensor, "v n c"]:
    """As `sample_maps`, for images with their channels last."""
    return sample_maps(images.movedim(-1, 1), grid)


# -------------------------------------------------------------------- sizes of images


def resize_rgba(rgba: Float[Tensor, "v h w 4"], height: int, width: int) -> Float[Tensor, "v p q 4"]:
    """Resize images by averaging over areas; colours are averaged with their alpha as weight."""
    colors, alphas = rgba.split([3, 1], -1)
    premultiplied = torch.cat([colors * alphas, alphas], -1).movedim(-1, 1)
    resized = F.interpolate(premultiplied, (height, width), mode="area").movedim(1, -1)
    colors, alphas = resized.split([3, 1], -1)
    return torch.cat([colors / alphas.clamp_min(1e-6), alphas], -1)


def shrink(
    image: Float[Tensor, "*b h w c"], factor: int, how: Literal["mean", "min", "nearest"]
) -> Float[Tensor, "*b p q c"]:
    """Shrink images by a whole factor; rows and columns left over at the right and bottom are cut off.

    Their camera shrinks with them: Ks / [factor, factor, 1], height // factor, width // factor.

    Args:
        image: any values. Colours that have an alpha must be premultiplied by it before their mean is taken.
        factor: ≥ 1.
        how: of the factor × factor pixels of a block, their mean (colours, coverage), their least (masks of
            what is valid), or the middle one (depths; for an even factor, the one right below the middle).
    """
    if factor == 1:
        return image
    height, width, channels = image.shape[-3] // factor, image.shape[-2] // factor, image.shape[-1]
    if how == "nearest":
        middle = slice(factor // 2, None, factor)
        return image[..., middle, middle, :][..., :height, :width, :]
    flat = image.reshape(-1, *image.shape[-3:]).movedim(-1, 1)
    small = F.avg_pool2d(flat, factor) if how == "mean" else -F.max_pool2d(-flat, factor)
    return small.movedim(1, -1).reshape(*image.shape[:-3], height, width, channels)
