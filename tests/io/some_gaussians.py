"""Gaussians and a data parser's transform for tests of files, and their comparison."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from nest_nerfstudio.geometry.quaternion import quat_exp, quat_to_rotmat
from nest_nerfstudio.types import Gaussians


def make_gaussians(count: int = 20, degree: int = 3) -> Gaussians:
    return Gaussians(
        means=torch.randn(count, 3),
        quats=F.normalize(torch.randn(count, 4), dim=-1),
        scales=torch.rand(count, 3) * 0.1 + 1e-3,
        opacities=torch.rand(count) * 0.98 + 0.01,
        sh=torch.randn(count, (degree + 1) ** 2, 3),
    )


def assert_same(a: Gaussians, b: Gaussians) -> None:
    for name in ("means", "quats", "scales", "opacities", "sh"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=1e-5, atol=1e-6)


def make_transform() -> tuple[Tensor, float]:
    rotation = quat_to_rotmat(quat_exp(torch.tensor([0.3, -1.2, 0.7])))
    return torch.cat([rotation, torch.tensor([[0.5], [-2.0], [1.0]])], dim=1), 0.25
