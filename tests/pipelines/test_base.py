"""What all pipelines do: progress, versions in checkpoints, settings for a device."""

import re
import runpy
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import tyro
import yaml
from nerfstudio.plugins.types import MethodSpecification
from nerfstudio.utils.eval_utils import eval_setup

from nest_nerfstudio import __version__
from nest_nerfstudio.method_configs import nest_dynamic as methods
from nest_nerfstudio.method_configs.nest_dynamic import nest_dynamic
from nest_nerfstudio.method_configs.nest_prior import nest_prior
from nest_nerfstudio.pipelines.base import NestPipelineConfig
from nest_nerfstudio.pipelines.trainer import NestTrainer, NestTrainerConfig
from tests.small_run import make_config, make_trainer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def first(capture: Path, tmp_path_factory: pytest.TempPathFactory) -> NestTrainer:
    """A run that has a checkpoint of step 0."""
    trainer = make_trainer(make_config(capture, tmp_path_factory.mktemp("first")))
    trainer.config.save_config()
    trainer.pipeline.set_progress(0, 0.25)
    trainer.save_checkpoint(0)
    return trainer


def checkpoint_of(trainer: NestTrainer) -> Path:
    return trainer.checkpoint_dir / "step-000000000.ckpt"


def spoilt(trainer: NestTrainer, folder: Path, version: str | None) -> Path:
    """Its checkpoint as another version would have written it, with another part."""
    stored = torch.load(checkpoint_of(trainer), weights_only=True)
    pipeline = stored["pipeline"]
    assert pipeline["_extra_state"]["version"] == __version__
    pipeline["_model.part_that_is_gone"] = torch.zeros(2)
    if version is None:
        del pipeline["_extra_state"]
    else:
        pipeline["_extra_state"] = {"version": version}
    path = folder / "step-000000000.ckpt"
    torch.save(stored, path)
    return path


# ---------------------------------------------------------------- checkpoints


def test_a_checkpoint_brings_progress_and_version(first: NestTrainer, capture: Path, tmp_path: Path) -> None:
    config = make_config(capture, tmp_path)
    config.load_checkpoint = checkpoint_of(first)
    trainer = make_trainer(config)
    assert trainer._start_step == 1
    assert trainer.pipeline.progress == 0.25
    assert trainer.pipeline.state_dict()["_extra_state"]["version"] == __version__


@pytest.mark.parametrize(
    ("version", "cause"),
    [
        ("9.8.7", "it was trained by version 9.8.7, or with other settings; install that version"),
        (None, "it was trained by a version before 0.1.0, or with other settings; install that version"),
        (__version__, "it was trained with other settings, or by an earlier state of this version; repeat"),
    ],
)
def test_a_checkpoint_that_does_not_fit_names_the_version_once(
    first: NestTrainer, capture: Path, tmp_path: Path, version: str | None, cause: str
) -> None:
    config = make_config(capture, tmp_path)
    config.load_checkpoint = spoilt(first, tmp_path, version)
    with pytest.raises(ValueError, match="does not fit") as error:
        make_trainer(config)
    message = str(error.value)
    assert f"does not fit this model of nest_nerfstudio {__version__}: {cause}" in message
    assert message.count("part_that_is_gone") == 1
    assert len(message.splitlines()) == 1
    if version == __version__:
        assert "install" not in message


def test_tools_that_reload_a_run_say_it_too(first: NestTrainer, tmp_path: Path) -> None:
    """ns-eval, ns-render, ns-viewer and nest-export."""
    config = deepcopy(first.config)
    config.output_dir = tmp_path
    folder = config.get_checkpoint_dir()
    folder.mkdir(parents=True)
    spoilt(first, folder, "9.8.7")
    config.save_config()
    with pytest.raises(ValueError, match=r"trained by version 9\.8\.7"):
        eval_setup(config.get_base_dir() / "config.yml", test_mode="inference")


@pytest.mark.parametrize("method", [nest_dynamic, nest_prior], ids=lambda method: method.config.method_name)
def test_settings_of_an_earlier_version_are_named(method: MethodSpecification) -> None:
    config = deepcopy(method.config)
    assert yaml.load(yaml.dump(config), yaml.Loader) == config
    del (
        config.pipeline.model.__dict__["loss_coefficients"],
        config.pipeline.datamanager.__dict__["dataparser"],
    )
    lacking = "lacks pipeline.datamanager.dataparser, pipeline.model.loss_coefficients. Train it anew"
    with pytest.raises(ValueError, match=lacking):
        yaml.load(yaml.dump(config), yaml.Loader)


