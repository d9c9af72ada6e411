"""A cache of bounded size for threads and worker processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from contextlib import suppress
from threading import Lock
from typing import Any, Generic, TypeVar

from cachetools import LRUCache

V = TypeVar("V")


class BoundedCache(Generic[V]):
    """Keeps the values used last, up to a total cost; safe among threads, and separate in each process.

    A process that was forked, or that received the cache by pickling, starts with an empty one: the values
    would only be copied, and a lock that another thread held would never be released.

    Args:
        capacity: largest total cost; a value that alone costs more is not kept.
        cost: cost of a value; None counts each as 1.
    """

    def __init__(self, capacity: int, cost: Callable[[V], int] | None = None):
        self.capacity, self.cost = capacity, cost
        self._start()

    def get(self, key: Hashable, make: Callable[[], V]) -> V:
        """The value of a key, from the cache or made anew; making it does not block other threads."""
        if self._pid != os.getpid():
            self._start()
        with self._lock:
            if key in self._values:
                return self._values[key]
        value = make()
        with self._lock, suppress(ValueError):  # it costs more than the capacity
            self._values[key] = value
        return value

    @property
    def total(self) -> int:
        """Total cost of the values kept now."""
        return int(self._values.currsize)

    def __len__(self) -> int:
        return len(self._values)

    def _start(self) -> None:
        self._pid, self._lock = os.getpid(), Lock()
        self._values: LRUCache = LRUCache(self.capacity, self.cost)

    def __getstate__(self) -> dict[str, Any]:
        return {"capacity": self.capacity, "cost": self.cost}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)
