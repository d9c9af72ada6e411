"""A small prior on disk, and small runs of nest-invert that use it."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import torch

from nest_nerfstudio.method_configs.nest_invert import nest_invert
from nest_nerfstudio.pipelines.trainer import NestTrainer, NestTrainerConfig
from tests.ball_scenes import trained_prior


def train_prior(folder: Path, steps: int = 60) -> Path:
    """`config.yml` of a run of nest-prior on scenes of balls in `folder / "scenes"`."""
    torch.manual_seed(0)
    return trained_prior(folder, steps).base_dir / "config.yml"


def make_invert_config(
    data: Path, prior: Path, output: Path, steps: int = 20, num_views: int = 0, **model
) -> NestTrainerConfig:
    """A small run of nest-invert."""
    config = deepcopy(nest_invert.config)
    config.data = config.pipeline.datamanager.data = data
    config.pipeline.datamanager.num_views, config.pipeline.model.prior = num_views, prior
    config.output_dir, config.vis, config.max_num_iterations = output, "tensorboard", steps
    config.machine.device_type = "cpu"
    for name, value in model.items():
        assert hasattr(config.pipeline.model, name)
        setattr(config.pipeline.model, name, value)
    config.set_timestamp()
    return config


def start_inversion(config: NestTrainerConfig) -> NestTrainer:
    """Ready to train."""
    torch.manual_seed(0)
    trainer = config.setup()
    trainer.setup()
    config.save_config()
    return trainer
