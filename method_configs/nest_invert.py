"""`ns-train nest-invert`: the scene of a few images, under a trained nest-prior."""

from __future__ import annotations

from nerfstudio.configs.base_config import LoggingConfig
from nerfstudio.plugins.types import MethodSpecification

from nest_nerfstudio.pipelines.nest_invert import LEARNING_RATES, REFINEMENT_RATES, NestInvertPipelineConfig
from nest_nerfstudio.pipelines.schedules import FusedAdamConfig, ProgressSchedulerConfig
from nest_nerfstudio.pipelines.trainer import NestTrainerConfig

_PIPELINE = NestInvertPipelineConfig()

nest_invert = MethodSpecification(
    config=NestTrainerConfig(
        method_name="nest-invert",
        vis="viewer",
        steps_per_eval_batch=0,
        steps_per_eval_image=0,
        steps_per_eval_all_images=0,
        steps_per_save=500,
        logging=LoggingConfig(steps_per_log=10),
        pipeline=_PIPELINE,
        optimizers={
            name: {
                "optimizer": FusedAdamConfig(lr=rate, eps=1e-8),
                "scheduler": ProgressSchedulerConfig(final_ratio=0.1, hold_until=hold_until),
            }
            for rates, hold_until in ((LEARNING_RATES, 0.0), (REFINEMENT_RATES, _PIPELINE.model.refine_from))
            for name, rate in rates.items()
        },
    ),
    description="One scene of a trained nest-prior, from one or more images.",
)
