"""Test scenes for rasterizers, and the comparison of their images and gradients."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from nest_nerfstudio.rasterizers import Rasterizer, dense
from nest_nerfstudio.types import Gaussians

KINDS = ("random", "huge", "tiny", "behind", "edge_on", "overlapping", "transparent", "needles")
INPUTS = ("means", "quats", "scales", "opacities", "sh", "viewmats", "backgrounds")


@dataclass(frozen=True)
class Case:
    """Gaussians in front of C cameras; all numbers are exact in float32."""

    gaussians: Gaussians
    viewmats: Tensor
    Ks: Tensor
    backgrounds: Tensor
    width: int = 40
    height: int = 27

    def to(self, dtype: torch.dtype) -> Case:
        g = self.gaussians
        return replace(
            self,
            gaussians=Gaussians(*(x.to(dtype) for x in (g.means, g.quats, g.scales, g.opacities, g.sh))),
            viewmats=self.viewmats.to(dtype),
            Ks=self.Ks.to(dtype),
            backgrounds=self.backgrounds.to(dtype),
        )


def make_case(kind: str = "random", seed: int = 0, n: int = 40, cameras: int = 2, degree: int = 1) -> Case:
    """A scene around the origin with cameras at distance 3; `kind` is one of KINDS."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    means, quats = 0.6 * normal(n, 3), normal(n, 4)
    scales = 0.12 * torch.exp(0.6 * normal(n, 3))
    opacities = torch.sigmoid(2 * normal(n))
    if kind == "huge":
        scales = scales * 30
    elif kind == "tiny":
        scales = scales * 1e-3
    elif kind == "behind":
        means = means * 6
    elif kind == "edge_on":
        scales[:, 0] = 1e-6
    elif kind == "overlapping":
        means, opacities = 0.05 * means, 0.5 + 0.5 * opacities
    elif kind == "transparent":
        opacities = opacities * (torch.rand(n, generator=generator) > 0.5) * 0.02
    elif kind == "needles":
        scales[:, 0], scales[:, 1:] = 2.0, 1e-4
    axes = torch.linalg.qr(normal(cameras, 3, 3))[0]
    viewmats = torch.eye(4).repeat(cameras, 1, 1)
    viewmats[:, :3, :3] = axes * torch.linalg.det(axes)[:, None, None]
    viewmats[:, 2, 3] = 3.0
    Ks = torch.tensor([[38.0, 0.0, 19.0], [0.0, 41.0, 14.5], [0.0, 0.0, 1.0]]).repeat(cameras, 1, 1)
    sh = 0.4 * normal(n, (degree + 1) ** 2, 3)
    backgrounds = torch.rand(cameras, 3, generator=generator)
    return Case(Gaussians(means, quats, scales, opacities, sh), viewmats, Ks, backgrounds)


def pixel_weights(case: Case, channels: int, seed: int = 1) -> Tensor:
    """Weights [C, H, W, channels] of a loss that is linear in the images."""
    shape = len(case.viewmats), case.height, case.width, channels
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def render(
    rasterizer: Rasterizer, case: Case, dtype: torch.dtype, mask: Tensor | None = None, **options: Any
) -> dict[str, Tensor]:
    """Images, and the gradients of a random linear loss over those pixels where `mask` [C, H, W] holds."""
    case = case.to(dtype)
    g = case.gaussians
    leaves = {
        name: getattr(g if hasattr(g, name) else case, name).clone().requires_grad_() for name in INPUTS
    }
    inputs = Gaussians(*(leaves[name] for name in INPUTS[:5]))
    options = {"render_mode": "RGB+D", "absgrad": True, **options}
    out = rasterizer(
        inputs,
        leaves["viewmats"],
        case.Ks,
        case.width,
        case.height,
        backgrounds=leaves["backgrounds"],
        **options,
    )
    out.info["means2d"].retain_grad()
    images = [x for x in (out.rgb, out.alpha, out.depth) if x is not None]
    weights = pixel_weights(case, 5)
    if mask is not None:
        weights = weights * mask[..., None]
    loss = (torch.cat(images, -1).double() * weights[..., : 4 + (out.depth is not None)]).sum()
    loss.backward()
    means2d = out.info["means2d"]
    results = {"rgb": out.rgb, "alpha": out.alpha, "depth": out.depth, "means2d": means2d}
    results |= {"radii": out.info["radii"], "depths": out.info["depths"]}
    results |= {f"∂{name}": x.grad for name, x in leaves.items()}
    results |= {"∂means2d": means2d.grad, "absgrad": getattr(means2d, "absgrad", None)}
    return {name: x.detach() for name, x in results.items() if x is not None}


def firm_pixels(case: Case, factor: float, **options: Any) -> Tensor:
    """Pixels [C, H, W] that do not change when the thresholds of the rules change by `factor`.

    The image is discontinuous at α = 1/255 and at T = 1e-4. At a pixel that is that close to a threshold in
    float32 both results are right, so it does not test a kernel.
    """
    case = case.to(torch.float64)
    views = case.viewmats, case.Ks, case.width, case.height
    images = []
    for change in (1 - factor, 1 + factor):
        moved = {"ALPHA_MIN": dense.ALPHA_MIN * change, "T_MIN": dense.T_MIN * change}
        with torch.no_grad(), patch.multiple(dense, **moved):
            out = dense.DenseRasterizer()(case.gaussians, *views, **options)
        images.append(torch.cat([out.rgb, out.alpha], -1))
    return ((images[0] - images[1]).abs() < 1e-9).all(-1)


def relative_error(got: Tensor, wanted: Tensor) -> float:
    """‖got - wanted‖ / ‖wanted‖, or 0 where both vanish."""
    difference, size = (got.double() - wanted.double()).norm(), wanted.double().norm()
    return 0.0 if difference == 0 else (difference / size).item()
