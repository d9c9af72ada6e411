"""`ns-train nest-prior`: one equivariant encoder and one field for many scenes."""

from __future__ import annotations

from nerfstudio.configs.base_config import LoggingConfig
from nerfstudio.engine.optimizers import OptimizerConfig
from nerfstudio.plugins.types import MethodSpecification

from nest_nerfstudio.data.scenes.datamanager import MultiSceneDatamanagerConfig
from nest_nerfstudio.pipelines.muon import MuonConfig
from nest_nerfstudio.pipelines.nest_prior import NestPriorPipelineConfig
from nest_nerfstudio.pipelines.schedules import FusedAdamConfig, ProgressSchedulerConfig
from nest_nerfstudio.pipelines.trainer import NestTrainerConfig


def _scheduled(optimizer: OptimizerConfig) -> dict:
    return {
        "optimizer": optimizer,
        "scheduler": ProgressSchedulerConfig(final_ratio=0.02, hold_until=0.5, warmup=0.02),
    }


nest_prior = MethodSpecification(
    config=NestTrainerConfig(
        method_name="nest-prior",
        vis="viewer",
        steps_per_eval_batch=0,
        steps_per_eval_image=1000,
        steps_per_eval_all_images=0,
        steps_per_save=1000,
        logging=LoggingConfig(steps_per_log=50),
        pipeline=NestPriorPipelineConfig(datamanager=MultiSceneDatamanagerConfig(edit_states=1)),
        optimizers={
            "encoder": _scheduled(MuonConfig(lr=1e-3, max_norm=1.0)),
            "decoder": _scheduled(MuonConfig(lr=1e-3, max_norm=1.0)),
            "motion": _scheduled(MuonConfig(lr=1e-3, max_norm=1.0)),
            "codes": _scheduled(FusedAdamConfig(lr=1e-2, eps=1e-8)),
            "weights": _scheduled(FusedAdamConfig(lr=1e-2, eps=1e-8, max_norm=1.0)),
        },
    ),
    description="One equivariant encoder and one Gaussian field for many scenes.",
)
