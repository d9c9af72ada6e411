"""What starting costs: CPU seconds, seconds and memory of commands, beside those of the host alone.

    python benchmarks/startup.py

Processes are timed in turns, and CPU seconds (user and system) hardly depend on what else runs. Bytecode and
kernels are warm, as from the second start on; bytecode is kept in a folder of this benchmark, as some
environments forbid Python to write it beside the sources, which doubles every import.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tyro
from PIL import Image
from results import ROOT, record

HOST_ALONE = """
import nerfstudio.plugins.registry as methods, nerfstudio.plugins.registry_dataparser as parsers
from importlib.metadata import EntryPoints
methods.entry_points = parsers.entry_points = lambda group: EntryPoints(())
"""
"""Hides the plugins of nerfstudio from it."""
TRAIN, OURS = "nerfstudio.scripts.train", "nest_nerfstudio.scripts."


@dataclass
class StartUp:
    """Time help texts, and a training up to the end of its first step."""

    data: Path = ROOT.parent / "shared" / "data" / "motion" / "horse_walk"
    """D-NeRF scene whose images are cut and enlarged."""
    images: int = 44
    """Number of training images."""
    size: tuple[int, int] = (480, 270)
    """Width and height of the images, pixels."""
    repeats: int = 3
    """Timed runs of each command, after one that is not; the median counts, of memory the largest."""

    def main(self) -> None:
        """Print a table and record it."""
        with tempfile.TemporaryDirectory() as folder:
            scene = self._write_scene(Path(folder) / "scene")
            commands = _commands(scene, Path(folder) / "out")
            runs: dict[str, list[tuple[float, float, float]]] = {name: [] for name in commands}
            for i in range(self.repeats + 1):
                for name, command in commands.items():
                    costs = _run(command, Path(folder) / "bytecode")
                    runs[name] += [costs] if i else []
        figures = dict(_table(runs))
        for name, row in figures.items():
            print(f"{name:40}", *(f"{key} {value:8.2f}" for key, value in row.items()), flush=True)
        settings = {"images": self.images, "size": list(self.size), "repeats": self.repeats}
        record("startup", figures, settings=settings)

    def _write_scene(self, target: Path) -> Path:
        """Images of the scene in another size: the middle, enlarged."""
        for split, count in {"train": self.images, "val": 2, "test": 2}.items():
            meta = json.loads((self.data / f"transforms_{split}.json").read_text())
            meta["frames"] = meta["frames"][:: max(1, len(meta["frames"]) // count)][:count]
            for frame in meta["frames"]:
                file = f"{frame['file_path']}.png"
                image = Image.open(self.data / file)
                border = (image.height - image.width * self.size[1] / self.size[0]) / 2
                (target / file).parent.mkdir(parents=True, exist_ok=True)
                box = (0, border, image.width, image.height - border)
                image.resize(self.size, Image.Resampling.BICUBIC, box).save(target / file)
            (target / f"transforms_{split}.json").write_text(json.dumps(meta))
        return target


def _commands(scene: Path, output: Path) -> dict[str, list[str]]:
    """Arguments of Python by name."""
    train = ["nest-dynamic", "--data", str(scene), "--output-dir", str(output), "--vis", "tensorboard"]
    train += ["--viewer.quit-on-train-completion", "True", "--max-num-iterations", "1"]
    return {
        "import torch": ["-c", "import torch"],
        "ns-train splatfacto --help, no plugin": _entry(TRAIN, "splatfacto", "--help", before=HOST_ALONE),
        "ns-train nest-dynamic --help": _entry(TRAIN, "nest-dynamic", "--help"),
        "ns-train nest-dynamic, first step": _entry(TRAIN, *train),
        "nest-edit --help": _entry(f"{OURS}edit", "--help"),
        "nest-export --help": _entry(f"{OURS}export", "--help"),
        "nest-data --help": _entry(f"{OURS}data", "--help"),
        "nest-analyze --help": _entry(f"{OURS}analyze", "--help"),
    }


def _entry(module: str, *arguments: str, before: str = "") -> list[str]:
    """A console script, of this checkout."""
    return ["-W", "ignore", "-c", f"{before}\nfrom {module} import entrypoint\nentrypoint()", *arguments]


def _run(arguments: list[str], bytecode: Path) -> tuple[float, float, float]:
    """CPU seconds, seconds, and the largest memory in MB of a process.

    Raises:
        RuntimeError: it failed; says how.
    """
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(bytecode), "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, env=environment, stdout=said, stderr=subprocess.STDOUT
        )
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"{arguments[-1]} failed: {said.read()[-1000:]}")
    return used.ru_utime + used.ru_stime, seconds, used.ru_maxrss / 1e3


def _table(runs: dict[str, list[tuple[float, float, float]]]) -> Iterator[tuple[str, dict[str, float]]]:
    """Medians, and CPU seconds over those of importing torch, with which a machine's speed drops out."""
    for name, costs in runs.items():
        cpu, seconds, memory = zip(*costs, strict=True)
        unit = statistics.median(cost[0] for cost in runs["import torch"])
        yield (
            name,
            {
                "cpu_seconds": round(statistics.median(cpu), 2),
                "torch_imports": round(statistics.median(cpu) / unit, 2),
                "seconds": round(statistics.median(seconds), 2),
                "megabytes": round(max(memory)),
            },
        )


if __name__ == "__main__":
    tyro.cli(StartUp).main()
