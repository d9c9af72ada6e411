"""Clip time that runs with the wall clock."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Playback:
    """How fast clip time runs, and where it starts over.

    Attributes:
        seconds_per_clip: wall-clock time in which clip time grows by 1.
        loop: clip times between which it runs; at the end it goes on from the start.
    """

    seconds_per_clip: float
    loop: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.seconds_per_clip <= 0:
            raise ValueError(f"seconds_per_clip must be greater than 0, got {self.seconds_per_clip}")
        if self.loop[0] > self.loop[1]:
            raise ValueError(f"a loop must not end before it starts, got {self.loop}")

    def advance(self, time: float, seconds: float) -> float:
        """Clip time `seconds` after `time`."""
        start, end = self.loop
        time += seconds / self.seconds_per_clip
        if time < end:
            return time
        return start + (time - start) % (end - start) if end > start else start
