"""Figures as data: programs append to results/<benchmark>.jsonl, RESULTS.md is generated from that.

    python benchmarks/results.py            writes RESULTS.md
    python benchmarks/results.py --check    fails if RESULTS.md is not what the figures say

By hand, for what no program measures:

    python -c "from benchmarks.results import record
    record('setup', {'minutes': 5.2, 'psnr': 37.3}, settings={'what': 'make demo'})"
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import tyro

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "benchmarks" / "results"
PAGE = ROOT / "benchmarks" / "RESULTS.md"
MOST_LINES = 200
LOAD_AT_START = os.getloadavg()[0]

# ---------------------------------------------------------------- recording


def record(
    benchmark: str,
    figures: Mapping[str, Any],
    *,
    seed: int | None = None,
    settings: Mapping[str, Any] | None = None,
    note: str = "",
    folder: Path = FOLDER,
) -> dict[str, Any]:
    """Append one line to `folder`/`benchmark`.jsonl.

    Args:
        benchmark: name of the file.
        figures: name → number, or name of a row → (name → number).
        seed: of the run.
        settings: what else tells this line from others of the file. Paths are written relative to the
            repository.
        note: what a reader has to know, such as what ran beside.
        folder: of the files.

    Returns:
        The line.
    """
    line = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "load": [round(LOAD_AT_START, 2), round(os.getloadavg()[0], 2)],
        "command": " ".join(portable(sys.argv)),
        "seed": seed,
        "settings": portable(settings or {}),
        "figures": portable(figures),
    }
    if note:
        line["note"] = note
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{benchmark}.jsonl").open("a") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return line


def commit() -> str | None:
    """Short hash of what is checked out, "+dirty" where tracked files other than results differ from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
        return done.stdout.strip()

    short = git("rev-parse", "--short", "HEAD")
    status = ("status", "--porcelain", "--untracked-files=no", "--", ".")
    is_dirty = git(*status, ":!benchmarks/results", ":!benchmarks/RESULTS.md")
    return short + "+dirty" * bool(is_dirty) or None


