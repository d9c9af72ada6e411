"""Draw a torus of flat Gaussians and its depth: `python examples/01_draw_gaussians.py --output torus.png`."""

from __future__ import annotations

import math
from pathlib import Path

import torch
import tyro
from PIL import Image
from torch.nn.functional import normalize

from nest_nerfstudio.geometry.sh import rgb_to_sh
from nest_nerfstudio.rasterizers import create_rasterizer
from nest_nerfstudio.types import Gaussians


def torus(count: int) -> Gaussians:
    """Discs that lie on a torus around z, coloured by the direction they face."""
    u, v = 2 * math.pi * torch.rand(2, count)
    normals = torch.stack([v.cos() * u.cos(), v.cos() * u.sin(), v.sin()], dim=-1)
    ring = torch.stack([u.cos(), u.sin(), torch.zeros_like(u)], dim=-1)
    # The shortest turn from +z to n is the quaternion (1 + n_z, z × n), normalised.
    turn = torch.stack([1 + normals[:, 2], -normals[:, 1], normals[:, 0], torch.zeros(count)], dim=-1)
    return Gaussians(
        means=ring + 0.4 * normals,
        quats=normalize(turn, dim=-1),
        scales=torch.tensor([0.03, 0.03, 0.003]).expand(count, 3),
        opacities=torch.full((count,), 0.9),
        sh=rgb_to_sh(0.5 + 0.5 * normals)[:, None],
    )


def main(output: Path = Path("torus.png"), count: int = 20_000, size: int = 320) -> None:
    """Draw it from above at a slant: colour on the left, nearness on the right."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    s, c, distance = math.sin(0.9), math.cos(0.9), 4.0
    view = torch.tensor([[1, 0, 0, 0], [0, -c, -s, 0], [0, s, -c, distance], [0, 0, 0, 1]])
    intrinsics = torch.tensor([[1.2 * size, 0, size / 2], [0, 1.2 * size, size / 2], [0, 0, 1]])
    gaussians = Gaussians(**{name: value.to(device) for name, value in vars(torus(count)).items()})
    rendering = create_rasterizer("auto", device)(
        gaussians,
        view[None].to(device),
        intrinsics[None].to(device),
        size,
        size,
        render_mode="RGB+ED",
        backgrounds=torch.ones(1, 3, device=device),
    )
    assert rendering.depth is not None
    nearness = rendering.alpha * (distance + 1.5 - rendering.depth) / 3
    image = torch.cat([rendering.rgb, nearness.expand_as(rendering.rgb)], dim=2)
    Image.fromarray((255 * image[0].clamp(0, 1)).byte().cpu().numpy()).save(output)
    print(f"{len(gaussians)} Gaussians are in {output}")


if __name__ == "__main__":
    tyro.cli(main)
