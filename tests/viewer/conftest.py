"""A viewer with nerfstudio's own control panel and a real viser server, but no browser."""

from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import viser
from nerfstudio.viewer.control_panel import ControlPanel

from tests.viewer.waiting import free_port

ELEMENTS = ("add_button", "add_checkbox", "add_dropdown", "add_multi_slider", "add_slider", "add_text")


@pytest.fixture(scope="session")
def shared_server() -> Iterator[viser.ViserServer]:
    server = viser.ViserServer(host="127.0.0.1", port=free_port(), verbose=False)
    yield server
    server.stop()


@pytest.fixture
def viewer(shared_server: viser.ViserServer, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    shared_server.gui.reset()
    shared_server.scene.reset()
    return viewer_on(shared_server, monkeypatch)


def viewer_on(server: viser.ViserServer, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The parts of nerfstudio's `Viewer` that controls use, and what a person sees of it.

    `elements` are the GUI elements by their labels, `hints` their hints, `points` the displayed point clouds.
    """
    rerender = Mock()
    viewer = SimpleNamespace(
        viser_server=server,
        control_panel=ControlPanel(server, True, 10.0, rerender, Mock(), Mock()),
        stats_markdown=server.gui.add_markdown("Step: 0"),
        train_lock=Lock(),
        log_filename=Path("run") / "viewer.log",
        pipeline=SimpleNamespace(model=SimpleNamespace(edit=None, is_trained_here=True, shared_motion=None)),
        _trigger_rerender=rerender,
        elements={},
        hints={},
        points={},
    )
    for name in ELEMENTS:
        monkeypatch.setattr(server.gui, name, _recording(viewer, getattr(server.gui, name)))
    monkeypatch.setattr(server.scene, "add_point_cloud", _showing(viewer, server.scene.add_point_cloud))
    return viewer


def _recording(viewer: SimpleNamespace, add: Any) -> Any:
    def recorded(label: str, *args: Any, **kwargs: Any) -> Any:
        viewer.elements[label], viewer.hints[label] = add(label, *args, **kwargs), kwargs.get("hint")
        return viewer.elements[label]

    return recorded


def _showing(viewer: SimpleNamespace, add: Any) -> Any:
    def shown(name: str, points: Any, *args: Any, **kwargs: Any) -> Any:
        handle = add(name, points, *args, **kwargs)
        viewer.points[name] = points.copy()

        def remove() -> None:
            del viewer.points[name]
            type(handle).remove(handle)

        handle.remove = remove
        return handle

    return shown


@pytest.fixture
def stopping_viewer(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A viewer on a server of its own, which the test has to stop."""
    return viewer_on(viser.ViserServer(host="127.0.0.1", port=free_port(), verbose=False), monkeypatch)
