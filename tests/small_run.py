"""A small run of nest-dynamic on the small capture."""

from copy import deepcopy
from pathlib import Path

import torch

from nest_nerfstudio.method_configs.nest_dynamic import nest_dynamic
from nest_nerfstudio.pipelines.trainer import NestTrainer, NestTrainerConfig


def make_config(capture: Path, output: Path, steps: int = 60, **model) -> NestTrainerConfig:
    config = deepcopy(nest_dynamic.config)
    config.data = config.pipeline.datamanager.data = capture
    config.output_dir, config.vis, config.max_num_iterations = output, "tensorboard", steps
    config.machine.device_type = "cpu"
    small = {"num_random": 150, "max_gs_num": 200, "num_tokens": 12, "sh_degree": 1} | model
    for name, value in small.items():
        assert hasattr(config.pipeline.model, name)
        setattr(config.pipeline.model, name, value)
    fit = config.pipeline.model.flow_fit
    fit.fit_iterations, fit.fit_attempts = 300, 1  # most tests need no good ODE, …
    fit.motion = "free"  # … and no search for cycles, which draws many images
    config.set_timestamp()
    return config


def make_trainer(config: NestTrainerConfig) -> NestTrainer:
    torch.manual_seed(0)
    trainer = config.setup()
    trainer.setup()
    return trainer


def trained_run(capture: Path, folder: Path) -> NestTrainer:
    """A short run whose ODE has taken over."""
    config = make_config(capture, folder, steps=150, num_tokens=24)
    config.pipeline.model.flow_fit.max_gap = 10.0
    config.save_config()
    trainer = make_trainer(config)
    trainer.train()
    trainer.pipeline.eval()
    return trainer
