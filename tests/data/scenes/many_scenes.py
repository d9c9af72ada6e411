"""Small scenes with edits, written to disk as `scenes.json` and D-NeRF JSON have them."""

import json
from pathlib import Path
from typing import Any

from tests.data.small_scenes import orbit, write_image

EDITS = {
    "base": {},
    "relight": {"light": {"direction": [1, 0, -1], "sun": 2.0}},
    "turn": {"yaw": 1.5},
}
VIEWS = {"base": 6, "relight": 4, "turn": 3}


def write_scenes(folder: Path, names: tuple[str, ...] = ("cow", "wolf", "trex")) -> Path:
    """A folder with `scenes.json` and these scenes: three states at time 0, and a clip of single views."""
    for i, name in enumerate(names):
        write_scene(folder / name, seed=1000 * i)
    write_index(folder, {name: "quadruped" for name in names})
    return folder


def write_index(folder: Path, categories: dict[str, str]) -> None:
    scenes = [{"name": name, "category": category} for name, category in categories.items()]
    (folder / "scenes.json").write_text(json.dumps({"scenes": scenes}))


def write_scene(folder: Path, seed: int = 0, mode: str = "RGBA", views: dict[str, int] = VIEWS) -> None:
    """Every third view of a state is test's; all images differ."""
    frames: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    shown = [(edit, i, 0.0) for edit, count in views.items() for i in range(count)]
    shown += [("base", 90 + i, (i + 1) / 3) for i in range(3)]
    for place, (edit, i, time) in enumerate(shown):
        split = "test" if i % 3 == 2 else "train"
        name = f"./{split}/{edit}_{i:02d}"
        write_image(folder / f"{name}.png", mode=mode, seed=seed + place)
        pose = orbit(place / len(shown))
        frames[split].append({"file_path": name, "time": time, "edit": edit, "transform_matrix": pose})
    for split, listed in frames.items():
        meta = {"camera_angle_x": 0.7, "edits": EDITS, "category": "quadruped", "frames": listed}
        (folder / f"transforms_{split}.json").write_text(json.dumps(meta))
