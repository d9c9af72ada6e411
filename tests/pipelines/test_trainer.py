import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from nest_nerfstudio.pipelines import trainer as trainer_module
from nest_nerfstudio.pipelines.schedules import ProgressScheduler
from nest_nerfstudio.pipelines.trainer import Stopwatch
from tests.small_run import make_config, make_trainer

pytestmark = pytest.mark.slow


def test_progress_by_steps_ends_the_training(capture: Path, tmp_path: Path) -> None:
    trainer = make_trainer(make_config(capture, tmp_path, steps=12))
    assert trainer.progress(0) == 0
    assert trainer.progress(6) == 0.5
    trainer.train()
    assert trainer.pipeline.progress > 0.9


def test_progress_by_time_ends_the_training(capture: Path, tmp_path: Path) -> None:
    config = make_config(capture, tmp_path, steps=10**6)
    config.max_minutes = 3 / 60
    trainer = make_trainer(config)
    begin = time.monotonic()
    trainer.train()
    assert time.monotonic() - begin < 30
    assert trainer.step < 10**5


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("hold_until", "expected"), [(0.0, [0.1, 0.01, 0.001]), (0.5, [0.1, 0.1, 0.001])])
def test_learning_rates_decay_with_progress(hold_until: float, expected: list[float]) -> None:
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler = ProgressScheduler(optimizer, final_ratio=0.01, hold_until=hold_until)
    rates = []
    for scheduler.progress in (0.0, 0.5, 1.0):
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx(expected)
    assert all(type(rate) is float for rate in rates)


def test_stopwatch_holds_and_goes_on() -> None:
    watch = Stopwatch()
    watch.start()
    time.sleep(0.02)
    watch.stop()
    held = watch.seconds
    time.sleep(0.02)
    assert watch.seconds == held >= 0.02
    watch.start()
    time.sleep(0.01)
    assert watch.seconds > held


def test_checkpoint_loads_with_the_safe_loader(capture: Path, tmp_path: Path) -> None:
    trainer = make_trainer(make_config(capture, tmp_path, steps=5))
    trainer.train()
    (path,) = trainer.checkpoint_dir.glob("*.ckpt")
    state = torch.load(path, weights_only=True)
    assert state["step"] == trainer.step


def test_a_full_disk_keeps_the_last_checkpoint(
    capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    trainer = make_trainer(make_config(capture, tmp_path, steps=5))
    trainer.train()
    (path,) = trainer.checkpoint_dir.glob("*.ckpt")
    before = path.read_bytes()

    def full(state, target) -> None:
        Path(target).write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trainer_module.torch, "save", full)
    trainer.save_checkpoint(99)
    assert [p.name for p in trainer.checkpoint_dir.iterdir()] == [path.name]
    assert path.read_bytes() == before
    assert not list(trainer.base_dir.glob("*.partial"))
    assert "was not saved" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_run_resumes_from_its_last_checkpoint(capture: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle; the resumed run goes on from the saved step to the last."""
    command = [
        *(str(Path(sys.executable).with_name("ns-train")), "nest-dynamic", "--data", str(capture)),
        *("--output-dir", str(tmp_path), "--timestamp", "run", "--experiment-name", "x"),
        *("--vis", "tensorboard"),
        *("--max-num-iterations", "300", "--steps-per-save", "50", "--machine.device-type", "cpu"),
        *("--pipeline.model.num-random", "150", "--pipeline.model.max-gs-num", "200"),
        *("--pipeline.model.num-tokens", "12", "--pipeline.model.flow-fit.fit-iterations", "60"),
    ]
    folder = tmp_path / "x" / "nest-dynamic" / "run" / "nerfstudio_models"
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 600
    while not list(folder.glob("step-*.ckpt")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    saved = max(int(path.stem.split("-")[1]) for path in folder.glob("step-*.ckpt"))
    assert 0 < saved < 299
    config = make_config(capture, tmp_path, steps=300)
    config.load_dir = folder
    resumed = make_trainer(config)
    assert resumed._start_step == saved + 1
    resumed.train()
    assert (resumed.checkpoint_dir / "step-000000299.ckpt").exists()
