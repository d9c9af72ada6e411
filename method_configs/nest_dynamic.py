"""`ns-train nest-dynamic`: one dynamic scene on tokens that follow a latent ODE."""

from __future__ import annotations

from nerfstudio.configs.base_config import LoggingConfig
from nerfstudio.plugins.types import MethodSpecification

from nest_nerfstudio.data.datamanager import DynamicDatamanagerConfig
from nest_nerfstudio.data.dataparser import NestDynamicDataParserConfig
from nest_nerfstudio.pipelines.nest_dynamic import NestDynamicPipelineConfig
from nest_nerfstudio.pipelines.schedules import FusedAdamConfig, ProgressSchedulerConfig
from nest_nerfstudio.pipelines.trainer import NestTrainerConfig


def _adam(lr: float, final_ratio: float, hold_until: float = 0.0) -> dict:
    return {
        "optimizer": FusedAdamConfig(lr=lr),
        "scheduler": ProgressSchedulerConfig(final_ratio=final_ratio, hold_until=hold_until),
    }


nest_dynamic = MethodSpecification(
    config=NestTrainerConfig(
        method_name="nest-dynamic",
        vis="viewer",
        steps_per_eval_batch=0,
        steps_per_eval_image=500,
        steps_per_eval_all_images=0,
        steps_per_save=1000,
        logging=LoggingConfig(steps_per_log=50),
        pipeline=NestDynamicPipelineConfig(
            datamanager=DynamicDatamanagerConfig(dataparser=NestDynamicDataParserConfig())
        ),
        optimizers={
            "means": _adam(2e-3, 0.01),
            "scales": _adam(1.5e-2, 0.2),
            "quats": _adam(3e-3, 0.2),
            "opacities": _adam(5e-2, 0.2),
            "features_dc": _adam(1e-2, 0.2),
            "features_rest": _adam(1e-2 / 20, 0.2),
            "gates": _adam(1e-2, 0.2),
            "motion": _adam(3e-3, 0.02),
            "path": _adam(1e-2, 0.02),
            "flow": _adam(1e-3, 0.02),
            "camera_opt": _adam(3e-4, 0.02),
            "exposure": _adam(1e-2, 0.02),
            "period": _adam(3e-4, 0.01, hold_until=0.6),  # its errors add up, cycle by cycle
        },
    ),
    description="Dynamic Gaussians on tokens that follow a latent ODE.",
)
