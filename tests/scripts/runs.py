"""Runs on disk whose checkpoint loads as a model that a test made."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.io.some_gaussians import make_transform


def fake_run(folder: Path, monkeypatch: pytest.MonkeyPatch, model: Any, target: type) -> SimpleNamespace:
    """A run of a model; `scene` is the model, `target` its class in the config, `out` a folder to write."""
    (folder / "models").mkdir()
    for name in ("config.yml", "models/step-000000001.ckpt"):
        (folder / name).touch()
    transform, scale = make_transform()
    cameras = SimpleNamespace(
        camera_to_worlds=torch.tensor([[[1.0, 0, 0, 0], [0, 0, -1, -4], [0, 1, 0, 0]]]),
        fx=torch.tensor([[120.0]]),
        fy=torch.tensor([[120.0]]),
        width=torch.tensor([[60]]),
        height=torch.tensor([[100]]),
    )
    parsed = SimpleNamespace(dataparser_transform=transform, dataparser_scale=scale, cameras=cameras)
    run = SimpleNamespace(config=folder / "config.yml", out=folder / "out", scene=model, target=target)

    def eval_setup(config_path: Path, test_mode: str, update_config_callback) -> tuple:
        assert config_path == run.config
        assert test_mode == "inference"
        model = SimpleNamespace(_target=run.target)
        config = SimpleNamespace(
            method_name="some-method",
            pipeline=SimpleNamespace(model=model),
            get_checkpoint_dir=lambda: folder / "models",
        )
        datamanager = SimpleNamespace(train_dataparser_outputs=parsed)
        pipeline = SimpleNamespace(model=run.scene, datamanager=datamanager)
        return update_config_callback(config), pipeline, None, 0

    # The real module imports every installed method.
    monkeypatch.setitem(sys.modules, "nerfstudio.utils.eval_utils", SimpleNamespace(eval_setup=eval_setup))
    return run
