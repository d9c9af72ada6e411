from __future__ import annotations

import pytest
import torch
from nerfstudio.utils.writer import GLOBAL_BUFFER

from nest_nerfstudio.pipelines.schedules import FiniteOptimizers, FusedAdamConfig, ProgressSchedulerConfig


def test_rates_follow_every_step_and_are_written_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GLOBAL_BUFFER, "steps_per_log", 50)
    written: list[tuple[int, float]] = []
    monkeypatch.setattr(
        "nerfstudio.utils.writer.put_scalar", lambda name, scalar, step: written.append((step, float(scalar)))
    )
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizers = FiniteOptimizers(
        {
            "means": {
                "optimizer": FusedAdamConfig(lr=1.0),
                "scheduler": ProgressSchedulerConfig(final_ratio=0.01),
            }
        },
        {"means": [parameter]},
    )
    for step in range(101):
        optimizers.schedulers["means"].progress = step / 100  # type: ignore[attr-defined]
        optimizers.scheduler_step_all(step)
        lr = optimizers.optimizers["means"].param_groups[0]["lr"]
        assert lr == pytest.approx(0.01 ** (step / 100))
    assert [step for step, _ in written] == [0, 50, 100]
    assert [lr for _, lr in written] == pytest.approx([1.0, 0.1, 0.01])
