"""Small scenes of coloured balls on disk, as `scenes.json` and D-NeRF JSON have them, that can be learned."""

import json
import math
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from nest_nerfstudio.geometry.sh import rgb_to_sh
from nest_nerfstudio.method_configs.nest_prior import nest_prior
from nest_nerfstudio.pipelines.trainer import NestTrainer, NestTrainerConfig
from nest_nerfstudio.rasterizers.dense import DenseRasterizer
from nest_nerfstudio.types import Gaussians
from tests.small_capture import ANGLE, SIZE, blobs, orbit

MOVE = (0.2, -0.1, 0.1)
NUM_SCENES = 5


def balls(scene: int, edit: str) -> Gaussians:
    """Three balls, other ones in every scene; edited, they stand elsewhere."""
    generator = torch.Generator().manual_seed(scene)
    start = blobs(0.1)
    shift = torch.tensor(MOVE) if edit == "move" else torch.zeros(3)
    return replace(
        start,
        means=start.means + 0.2 * torch.randn(3, 3, generator=generator) + shift,
        sh=rgb_to_sh(torch.rand(3, 1, 3, generator=generator)),
    )


def write_ball_scenes(folder: Path) -> Path:
    """Scenes of one category; of each 6 train and 2 test views unedited, and 3 and 1 where it is moved."""
    names = [f"balls_{i}" for i in range(NUM_SCENES)]
    index = {"scenes": [{"name": name, "category": "balls"} for name in names]}
    for number, name in enumerate(names):
        for split, counts in {"train": {"base": 6, "move": 3}, "test": {"base": 2, "move": 1}}.items():
            frames = []
            (folder / name / split).mkdir(parents=True)
            for edit, count in counts.items():
                for i in range(count):
                    pose = orbit(0.381966 * i + 0.1 * len(split) + 0.07 * number, height=0.5 + 0.3 * i)
                    file = f"./{split}/{edit}_{i}"
                    _save(balls(number, edit), pose, folder / name / f"{file}.png")
                    frames.append(
                        {"file_path": file, "time": 0.0, "edit": edit, "transform_matrix": pose.tolist()}
                    )
            edits = {"base": {}, "move": {"translate": MOVE}}
            meta = {"camera_angle_x": ANGLE, "category": "balls", "edits": edits, "frames": frames}
            (folder / name / f"transforms_{split}.json").write_text(json.dumps(meta))
    (folder / "scenes.json").write_text(json.dumps(index))
    return folder


def swinging_balls(scene: int, time: float) -> Gaussians:
    """The balls of a scene, two of which swing: 1.25 cycles in a clip."""
    start = balls(scene, "base")
    swing = 0.25 * math.sin(2 * math.pi * time / 0.8) * torch.tensor([[0.0, 0, 1], [0, 0, -1], [0, 0, 0]])
    return replace(start, means=start.means + swing)


def write_moving_scenes(folder: Path, count: int = 3, num_rest: int = 5, num_timed: int = 10) -> Path:
    """Scenes that move: of each so many train views at rest and at times in [0, 1], and 3 timed test ones."""
    names = [f"swing_{i}" for i in range(count)]
    for number, name in enumerate(names):
        for split, timed in {"train": num_timed, "test": 3}.items():
            (folder / name / split).mkdir(parents=True)
            resting = num_rest if split == "train" else 0
            times = [0.0] * resting + [(i + 0.5) / timed for i in range(timed)]
            frames = []
            for i, time in enumerate(times):
                pose = orbit(0.381966 * i + 0.1 * len(split) + 0.07 * number, height=0.5 + 0.1 * i)
                file = f"./{split}/{i:02d}"
                _save(swinging_balls(number, time), pose, folder / name / f"{file}.png")
                frames.append(
                    {"file_path": file, "time": time, "edit": "base", "transform_matrix": pose.tolist()}
                )
            meta = {"camera_angle_x": ANGLE, "category": "swing", "edits": {"base": {}}, "frames": frames}
            (folder / name / f"transforms_{split}.json").write_text(json.dumps(meta))
    index = {"scenes": [{"name": name, "category": "swing"} for name in names]}
    (folder / "scenes.json").write_text(json.dumps(index))
    return folder


def make_moving_config(scenes: Path, output: Path, steps: int = 30) -> NestTrainerConfig:
    """A small run of nest-prior that learns motion."""
    config = make_prior_config(scenes, output, steps)
    config.pipeline.model.dynamics = True
    config.pipeline.model.motion.encoder.image_size = SIZE
    config.pipeline.datamanager.edit_states = 0
    config.pipeline.eval_context = (4,)
    config.pipeline.model.refine_steps = 0
    config.resolve()
    return config


def make_prior_config(scenes: Path, output: Path, steps: int = 30) -> NestTrainerConfig:
    """A small run of nest-prior."""
    config = deepcopy(nest_prior.config)
    config.data = config.pipeline.datamanager.data = scenes
    config.output_dir, config.vis, config.max_num_iterations = output, "tensorboard", steps
    config.machine.device_type = "cpu"
    config.steps_per_eval_image = 0
    model = config.pipeline.model
    model.encoder.image_size = SIZE
    model.encoder.proposals.cells, model.encoder.proposals.patches = 32, 16
    model.training_tokens = (40, 40)
    model.encoder.num_tokens, model.decoder.gaussians_per_token = 40, 6
    config.pipeline.eval_context = (1, 4)
    config.set_timestamp()
    return config


def trained_prior(folder: Path, steps: int = 40) -> NestTrainer:
    """A short run of nest-prior."""
    config = make_prior_config(write_ball_scenes(folder / "scenes"), folder / "runs", steps)
    trainer = config.setup()
    trainer.setup()
    config.save_config()
    trainer.train()
    trainer.pipeline.eval()
    return trainer


def _save(gaussians: Gaussians, pose: torch.Tensor, path: Path) -> None:
    viewmat = torch.linalg.inv(pose @ torch.diag(torch.tensor([1.0, -1, -1, 1])))
    focal = 0.5 * SIZE / math.tan(0.5 * ANGLE)
    K = torch.tensor([[focal, 0, SIZE / 2], [0, focal, SIZE / 2], [0, 0, 1.0]])
    drawn = DenseRasterizer()(gaussians, viewmat[None], K[None], SIZE, SIZE)
    rgba = torch.cat([drawn.rgb[0] / drawn.alpha[0].clamp_min(1e-6), drawn.alpha[0]], -1)
    Image.fromarray(np.asarray((rgba.clamp(0, 1) * 255).round().byte())).save(path)
