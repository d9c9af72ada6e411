"""Trainings in processes of their own."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def run_processes(code: str, folder: Path, arguments: Sequence[object], count: int = 1) -> None:
    """Run Python code in one process, or in several that average their gradients (gloo, on this CPU).

    Args:
        code: what each of them runs; it is written into the folder.
        folder: a folder of its own.
        arguments: `sys.argv[1:]` of it.
        count: number of processes.
    """
    script = folder / "process.py"
    script.write_text(code)
    launcher = [sys.executable]
    if count > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    command = [*launcher, str(script), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
