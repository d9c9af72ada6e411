"""A ball that rolls over a coloured floor, seen by one camera on its way; drawn by the dense reference."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from nest_nerfstudio.geometry.sh import rgb_to_sh
from nest_nerfstudio.rasterizers.dense import DenseRasterizer
from nest_nerfstudio.types import Gaussians, Rendering, Views
from tests.small_capture import orbit

WIDTH, HEIGHT, FOCAL = 96, 72, 90.0
START, END, RADIUS = torch.tensor([-0.5, -0.2, 0.2]), torch.tensor([0.5, 0.3, 0.2]), 0.2
"""Way of the ball, from time 0 to 1."""
ARC = 0.2
"""Way of the camera around it, turns."""


def balls(means: torch.Tensor, colors: torch.Tensor, scale: torch.Tensor) -> Gaussians:
    n = len(means)
    return Gaussians(
        means=means,
        quats=torch.tensor([[1.0, 0, 0, 0]]).repeat(n, 1),
        scales=scale.expand(n, 3),
        opacities=torch.full((n,), 0.95),
        sh=rgb_to_sh(colors)[:, None],
    )


def floor() -> Gaussians:
    """At height 0."""
    steps = torch.linspace(-1.6, 1.6, 22)
    x, y = torch.meshgrid(steps, steps, indexing="ij")
    means = torch.stack([x.flatten(), y.flatten(), torch.zeros(22 * 22)], 1)
    colors = 0.4 + 0.4 * torch.rand(22 * 22, 3, generator=torch.Generator().manual_seed(0))
    return balls(means, colors, torch.tensor([0.1, 0.1, 0.01]))


def ball(time: float) -> Gaussians:
    directions = torch.randn(60, 3, generator=torch.Generator().manual_seed(1))
    shell = 0.75 * RADIUS * torch.nn.functional.normalize(directions, dim=1)
    place = START + time * (END - START)
    return balls(place + shell, torch.tensor([0.1, 0.05, 0.05]).expand(60, 3), torch.tensor([0.06] * 3))


def both(a: Gaussians, b: Gaussians) -> Gaussians:
    return Gaussians(*(torch.cat([getattr(a, name), getattr(b, name)]) for name in vars(a)))


def draw(gaussians: Gaussians, views: Views, mode: str = "RGB") -> Rendering:
    return DenseRasterizer()(
        gaussians,
        views.viewmats,
        views.Ks,
        views.width,
        views.height,
        render_mode=mode,  # type: ignore[arg-type]
        backgrounds=torch.full((1, 3), 0.3),
    )


def pose_at(time: float) -> torch.Tensor:
    """Camera to world, OpenGL axes."""
    return orbit(ARC * time, distance=3.0, height=2.0)


def camera(time: float) -> Views:
    pose = pose_at(time) @ torch.diag(torch.tensor([1.0, -1, -1, 1]))
    K = torch.tensor([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1.0]])
    return Views(torch.linalg.inv(pose)[None], K[None], WIDTH, HEIGHT, torch.tensor([time]))


def view(time: float, scene: Gaussians | None = None) -> Views:
    """What the camera sees at a time; another scene if one is given."""
    seen = both(floor(), ball(time)) if scene is None else scene
    return replace(camera(time), images=draw(seen, camera(time)).rgb)


def write_yard(folder: Path, count: int = 16) -> Path:
    """Write `transforms.json` and opaque PNGs; the last two frames of train are test frames too."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{i:03d}.png" for i in range(count)]
    frames = []
    for i, name in enumerate(names):
        time = i / (count - 1)
        images = view(time).images
        assert images is not None
        Image.fromarray((images[0].clamp(0, 1) * 255).round().byte().numpy()).save(folder / name)
        frames.append({"file_path": name, "time": time, "transform_matrix": pose_at(time).tolist()})
    sizes = {"w": WIDTH, "h": HEIGHT, "cx": WIDTH / 2, "cy": HEIGHT / 2, "fl_x": FOCAL, "fl_y": FOCAL}
    splits = {"train_filenames": names, "val_filenames": names[-2:], "test_filenames": names[-2:]}
    (folder / "transforms.json").write_text(json.dumps({**sizes, "frames": frames, **splits}))
    return folder
