"""The warning that much of what the images show is not drawn."""

from itertools import pairwise

import pytest
import torch

from nest_nerfstudio.training.coverage import Coverage


def updated(share: float, count: int = 500) -> Coverage:
    """After images of a disc of which this share is not drawn."""
    coverage = Coverage()
    alphas = torch.zeros(1, 32, 32, 1)
    alphas[:, 8:24, 8:24] = 1.0
    for _ in range(count):
        drawn = alphas.clone()
        drawn[torch.rand(drawn.shape) < share] = 0.0
        coverage.update(drawn, alphas)
    return coverage


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_missing_share_is_found(share: float) -> None:
    coverage = updated(share)
    assert coverage.missing == pytest.approx(share, abs=0.1)
    found = coverage.update(torch.ones(1, 4, 4, 1), torch.ones(1, 4, 4, 1))
    assert found == coverage.missing


def test_what_is_drawn_beside_silhouettes_does_not_count() -> None:
    coverage = Coverage()
    coverage.update(torch.zeros(1, 8, 8, 1), torch.zeros(1, 8, 8, 1))  # nothing to see
    coverage.update(torch.ones(1, 8, 8, 1), torch.zeros(1, 8, 8, 1))
    assert coverage.missing == 0


def test_one_image_has_a_hundredth_of_a_say() -> None:
    coverage = Coverage()
    coverage.update(torch.zeros(1, 8, 8, 1), torch.ones(1, 8, 8, 1))
    assert coverage.missing.item() == pytest.approx(0.01)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5])
def test_the_warning_comes_once_near_the_end_and_only_if_much_is_missing(share: float) -> None:
    coverage = updated(share)
    steps = [0.5, 0.89, 0.9, 0.91, 1.0]
    warnings = [coverage.warning(a, b) for a, b in pairwise(steps)]
    assert [warning is not None for warning in warnings] == [False, share > 0.1, False, False]
    if warnings[1] is not None:
        assert f"Nothing is drawn on {coverage.missing:.0%}" in warnings[1]
        assert "widen-steps 1500" in warnings[1]


def test_a_resumed_training_goes_on_with_its_share() -> None:
    resumed = Coverage()
    resumed.load_state_dict(updated(0.5).state_dict())
    assert resumed.warning(0.89, 0.9) is not None


def test_what_is_masked_out_does_not_count_as_missing() -> None:
    """Noise that covers a fixed square in all images, which nothing is drawn on."""
    coverage, masks = SilhouetteCoverage(), torch.ones(1, 16, 16, 1)
    masks[:, :8] = 0
    alphas = torch.ones(1, 16, 16, 1)
    for _ in range(500):
        coverage.update(masks.clone(), alphas, masks)
    assert coverage.missing == 0
    coverage.update(torch.zeros(1, 16, 16, 1), alphas, masks)
    assert coverage.missing.item() == pytest.approx(0.01)
