"""CUDA, measured by one command of at most nine minutes on a machine that has it.

    python benchmarks/cuda.py           tests, two scenes, a prior, nerfstudio's splatfacto beside them
    python benchmarks/cuda.py --cpu     the same in tiny steps on a CPU, to see that it works; not recorded

Every step has a limit of its own, and one that fails takes no other with it. What is known so far is in
OUTPUT/results.json after each step, and in the end added to results/cuda.jsonl. The prior trains beside the
two scenes, as each leaves most of a large GPU idle; what is timed is timed afterwards, alone.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro
from results import ROOT, record

MEASURE = (sys.executable, "-W", "ignore", "-m", "benchmarks.cuda_run")
OFFLINE = "from benchmarks.cuda_run import leave_lpips_out\nleave_lpips_out()"
TINY = {
    "nest-dynamic": "--pipeline.model.num-random 300 --pipeline.model.max-gs-num 400 "
    "--pipeline.model.num-tokens 16",
    "nest-prior": "--pipeline.model.refine-steps 0 --pipeline.model.training-tokens 16 32 "
    "--pipeline.eval-context 1",
}
"""Settings of trainings with `--cpu`."""
RESERVE = 25.0
"""Seconds for each measurement, kept back from trainings."""


@dataclass
class Job:
    """A training whose run is scored at once, and timed when all is trained."""

    name: str
    method: str
    data: str
    seconds: float
    options: tuple[str, ...] = ()
    config: Path | None = None


@dataclass
class Steps:
    """Commands that run within limits, and what they found.

    Args:
        output: folder of logs and results.
        seconds: for all of them.
    """

    output: Path
    seconds: float
    found: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.output.mkdir(parents=True, exist_ok=True)
        self._ends = time.monotonic() + self.seconds
        self._lock = threading.Lock()

    @property
    def left(self) -> float:
        """Seconds left."""
        return self._ends - time.monotonic()

    def note(self, name: str, **values: Any) -> None:
        """Add to what a step found, on disk too."""
        with self._lock:
            self.found.setdefault(name, {}).update(values)
            (self.output / "results.json").write_text(json.dumps(self.found, indent=1))

    def run(self, name: str, limit: float, *command: str | Path) -> bool:
        """Run a command, for `limit` seconds at most; whether it ended well.

        It may print figures as lines of "RESULT " and JSON. The summary of pytest is noted as well.
        """
        limit = min(limit, self.left)
        if limit < 5:
            self.note(name, status="skipped: no time left")
            return False
        log, began = self.output / f"{name.replace(' ', '_')}.log", time.monotonic()
        with log.open("w") as sink:
            process = subprocess.Popen(
                list(map(str, command)),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            status: int | str
            try:
                status = process.wait(limit)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                status = f"stopped after {limit:.0f} s"
        text = log.read_text(errors="replace")
        for line in re.findall(r"^RESULT (.*)$", text, re.M):
            self.note(name, **json.loads(line))
        if summary := re.findall(r"^=* ?(\d+ (?:passed|failed|skipped|deselected).* in [\d.]+s)", text, re.M):
            self.note(name, summary=summary[-1])
        self.note(name, status=status, seconds=round(time.monotonic() - began, 1))
        print(f"{name}: {json.dumps(self.found[name])[:300]}", flush=True)
        if status != 0:
            print(f"  see {log}", flush=True)
        return status == 0


@dataclass
class Cuda:
    """Run the steps and record what they found."""

    cpu: bool = False
    """Tiny steps on the CPU instead."""
    data: Path = ROOT.parent / "shared" / "data"
    """Folder of motion/horse_walk, dnerf_lego and scenes."""
    output: Path = ROOT / "benchmarks" / "out" / "cuda"
    """Folder of runs, logs and results."""
    seconds: float = 540.0
    """For everything."""
    scene_seconds: float = 90.0
    """Training of each scene."""
    prior_seconds: float = 180.0
    """Training of the prior."""

    def main(self) -> None:
        """All steps."""
        if not self.cpu and not torch.cuda.is_available():
            sys.exit("benchmarks/cuda.py: torch finds no CUDA device; --cpu tries the steps without one")
        if self.cpu:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
            self.scene_seconds = self.prior_seconds = 6.0
        os.environ |= {"PYTHONPATH": str(ROOT), "RES_OPTIONS": "timeout:1 attempts:1"}
        steps = Steps(self.output, self.seconds)
        scope = ["tests/rasterizers/test_create_rasterizer.py"] if self.cpu else []
        steps.run("tests", 110, sys.executable, "-m", "pytest", "-m", "cuda", "-q", "-rfE", *scope)
        lego = ("nest-dynamic-data", "--eval-split", "val")
        scenes = [
            Job("horse", "nest-dynamic", "motion/horse_walk", self.scene_seconds),
            Job("lego", "nest-dynamic", "dnerf_lego", self.scene_seconds, lego),
        ]
        prior = Job("prior", "nest-prior", "scenes", self.prior_seconds)
        beside = threading.Thread(target=self._train, args=(steps, prior))
        beside.start()
        for job in scenes:
            self._train(steps, job)
        beside.join()
        splatfacto = Job("splatfacto", "splatfacto", "motion/horse_walk", 40, ("dnerf-data",))
        if self.cpu:
            steps.note("splatfacto train", status="skipped: it needs CUDA")
        else:
            self._train(steps, splatfacto)
        for job in (*scenes, prior, splatfacto):
            if job.config is not None:
                offline = ("--offline",) if job.method == "splatfacto" else ()
                steps.run(f"{job.name} times", 60 * self._patience, *MEASURE, job.config, *offline)
        if not self.cpu:
            settings = {"scene_seconds": self.scene_seconds, "prior_seconds": self.prior_seconds}
            record("cuda", steps.found, settings=settings)
        sys.exit(any(step["status"] != 0 for step in steps.found.values()) and not self.cpu)

    @property
    def _patience(self) -> int:
        """Factor of the limits: a CPU takes longer."""
        return 5 if self.cpu else 1

    def _train(self, steps: Steps, job: Job) -> None:
        """Train within what is left after the measurements, and score."""
        minutes = min(job.seconds, steps.left - 4 * RESERVE) / 60
        if minutes <= 0:
            return steps.note(f"{job.name} train", status="skipped: no time left")
        is_ours = job.method != "splatfacto"
        budget = ["--max-minutes", f"{minutes:.3f}"] if is_ours else ["--max-num-iterations", "3000"]
        steps.run(
            f"{job.name} train",
            60 * minutes + 90 * self._patience,
            *_nerfstudio("train", "" if is_ours else OFFLINE),
            *(job.method, "--data", self.data / job.data, "--output-dir", self.output),
            *("--experiment-name", job.name, "--timestamp", "run", "--vis", "tensorboard"),
            *("--viewer.quit-on-train-completion", "True", *budget),
            *(TINY[job.method].split() if self.cpu else ()),
            *job.options,
        )
        run = self.output / job.name / job.method / "run"
        if not list(run.glob("nerfstudio_models/step-*.ckpt")):
            return None
        job.config, scores = run / "config.yml", self.output / f"{job.name}.json"
        command = *_nerfstudio("eval"), "--load-config", job.config, "--output-path", scores
        if is_ours and steps.run(f"{job.name} scores", 100 * self._patience, *command):
            results = json.loads(scores.read_text())["results"].items()
            steps.note(f"{job.name} scores", **{name: value for name, value in results if "_std" not in name})


def _nerfstudio(program: str, before: str = "") -> tuple[str, ...]:
    """`ns-train` or `ns-eval` of this checkout."""
    code = f"{before}\nfrom nerfstudio.scripts.{program} import entrypoint\nentrypoint()"
    return sys.executable, "-W", "ignore", "-c", code


if __name__ == "__main__":
    tyro.cli(Cuda).main()
