"""The unknown camera of a single image: a coarse set of poses, and a joint fit of pose and latent."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from nest_nerfstudio.cameras import downscale_views
from nest_nerfstudio.geometry.multiview import camera_centres
from nest_nerfstudio.models.latent_optimization import (
    CAMERA_RATE,
    CameraPose,
    Objective,
    optimize_latent,
    take_steps,
)
from nest_nerfstudio.types import SceneLatent, Views

ELEVATIONS = (-15.0, 0.0, 15.0, 30.0, 45.0, 60.0, 75.0)
"""Degrees above the horizon at which a camera is looked for."""
ROLLS = (-20.0, 0.0, 20.0)
"""Turns about the optical axis, degrees."""
_COARSE_SIZE = 96
"""Longer side of the images by which poses are compared first, pixels; less than twice as many at most."""
_FINAL_RATIO = 0.1


@dataclass(frozen=True)
class FoundCamera:
    """A pose of a camera, and the scene that it sees.

    Attributes:
        view: the image with that pose.
        latent: Z, world frame.
        encoded: Z before it was fitted.
        loss: of view and latent.
    """

    view: Views
    latent: SceneLatent
    encoded: SceneLatent
    loss: float


def cameras_around(
    distance: float,
    azimuths: tuple[float, ...] = (0.0,),
    elevations: tuple[float, ...] = ELEVATIONS,
    rolls: tuple[float, ...] = ROLLS,
) -> Float[Tensor, "n 4 4"]:
    """World-to-camera matrices (OpenCV axes) of cameras on a sphere that look at the origin.

    Args:
        distance: radius of the sphere, world units.
        azimuths: angles of the positions about z, from x, degrees.
        elevations: above the horizon, degrees, strictly between −90 and 90.
        rolls: turns about the optical axis, degrees.
    """
    found = []
    for degrees in itertools.product(azimuths, elevations, rolls):
        azimuth, elevation, roll = map(math.radians, degrees)
        flat, up = math.cos(elevation), math.sin(elevation)
        forward = -torch.tensor([flat * math.cos(azimuth), flat * math.sin(azimuth), up])
        right = torch.tensor([-math.sin(azimuth), math.cos(azimuth), 0.0])
        down = torch.linalg.cross(forward, right)
        cos, sin = math.cos(roll), math.sin(roll)
        viewmat = torch.eye(4)
        viewmat[:3, :3] = torch.stack([cos * right + sin * down, cos * down - sin * right, forward])
        viewmat[2, 3] = distance
        found.append(viewmat)
    return torch.stack(found)


def azimuth_and_distance(view: Views) -> tuple[float, float]:
    """Where the camera of a view stands: angle about z from x in degrees, and distance from the origin."""
    centre = camera_centres(view.viewmats)[0]
    return math.degrees(math.atan2(float(centre[1]), float(centre[0]))), float(centre.norm())


def find_camera(
    view: Views,
    encode: Callable[[Views], SceneLatent],
    objective: Callable[[SceneLatent | None], Objective],
    starts: Float[Tensor, "n 4 4"],
    steps: int = 100,
    kept: int = 3,
    scene_is_known: bool = False,
) -> FoundCamera:
    """The pose of a camera from which a scene looks as in an image.

    All starts are compared at a small size; the best of them are fitted by steps of Adam on the twist of the
    camera, and on the latent unless it is known.

    Args:
        view: a single image; its pose is not read.
        encode: the scene of the image with a pose.
        objective: makes what is minimised, with random numbers that are always the same, from the latent that
            a fit starts from; None to compare starts.
        starts: poses to start from, world to camera, OpenCV axes.
        steps: of each fit.
        kept: number of starts that are fitted.
        scene_is_known: `encode` gives one and the same latent, which stays.

    Raises:
        ValueError: from no pose does the image show anything that can be encoded.
    """
    small = downscale_views(view, max(1, max(view.width, view.height) // _COARSE_SIZE))
    candidates, problem = [], None
    for viewmat in starts.to(view.viewmats):
        try:
            with torch.no_grad():
                latent = encode(replace(view, viewmats=viewmat[None]))
                error = float(objective(None)(latent, replace(small, viewmats=viewmat[None])))
        except ValueError as found:  # nothing is inside the silhouette from here
            problem = found
            continue
        candidates.append((error, len(candidates), viewmat, latent))
    if not candidates:
        raise ValueError(f"no pose of the camera suits the image: {problem}") from problem
    fitted = [
        _fit(replace(view, viewmats=viewmat[None]), latent, objective, steps, scene_is_known)
        for _, _, viewmat, latent in sorted(candidates)[:kept]
    ]
    return min(fitted, key=lambda found: found.loss)


def _fit(
    view: Views,
    encoded: SceneLatent,
    objective: Callable[[SceneLatent | None], Objective],
    steps: int,
    scene_is_known: bool,
) -> FoundCamera:
    camera, minimised, latent = CameraPose(view.viewmats[0]), objective(encoded), encoded
    if not scene_is_known:
        latent = optimize_latent(encoded, view, minimised, steps, final_ratio=_FINAL_RATIO, camera=camera)
    else:
        with torch.enable_grad():
            groups = [([camera.twist], CAMERA_RATE)]
            take_steps(groups, lambda _: minimised(latent, camera(view)), steps, _FINAL_RATIO)
    with torch.no_grad():
        view = camera(view)
        return FoundCamera(view, latent, encoded, float(objective(None)(latent, view)))
