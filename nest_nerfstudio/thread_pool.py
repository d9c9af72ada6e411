"""A small pool of threads for compiled kernels, which run without the interpreter lock.

Our own, over `concurrent.futures`, because numba's parallel loops allow concurrent callers and forked child
processes only with TBB, which would be one more dependency.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

import torch


class ThreadPool:
    """Runs a function over ranges of work, on the calling thread and on worker threads.

    Workers are started at first use, and again in a forked child process, which inherits none. Many threads
    may share the pool: the calling thread always works too, so that it does not wait for other callers.

    Args:
        threads: number of threads per call, including the calling thread.

    Raises:
        ValueError: `threads` is less than 1.
    """

    def __init__(self, threads: int) -> None:
        if threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        self.threads = threads
        self._lock = Lock()
        self._workers: ThreadPoolExecutor | None = None
        self._owner = 0

    def run(self, function: Callable[..., Any], ranges: Sequence[tuple[int, int]], *args: Any) -> None:
        """Call `function(first, last, *args)` for each range, in any order, and wait for all calls.

        Args:
            function: a kernel that releases the interpreter lock; an exception it raises is passed on.
            ranges: half-open ranges of work; calls must not write to the same memory.
            args: further arguments, the same for all calls.
        """
        todo = list(reversed(ranges))

        def work() -> None:
            while todo:
                try:
                    first, last = todo.pop()
                except IndexError:  # another thread took the last range
                    return
                function(first, last, *args)

        others = [self._executor().submit(work) for _ in range(min(self.threads, len(todo)) - 1)]
        work()
        for other in others:
            # A worker that is still busy with another call has nothing left to do here.
            if not other.cancel():
                other.result()

    def _executor(self) -> ThreadPoolExecutor:
        if self._workers is None or self._owner != os.getpid():
            with self._lock:
                if self._workers is None or self._owner != os.getpid():
                    self._workers = ThreadPoolExecutor(max(1, self.threads - 1), "kernels")
                    self._owner = os.getpid()
        return self._workers


SHARED = ThreadPool(torch.get_num_threads())
"""The pool shared by all kernels; as many threads as torch has at import (the cores, or OMP_NUM_THREADS)."""


def give_cores_to_kernels() -> None:
    """Limit torch to one thread: idle OpenMP threads spin on the cores that the kernels need."""
    torch.set_num_threads(1)


def even_ranges(count: int, pieces: int) -> list[tuple[int, int]]:
    """Split range(count) into at most `pieces` half-open ranges of nearly equal length."""
    pieces = max(1, min(pieces, count))
    return [(count * i // pieces, count * (i + 1) // pieces) for i in range(pieces)]