def machine() -> dict[str, Any]:
    """CPU, cores, memory, GPU and versions. torch is asked only where it is loaded already."""
    torch = sys.modules.get("torch")
    gpu = torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else None
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        torch_version = version("torch")
    except PackageNotFoundError:
        torch_version = None
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_gb": round(memory / 2**30),
        "gpu": gpu,
        "python": platform.python_version(),
        "torch": torch_version,
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def portable(value: Any) -> Any:
    """The value as JSON has it, in six digits, without absolute paths.

    Those beside or below the repository become relative to it, of others only the name stays.
    """
    if isinstance(value, Mapping):
        return {str(key): portable(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [portable(entry) for entry in value]
    if isinstance(value, (Path, str)):
        option, equals, path = str(value).rpartition("=")
        return option + equals + _relative(path)
    value = value.item() if hasattr(value, "item") else value  # of NumPy and torch
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _relative(text: str) -> str:
    if not os.path.isabs(text):
        return text
    is_near = Path(text).is_relative_to(ROOT.parent)
    return os.path.relpath(text, ROOT) if is_near else os.path.basename(text.rstrip("/"))


# ---------------------------------------------------------------- the page


@dataclass(frozen=True)
class Source:
    """Rows of a table."""

    file: str
    """results/`file`.jsonl."""
    key: tuple[str, ...] = ()
    """Settings that tell rows apart; of equal ones the latest counts, or the mean over seeds of a day."""
    where: tuple[tuple[str, Any], ...] = ()
    """Settings that a line must have."""
    rows: tuple[str, ...] | None = None
    """Entries of the figures that are a row each; "*": every entry is. None: the line is a row."""
    name: str = "{row}"
    """Of the row, with its settings."""


@dataclass(frozen=True)
class Table:
    """A table of the page."""

    title: str
    command: str
    reading: str
    columns: tuple[tuple[str, str, str], ...]
    """Header, path of the value (alternatives separated by |), and its format."""
    sources: tuple[Source, ...]


PSNR = ".2f"
ORIGIN = (("commit", "commit", ""), ("date", "date", ""))
ONE_HOUR = (("data", "../shared/data/scenes"), ("minutes", 60), ("tokens", 1024))
EDITS = ("light", "hue", "yaw", "translate")
SO3 = (*ONE_HOUR[:1], ("minutes", 20), ("group", "so3"))
NO_MODEL = ("all white", "nearest training scene", "fitted to the views")
CLOUDS = ("views", "cloud of their hull")
COSTS = ("points, ms", "tokens, ms", "tokens, MB")
START_UP = ("ns-train splatfacto --help, no plugin", "ns-train nest-dynamic, first step")
ON_CUDA = ("horse scores", "horse times", "lego scores", "lego times", "splatfacto times")
SET_UP = ("make setup, empty caches", "make demo after set-up")
VIEWS = tuple((f"{n}", f"{n}", PSNR) for n in (1, 2, 4, 8))

TABLES = (
    Table(
        "One scene: `nest-dynamic`",
        "benchmarks/quality.py --data SCENE --splits test future --minutes M --cycles C [--motion mlp | "
        "static]",
        "PSNR in dB at 200×200 on white after so many minutes of training, two runs at a time on two cores. "
        "Test: t in [0, 1] (dnerf_lego: val, `--splits val --downscale 2`); future: t in (1, 2], never "
        "seen; later: future, 20 true cycles on. Knight, Cow, Trex and Koi are scenes that no default was "
        "tuned on.",
        (
            ("scene", "scene", ""),
            ("motion", "motion", ""),
            ("min", "minutes", "g"),
            ("after 5", "5 min/test/psnr|5 min/val/psnr", PSNR),
            ("after 10", "10 min/test/psnr|10 min/val/psnr", PSNR),
            ("end", "end/test/psnr|end/val/psnr", PSNR),
            ("SSIM", "end/test/ssim|end/val/ssim", ".3f"),
            ("future", "end/future/psnr", PSNR),
            ("later", "end/future, 20 cycles later/psnr", PSNR),
            ("period", "end/period", ".5f"),
            ("true", "end/period_true", ".5f"),
            ("steps", "end/step", ",.0f"),
            ("seeds", "seed", ""),
            *ORIGIN,
        ),
        tuple(
            Source(
                "quality",
                ("scene", "motion"),
                (
                    ("minutes", minutes),
                    *scenes,
                    ("interval", 1),
                    ("span", [0.0, 1.0]),
                    ("set", []),
                    ("strides", "three"),
                ),
            )
            for minutes, *scenes in ((20,), (10, ("scene", ("dnerf_lego", "horse_walk"))), (5,))
        ),
    ),
    Table(
        "Few images, part of the clip",
        "benchmarks/quality.py … [--interval 2 | 4 | 8] [--span 0 0.5] [--minutes 5 | --minutes 0 --steps "
        "3500 --threads 1]",
        "Trained on every n-th image or on a part of the clip; beyond: the rest of the clip. Less than a "
        "cycle is continued freely, and hardly better than not at all.",
        (
            ("scene", "scene", ""),
            ("every", "interval", ""),
            ("part", "span", ""),
            ("budget", "budget", ""),
            ("test", "end/test/psnr|end/val/psnr", PSNR),
            ("beyond", "end/test, beyond/psnr|end/val, beyond/psnr", PSNR),
            ("future", "end/future/psnr", PSNR),
            ("later", "end/future, 20 cycles later/psnr", PSNR),
            ("period", "end/period", ".4f"),
            ("true", "end/period_true", ".4f"),
            ("seeds", "seed", ""),
            *ORIGIN,
        ),
        (
            Source(
                "quality", ("scene", "interval"), (("span", [0.0, 1.0]), ("interval", (2, 4, 8)), ("set", []))
            ),
            Source(
                "quality",
                ("scene", "span"),
                (("span", ([0.0, 0.5], [0.0, 0.3], [0.0, 0.8])), ("minutes", (5, 10))),
            ),
        ),
    ),
    Table(
        "Hand-held captures",
        "benchmarks/casual.py --steps 2500",
        "One camera that moves, no masks; PSNR in dB of test images from cameras at least 15° away, and of "
        "the future, t in (1, 1.5]: all pixels, those of what stands still, and those of what moves. Data "
        "without masks: every 8th frame, by what ours shows to move; crossed: what stands still, at times "
        "half a clip away.",
        (
            ("scene", "scene", ""),
            ("row", "variant", ""),
            ("steps", "steps", ",.0f"),
            ("all", "test/all", PSNR),
            ("still", "test/still", PSNR),
            ("moving", "test/moving", PSNR),
            ("future, all", "future/all", PSNR),
            ("still", "future/still", PSNR),
            ("moving", "future/moving", PSNR),
            ("crossed, still", "crossed/still", PSNR),
            ("seconds", "seconds", ",.0f"),
            *ORIGIN,
        ),
        (Source("casual", ("scene", "variant")),),
    ),
    Table(
        "Full frames on a CPU",
        "benchmarks/full_frames.py steps | memory",
        "Milliseconds of the loss and of a step at 480×270, 20,000 Gaussians; memory of a training "
        "at 960×540 by number of frames.",
        (
            ("", "row", ""),
            ("loss in torch", "loss in torch", ".1f"),
            ("in kernels", "loss in kernels", ".1f"),
            ("step, loss in torch", "step, loss in torch", ".0f"),
            ("in kernels", "step, loss in kernels", ".0f"),
            ("peak, MB", "peak (MB)", ",.0f"),
            *ORIGIN,
        ),
        (
            Source("full_frames", (), (("what", "steps"),), ("*",)),
            Source("full_frames", (), (("what", "memory"),), ("60 frames", "1000 frames")),
        ),
    ),
    Table(
        "Cameras of a video: `nest-data video`",
        "benchmarks/video.py",
        "Against the true ones after the similarity that aligns the centres best; turned: rotations after "
        "the turn that aligns these best. Median and largest.",
        (
            ("clip", "clip", ""),
            ("registered", "registered", PSNR),
            ("rotation, °", "rotation_degrees_median", PSNR),
            ("", "rotation_degrees_max", PSNR),
            ("turned, °", "rotation_turned_degrees_median", PSNR),
            ("", "rotation_turned_degrees_max", PSNR),
            ("position, % of path", "position_percent_median", PSNR),
            ("", "position_percent_max", PSNR),
            ("focal length, %", "focal_length_percent", PSNR),
            *ORIGIN,
        ),
        (Source("video", ("clip",), (("clip", ("horse_yard", "frog_desk")),)),),
    ),
    Table(
        "Cost of motion",
        "benchmarks/motion_cost.py --repeats 31",
        "Medians in ms at 200×200, 512 tokens, SH degree 1, two threads. The roll-out does not grow with N, "
        "and a frame does not pay for it.",
        (
            ("Gaussians", "row", ""),
            ("frame, still", "frame_still_ms", PSNR),
            ("moving", "frame_moving_ms", PSNR),
            ("ratio", "frame_ratio", PSNR),
            ("step, still", "step_still_ms", PSNR),
            ("moving", "step_moving_ms", PSNR),
            ("ratio", "step_ratio", PSNR),
            ("roll-out", "roll_out_ms", PSNR),
            *ORIGIN,
        ),
        (
            Source(
                "motion_cost",
                (),
                (("size", 200), ("tokens", 512), ("sh_degree", 1), ("threads", 2)),
                ("*",),
            ),
        ),
    ),
    Table(
        "CPU rasterizer",
        "benchmarks/rasterizer.py",
        "Forward and backward, two threads, float32. Alone: sorting and blending; full: with projection and "
        "SH of degree 3; gsplat: its torch code, full.",
        (
            ("Gaussians, image", "row", ""),
            ("alone (ms)", "alone_ms", ".1f"),
            ("full (ms)", "full_ms", ".1f"),
            ("full / alone", "full_over_alone", PSNR),
            ("memory (MB)", "peak_mb", ".0f"),
            ("gsplat (ms)", "gsplat_full_ms", ".0f"),
            ("times faster: blending", "faster_blend", ".0f"),
            ("alone", "faster_alone", ".0f"),
            ("full", "faster_full", ".0f"),
            *ORIGIN,
        ),
        (Source("rasterizer", ("threads",), (("threads", 2),), ("*",)),),
    ),
    Table(
        "Many scenes: `nest-prior`",
        "benchmarks/prior.py scores --load-config RUN/config.yml; … baselines --data ../shared/data/scenes; "
        "… rotated | clouds",
        "PSNR in dB on unseen views of unseen scenes (one in five), 128×128 on white, from 1, 2, 4, 8 "
        "views, after an hour on two processes; refined: 25 steps of latent optimization a view beyond the "
        "first. `light` to `translate`: edited states. Toy scenes: `make prior`. so3: as in the "
        "ablations.",
        (
            ("", "name", ""),
            *VIEWS,
            *((f"{n}, refined", f"{n}, refined", PSNR) for n in (2, 4, 8)),
            ("steps", "steps", ",.0f"),
            *ORIGIN,
        ),
        (
            Source("prior_scores", ("data",), ONE_HOUR, ("all", *EDITS), "{row}"),
            Source("prior_baselines", ("data",), ONE_HOUR[:1], NO_MODEL, "no model: {row}"),
            Source(
                "prior_scores",
                ("data",),
                (("data", "prior_output/scenes"), ("minutes", 10)),
                ("all",),
                "toy scenes, all",
            ),
            Source("prior_rotated", ("data",), SO3, ("turned",), "so3, 20 min, turned at random"),
            Source("prior_clouds", ("data",), ONE_HOUR[:1], CLOUDS, "from points, 600 steps: {row}"),
        ),
    ),
    Table(
        "Scenes from few images: `nest-invert`",
        "benchmarks/inversion.py scores | camera --load-config RUN/config.yml; benchmarks/edits.py truth "
        "--load-config RUN/config.yml",
        "PSNR in dB on unseen views of unseen scenes from 1, 2, 4, 8 images, by the prior of half an hour "
        "on two processes; seconds: of one inversion, one thread. Edits: of scenes inverted from 4 images, "
        "against renderings of the edited states.",
        (
            ("", "name", ""),
            *((f"{n}", f"psnr/{n}", PSNR) for n in (1, 2, 4, 8)),
            *((f"SSIM, {n}", f"ssim/{n}", ".3f") for n in (1, 8)),
            *((f"seconds, {n}", f"seconds/{n}", ".1f") for n in (1, 8)),
            ("steps", "steps", ".0f"),
            *((kind, kind, PSNR) for kind in EDITS),
            *ORIGIN,
        ),
        (
            Source("inversion_scores", ("data",), (), ("*",), "{row}"),
            Source("edits_truth", ("data",), (), ("*",), "edits, {row}"),
        ),
    ),
    Table(
        "Ablations of `nest-prior`",
        "benchmarks/prior_ablations.py --data ../shared/data/scenes --minutes 20 --threads 1",
        "As above, 20 minutes each; edits: mean over edited states, from 4 views. e3nn's messages earn "
        "exactness, not quality; edits in training and learned weights of the tasks earn quality, and one "
        "model of all beats one for each category.",
        (
            ("variant", "variant", ""),
            ("weights", "weights", ",.0f"),
            ("steps", "steps", ",.0f"),
            *VIEWS,
            ("edits", "edits", PSNR),
            *ORIGIN,
        ),
        (Source("prior_ablations", ("variant",), (("minutes", 20), ("data", "../shared/data/scenes"))),),
    ),
    Table(
        "Disentanglement",
        "benchmarks/disentanglement.py --load-config RUN/config.yml [--data ../shared/data/scenes]",
        "A prior of 28 minutes, on scenes with edits or on procedural figures (None). D_LSBD by known "
        "actions: 0 is linearly disentangled, 1 a constant code. Leakage: largest R² of a factor from a part "
        "of Z that is not its own. What it means: docs/disentanglement.md.",
        (
            ("data", "name", ""),
            *(
                (f"D_LSBD, {what}", f"D_LSBD {what}", ".3f")
                for what in ("yaw, positions", "place", "hue", "light")
            ),
            *((f"leakage, {what}", f"leakage of {what}, latent", PSNR) for what in ("yaw", "place", "light")),
            *((f"autoencoder, {what}", f"leakage of {what}, autoencoder", PSNR) for what in ("yaw", "place")),
            *ORIGIN,
        ),
        (Source("disentanglement", ("data",), (), None, "{data}"),),
    ),
    Table(
        "Attractors of autoencoders",
        "benchmarks/attractors.py published | sweep",
        "MLPs of width 256 on uniform data of 32 numbers; means over seeds. What it means: "
        "docs/attractors.md.",
        (
            ("network", "name", ""),
            ("MSE", "mse", ".0e"),
            ("attractors", "attractors", PSNR),
            ("spectral radius", "largest spectral radius", ".3f"),
            ("starts that end at an example", "starts that end at an example", PSNR),
            ("examples reached", "examples reached", ".1f"),
            ("seeds", "seed", ""),
            *ORIGIN,
        ),
        (Source("attractors", ("name",), (("bias", False),), None, "{name}"),),
    ),
    Table(
        "Exactness, numerics, cost, set-up",
        "benchmarks/prior.py exactness | cost; benchmarks/dynamics.py --load-config RUN/config.yml; "
        "benchmarks/scenes_memory.py; benchmarks/robustness.py; benchmarks/rigs.py; "
        "benchmarks/edits.py exactness; benchmarks/motions.py; benchmarks/web_page.py; "
        "benchmarks/startup.py; benchmarks/cuda.py; make setup | demo",
        "Relative errors, the largest found; memory as against 50 scenes. `change_of_step`: largest change "
        "of a token's step from frame to frame over the largest step, t in [−1, 2]; ten times slower it is a "
        "tenth where motion is smooth.",
        (("what", "name", ""), ("figures", "*", ""), *ORIGIN),
        (
            Source("prior_exactness", ("data",), ONE_HOUR[:2], ("*",), "equivariance of nest-prior, {row}"),
            Source("dynamics", ("scene",), (), None, "motion of {scene}"),
            Source("edits_exactness", ("method",), (), None, "edits of {method}"),
            Source("inversion_camera", ("data",), (), ("*",), "pose of a single image, {row}"),
            Source("motions_known", (), (), ("psnr",), "moving animals of the training, dB"),
            Source("motions_prediction", (), (), ("psnr",), "moving unseen animals, dB"),
            Source("motions_half_cycle", (), (), ("psnr",), "the same, after half a cycle, dB"),
            Source("motions_adaptation", (), (), ("psnr",), "unseen clips from them and from scratch, dB"),
            Source("motions_aggregation", (), (), ("psnr",), "clips with what others share, dB"),
            Source("prior_cost", ("device",), (), COSTS, "encoder and decoder, by {row}"),
            Source("scenes_memory", ("steps",), (("steps", 1300),), ("5000 scenes",), "memory, {row}"),
            Source("robustness", ("steps",), (), ("all",), "other scales, places and times, dB below"),
            Source("rigs", ("cameras",), (("cameras", (3, 8)),), ("*",), "{cameras} still cameras, {row}"),
            Source("web_page", ("page",), (), None, "page {page}, drawn in software"),
            Source("startup", (), (), START_UP, "{row}"),
            Source("cuda", (), (), ON_CUDA, "CUDA, {row}"),
            Source("setup", ("what",), (("what", SET_UP),), None, "{what}"),
        ),
    ),
)

HEAD = """\
Generated by `python benchmarks/results.py` from [results/](results): the latest figures of each row, with
commit and day of the run; command, machine, load and settings are in the files, to which programs append.
Machines are shared, so times are upper bounds and qualities lower bounds. What was tried and dropped, and
where thresholds come from: [docs/notes](../docs/notes/README.md). Commands are for `.venv/bin/python`.
"""


def generate(folder: Path | None = None) -> str:
    """RESULTS.md from the latest figures."""
    folder = folder or FOLDER
    used: list[dict[str, Any]] = []
    parts = [part for table in TABLES for part in _table(table, folder, used)]
    machines = sorted({_machine_name(line["machine"]) for line in used})
    head = ["# Results", "", *HEAD.splitlines(), f"Machine: {'; '.join(machines)}."]
    return "\n".join([*head, *parts]) + "\n"


def _machine_name(machine: Mapping[str, Any]) -> str:
    parts = [f"{machine['cores']} cores of {machine['cpu']}", f"{machine['memory_gb']} GiB"]
    return ", ".join([*parts, machine["gpu"] or "no GPU", f"torch {machine['torch']}"])


def _table(table: Table, folder: Path, used: list[dict[str, Any]]) -> Iterable[str]:
    rows = []
    for source in table.sources:
        for lines in _current(source, folder):
            used += lines
            for row in _rows(source, lines):
                cells = [_cell(row, path, style) for _, path, style in table.columns]
                rows.append("| " + " | ".join(cells) + " |")
    if not rows:
        return
    yield from ("", f"## {table.title}", f"{table.reading} `{table.command}`", "")
    yield "| " + " | ".join(header for header, _, _ in table.columns) + " |"
    yield "|---" * len(table.columns) + "|"
    yield from rows


def _current(source: Source, folder: Path) -> Iterable[list[dict[str, Any]]]:
    """For each key its latest line, with those of other seeds of the same day."""
    groups: dict[str, dict[int | None, dict[str, Any]]] = {}
    for line in _read(folder / f"{source.file}.jsonl"):
        if all(_fits(line["settings"].get(name), wanted) for name, wanted in source.where):
            key = json.dumps([line["settings"].get(name) for name in source.key])
            groups.setdefault(key, {})[line["seed"]] = line
    for _, by_seed in sorted(groups.items()):
        latest = max(_date(line) for line in by_seed.values())
        yield [line for line in by_seed.values() if latest - _date(line) < timedelta(days=1)]


def _read(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(text) for text in path.read_text().splitlines()] if path.is_file() else []
    return sorted(lines, key=_date)


def _fits(value: Any, wanted: Any) -> bool:
    return value in wanted if isinstance(wanted, tuple) else value == wanted


def _date(line: Mapping[str, Any]) -> datetime:
    date = datetime.fromisoformat(line["date"])
    return date if date.tzinfo else date.replace(tzinfo=timezone.utc)


def _rows(source: Source, lines: list[dict[str, Any]]) -> Iterable[list[dict[str, Any]]]:
    """The values of each row, once for a line."""
    entries = [""] if source.rows is None else source.rows
    if source.rows == ("*",):
        entries = list(lines[-1]["figures"])
    for entry in entries:
        row = []
        for line in lines:
            figures = line["figures"].get(entry, {}) if entry else line["figures"]
            values = {**line["settings"], "row": entry, "seed": line["seed"], "commit": line["commit"]}
            values |= {"date": line["date"][:10], "*": _listed(figures), **figures}
            row.append(values | {"name": source.name.format(**values)})
        yield row


def _listed(figures: Mapping[str, Any]) -> str:
    numbers = {key: value for key, value in figures.items() if not isinstance(value, (dict, list))}
    return ", ".join(
        f"{key} {value:.4g}" if _is_number(value) else f"{key} {value}" for key, value in numbers.items()
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _cell(row: list[dict[str, Any]], path: str, style: str) -> str:
    """Mean of numbers over the lines of a row; else their texts."""
    found = [value for value in (_look_up(values, path) for values in row) if value is not None]
    if style and found:
        return format(statistics.fmean(found), style)
    texts = ["–".join(f"{x:g}" for x in value) if isinstance(value, list) else str(value) for value in found]
    return ", ".join(dict.fromkeys(texts))


def _look_up(values: Mapping[str, Any], path: str) -> Any:
    for alternative in path.split("|"):
        found: Any = values
        for part in alternative.split("/"):
            found = found.get(part) if isinstance(found, Mapping) else None
        if found is not None:
            return found
    return None


def main(check: bool = False) -> None:
    """Write RESULTS.md.

    Args:
        check: only say whether it is what the figures say; exit status 1 if not.
    """
    page = generate()
    lines = page.count("\n")
    if lines > MOST_LINES:
        raise SystemExit(f"RESULTS.md would have {lines} lines, {MOST_LINES} at most")
    if not check:
        PAGE.write_text(page)
    elif PAGE.read_text() != page:
        raise SystemExit("benchmarks/RESULTS.md is stale: run `python benchmarks/results.py`")


if __name__ == "__main__":
    tyro.cli(main)
