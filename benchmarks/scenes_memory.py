"""What memory many scenes take: peak resident set of a process that draws batches, by number of scenes.

python benchmarks/scenes_memory.py
"""

import json
import math
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import tyro
from PIL import Image
from results import record

FRAMES = {"base": 12, "relight": 6, "recolor": 6, "turn": 6, "move": 6}
EDITS = {"base": {}, "relight": {"light": {"sun": 2.0}}, "recolor": {"hue": 0.3}, "turn": {"yaw": 1.0}}
EDITS["move"] = {"translate": [0.1, 0.0, 0.0]}


@dataclass
class ScenesMemory:
    """Draw the same number of batches of folders of few and of many scenes, each in a process of its own."""

    counts: tuple[int, ...] = (50, 5000)
    """Numbers of scenes."""
    steps: int = 1300
    """Batches to draw, of four scenes each: with 1300 all of 5000 scenes come up once."""
    size: int = 128
    """Width and height of the pictures, pixels."""
    cache_megabytes: float = 128.0
    """Bound on the decoded pictures; the default of the data manager."""
    measure: Path | None = None
    """Only draw batches of this folder and print the peak; what the processes are told."""

    def main(self) -> None:
        """Print a markdown table."""
        if self.measure:
            print(json.dumps(self._draw(self.measure)))
            return
        print(
            "| scenes | peak RSS (MiB) | before drawing | cached pictures | ms a batch | against the first |"
        )
        print("|---|---|---|---|---|---|")
        first, figures = None, {}
        for count in self.counts:
            with TemporaryDirectory() as folder:
                write_scenes(Path(folder), count, self.size)
                result = self._run(Path(folder))
            first = first or result["peak"]
            cells = [result[key] for key in ("peak", "start", "cached", "milliseconds")]
            print(f"| {count} |", " | ".join(f"{x:.0f}" for x in cells), f"| {result['peak'] / first:.3f} |")
            found = {"peak_mib": result["peak"], "before_drawing_mib": result["start"]}
            found |= {"cached_mib": result["cached"], "ms_a_batch": result["milliseconds"]}
            figures[f"{count} scenes"] = found | {"over_first": result["peak"] / first}
        settings = {"steps": self.steps, "size": self.size, "cache_mib": self.cache_megabytes}
        record("scenes_memory", figures, settings=settings)

    def _run(self, folder: Path) -> dict[str, float]:
        options = {"steps": self.steps, "cache-megabytes": self.cache_megabytes, "measure": folder}
        arguments = [text for key, value in options.items() for text in (f"--{key}", str(value))]
        done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        return json.loads(done.stdout.splitlines()[-1])

    def _draw(self, folder: Path) -> dict[str, float]:
        # Here, since a process counts its parent's peak as its own: the parent must stay small.
        from nest_nerfstudio.data.scenes.datamanager import MultiSceneDatamanagerConfig

        config = MultiSceneDatamanagerConfig(data=folder, cache_megabytes=self.cache_megabytes, edit_states=1)
        manager = config.setup()
        begun, start = peak_megabytes(), time.perf_counter()
        for step in range(self.steps):
            manager.next_train(step)
        spent = 1e3 * (time.perf_counter() - start) / self.steps
        cached = manager.library.cached_megabytes
        return {"peak": peak_megabytes(), "start": begun, "cached": cached, "milliseconds": spent}


def peak_megabytes() -> float:
    """Largest resident set of this process so far, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def write_scenes(folder: Path, count: int, size: int) -> None:
    """Scenes as many as asked for, whose pictures are links to one scene's, under cameras of their own."""
    rng = np.random.default_rng(0)
    names = [f"{edit}_{i:02d}" for edit, views in FRAMES.items() for i in range(views)]
    # No more than some 60,000 links to one file: file systems have a limit.
    pictures = [_write_picture(folder / f"{name}.png", size, rng) for name in names]
    scenes = [{"name": f"scene_{i:05d}", "category": "quadruped"} for i in range(count)]
    for scene in scenes:
        home = folder / scene["name"]
        home.mkdir()
        for name, picture in zip(names, pictures, strict=True):
            os.link(picture, home / f"{name}.png")
        for split, held in (("train", False), ("test", True)):
            frames = [_frame(name, rng) for i, name in enumerate(names) if (i % 6 == 5) == held]
            meta = {"camera_angle_x": 0.69, "category": "quadruped", "edits": EDITS, "frames": frames}
            (home / f"transforms_{split}.json").write_text(json.dumps(meta))
    (folder / "scenes.json").write_text(json.dumps({"scenes": scenes}))


def _write_picture(path: Path, size: int, rng: np.random.Generator) -> Path:
    """A ball of a few colours, so that it costs about as much to decode as a rendering."""
    y, x = (np.mgrid[:size, :size] + 0.5) / size - 0.5
    shade = np.clip(1 - 4 * (x * x + y * y), 0, 1)
    colors = rng.uniform(size=3) * shade[..., None] + 0.02 * rng.standard_normal((size, size, 3))
    pixels = np.concatenate([np.clip(colors, 0, 1), (shade > 0)[..., None]], axis=-1)
    Image.fromarray((255 * pixels).astype(np.uint8)).save(path)
    return path


def _frame(name: str, rng: np.random.Generator) -> dict:
    """A camera somewhere on a circle around the z axis, looking at the origin (OpenGL axes)."""
    turn = rng.uniform(0, 2 * math.pi)
    c, s = math.cos(turn), math.sin(turn)
    pose = [[-s, 0.0, c, 4 * c], [c, 0.0, s, 4 * s], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    return {"file_path": f"./{name}", "time": 0.0, "edit": name.split("_")[0], "transform_matrix": pose}


if __name__ == "__main__":
    tyro.cli(ScenesMemory).main()
