"""Fit Gaussians to one image by gradients alone: `python examples/02_fit_an_image.py --output fit.png`."""

from __future__ import annotations

from pathlib import Path

import torch
import tyro
from PIL import Image
from rich.progress import track
from torch.nn.functional import normalize

from nest_nerfstudio.geometry.sh import rgb_to_sh
from nest_nerfstudio.rasterizers import create_rasterizer
from nest_nerfstudio.types import Gaussians


def rings(size: int) -> torch.Tensor:
    """The image to fit, [size, size, 3]."""
    x, y = torch.meshgrid(torch.linspace(-3, 3, size), torch.linspace(-3, 3, size), indexing="xy")
    return 0.5 + 0.5 * ((x**2 + y**2).sqrt()[..., None] * 3 + torch.tensor([0.0, 2.0, 4.0])).sin()


def main(output: Path = Path("fit.png"), size: int = 128, count: int = 1500, steps: int = 200) -> None:
    """Descend on the squared error from grey dots on a plane; save target and fit side by side."""
    torch.manual_seed(0)
    target = rings(size)
    start = [
        torch.cat([2 * torch.rand(count, 2) - 1, torch.zeros(count, 1)], dim=1),
        torch.randn(count, 4),
        torch.full((count, 3), -3.5),
        torch.zeros(count),
        torch.full((count, 3), 0.5),
    ]
    means, quats, log_scales, opacity_logits, colors = (value.requires_grad_() for value in start)
    optimizer = torch.optim.Adam(start, lr=0.02)
    rasterize = create_rasterizer("numba", "cpu")
    view = torch.eye(4)[None]
    view[0, 2, 3] = 2.0  # the camera stands two units in front of the plane z = 0
    intrinsics = torch.tensor([[[size, 0, size / 2], [0, size, size / 2], [0, 0, 1.0]]])

    fit = target
    for _ in track(range(steps), description="Fitting"):
        sh = rgb_to_sh(colors)[:, None]
        gaussians = Gaussians(means, normalize(quats, dim=-1), log_scales.exp(), opacity_logits.sigmoid(), sh)
        fit = rasterize(gaussians, view, intrinsics, size, size).rgb[0]
        optimizer.zero_grad()
        (fit - target).square().mean().backward()
        optimizer.step()
    fit = fit.detach().clamp(0, 1)
    psnr = -10 * (fit - target).square().mean().log10()
    Image.fromarray((255 * torch.cat([target, fit], dim=1)).byte().numpy()).save(output)
    print(f"{psnr:.1f} dB with {count} Gaussians; target and fit are in {output}")


if __name__ == "__main__":
    tyro.cli(main)
