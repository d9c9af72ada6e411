"""Viewer controls of a dynamic scene: time, playback, token overlay and the motion output."""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import viser
from torch import Tensor

from nest_nerfstudio.host import remake_time_slider
from nest_nerfstudio.viewer.base import SceneControls
from nest_nerfstudio.viewer.playback import Playback
from nest_nerfstudio.viewer.token_overlay import TOKENS_HINT

_FIRST_TIME, _LAST_TIME, _TIME_STEP = -1.0, 3.0, 0.001
_FASTEST, _SLOWEST = 0.5, 30.0
_FRAMES_PER_SECOND = 24
_REFRESH_SECONDS = 1.0


class DynamicViewerControls(SceneControls):
    """Time within and beyond the observed clip, playback, a token overlay and a switch for the motion output.

    A copy, pickled or not, has no viewer.

    Args:
        positions_at: returns the positions of the scene's tokens at a clip time, world frame.
        seconds_per_clip: initial playback speed: seconds in which clip time grows by 1.
        motion: whether the model renders its "motion" output at first.

    Attributes:
        motion: whether the model is to render its "motion" output.
        playing: whether time is running.
    """

    def __init__(
        self, positions_at: Callable[[float], Tensor], seconds_per_clip: float = 3.0, motion: bool = True
    ) -> None:
        super().__init__()
        self.motion = motion
        self.playing = False
        self._positions_at = positions_at
        self._seconds_per_clip = seconds_per_clip

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._positions_at, self._seconds_per_clip, self.motion)

    def _setup(self, viewer: Any) -> None:
        super()._setup(viewer)
        self._wake = threading.Event()
        self._closed = False
        self._add_elements()
        self._thread = threading.Thread(target=self._run, name="viewer-time", daemon=True)
        self._thread.start()
        # Ended before the interpreter is: a daemon thread killed inside torch can abort the process.
        atexit.register(self.close)

    def redraw_tokens(self) -> None:
        self._wake.set()

    def play(self) -> None:
        """Start playback at the current time."""
        self._last_tick = time.monotonic()
        self._set_playing(True)

    def pause(self) -> None:
        """Stop playback at the current time."""
        self._set_playing(False)

    def close(self) -> None:
        """Stop the thread that updates time and tokens."""
        self.playing, self._closed = False, True
        self._wake.set()
        self._thread.join(timeout=2.0)
        atexit.unregister(self.close)

    # ---------------------------------------------------------------- elements

    def _add_elements(self) -> None:
        gui = self.viser_server.gui
        # Above the tabs, so that it is visible in all of them.
        with gui.add_folder("Time and motion", order=self.viewer.stats_markdown.order + 0.5):
            self._time = remake_time_slider(
                self._panel,
                self.viser_server,
                (_FIRST_TIME, _LAST_TIME),
                _TIME_STEP,
                "0 to 1 is the observed clip; times outside are extrapolated",
                self._wake.set,
            )
            self._play_button = gui.add_button("Play", icon=viser.Icon.PLAYER_PLAY_FILLED)
            self._pause_button = gui.add_button("Pause", icon=viser.Icon.PLAYER_PAUSE_FILLED, visible=False)
            speed = min(max(self._seconds_per_clip, _FASTEST), _SLOWEST)
            self._speed = gui.add_slider(
                "Seconds per clip",
                _FASTEST,
                _SLOWEST,
                0.1,
                speed,
                hint="Playback speed: seconds in which Time grows by 1, the length of the clip",
            )
            self._loop = gui.add_multi_slider(
                "Playback range",
                _FIRST_TIME,
                _LAST_TIME,
                0.01,
                (0.0, 1.0),
                hint="Playback restarts at the first time when it reaches the second",
            )
            self._tokens = gui.add_checkbox("Show tokens", False, hint=TOKENS_HINT)
            self._motion = gui.add_checkbox(
                "Render motion",
                self.motion,
                hint='Add the output "motion", the speed of every pixel; rendering takes about twice as long',
            )
        self._play_button.on_click(lambda _: self.play())
        self._pause_button.on_click(lambda _: self.pause())
        self._tokens.on_update(lambda _: self._toggle_tokens())
        self._motion.on_update(lambda _: self._toggle_motion())

    def _set_playing(self, playing: bool) -> None:
        self.playing = playing
        self._play_button.visible, self._pause_button.visible = not playing, playing
        self._wake.set()

    def _toggle_tokens(self) -> None:
        self._pause_depth_compositing(self._tokens.value)
        self._wake.set()

    def _toggle_motion(self) -> None:
        self.motion = self._motion.value
        self.viewer._trigger_rerender()

    # ---------------------------------------------------------------- background thread

    def _run(self) -> None:
        """Update time and tokens, in a thread of its own: viser's threads must never wait for training."""
        while not self._closed:
            if self.playing:
                time.sleep(1 / _FRAMES_PER_SECOND)
                self._tick()
            else:
                # During training the tokens move although time does not change.
                self._wake.wait(_REFRESH_SECONDS if self._tokens.value else None)
                self._wake.clear()
            self._draw_tokens()

    def _tick(self) -> None:
        now = time.monotonic()
        seconds, self._last_tick = now - self._last_tick, now
        if self.playing:
            start, end = sorted(self._loop.value)
            playback = Playback(max(self._speed.value, _FASTEST), (start, end))
            with self._until_viser_stops():
                self._time.value = playback.advance(self._time.value, seconds)

    def _draw_tokens(self) -> None:
        if self._tokens.value and not self._closed:
            with self.viewer.train_lock or nullcontext(), torch.no_grad():
                positions = self._positions_at(self._time.value)
            with self._until_viser_stops():
                self._overlay.draw(positions)
        elif self._overlay.visible:
            with self._until_viser_stops():
                self._overlay.hide()

    @contextmanager
    def _until_viser_stops(self) -> Iterator[None]:
        """End the thread when viser raises: its server, or its threads at exit, may stop at any time."""
        try:
            yield
        except RuntimeError:
            self._closed = True
