"""From nerfstudio's cameras (camera-to-world, OpenGL axes) to `Views` (world-to-camera, OpenCV axes)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras, CameraType
from torch import Tensor

from nest_nerfstudio.types import Views

# The fisheye kinds keep their name after nerfstudio has undistorted their images to a pinhole.
_PINHOLE = (CameraType.PERSPECTIVE.value, CameraType.FISHEYE.value, CameraType.FISHEYE624.value)


def cameras_to_views(cameras: Cameras) -> Views:
    """Poses, intrinsics, size and times of cameras; differentiable in `camera_to_worlds`.

    Lens distortion is not looked at: nerfstudio's full-image data manager has undone it in the images
    (of fisheye cameras too), and the intrinsics are those of the pinhole image that it made.

    Args:
        cameras: any batch shape, all of one image size, rotations orthonormal.

    Returns:
        Views without images.

    Raises:
        ValueError: mixed sizes, values that are not finite, or cameras that have no pinhole image.
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


def downscale_views(views: Views, factor: int) -> Views:
    """The same views with pixels `factor` times as large; what is left at the right and below is cut off.

    Args:
        views: without images, or their images are dropped.
        factor: ≥ 1.
    """
    if factor == 1:
        return views
    scale = views.Ks.new_tensor([factor, factor, 1.0])[:, None]
    return Views(
        viewmats=views.viewmats,
        Ks=views.Ks / scale,
        width=views.width // factor,
        height=views.height // factor,
        times=views.times,
    )


def viewmats_to_c2w(viewmats: Float[Tensor, "... 4 4"]) -> Float[Tensor, "... 3 4"]:
    """World-to-camera OpenCV matrices to nerfstudio's camera-to-world OpenGL poses.

    Args:
        viewmats: rigid, world to camera, OpenCV axes.

    Returns:
        Camera to world, OpenGL axes (x right, y up, z backward).
    """
    rotations = viewmats[..., :3, :3].mT
    centres = -rotations @ viewmats[..., :3, 3:]
    return torch.cat([_flip_yz(rotations), centres], dim=-1)


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
    if any(kind not in _PINHOLE for kind in cameras.camera_type.flatten().tolist()):
        kinds = {CameraType(kind).name for kind in cameras.camera_type.flatten().tolist()}
        raise ValueError(f"Gaussians are drawn with perspective cameras only, got {', '.join(sorted(kinds))}")
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
