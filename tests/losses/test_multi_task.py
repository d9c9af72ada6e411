"""Learned weights of tasks."""

import pytest
import torch

from nest_nerfstudio.losses.multi_task import UncertaintyWeights


def test_the_best_weight_is_one_over_the_loss() -> None:
    weights = UncertaintyWeights(["a", "b"])
    losses = {"a": torch.tensor(0.1), "b": torch.tensor(4.0)}
    optimizer = torch.optim.Adam(weights.parameters(), lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        sum(weights(losses).values()).backward()
        optimizer.step()
    for name, loss in losses.items():
        assert float(weights.log_scales[name].exp().detach()) == pytest.approx(float(loss), rel=0.02)


def test_switched_off_losses_are_as_they_are() -> None:
    losses = {"a": torch.tensor(0.1, requires_grad=True)}
    weighted = UncertaintyWeights(["a", "b"], learned=False)(losses)
    assert weighted.keys() == {"a"}
    assert float(weighted["a"].detach()) == pytest.approx(0.1)
