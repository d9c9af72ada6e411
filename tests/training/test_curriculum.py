"""What is trained on when: time window, image size and colour degree as functions of step and progress."""

import pytest
import torch

from nest_nerfstudio.training.curriculum import SMALLEST, Curriculum, CurriculumConfig
from nest_nerfstudio.types import Views


def views_of(width: int, height: int) -> Views:
    return Views(torch.eye(4)[None], torch.eye(3)[None], width=width, height=height)


def test_the_time_window_widens_until_all_times_are_in_use() -> None:
    curriculum = CurriculumConfig()
    windows = [curriculum.time_window(curriculum.opening(0, progress)) for progress in (0.0, 0.1, 0.2, 0.3)]
    spans = [window[1] - window[0] for window in windows if window is not None]
    assert spans[0] == pytest.approx(curriculum.first_window, abs=0.02)
    assert spans == sorted(spans)
    assert spans[0] < spans[1] < spans[2]
    assert windows[3] is None


@pytest.mark.parametrize("canonical_time", [0.0, 0.3, 0.5, 1.0])
def test_the_window_stands_around_the_canonical_time_and_reaches_the_ends(canonical_time: float) -> None:
    curriculum = CurriculumConfig(canonical_time=canonical_time)
    first, last = curriculum.time_window(0.0), curriculum.time_window(0.999)
    assert first is not None
    assert last is not None
    assert 0.5 * sum(first) == pytest.approx(canonical_time, abs=0.01)
    assert last[0] <= 0
    assert last[1] >= 1


def test_a_window_has_hundredths() -> None:
    """So that it changes now and then and not at every step."""
    window = CurriculumConfig().time_window(0.3333)
    assert window == tuple(round(time, 2) for time in window or ())


def test_all_times_are_in_use_after_a_number_of_steps() -> None:
    """A long training does not dwell on a part of the clip."""
    curriculum = CurriculumConfig()
    steps = curriculum.widen_steps
    assert curriculum.time_window(curriculum.opening(steps - 1, 0.01)) is not None
    assert curriculum.time_window(curriculum.opening(steps, 0.01)) is None


def test_opening_grows_on_with_what_is_ahead() -> None:
    curriculum = CurriculumConfig(widen_until=0.5, widen_steps=100)
    assert curriculum.opening(10, 0.25) == 0.5
    assert curriculum.opening(75, 0.25) == 0.75
    assert curriculum.opening(0, 1.0) == 2.0


def test_images_grow_to_their_full_size() -> None:
    curriculum = CurriculumConfig(num_downscales=2)
    openings = [curriculum.opening(0, progress) for progress in (0.0, 0.29, 0.3, 0.59, 0.6, 1.0)]
    assert [200 // curriculum.downscale(opening, views_of(200, 150)) for opening in openings] == [
        *(50, 50, 100, 100, 200, 200)
    ]
    assert [curriculum.is_full_size(opening) for opening in openings] == [False] * 4 + [True] * 2


@pytest.mark.parametrize(("side", "factor"), [(40, 1), (63, 1), (64, 2), (127, 2), (128, 4), (1000, 4)])
def test_small_images_are_halved_less_often(side: int, factor: int) -> None:
    found = CurriculumConfig(num_downscales=2).downscale(0.0, views_of(2 * side, side))
    assert found == factor
    assert side // found >= SMALLEST


def test_without_downscales_images_have_full_size_once_all_times_are_in_use() -> None:
    curriculum = CurriculumConfig(num_downscales=0)
    assert curriculum.downscale(0.0, views_of(200, 200)) == 1
    assert not curriculum.is_full_size(0.99)
    assert curriculum.is_full_size(1.0)


@pytest.mark.parametrize("highest", [0, 1, 3])
def test_colours_become_view_dependent_in_even_steps(highest: int) -> None:
    degrees = [CurriculumConfig().sh_degree(i / 100, highest) for i in range(301)]
    assert degrees == sorted(degrees)
    assert [degrees.index(degree) for degree in range(highest + 1)] == [
        next(i for i in range(301) if i / 100 * (highest + 1) >= degree) for degree in range(highest + 1)
    ]
    assert degrees[100] == degrees[-1] == highest


# ---------------------------------------------------------------- a background that stands still


def stages(curriculum: Curriculum, steps: int = 100) -> list[tuple[float, tuple[float, float] | None, int]]:
    """Opening, window and downscaling at each hundredth of a training that moves as soon as it may."""
    found = []
    for step in range(steps):
        progress = step / steps
        if curriculum.is_still_done(step, progress):
            curriculum.move(step, progress)
        curriculum.advance(step, progress)
        scale = curriculum.downscale(views_of(400, 400))
        found.append((curriculum.opening.item(), curriculum.time_window(), scale))
    return found


def test_what_stands_still_is_fitted_to_all_times_first() -> None:
    curriculum = Curriculum(CurriculumConfig(still_until=0.2, widen_until=0.3))
    curriculum.stand_still()
    found = stages(curriculum)
    still, moving = found[:20], found[20:]
    assert all(opening < 0 and window is None for opening, window, _ in still)
    assert [scale for *_, scale in still] == [4] * 10 + [2] * 10
    assert moving[0][0] == 0
    assert moving[0][1] == (0.45, 0.55)
    assert all(window is not None for _, window, _ in moving[:30])
    assert [window for _, window, _ in moving[31:]] == [None] * 49
    assert [scale for *_, scale in moving[:30]] == [2] * 30
    assert [scale for *_, scale in moving[31:]] == [1] * 49
    assert curriculum.is_full_size()


def test_a_curriculum_goes_on_where_its_checkpoint_stood() -> None:
    first, second = (Curriculum(CurriculumConfig(still_until=0.2)) for _ in range(2))
    first.stand_still()
    second.load_state_dict(first.state_dict())
    assert second.stands_still
    first.move(20, 0.2)
    second.load_state_dict(first.state_dict())
    for curriculum in (first, second):
        curriculum.advance(30, 0.3)
    assert second.opening == first.opening > 0
    old = Curriculum(CurriculumConfig()).state_dict()
    del old["motion_from"]
    second.load_state_dict(old)
    assert not second.stands_still
    assert second.motion_from[0] == 0
