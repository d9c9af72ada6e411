"""How a camera of any kind is drawn: itself where it is a pinhole, else by the faces of a cube around it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from nerfstudio.cameras.cameras import Cameras, CameraType
from torch import Tensor

from nest_nerfstudio.cameras import cameras_to_views, is_pinhole
from nest_nerfstudio.geometry.multiview import sample_images
from nest_nerfstudio.host import on_axis_where_undefined
from nest_nerfstudio.types import Views

_LARGEST = 4096
"""Pixels along the edge of a face, at most."""
_MARGIN = 1
"""Pixels beyond each edge of a face, which bilinear samples at the edge read."""


@dataclass(frozen=True)
class Sight:
    """Pinhole views that together show all that a camera sees, and where each of its pixels is in them.

    Attributes:
        views: the camera itself, or those faces of a cube around it that it sees something of.
        faces: index of the view that shows each pixel; None for a pinhole.
        grid: grid coordinates of each pixel in that view; None for a pinhole.
    """

    views: Views
    faces: Int[Tensor, "h w"] | None = None
    grid: Float[Tensor, "h w 2"] | None = None

    def image(self, drawn: Float[Tensor, "f p q c"]) -> Float[Tensor, "h w c"]:
        """The camera's image, from images of the views."""
        if self.faces is None or self.grid is None:
            return drawn[0]
        samples = sample_images(drawn, self.grid.flatten(0, 1).expand(len(drawn), -1, -1))
        chosen = self.faces.flatten()[None, :, None].expand(1, -1, drawn.shape[-1])
        return samples.gather(0, chosen)[0].unflatten(0, self.faces.shape)


def sight_of(camera: Cameras) -> Sight:
    """How a camera is drawn.

    Args:
        camera: a single camera; with any lens that nerfstudio casts rays for, distorted or not.

    Raises:
        ValueError: its rays do not meet in one point (panoramas in stereo, orthographic cameras), or values
            are not finite.
    """
    camera = camera.reshape((-1,))
    if is_pinhole(camera):
        return Sight(cameras_to_views(camera))
    rays = camera.generate_rays(camera_indices=0)
    origins = rays.origins.flatten(0, -2)
    if not torch.allclose(origins, origins[:1].expand_as(origins)):
        kind = CameraType(int(camera.camera_type)).name
        raise ValueError(
            f"cameras of the kind {kind} have no single centre, and cannot be drawn; give the camera path "
            "the camera_type perspective, fisheye or equirectangular"
        )
    views = cameras_to_views(_as_pinhole(camera))
    turns = _face_rotations().to(views.viewmats)
    directions = rays.directions @ views.viewmats[0, :3, :3].mT  # camera axes
    directions = on_axis_where_undefined(directions)
    faces = (directions @ turns[:, 2].mT).argmax(-1)
    seen, faces = faces.unique(return_inverse=True)
    x, y, z = (turns[seen[faces]] @ directions[..., None])[..., 0].unbind(-1)
    edge = _edge(directions)
    side = edge + 2 * _MARGIN
    return Sight(
        _face_views(views, turns[seen], edge), faces, torch.stack([x / z, y / z], -1) * (edge / side)
    )


def _face_rotations() -> Float[Tensor, "6 3 3"]:
    """From camera axes (x right, y down, z forward) to those of the faces: ahead, behind, sides, below,
    above."""
    forward = torch.tensor([[0.0, 0, 1], [0, 0, -1], [1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]])
    down = torch.tensor([[0.0, 1, 0]] * 4 + [[0, 0, -1], [0, 0, 1]])
    return torch.stack([torch.linalg.cross(down, forward), down, forward], 1)


def _face_views(camera: Views, turns: Float[Tensor, "f 3 3"], edge: int) -> Views:
    viewmats = camera.viewmats.repeat(len(turns), 1, 1)
    viewmats[:, :3] = turns @ viewmats[:, :3]
    side = edge + 2 * _MARGIN
    K = turns.new_tensor([[edge / 2, 0, side / 2], [0, edge / 2, side / 2], [0, 0, 1]])
    times = None if camera.times is None else camera.times.expand(len(turns))
    return Views(viewmats, K.repeat(len(turns), 1, 1), width=side, height=side, times=times)


def _edge(directions: Float[Tensor, "h w 3"]) -> int:
    """Pixels along the edge of a face, for pixels no coarser than those of the camera."""
    steps = [directions.diff(dim=dim).norm(dim=-1).flatten() for dim in (0, 1)]
    finest = min((float(step.median()) for step in steps if len(step)), default=1.0)
    return min(_LARGEST, max(16, math.ceil(2 / max(finest, 1e-6))))


def _as_pinhole(camera: Cameras) -> Cameras:
    """A pinhole in the place of the camera."""
    kind = torch.full_like(camera.camera_type, CameraType.PERSPECTIVE.value)
    return replace(camera, camera_type=kind, distortion_params=None)
