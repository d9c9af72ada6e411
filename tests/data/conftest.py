"""Small scenes, written to disk as the two formats have them."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.data.small_scenes import orbit, write_image


@pytest.fixture
def dnerf(tmp_path: Path) -> Path:
    """A D-NeRF scene: 12 train, 3 val, 2 test frames in [0, 1] and 3 frames of `future` beyond."""
    spans = {"train": (12, 0.0, 1.0), "val": (3, 0.1, 0.9), "test": (2, 0.2, 0.8), "future": (3, 1.25, 2.0)}
    for split, (count, first, last) in spans.items():
        frames = []
        for i, time in enumerate(np.linspace(first, last, count).tolist()):
            name = f"./{split}/r_{i}"
            write_image(tmp_path / f"{name}.png", seed=i)
            frames.append({"file_path": name, "time": time, "transform_matrix": orbit(i / count)})
        meta = {"camera_angle_x": 0.7, "frames": frames}
        (tmp_path / f"transforms_{split}.json").write_text(json.dumps(meta))
    return tmp_path


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """A scene as `ns-process-data video` leaves it: one file, frames not in order, a lens, no times."""
    frames = []
    for i in np.random.default_rng(0).permutation(20).tolist():
        name = f"images/frame_{i + 1:05d}.png"
        write_image(tmp_path / name, mode="RGB", seed=i)
        frames.append({"file_path": name, "transform_matrix": orbit(i / 40), "colmap_im_id": i})
    meta = {"w": 12, "h": 8, "fl_x": 15.0, "fl_y": 16.0, "cx": 6.5, "cy": 4.0, "camera_model": "OPENCV"}
    lens = {"k1": 0.01, "k2": -0.002, "p1": 0.001, "p2": 0.0005}
    applied = [[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, -1.0, 0.0, 0.0]]
    text = json.dumps({**meta, **lens, "applied_transform": applied, "frames": frames})
    (tmp_path / "transforms.json").write_text(text)
    return tmp_path
