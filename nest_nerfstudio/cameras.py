"""From nerfstudio's cameras and batches (camera-to-world, OpenGL) to `Views` (world-to-camera, OpenCV)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras, CameraType
from torch import Tensor

from nest_nerfstudio.geometry.multiview import shrink
from nest_nerfstudio.types import Views


def cameras_to_views(cameras: Cameras) -> Views:
    """Poses, intrinsics, size and times of cameras; differentiable in `camera_to_worlds`.

    Args:
        cameras: pinholes, any batch shape, all of one image size, rotations orthonormal.

    Returns:
        Views without images.

    Raises:
        ValueError: mixed sizes, values that are not finite, or cameras that are no pinholes.
    """
    cameras = cameras.reshape((-1,))
    _check(cameras)
    return Views(
        viewmats=_c2w_to_viewmats(cameras.camera_to_worlds),
        Ks=_intrinsics(cameras),
        width=int(cameras.width[0]),
        height=int(cameras.height[0]),
        times=None if cameras.times is None else cameras.times.reshape(-1),
    )


def is_pinhole(cameras: Cameras) -> bool:
    """Whether all cameras are perspective ones without lens distortion."""
    lens = cameras.distortion_params
    return bool((cameras.camera_type == CameraType.PERSPECTIVE.value).all()) and (
        lens is None or not bool(lens.any())
    )


def batch_to_views(cameras: Cameras, batch: dict[str, Any]) -> Views:
    """One camera and what nerfstudio's full-image data managers give with it, as views with an image.

    Args:
        cameras: a single camera.
        batch: `image` [h, w, 3 or 4] (straight alpha; uint8, or float in [0, 1]), and where there are any
            `mask` [h, w, 1], true where pixels are used, and `depth_image` [h, w, 1], camera-space z.

    Raises:
        ValueError: as `cameras_to_views`.
    """
    views = cameras_to_views(cameras)
    device = views.viewmats.device
    image = batch["image"].to(device)[None]
    image = image.float() / 255 if image.dtype == torch.uint8 else image
    mask, depth = batch.get("mask"), batch.get("depth_image")
    return replace(
        views,
        images=image[..., :3],
        alphas=image[..., 3:] if image.shape[-1] == 4 else None,
        masks=None if mask is None else mask.to(device)[None].float(),
        depths=None if depth is None else depth.to(device)[None],
    )


def join_views(parts: Sequence[Views]) -> Views:
    """Views one after another; what only some of them have (times, alphas, …) is left out.

    Args:
        parts: of one image size; at least one.
    """
    names = [name for name, value in vars(parts[0]).items() if isinstance(value, Tensor)]
    values = {name: [getattr(part, name) for part in parts] for name in names}
    whole = {name: torch.cat(v) for name, v in values.items() if all(x is not None for x in v)}
    return replace(parts[0], **(dict.fromkeys(names) | whole))


def downscale_views(views: Views, factor: int) -> Views:
    """Views at a size that is a whole number of times smaller, with their images.

    Colours are averaged with their alpha as weight; a pixel is used where all of its pixels are; rows and
    columns that are left over at the right and below are cut off.

    Args:
        views: with or without images.
        factor: ≥ 1.
    """
    if factor == 1:
        return views
    images, alphas = views.images, views.alphas
    if alphas is not None:
        alphas = shrink(alphas, factor, "mean")
        if images is not None and views.alphas is not None:
            images = shrink(images * views.alphas, factor, "mean") / alphas.clamp_min(1e-6)
    elif images is not None:
        images = shrink(images, factor, "mean")
    return replace(
        views,
        Ks=views.Ks / views.Ks.new_tensor([factor, factor, 1.0])[:, None],
        width=views.width // factor,
        height=views.height // factor,
        images=images,
        alphas=alphas,
        depths=None if views.depths is None else shrink(views.depths, factor, "nearest"),
        masks=None if views.masks is None else shrink(views.masks, factor, "min"),
    )


def indices_by_pose(views: Iterable[Views]) -> list[list[int]]:
    """Indices of single views, those of one pose together: images of a camera that stands still."""
    groups: dict[tuple[float, ...], list[int]] = {}
    for i, view in enumerate(views):
        groups.setdefault(tuple(view.viewmats.flatten().tolist()), []).append(i)
    return list(groups.values())


def position_in_path(camera: Cameras) -> int:
    """Index of a camera in the path that it was sliced from.

    `ns-render interpolate` draws cameras that have no times; they are slices `path[i : i + 1]` of one path,
    views of the same storage. A camera that is no slice is the first of one.

    Args:
        camera: a single camera.
    """
    poses = camera.camera_to_worlds
    size = poses.shape[-2] * poses.shape[-1]
    return poses.storage_offset() // size


def is_one_moving_camera(cameras: Cameras) -> bool:
    """Whether cameras with times are one camera on its way: each time once, and steps from one to the next
    that are short against how far they are spread."""
    if cameras.times is None or len(times := cameras.times.flatten()) < 3:
        return False
    ordered, order = times.sort()
    places = cameras.camera_to_worlds[order, :, 3]
    steps = places.diff(dim=0).norm(dim=1)
    spread = (places - places.mean(0)).norm(dim=1).square().mean().sqrt()
    return bool((ordered.diff() > 0).all() and steps.median() < 0.3 * spread)


def time_on_way(camera: Cameras, way: Cameras) -> float | None:
    """Time at which one moving camera was at a place of a path that `ns-render interpolate` drew through its
    poses; None for other paths.

    Args:
        camera: a single camera without time, a slice of such a path.
        way: the cameras that were interpolated, in any order, with times.
    """
    poses = camera.camera_to_worlds
    size = poses.shape[-2] * poses.shape[-1]
    count = poses.untyped_storage().nbytes() // (size * poses.element_size())
    steps, rest = divmod(count, len(way) - 1)
    if rest or not steps:
        return None
    path = poses.as_strided((count, 3, 4), (size, 4, 1), 0)
    segment, part = divmod(position_in_path(camera), steps)
    knots = path[[segment * steps, segment * steps + steps - 1]]
    keys = way.camera_to_worlds.to(knots)
    misses, nearest = torch.cdist(knots.flatten(1), keys.flatten(1)).min(1)
    if misses.max() > 1e-3 * max(1.0, float(keys.abs().max())):
        return None
    assert way.times is not None
    start, end = way.times.flatten()[nearest.to(way.times.device)].tolist()
    return start + (end - start) * part / max(1, steps - 1)


def ray_lengths(Ks: Float[Tensor, "*b 3 3"], width: int, height: int) -> Float[Tensor, "*b h w 1"]:
    """‖K⁻¹ (u, v, 1)‖ at pixel centres: camera-space z times this is the distance along the ray.

    nerfstudio's viewer expects a "depth" output to be that distance.

    Args:
        Ks: pinhole intrinsics, pixels.
        width: image width, pixels.
        height: image height, pixels.

    Returns:
        Lengths ≥ 1, no unit.
    """
    u = torch.arange(width, dtype=Ks.dtype, device=Ks.device) + 0.5
    v = torch.arange(height, dtype=Ks.dtype, device=Ks.device) + 0.5
    y = (v - Ks[..., 1, 2, None]) / Ks[..., 1, 1, None]
    x = (u - Ks[..., 0, 2, None])[..., None, :] - Ks[..., 0, 1, None, None] * y[..., :, None]
    x = x / Ks[..., 0, 0, None, None]
    return (1 + x * x + y[..., :, None] ** 2).sqrt()[..., None]


def _check(cameras: Cameras) -> None:
    sizes = torch.cat([cameras.width, cameras.height], dim=-1)
    if len(sizes) == 0:
        raise ValueError("no cameras to draw from")
    if (sizes != sizes[0]).any():
        found = ", ".join(f"{w}×{h}" for w, h in sizes.unique(dim=0).tolist())
        raise ValueError(f"cameras of one batch must have one image size, got {found}; draw them one by one")
    if not is_pinhole(cameras):
        kinds = {CameraType(kind).name for kind in cameras.camera_type.flatten().tolist()}
        raise ValueError(
            f"views are of pinholes, not of cameras with a lens ({', '.join(sorted(kinds))}); undistort them "
            "first"
        )
    for name in ("camera_to_worlds", "fx", "fy", "cx", "cy", "times"):
        values = getattr(cameras, name)
        if values is not None and not torch.isfinite(values).all():
            bad = (~torch.isfinite(values.flatten(1)).all(-1)).nonzero().flatten().tolist()
            raise ValueError(f"{name} of camera {bad[:8]} is not finite; remove these frames from the data")


def _c2w_to_viewmats(c2w: Float[Tensor, "v 3 4"]) -> Float[Tensor, "v 4 4"]:
    rotations = _flip_yz(c2w[:, :, :3]).mT
    top = torch.cat([rotations, -rotations @ c2w[:, :, 3:]], dim=-1)
    bottom = top.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(top), 1, 4)
    return torch.cat([top, bottom], dim=1)


def _flip_yz(rotations: Float[Tensor, "... 3 3"]) -> Float[Tensor, "... 3 3"]:
    """Between OpenCV (y down, z forward) and OpenGL (y up, z backward) columns; its own inverse."""
    return rotations * rotations.new_tensor([1.0, -1.0, -1.0])


def _intrinsics(cameras: Cameras) -> Float[Tensor, "v 3 3"]:
    Ks = torch.zeros(len(cameras.fx), 3, 3, dtype=cameras.camera_to_worlds.dtype, device=cameras.fx.device)
    Ks[:, 0, 0], Ks[:, 1, 1] = cameras.fx[:, 0], cameras.fy[:, 0]
    Ks[:, 0, 2], Ks[:, 1, 2] = cameras.cx[:, 0], cameras.cy[:, 0]
    Ks[:, 2, 2] = 1.0
    return Ks
