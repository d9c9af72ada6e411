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
        threads: how many work on one call, the caller among them; None follows torch and the machine.
    """

    def __init__(self, threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        self._threads = threads
        self._lock = Lock()
        self._helpers: ThreadPoolExecutor | None = None
        self._owner = 0

    @property
    def threads(self) -> int:
        """How many threads work on one call."""
        return self._threads or max(1, min(os.cpu_count() or 1, torch.get_num_threads()))

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
                    self._helpers = ThreadPoolExecutor(max(1, (os.cpu_count() or 1) - 1), "rasterizer")
                    self._owner = os.getpid()
        return self._helpers


def even_ranges(count: int, pieces: int) -> list[tuple[int, int]]:
    """Cut range(count) into at most `pieces` parts of nearly equal length."""
    pieces = max(1, min(pieces, count))
    return [(count * i // pieces, count * (i + 1) // pieces) for i in range(pieces)]
