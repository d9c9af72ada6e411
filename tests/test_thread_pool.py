"""The thread pool: every range is done once, in parallel, by any number of callers and in forked children."""

import os
import threading
from multiprocessing import get_context

import pytest

from nest_nerfstudio.thread_pool import ThreadPool, even_ranges


@pytest.mark.parametrize(("count", "pieces"), [(0, 3), (1, 4), (10, 3), (7, 7), (5, 1)])
def test_even_ranges_cover_all_once(count: int, pieces: int) -> None:
    ranges = even_ranges(count, pieces)
    assert [i for first, last in ranges for i in range(first, last)] == list(range(count))
    assert max(last - first for first, last in ranges) - min(last - first for first, last in ranges) <= 1
    assert len(ranges) <= pieces


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_every_range_is_done_once(threads: int) -> None:
    done: list[int] = []
    ThreadPool(threads).run(lambda first, last, out: out.extend(range(first, last)), even_ranges(50, 8), done)
    assert sorted(done) == list(range(50))


def test_two_threads_work_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=30)
    ThreadPool(2).run(lambda first, last: both.wait(), [(0, 1), (1, 2)])
    assert not both.broken


def test_a_caller_does_not_wait_for_another_one() -> None:
    """Its own thread does the work while the only worker is busy elsewhere."""
    pool, release, busy = ThreadPool(2), threading.Event(), threading.Barrier(3, timeout=30)

    def occupy(first: int, last: int) -> None:
        busy.wait()
        release.wait(30)

    other = threading.Thread(target=pool.run, args=(occupy, [(0, 1), (1, 2)]))
    other.start()
    busy.wait()  # both threads of the other call are at work
    done: list[int] = []
    pool.run(lambda first, last: done.append(first), even_ranges(6, 6))
    assert sorted(done) == list(range(6))
    assert other.is_alive()
    release.set()
    other.join(30)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_starts_its_own_workers() -> None:
    pool = ThreadPool(2)
    pool.run(lambda first, last: None, even_ranges(20, 5))  # the parent's workers exist
    with get_context("fork").Pool(1, INHERITED.append, (pool,)) as children:
        assert children.apply_async(_two_threads_work).get(timeout=60)


INHERITED: list[ThreadPool] = []


def _two_threads_work() -> bool:
    both = threading.Barrier(2, timeout=20)
    INHERITED[0].run(lambda first, last: both.wait(), [(0, 1), (1, 2)])
    return not both.broken


@pytest.mark.parametrize("threads", [1, 2])
def test_errors_reach_the_caller(threads: int) -> None:
    def fail(first: int, last: int) -> None:
        raise KeyError(first)

    with pytest.raises(KeyError):
        ThreadPool(threads).run(fail, [(0, 1), (1, 2)])


def test_a_pool_without_threads_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        ThreadPool(0)
