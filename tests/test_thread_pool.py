import threading

import pytest

from nest_nerfstudio.thread_pool import ThreadPool, even_ranges


@pytest.mark.parametrize(("count", "pieces"), [(0, 3), (1, 4), (10, 3), (7, 7), (5, 1)])
def test_even_ranges_cover_all_once(count: int, pieces: int) -> None:
    ranges = even_ranges(count, pieces)
    assert [i for first, last in ranges for i in range(first, last)] == list(range(count))
    assert max(last - first for first, last in ranges) - min(last - first for first, last in ranges) <= 1


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_every_piece_is_done_once(threads: int) -> None:
    done: list[int] = []
    ThreadPool(threads).run(lambda first, last, out: out.extend(range(first, last)), even_ranges(50, 8), done)
    assert sorted(done) == list(range(50))


def test_two_threads_work_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=30)
    ThreadPool(2).run(lambda first, last: both.wait(), [(0, 1), (1, 2)])
    assert not both.broken


@pytest.mark.parametrize("threads", [1, 2])
def test_errors_reach_the_caller(threads: int) -> None:
    def fail(first: int, last: int) -> None:
        raise KeyError(first)

    with pytest.raises(KeyError):
        ThreadPool(threads).run(fail, [(0, 1), (1, 2)])


def test_no_threads_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        ThreadPool(0)
