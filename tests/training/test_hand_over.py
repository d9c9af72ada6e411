"""Cycles that only images show hold on trial."""

import math
from typing import Any

import pytest
import torch

from nest_nerfstudio.dynamics.fitter import FlowFit, LatentFlowFitter, LatentFlowFitterConfig
from nest_nerfstudio.dynamics.flow import LatentFlow, LatentFlowConfig
from nest_nerfstudio.dynamics.recurrence import ImageErrors
from nest_nerfstudio.training.curriculum import Curriculum, CurriculumConfig
from nest_nerfstudio.training.hand_over import HandOver
from nest_nerfstudio.types import MotionCode

FLOW = LatentFlowConfig()


class Fitter(LatentFlowFitter):
    """Accepts a cycle that images show, this far off the free path."""

    def __init__(self, gap: float) -> None:
        super().__init__(LatentFlowFitterConfig(max_gap=0.3), FLOW, num_tokens=4)
        self.gap, self.asked = gap, 0

    def is_due(self, progress: float, is_full_size: bool, arm: float) -> tuple[bool, float]:
        return not self.rolls_out, 0.1

    def fit(self, flow: LatentFlow, arm: float = 1.0, image_errors: Any = None, poses: Any = None) -> FlowFit:
        self.rolls_out.fill_(image_errors is not None or self.gap <= 0.3)
        if image_errors is not None:
            self.asked += 1
            image_errors()
        still = MotionCode.still(4, torch.zeros(1), FLOW.state_dim)
        return FlowFit(still, True, self.gap, "cyclic: the images recur", bool(self.rolls_out))


def step(hand_over: HandOver, fitter: Fitter, progress: float, error: float) -> FlowFit | None:
    curriculum = Curriculum(CurriculumConfig())
    curriculum.advance(0, progress)
    seen = ImageErrors(torch.full((4, 9), error), torch.linspace(0, 1, 4))
    return hand_over.step(
        fitter, FLOW.setup(), curriculum, 1.0, lambda: seen, lambda: fitter.take_back(progress)
    )


@pytest.mark.parametrize(("after", "holds"), [(0.01, True), (0.02, False)])
def test_a_cycle_is_taken_back_if_images_get_worse_by_it(after: float, holds: bool) -> None:
    hand_over, fitter = HandOver(), Fitter(gap=0.9)
    assert step(hand_over, fitter, 0.5, 0.01) is not None
    assert step(hand_over, fitter, 0.55, after) is None
    assert fitter.rolls_out  # the trial goes on
    step(hand_over, fitter, 0.61, after)
    assert fitter.rolls_out == holds
    assert hand_over.is_refuted == (not holds)
    step(hand_over, fitter, 0.65, after)
    assert fitter.asked == 1  # images are not asked again
    assert fitter.rolls_out == holds


def test_what_is_near_the_free_path_is_not_on_trial() -> None:
    hand_over, fitter = HandOver(), Fitter(gap=0.2)
    assert step(hand_over, fitter, 0.5, 0.01) is not None
    assert math.isinf(hand_over.judged_at)


def test_a_resumed_trial_goes_on() -> None:
    hand_over, fitter = HandOver(), Fitter(gap=0.9)
    step(hand_over, fitter, 0.5, 0.01)
    resumed = HandOver()
    resumed.load_state_dict(hand_over.state_dict())
    step(resumed, fitter, 0.7, 0.05)
    assert not fitter.rolls_out
