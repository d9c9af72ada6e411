"""Playback of a clip in real time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Playback:
    """Speed and range of playback.

    Attributes:
        seconds_per_clip: seconds in which clip time grows by 1.
        loop: range of clip times; at its end playback restarts at its beginning.

    Raises:
        ValueError: `seconds_per_clip` is not positive, or `loop` ends before it starts.
    """

    seconds_per_clip: float
    loop: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.seconds_per_clip <= 0:
            raise ValueError(f"seconds_per_clip must be greater than 0, got {self.seconds_per_clip}")
        if self.loop[0] > self.loop[1]:
            raise ValueError(f"loop must not end before it starts, got {self.loop}")

    def advance(self, time: float, seconds: float) -> float:
        """Clip time after some seconds of playback; before the range it runs into it, after it wraps around.

        Args:
            time: clip time now.
            seconds: elapsed time.
        """
        start, end = self.loop
        time += seconds / self.seconds_per_clip
        if time < end:
            return time
        return start + (time - start) % (end - start) if end > start else start
