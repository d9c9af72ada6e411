"""The warning that much of what the images show is not drawn."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from nest_nerfstudio.training.coverage import Coverage
from tests.equivariance import pictures


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


def test_the_object_is_lost_after_images_in_a_row_without_it() -> None:
    coverage, seen, bare = Coverage(), torch.ones(1, 8, 8, 1), torch.zeros(1, 8, 8, 1)
    for _ in range(49):
        coverage.update(bare, seen)
    coverage.update(seen, seen)
    for _ in range(49):
        coverage.update(bare, seen)
    assert not coverage.is_lost
    coverage.update(bare, seen)
    assert coverage.is_lost
    assert coverage.warning(0.89, 0.9) is None  # another message has the cause
    coverage.start_again()
    assert not coverage.is_lost
    assert coverage.times_lost == 1


def test_an_image_that_shows_nothing_says_nothing() -> None:
    coverage, bare = Coverage(), torch.zeros(1, 8, 8, 1)
    for step in range(100):
        coverage.update(bare, torch.full((1, 8, 8, 1), float(step % 20 > 0)))
    assert coverage.is_lost


def test_a_scene_of_which_next_to_nothing_is_drawn_has_failed() -> None:
    assert not updated(0.5).has_failed
    coverage = updated(0.94)
    assert not coverage.is_lost
    assert coverage.has_failed


def test_a_bare_backdrop_is_not_missing() -> None:
    coverage = Coverage()
    for _ in range(500):
        coverage.update(torch.zeros(1, 8, 8, 1).index_fill(2, torch.tensor([3]), 1.0), None)
    assert coverage.warning(0.89, 0.9) is None
    assert not coverage.has_failed


def test_images_without_alpha_may_have_a_bare_background() -> None:
    coverage, drawn = Coverage(), torch.zeros(1, 32, 32, 1)
    drawn[:, 10:15, 10:15] = 1.0
    for _ in range(60):
        coverage.update(drawn, None)
    assert not coverage.is_lost
    for _ in range(60):
        coverage.update(torch.zeros_like(drawn), None)
    assert coverage.is_lost


def why(at_start: float, now: float, hull_is_empty: bool) -> str:
    """The cause, for Gaussians at this distance beside the middle of the images at the start and now."""
    views = pictures(6)
    times = torch.linspace(0, 1, 6)
    cameras = [replace(views.select(slice(i, i + 1)), times=times[i : i + 1]) for i in range(6)]
    coverage = Coverage()
    coverage.start(torch.full((5, 3), at_start), cameras, hull_is_empty)
    return coverage.why_lost(lambda time: torch.full((5, 3), now))


@pytest.mark.parametrize(
    ("at_start", "now", "hull_is_empty", "cause"),
    [
        (100.0, 100.0, False, "do not see the scene box"),
        (0.0, 100.0, False, "have left the images"),
        (0.0, 0.0, True, "within the silhouettes"),
        (0.0, 0.0, False, "agree on nothing"),
    ],
)
def test_the_cause_is_named(at_start: float, now: float, hull_is_empty: bool, cause: str) -> None:
    assert cause in why(at_start, now, hull_is_empty)


def test_a_resumed_training_goes_on_with_its_share() -> None:
    resumed = Coverage()
    resumed.load_state_dict(updated(0.5).state_dict())
    assert resumed.warning(0.89, 0.9) is not None


def test_what_is_masked_out_does_not_count_as_missing() -> None:
    """Noise that covers a fixed square in all images, which nothing is drawn on."""
    coverage, masks = Coverage(), torch.ones(1, 16, 16, 1)
    masks[:, :8] = 0
    alphas = torch.ones(1, 16, 16, 1)
    for _ in range(500):
        coverage.update(masks.clone(), alphas, masks)
    assert coverage.missing == 0
    coverage.update(torch.zeros(1, 16, 16, 1), alphas, masks)
    assert coverage.missing.item() == pytest.approx(0.01)
