"""A few Python threads that share compiled work which has let go of the interpreter lock."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

import torch


class ThreadPool:
    """Runs a function over ranges of work on the calling thread and on helpers.

    Helpers start when first needed, and again in a forked child, which inherits none.
    Several callers may share the pool: each always works itself, so none waits for another to begin.

    Args:
        threads: how many work on one call, the caller among them.
    """

    def __init__(self, threads: int) -> None:
        if threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        self.threads = threads
        self._lock = Lock()
        self._helpers: ThreadPoolExecutor | None = None
        self._owner = 0

    def run(self, function: Callable[..., Any], ranges: Sequence[tuple[int, int]], *args: Any) -> None:
        """Call `function(first, last, *args)` for each range, in any order, and wait for all.

        Args:
            function: a kernel that lets go of the interpreter lock.
            ranges: pieces of work; they must not write to the same place.
            args: the same for all pieces.
        """
        todo = list(reversed(ranges))

        def work() -> None:
            while todo:
                try:
                    first, last = todo.pop()
                except IndexError:  # another thread took the last piece
                    return
                function(first, last, *args)

        others = [self._executor().submit(work) for _ in range(min(self.threads, len(todo)) - 1)]
        work()
        for other in others:
            # A helper that is busy elsewhere has nothing left to do here.
            if not other.cancel():
                other.result()

    def _executor(self) -> ThreadPoolExecutor:
        if self._helpers is None or self._owner != os.getpid():
            with self._lock:
                if self._helpers is None or self._owner != os.getpid():
                    self._helpers = ThreadPoolExecutor(max(1, self.threads - 1), "kernels")
                    self._owner = os.getpid()
        return self._helpers


SHARED = ThreadPool(torch.get_num_threads())
"""The pool of all kernels that have none of their own; as wide as torch's own at the start, which follows the
cores of the machine and OMP_NUM_THREADS."""


def give_cores_to_kernels() -> None:
    """Leave torch one thread: OpenMP's others spin while they wait for work, on the cores of our kernels."""
    torch.set_num_threads(1)


def even_ranges(count: int, pieces: int) -> list[tuple[int, int]]:
    """Cut range(count) into at most `pieces` parts of nearly equal length."""
    pieces = max(1, min(pieces, count))
    return [(count * i // pieces, count * (i + 1) // pieces) for i in range(pieces)]