def test_another_version_that_fits_is_loaded(first: NestTrainer, capture: Path, tmp_path: Path) -> None:
    stored = torch.load(checkpoint_of(first), weights_only=True)
    stored["pipeline"]["_extra_state"] = {"version": "0.1.1"}
    torch.save(stored, tmp_path / "step-000000000.ckpt")
    config = make_config(capture, tmp_path / "run")
    config.load_dir = tmp_path
    assert make_trainer(config).pipeline.progress == 0.25


# ---------------------------------------------------------------- settings for a device

METHODS = [nest_dynamic.config, nest_prior.config]
UNSET = {
    "nest-dynamic": {
        "cpu": {"num_random": 8000, "sh_degree": 1, "max_num_iterations": 20_000},
        "cuda": {"num_random": 20_000, "sh_degree": 3, "max_num_iterations": 30_000},
    },
    "nest-prior": {
        "cpu": {"scenes_per_batch": 1, "max_num_iterations": 20_000},
        "cuda": {"scenes_per_batch": 4, "max_num_iterations": 200_000},
    },
}


def settings_of(config: NestTrainerConfig) -> dict[str, Any]:
    """Those that may be unset."""
    pipeline = config.pipeline
    owners = [config, pipeline.model, pipeline.datamanager]
    names = UNSET[config.method_name]["cpu"]
    return {name: next(getattr(o, name) for o in owners if hasattr(o, name)) for name in names}


def stored_and_loaded(config: NestTrainerConfig) -> NestTrainerConfig:
    return yaml.load(yaml.dump(config), Loader=yaml.Loader)


@pytest.mark.parametrize("has_cuda", [False, True])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.method_name)
def test_settings_that_are_unset_are_resolved_logged_and_stored(
    method: NestTrainerConfig,
    has_cuda: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    config, device = deepcopy(method), "cuda" if has_cuda else "cpu"
    assert set(settings_of(config).values()) == {None}
    config.set_timestamp()  # as ns-train does before it writes config.yml
    expected = UNSET[method.method_name][device]
    assert settings_of(config) == expected
    assert config.machine.device_type == device
    printed = " ".join(re.sub(r"trainer\.py:\d+", "", capsys.readouterr().out).split())
    assert "Settings for this device:" in printed
    for name, value in {"device": device, **expected}.items():
        assert f"{name} {value}" in printed, name
    loaded = stored_and_loaded(config)
    assert settings_of(loaded) == expected
    monkeypatch.setattr(torch.cuda, "is_available", lambda: not has_cuda)
    loaded.resolve()  # a run that is reloaded elsewhere stays what it was
    assert settings_of(loaded) == expected
    assert loaded.machine.device_type == device
    assert "Settings for this device" not in capsys.readouterr().out


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.method_name)
def test_given_settings_are_kept(
    method: NestTrainerConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    config = deepcopy(method)
    config.machine.device_type, config.max_num_iterations = "cpu", 77
    if method.method_name == "nest-dynamic":
        config.pipeline.model.num_random = 99
    else:
        config.pipeline.datamanager.scenes_per_batch = 7
    config.resolve()
    found, defaults = settings_of(config), UNSET[method.method_name]["cpu"]
    given = {"max_num_iterations": 77, "num_random": 99, "scenes_per_batch": 7}
    assert found == {name: given.get(name, default) for name, default in defaults.items()}
    assert config.machine.device_type == "cpu"
    printed = " ".join(capsys.readouterr().out.split())
    logged = set(defaults) - set(given)
    assert ("Settings for this device:" in printed) == bool(logged)
    assert not any(f"{name} " in printed for name in given)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.method_name)
def test_the_registered_method_stays_unset(method: NestTrainerConfig) -> None:
    assert set(settings_of(method).values()) == {None}
    assert method.machine.device_type == "auto"


def test_a_run_holds_resolved_values(first: NestTrainer) -> None:
    stored = yaml.load((first.base_dir / "config.yml").read_text(), Loader=yaml.Loader)
    model = stored.pipeline.model
    assert (model.num_random, model.max_gs_num, model.sh_degree) == (150, 200, 1)
    assert stored.max_num_iterations == 60
    assert stored.machine.device_type == "cpu"


def test_other_pipelines_have_nothing_to_resolve() -> None:
    assert NestPipelineConfig().resolve("cuda") == {}


def help_of(config: NestTrainerConfig, capsys: pytest.CaptureFixture) -> str:
    with pytest.raises(SystemExit):
        tyro.cli(type(config), default=config, args=["--help"])
    return capsys.readouterr().out


def test_the_help_does_not_depend_on_the_device(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    found = []
    for has_cuda in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda has_cuda=has_cuda: has_cuda)
        made_here = runpy.run_path(cast(str, methods.__file__))["nest_dynamic"].config
        found.append(help_of(made_here, capsys))
    assert found[0] == found[1]
    for name in ("num-random", "max-gs-num", "sh-degree"):
        assert f"--pipeline.model.{name} {{None}}|INT" in found[0]
