"""A small dynamic capture: images of coloured blobs, one of which moves, drawn by the dense reference."""

import json
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from nest_nerfstudio.rasterizers.dense import DenseRasterizer
from nest_nerfstudio.types import Gaussians

SIZE, ANGLE = 48, 0.69


def blobs(time: float) -> Gaussians:
    """Three balls in a row; the last one swings up and down once in the clip."""
    height = 0.6 * math.sin(2 * math.pi * time)
    means = torch.tensor([[-0.6, 0.0, 0.0], [0.0, 0.2, 0.1], [0.6, 0.0, height]])
    colors = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.8, 0.2], [0.2, 0.2, 0.9]])
    return Gaussians(
        means=means,
        quats=torch.tensor([[1.0, 0, 0, 0]]).repeat(3, 1),
        scales=torch.full((3, 3), 0.16),
        opacities=torch.full((3,), 0.99),
        sh=((colors - 0.5) / 0.28209479177387814)[:, None],
    )


def orbit(turn: float, distance: float = 4.0, height: float = 1.2) -> torch.Tensor:
    """Camera to world (OpenGL axes) on a circle around z, looking at the origin."""
    eye = torch.tensor(
        [distance * math.cos(2 * math.pi * turn), distance * math.sin(2 * math.pi * turn), height]
    )
    back = eye / eye.norm()
    right = torch.nn.functional.normalize(torch.linalg.cross(torch.tensor([0.0, 0, 1]), back), dim=0)
    pose = torch.eye(4)
    pose[:3] = torch.stack([right, torch.linalg.cross(back, right), back, eye], 1)
    return pose


def image_at(pose: torch.Tensor, time: float) -> np.ndarray:
    """RGBA with straight alpha, uint8."""
    viewmat = torch.linalg.inv(pose @ torch.diag(torch.tensor([1.0, -1, -1, 1])))
    focal = 0.5 * SIZE / math.tan(0.5 * ANGLE)
    K = torch.tensor([[focal, 0, SIZE / 2], [0, focal, SIZE / 2], [0, 0, 1.0]])
    drawn = DenseRasterizer()(blobs(time), viewmat[None], K[None], SIZE, SIZE)
    rgba = torch.cat([drawn.rgb[0] / drawn.alpha[0].clamp_min(1e-6), drawn.alpha[0]], -1)
    return (rgba.clamp(0, 1) * 255).round().byte().numpy()


def write_capture(folder: Path, counts: dict[str, int] | None = None) -> Path:
    """Write D-NeRF JSON and PNGs; the split "future" runs on to t = 2."""
    for split, count in (counts or {"train": 24, "val": 3, "test": 4, "future": 3}).items():
        frames = []
        (folder / split).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            time = i / max(1, count - 1) if split != "future" else 1 + (i + 1) / count
            pose = orbit(0.381966 * i + 0.1 * len(split))
            Image.fromarray(image_at(pose, time)).save(folder / split / f"r_{i:03d}.png")
            frames.append(
                {"file_path": f"./{split}/r_{i:03d}", "time": time, "transform_matrix": pose.tolist()}
            )
        meta = {"camera_angle_x": ANGLE, "frames": frames}
        (folder / f"transforms_{split}.json").write_text(json.dumps(meta))
    return folder
