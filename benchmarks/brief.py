"""A short training of nest-dynamic, for benchmarks that run many."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

from nerfstudio.scripts.train import _set_random_seed

from nest_nerfstudio.method_configs.nest_dynamic import nest_dynamic
from nest_nerfstudio.pipelines.trainer import NestTrainer


def train_briefly(
    data: Path, output: Path, steps: int, seed: int, fit_iterations: int | None = None
) -> dict[str, float]:
    """Train on a scene, and score its test images.

    Args:
        data: folder of the scene, or its transforms file.
        output: where the run goes.
        steps: of the training.
        seed: random seed.
        fit_iterations: of one attempt to fit the ODE; None: attempts as in any training.

    Raises:
        TrainingFailed: nothing came of it.
    """
    config = deepcopy(nest_dynamic.config)
    config.data = config.pipeline.datamanager.data = data
    config.output_dir, config.vis, config.max_num_iterations = output, "tensorboard", steps
    config.steps_per_eval_image, config.steps_per_save = 0, 10**9
    config.viewer.quit_on_train_completion = True
    config.pipeline.datamanager.dataparser.eval_split = "test"
    if fit_iterations is not None:
        fit = config.pipeline.model.flow_fit
        fit.fit_iterations, fit.fit_attempts = fit_iterations, 1
    config.set_timestamp()
    _set_random_seed(seed)
    trainer = NestTrainer(config)
    trainer.setup()
    trainer.train()
    return trainer.pipeline.get_average_eval_image_metrics()
