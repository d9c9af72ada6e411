"""What must commute with a group, and by how much it does not."""

import torch

from nest_nerfstudio.analysis.commuting import gaussians_distance, latent_distance, relative, turn_points
from nest_nerfstudio.geometry.quaternion import quat_exp
from nest_nerfstudio.geometry.se3 import Pose
from nest_nerfstudio.rasterizers.dense import DenseRasterizer
from nest_nerfstudio.types import Views
from tests.small_capture import blobs, orbit

__all__ = [
    "TOLERANCE",
    "gaussians_distance",
    "latent_distance",
    "pictures",
    "random_pose",
    "relative",
    "turn_points",
]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def pictures(count: int, dtype: torch.dtype = torch.float32, size: int = 48, first: float = 0.1) -> Views:
    """Images of three balls from cameras around them, whose rotations are exact in either precision."""
    poses = torch.stack([orbit(first + 0.381966 * i, height=0.4 + 0.4 * i) for i in range(count)]).double()
    poses[:, :3, 1:3] *= -1  # OpenGL to OpenCV
    z = torch.nn.functional.normalize(poses[:, :3, 2], dim=1)
    y = torch.nn.functional.normalize(torch.linalg.cross(z, poses[:, :3, 0]), dim=1)
    poses[:, :3, :3] = torch.stack([torch.linalg.cross(y, z), y, z], -1)
    viewmats = torch.linalg.inv(poses)
    focal = 0.5 * size / 0.36
    K = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1.0]])
    Ks = K.expand(count, 3, 3).clone()
    drawn = DenseRasterizer()(blobs(0.1), viewmats.to(Ks), Ks, size, size)
    return Views(
        viewmats=viewmats.to(dtype),
        Ks=Ks.to(dtype),
        width=size,
        height=size,
        images=(drawn.rgb / drawn.alpha.clamp_min(1e-6)).clamp(0, 1).to(dtype),
        alphas=drawn.alpha.to(dtype),
    )


def random_pose(dtype: torch.dtype, seed: int, axis: str = "any", shift: float = 1.0) -> Pose:
    """A rigid motion: about any axis, or about "z" or "x"; `shift` scales its translation."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.nn.functional.normalize(torch.randn(3, generator=generator, dtype=torch.float64), dim=0)
    direction = {"any": direction, "z": torch.tensor([0.0, 0, 1]), "x": torch.tensor([1.0, 0, 0])}[axis]
    angle = 0.5 + 2 * torch.rand((), generator=generator, dtype=torch.float64)
    translation = shift * torch.randn(3, generator=generator, dtype=torch.float64)
    return quat_exp(direction.double() * angle).to(dtype), translation.to(dtype)
