import os
import pickle
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from nest_nerfstudio.data.scenes.cache import BoundedCache


def counting(made: list[int]) -> Callable[[int], Callable[[], int]]:
    """Makers of values that note what they make."""

    def make(value: int) -> Callable[[], int]:
        return lambda: made.append(value) or value

    return make


def test_a_cache_keeps_what_was_used_last() -> None:
    made: list[int] = []
    cache, make = BoundedCache[int](2), counting(made)
    assert [cache.get(key, make(key)) for key in (1, 2, 1, 3, 1, 2)] == [1, 2, 1, 3, 1, 2]
    assert made == [1, 2, 3, 2]  # 3 took the place of 2, and 1 stayed
    assert (len(cache), cache.total) == (2, 2)


def test_a_cache_is_bounded_by_cost() -> None:
    cache = BoundedCache[int](10, cost=int)
    for value in (4, 5, 3, 20, 6):
        assert cache.get(value, lambda value=value: value) == value
        assert cache.total <= 10
    assert (len(cache), cache.total) == (2, 9)  # 20 alone is too much; 6 took the place of 5, and 3 stayed


def test_threads_share_a_cache() -> None:
    cache = BoundedCache[int](50)
    with ThreadPoolExecutor(8) as pool:
        keys = np.random.default_rng(0).integers(0, 200, 20_000).tolist()
        assert list(pool.map(lambda key: cache.get(key, lambda: key), keys, chunksize=100)) == keys
    assert len(cache) == cache.total == 50


def in_a_fork(work: Callable[[], int]) -> int:
    """What `work` returns (below 200) in a forked process; 200 if it fails, -14 if it takes ten seconds."""
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        try:
            os._exit(work())
        finally:
            os._exit(200)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_another_process_starts_with_an_empty_cache() -> None:
    cache = BoundedCache[int](3)
    cache.get(1, lambda: 1)
    sent = pickle.loads(pickle.dumps(cache))
    assert (len(sent), sent.capacity) == (0, 3)
    assert in_a_fork(lambda: cache.get(1, lambda: 7)) == 7
    assert cache.get(1, lambda: 7) == 1


def test_a_process_forked_while_the_cache_is_locked_does_not_hang() -> None:
    """A lock that is held when the process is forked is never released in the child."""
    parent, results = os.getpid(), []

    def fork_under_the_lock(value: int) -> int:
        if os.getpid() == parent:
            results.append(in_a_fork(lambda: cache.get(2, lambda: 7)))
        return 1

    cache = BoundedCache[int](3, cost=fork_under_the_lock)
    cache.get(1, lambda: 1)
    assert results == [7]
