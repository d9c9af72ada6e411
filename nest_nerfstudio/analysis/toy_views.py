"""Images of procedural figures in known states, drawn by our own renderer in milliseconds.

They are shaded by the light alone, without the shadows that figures cast: a check of a command, and data of
which every factor is known. Data sets with shadows are rendered by `nest-data toy`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nest_nerfstudio.edits.light import sun_sky_light
from nest_nerfstudio.edits.states import placement
from nest_nerfstudio.fields.latent_gaussians import clamped_cosine
from nest_nerfstudio.fields.rig import pose
from nest_nerfstudio.geometry.color import linear_to_srgb, shift_hue
from nest_nerfstudio.rasterizers import create_rasterizer
from nest_nerfstudio.states import Edit, SunSky
from nest_nerfstudio.synthesis.meshes import Mesh
from nest_nerfstudio.synthesis.rendering import Cameras
from nest_nerfstudio.synthesis.toy import random_figure
from nest_nerfstudio.types import Gaussians, Material, RiggedGaussians, Views

SURFELS = 2500
"""Gaussians of a figure."""


def toy_views(
    category: str,
    index: int,
    cameras: Views,
    edit: Edit = Edit(),  # noqa: B008 (frozen)
    phase: float = 0.0,
) -> Views:
    """A procedural figure in a known state, seen from some cameras.

    Args:
        category: of `synthesis.toy.CATEGORIES`.
        index: of the figure in its category.
        cameras: what it is seen from; its images are not used.
        edit: state of the figure.
        phase: of its motion, cycles.
    """
    rigged = _surfels(category, index, phase % 1.0)
    like = rigged.bind_translations
    if edit.hue:
        assert rigged.material is not None
        albedo = shift_hue(rigged.material.albedo, edit.hue)
        rigged = replace(rigged, material=replace(rigged.material, albedo=albedo))
    quat, translation = placement(edit, like)
    light = sun_sky_light(edit.light or SunSky(), like.new_zeros(3, 9))
    gaussians = pose(rigged, (quat[None], translation[None]), light)
    rasterizer = create_rasterizer("auto", like.device)
    size = cameras.width, cameras.height
    drawn = rasterizer(gaussians, cameras.viewmats.to(like), cameras.Ks.to(like), *size)
    rgb = drawn.rgb / drawn.alpha.clamp_min(1e-6)
    return Views(cameras.viewmats, cameras.Ks, *size, images=rgb.clamp(0, 1), alphas=drawn.alpha.clamp(0, 1))


def toy_cameras(count: int, size: int = 64, seed: int = 0) -> Views:
    """Cameras around the origin, at random heights, without images.

    Args:
        count: number of views, evenly spread in azimuth.
        size: width and height, pixels.
        seed: of heights and of the first azimuth.
    """
    settings, rng = Cameras(), np.random.default_rng(seed)
    start = rng.uniform()
    poses = np.stack([settings.pose(0.0, ((start + i / count) % 1.0, rng.uniform())) for i in range(count)])
    poses[:, :3, 1:3] *= -1  # OpenGL to OpenCV
    focal = 0.5 * size / np.tan(0.5 * settings.angle_x)
    K = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1.0]])
    viewmats = torch.linalg.inv(torch.from_numpy(poses)).float()
    return Views(viewmats, K.float().expand(count, 3, 3).clone(), size, size)


@lru_cache(maxsize=64)
def _surfels(category: str, index: int, phase: float) -> RiggedGaussians:
    """Round Gaussians on the surface of a figure, the same points at every phase, bound to one token."""
    figure = random_figure(category, index)
    points, normals, colors = _on_surface(figure.meshes(phase), figure.meshes(0.0))
    identity = torch.tensor([[1.0, 0, 0, 0]])
    count = len(points)
    rest = Gaussians(
        means=points,
        quats=identity.expand(count, 4),
        scales=points.new_full((count, 3), 0.03),
        opacities=points.new_full((count,), 0.97),
        sh=linear_to_srgb(colors)[:, None],
    )
    transfer = clamped_cosine(normals[:, None])[:, 0]
    tokens = torch.zeros(count, 1, dtype=torch.long)
    return RiggedGaussians(
        rest, identity, torch.zeros(1, 3), tokens, torch.ones(count, 1), Material(colors, transfer)
    )


def _on_surface(posed: list[Mesh], at_rest: list[Mesh]) -> tuple[Float[Tensor, "n 3"], ...]:
    """Positions, normals and colours of points that are uniform on the surface at rest."""
    rng = np.random.default_rng(0)
    corners = [mesh.vertices[mesh.faces] for mesh in at_rest]
    areas = [np.linalg.norm(np.cross(c[:, 1] - c[:, 0], c[:, 2] - c[:, 0]), axis=1) for c in corners]
    shares = np.concatenate(areas) / sum(area.sum() for area in areas)
    chosen = rng.choice(len(shares), SURFELS, p=shares)
    weights = rng.dirichlet(np.ones(3), SURFELS)[:, :, None]

    def at_points(values: list[np.ndarray]) -> Tensor:
        return torch.from_numpy((np.concatenate(values)[chosen] * weights).sum(1)).float()

    points = at_points([mesh.vertices[mesh.faces] for mesh in posed])
    normals = at_points([m.normals[m.faces] for m in posed if m.normals is not None])
    owners = np.repeat(np.arange(len(posed)), [len(area) for area in areas])[chosen]
    colors = np.array([mesh.bsdf["reflectance"]["value"] for mesh in posed])[owners]
    return points, torch.nn.functional.normalize(normals, dim=1), torch.from_numpy(colors).float()
