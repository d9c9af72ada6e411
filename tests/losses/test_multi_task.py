"""Learned weights of tasks."""

import pytest
import torch

from nest_nerfstudio.losses.multi_task import UncertaintyWeights, by_name


def test_the_optimal_weight_is_one_over_the_loss() -> None:
    weights = UncertaintyWeights(["a", "b"])
    losses = {"a": torch.tensor(0.1), "b": torch.tensor(4.0)}
    optimizer = torch.optim.Adam(weights.parameters(), lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        sum(weights(losses).values()).backward()
        optimizer.step()
    for name, loss in losses.items():
        assert float(weights.log_scales[name].exp().detach()) == pytest.approx(float(loss), rel=0.02)


def test_weights_that_are_not_learned_are_one() -> None:
    losses = {"a": torch.tensor(0.1, requires_grad=True)}
    weighted = UncertaintyWeights(["a", "b"], learned=False)(losses)
    assert weighted.keys() == {"a"}
    assert float(weighted["a"].detach()) == pytest.approx(0.1)


def test_linear_in_samples_also_where_some_have_no_such_task() -> None:
    """So that the mean over processes is what one process finds for all their samples."""
    weights = UncertaintyWeights(["a", "b"])
    with torch.no_grad():
        weights.log_scales["b"].fill_(0.7)
    one = weights({"a": torch.tensor(1.0), "b": torch.tensor(0.8)}, {"a": 1.0, "b": 1.0})
    other = weights({"a": torch.tensor(3.0)}, {"a": 1.0})
    joint = weights({"a": torch.tensor(2.0), "b": torch.tensor(0.4)}, {"a": 1.0, "b": 0.5})
    mean = (sum(one.values()) + sum(other.values())) / 2
    assert float(mean.detach()) == pytest.approx(float(sum(joint.values()).detach()))


def test_losses_are_gathered_by_name() -> None:
    found = by_name([{"a": torch.tensor(1.0), "b": torch.tensor(2.0)}, {"a": torch.tensor(3.0)}])
    assert {name: values.tolist() for name, values in found.items()} == {"a": [1.0, 3.0], "b": [2.0]}
