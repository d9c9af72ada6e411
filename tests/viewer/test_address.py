"""Network address of the viewer: this machine only, unless another one is requested."""

import copy

import pytest
import yaml
from nerfstudio.configs.base_config import ViewerConfig

from nest_nerfstudio.pipelines.trainer import NestTrainerConfig


@pytest.fixture
def config() -> NestTrainerConfig:
    return NestTrainerConfig(method_name="nest-dynamic")


def as_ns_viewer(config: NestTrainerConfig, host: str | None = None) -> str:
    """The address after `ns-viewer` has replaced the viewer's settings; None: its default."""
    config.viewer = ViewerConfig() if host is None else ViewerConfig(websocket_host=host)
    return config.viewer.websocket_host


def test_the_viewer_listens_on_this_machine_only(config, capsys) -> None:
    assert config.viewer.websocket_host == "127.0.0.1"
    assert as_ns_viewer(config) == "127.0.0.1"
    assert "--viewer.websocket-host ::" in capsys.readouterr().out


@pytest.mark.parametrize("host", ["::", "192.168.0.7", "localhost"])
def test_a_requested_address_is_used(config, host: str) -> None:
    assert as_ns_viewer(config, host) == host


def test_another_address_and_other_settings_stay(config) -> None:
    config.viewer = ViewerConfig(websocket_host="10.0.0.1", websocket_port=7010)
    assert (config.viewer.websocket_host, config.viewer.websocket_port) == ("10.0.0.1", 7010)


def test_a_loaded_run_is_as_it_was_saved() -> None:
    """The address of a training with an open viewer is kept in its file, but `ns-viewer` asks again."""
    config = NestTrainerConfig(method_name="nest-dynamic", viewer=ViewerConfig(websocket_host="0.0.0.0"))
    loaded = yaml.load(yaml.dump(config), Loader=yaml.Loader)
    assert loaded == config
    assert copy.deepcopy(loaded).viewer.websocket_host == "0.0.0.0"
    assert as_ns_viewer(loaded) == "127.0.0.1"
