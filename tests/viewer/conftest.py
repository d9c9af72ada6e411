"""A viewer with nerfstudio's own control panel and a real viser server, but no browser."""

from collections.abc import Iterator
from threading import Lock
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import viser
from nerfstudio.viewer.control_panel import ControlPanel

from tests.viewer.waiting import free_port


@pytest.fixture(scope="session")
def shared_server() -> Iterator[viser.ViserServer]:
    server = viser.ViserServer(host="127.0.0.1", port=free_port(), verbose=False)
    yield server
    server.stop()


@pytest.fixture
def viewer(shared_server: viser.ViserServer) -> SimpleNamespace:
    shared_server.gui.reset()
    shared_server.scene.reset()
    return viewer_on(shared_server)


def viewer_on(server: viser.ViserServer) -> SimpleNamespace:
    """The parts of nerfstudio's `Viewer` that controls touch."""
    rerender = Mock()
    return SimpleNamespace(
        viser_server=server,
        control_panel=ControlPanel(server, True, 10.0, rerender, Mock(), Mock()),
        stats_markdown=server.gui.add_markdown("Step: 0"),
        train_lock=Lock(),
        _trigger_rerender=rerender,
    )


@pytest.fixture
def stopping_viewer() -> SimpleNamespace:
    """A viewer on a server of its own, which the test has to stop."""
    return viewer_on(viser.ViserServer(host="127.0.0.1", port=free_port(), verbose=False))
