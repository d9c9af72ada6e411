"""Small scenes, written to disk as the two formats have them."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from PIL import Image

from nest_nerfstudio.data.dataparser import NestDynamicDataParserConfig

Edit = Callable[[dict[str, Any]], None]


def orbit(turn: float) -> list[list[float]]:
    """A camera to world matrix on a circle around the z axis, looking at the origin (OpenGL axes)."""
    c, s = math.cos(2 * math.pi * turn), math.sin(2 * math.pi * turn)
    return [[-s, 0.0, c, 4 * c], [c, 0.0, s, 4 * s], [0.0, 1.0, 0.0, 0.5], [0.0, 0.0, 0.0, 1.0]]


def write_image(path: Path, size: tuple[int, int] = (12, 8), mode: str = "RGBA", seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], len(mode)), dtype=np.uint8)
    Image.fromarray(pixels if len(mode) > 1 else pixels[..., 0], mode).save(path)


def edit_json(path: Path, edit: Edit) -> None:
    """Change a transforms file in place."""
    meta = json.loads(path.read_text())
    edit(meta)
    path.write_text(json.dumps(meta))


def parse(data: Path, split: str = "train", **options: Any) -> DataparserOutputs:
    """One split of a scene, as `nest-dynamic-data` parses it."""
    return NestDynamicDataParserConfig(data=data, **options).setup().get_dataparser_outputs(split)


def times(outputs: DataparserOutputs) -> list[float]:
    assert outputs.cameras.times is not None
    return outputs.cameras.times.flatten().tolist()


def write_scene(folder: Path, frames: list[dict[str, Any]], **shared: Any) -> Path:
    """Write a `transforms.json` and an image for each of its frames."""
    for i, frame in enumerate(frames):
        write_image(folder / frame["file_path"], mode="RGB", seed=i)
    meta = {"w": 12, "h": 8, "fl_x": 15.0, "fl_y": 15.0, "cx": 6.0, "cy": 4.0, "frames": frames, **shared}
    (folder / "transforms.json").write_text(json.dumps(meta), encoding="utf-8")
    return folder
