"""Network address of the viewer: this machine only, unless the command line asks for another one."""

import copy
import sys

import pytest
import yaml
from nerfstudio.configs.base_config import ViewerConfig

from nest_nerfstudio.pipelines.trainer import NestTrainerConfig


@pytest.fixture
def config() -> NestTrainerConfig:
    return NestTrainerConfig(method_name="nest-dynamic")


def as_ns_viewer(config: NestTrainerConfig, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """The address after `ns-viewer` has put its settings in place."""
    monkeypatch.setattr(sys, "argv", ["ns-viewer", "--load-config", "config.yml", *arguments])
    config.viewer = ViewerConfig()
    return config.viewer.websocket_host


def test_a_run_is_seen_on_this_machine(config, monkeypatch) -> None:
    assert config.viewer.websocket_host == "127.0.0.1"
    assert as_ns_viewer(config, monkeypatch) == "127.0.0.1"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--viewer.websocket-host", "0.0.0.0"],
        ["--viewer.websocket-host=0.0.0.0"],
        ["--viewer.websocket_host", "0.0.0.0"],
    ],
)
def test_who_asks_for_every_interface_gets_it(config, monkeypatch, arguments) -> None:
    assert as_ns_viewer(config, monkeypatch, *arguments) == ViewerConfig().websocket_host


def test_another_address_and_other_settings_stay(config) -> None:
    config.viewer = ViewerConfig(websocket_host="10.0.0.1", websocket_port=7010)
    assert (config.viewer.websocket_host, config.viewer.websocket_port) == ("10.0.0.1", 7010)


def test_a_loaded_run_is_as_it_was_saved(monkeypatch) -> None:
    """Someone who trained with an open viewer finds that in the file; and `ns-viewer` asks again."""
    config = NestTrainerConfig(method_name="nest-dynamic", viewer=ViewerConfig(websocket_host="0.0.0.0"))
    loaded = yaml.load(yaml.dump(config), Loader=yaml.Loader)
    assert loaded == config
    assert copy.deepcopy(loaded).viewer.websocket_host == "0.0.0.0"
    assert as_ns_viewer(loaded, monkeypatch) == "127.0.0.1"
