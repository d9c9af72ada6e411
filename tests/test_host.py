"""What nerfstudio gets from us in place of its own or of its libraries'."""

import inspect

import pytest
from nerfstudio.configs import external_methods

from nest_nerfstudio import method_configs


def test_callers_are_those_of_the_call_stack() -> None:
    assert method_configs  # which replaces what nerfstudio asks

    def names() -> tuple[list[str], list[str]]:
        stacks = inspect.stack(), external_methods.inspect.stack()
        return [frame.function for frame in stacks[0]], [frame.function for frame in stacks[1]]

    asked, ours = names()
    assert ours == asked
    assert ours[:2] == ["names", "test_callers_are_those_of_the_call_stack"]


def test_methods_that_are_not_installed_still_say_how_to_install_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(external_methods.Confirm, "ask", lambda *args, **kwargs: False)
    configs, _ = external_methods.get_external_methods()
    assert "in2n" in configs
    assert "To enable" not in capsys.readouterr().out
    with pytest.raises(SystemExit):
        external_methods.ExternalMethodDummyTrainerConfig("in2n", configs["in2n"].method)
    assert "To enable Instruct-NeRF2NeRF" in capsys.readouterr().out
