"""A run that was interrupted and resumed ends as one that was not."""

from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor

from nest_nerfstudio.pipelines.nest_dynamic import NestDynamicPipeline
from nest_nerfstudio.pipelines.trainer import NestTrainer, NestTrainerConfig
from tests.small_run import make_config, make_trainer

pytestmark = pytest.mark.slow

STEPS, SAVED = 120, 100
HAND_OVER_AT = 0.875
"""Of the training: from step 105 on, after the checkpoint of step 100."""


def make(capture: Path, output: Path, **model) -> NestTrainerConfig:
    config = make_config(capture, output, STEPS, **model)
    config.save_only_latest_checkpoint, config.steps_per_save, config.steps_per_eval_image = False, SAVED, 0
    fit = config.pipeline.model.flow_fit
    fit.max_gap, fit.fit_iterations = 10.0, 40
    fit.settled_change, fit.latest = 0.0, HAND_OVER_AT
    return config


def hand_overs(printed: str) -> list[str]:
    """What the log says about the hand-over."""
    text = " ".join(printed.split())
    starts = ("of the training, motion", "Motion is ", "The ODE takes over")
    return [start + text.split(start, 1)[1].split(". ")[0] for start in starts]


def state_of(trainer: NestTrainer) -> dict[str, Tensor]:
    pipeline = cast(NestDynamicPipeline, trainer.pipeline)
    found = {name: value for name, value in pipeline.state_dict().items() if isinstance(value, Tensor)}
    for group, optimizer in trainer.optimizers.optimizers.items():
        for number, state in optimizer.state_dict()["state"].items():
            found |= {f"{group}.{number}.{name}": value for name, value in state.items()}
    return found


def hand_over_steps(trainer: NestTrainer) -> list[int]:
    """The steps at which the ODE takes over."""
    model, steps = cast(NestDynamicPipeline, trainer.pipeline).dynamic_model, []
    original = trainer.train_iteration

    def train_iteration(step: int):
        before = bool(model.fitter.rolls_out)
        result = original(step)
        if bool(model.fitter.rolls_out) != before:
            steps.append(step)
        return result

    trainer.train_iteration = train_iteration  # type: ignore[method-assign]
    return steps


@pytest.mark.timeout(300)
@pytest.mark.parametrize("strategy", ["mcmc", pytest.param("default", marks=pytest.mark.slow)])
def test_a_resumed_run_hands_over_and_ends_as_an_uninterrupted_one(
    capture: Path, tmp_path: Path, strategy: str, capsys: pytest.CaptureFixture
) -> None:
    whole = make_trainer(make(capture, tmp_path / "whole", strategy=strategy))
    steps = hand_over_steps(whole)
    capsys.readouterr()
    whole.train()
    lines = hand_overs(capsys.readouterr().out)
    # a run that is killed after step 100 leaves this checkpoint
    config = make(capture, tmp_path / "resumed", strategy=strategy)
    config.load_dir, config.load_step = whole.checkpoint_dir, SAVED
    torch.manual_seed(99)
    resumed = config.setup()
    resumed.setup()
    assert resumed._start_step == SAVED + 1
    steps_resumed = hand_over_steps(resumed)
    capsys.readouterr()
    resumed.train()
    lines_resumed = hand_overs(capsys.readouterr().out)
    assert steps == steps_resumed
    assert SAVED < steps[0] < STEPS - 5
    assert "motion lately changed by" in lines[0]
    assert lines == lines_resumed
    expected, found = state_of(whole), state_of(resumed)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )
