"""Steps of the CUDA benchmark: limits, figures, and failures that take no other step with them."""

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.cuda import Cuda, Steps


def python(code: str) -> tuple[str, str, str]:
    return sys.executable, "-c", code


def test_figures_of_a_step_are_noted_on_disk(tmp_path: Path) -> None:
    steps = Steps(tmp_path / "out", 60)
    assert steps.run("times", 30, *python("print('RESULT {\"step_ms\": 2.5}'); print('3 passed in 1.2s')"))
    noted = json.loads((tmp_path / "out" / "results.json").read_text())
    assert noted == steps.found
    assert noted["times"]["step_ms"] == 2.5
    assert noted["times"]["summary"] == "3 passed in 1.2s"
    assert noted["times"]["status"] == 0


def test_a_step_that_fails_or_takes_too_long_leaves_the_others(tmp_path: Path) -> None:
    steps = Steps(tmp_path, 60)
    assert not steps.run("fails", 30, *python("raise SystemExit(3)"))
    assert not steps.run(
        "hangs", 5, *python("print('RESULT {\"so_far\": 1}', flush=True); import time; time.sleep(60)")
    )
    assert steps.run("works", 30, *python("pass"))
    assert [steps.found[name]["status"] for name in ("fails", "hangs", "works")] == [
        3,
        "stopped after 5 s",
        0,
    ]
    assert steps.found["hangs"]["so_far"] == 1


def test_without_time_a_step_is_skipped(tmp_path: Path) -> None:
    steps = Steps(tmp_path, 1)
    assert not steps.run("late", 30, *python("pass"))
    assert "no time left" in steps.found["late"]["status"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA")
def test_without_cuda_it_says_so_in_one_line() -> None:
    with pytest.raises(SystemExit, match=r"no CUDA device; --cpu"):
        Cuda().main()
