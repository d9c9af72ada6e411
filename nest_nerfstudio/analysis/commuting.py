"""What must commute with a group: random group elements, and relative distances of what comes out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from scipy.spatial import KDTree
from torch import Tensor, nn

from nest_nerfstudio.geometry.quaternion import quat_exp, quat_rotate, quat_to_rotmat
from nest_nerfstudio.geometry.se3 import Pose
from nest_nerfstudio.types import Gaussians, Points, SceneLatent, Views

Group = Literal["se3", "so3", "azimuth"]


def random_motion(group: Group, generator: torch.Generator, dtype: torch.dtype) -> Pose:
    """A random element: of SE(3), of SO(3), or of the rotations about z; rounded from double precision.

    Rotations are by up to π about a random axis, translations standard normal, in world units.
    """
    axis, shift = (torch.randn(3, generator=generator, dtype=torch.float64) for _ in range(2))
    angle = torch.pi * torch.rand((), generator=generator, dtype=torch.float64)
    if group == "azimuth":
        axis = torch.tensor([0.0, 0.0, 1.0]).double() * axis[2].sign()
    turn = quat_exp(axis / axis.norm() * angle)
    return turn.to(dtype), (shift * float(group == "se3")).to(dtype)


def turn_points(points: Points, pose: Pose) -> Points:
    """The points moved by g."""
    return replace(points, positions=quat_rotate(pose[0], points.positions) + pose[1])


def relative(a: Tensor, b: Tensor) -> float:
    """‖a − b‖ / ‖b‖; infinite where the shapes differ, as where another number of tokens was chosen."""
    if a.shape != b.shape:
        return float("inf")
    return float((a - b).norm() / b.norm().clamp_min(1e-12))


def pose_distance(a: Pose, b: Pose) -> float:
    """Relative distance of poses as one vector, rotations as matrices: q and −q are the same."""
    return relative(*(_flat(quats, translations) for quats, translations in (a, b)))


def latent_distance(a: SceneLatent, b: SceneLatent) -> float:
    """Relative distance of all parts as one vector, rotations as matrices."""
    return relative(*(_flat(z.quats, z.translations, z.geometry, z.appearance, z.light) for z in (a, b)))


def gaussians_distance(a: Gaussians, b: Gaussians) -> float:
    """Relative distance of all parts as one vector, rotations as matrices."""
    return relative(*(_flat(g.quats, g.means, g.scales, g.opacities, g.sh) for g in (a, b)))


def set_distance(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> float:
    """Relative distance of two sets of rows: of each to its nearest in the other; the larger way."""
    if a.shape != b.shape:
        return float("inf")
    of_b, of_a = (torch.from_numpy(KDTree(x.numpy()).query(y.numpy())[1]) for x, y in ((a, b), (b, a)))
    return max(relative(a[of_b], b), relative(b[of_a], a))


def exact_rotations(views: Views) -> Views:
    """Cameras whose rotations are orthonormal in their own precision, not only in that of a file."""
    u, _, vt = torch.linalg.svd(views.viewmats[:, :3, :3].double())
    viewmats = views.viewmats.double().clone()
    viewmats[:, :3, :3] = u @ vt
    return replace(views, viewmats=viewmats.to(views.viewmats))


def cast_views(views: Views, dtype: torch.dtype, of_cameras: torch.dtype | None = None) -> Views:
    """The views in another precision, their cameras in that or in one of their own."""
    cast = {k: v.to(dtype) for k, v in vars(views).items() if torch.is_tensor(v)}
    for name in ("viewmats", "Ks"):
        cast[name] = getattr(views, name).to(of_cameras or dtype)
    return replace(views, **cast)


def cast_latent(latent: SceneLatent, dtype: torch.dtype) -> SceneLatent:
    """The latent in another precision; its rotations are unit in it."""

    def cast(values: dict) -> dict:
        return {k: v.to(dtype) for k, v in values.items() if torch.is_tensor(v) and v.is_floating_point()}

    quats = torch.nn.functional.normalize(latent.quats.double(), dim=1).to(dtype)
    motion = replace(latent.motion, **cast(vars(latent.motion)))
    return replace(latent, **{**cast(vars(latent)), "quats": quats, "motion": motion})


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Build modules in a precision: the constants of e3nn are computed in that of their making."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def rebuilt(make: Callable[[], nn.Module], weights: dict[str, Tensor]) -> nn.Module:
    """A module made anew in the default precision, with the learned weights of another."""
    module = make().eval().requires_grad_(False)
    learned = {name: weights[name].to(value) for name, value in module.named_parameters() if name in weights}
    module.load_state_dict(learned, strict=False)
    return module


def part_of(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Weights of a part of a model, named as in the part."""
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def _flat(quats: Tensor, *parts: Tensor) -> Tensor:
    return torch.cat([part.flatten() for part in (quat_to_rotmat(quats), *parts)])
