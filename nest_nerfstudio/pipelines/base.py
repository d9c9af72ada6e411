"""What our pipelines share: one or many processes, on CUDA or a CPU, and checkpoints that must fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

import torch
from nerfstudio.models.base_model import Model
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from torch.nn.parallel import DistributedDataParallel

from nest_nerfstudio.thread_pool import give_cores_to_kernels


class NestPipeline(VanillaPipeline):
    """nerfstudio's pipeline, whose distributed path assumes CUDA, without that assumption."""

    def __init__(
        self,
        config: VanillaPipelineConfig,
        device: str | torch.device,
        test_mode: Literal["test", "val", "inference"] = "val",
        world_size: int = 1,
        local_rank: int = 0,
        grad_scaler: Any = None,
    ) -> None:
        on_cuda = torch.device(device).type == "cuda"
        if not on_cuda:
            give_cores_to_kernels()
        # as one process, so that nerfstudio does not wrap the model for CUDA; the data manager asks torch
        super().__init__(config, cast(str, device), test_mode, 1, local_rank, grad_scaler)
        self.world_size = world_size
        if world_size > 1:
            devices = [local_rank] if on_cuda else None
            model = DistributedDataParallel(self._model, device_ids=devices, find_unused_parameters=True)
            self._model = cast(Model, model)

    @property
    def progress(self) -> float:
        """Progress of the training that the model was loaded from, a fraction in [0, 1]."""
        raise NotImplementedError

    def set_progress(self, step: int, progress: float) -> None:
        """Bring model and data to this point of the schedule, a fraction in [0, 1]."""
        raise NotImplementedError

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool | None = True) -> None:
        """Load a checkpoint whole; nerfstudio's default leaves out what is missing, without a word.

        Raises:
            ValueError: the checkpoint was made with other settings of the model, or by another version.
        """
        try:
            super().load_state_dict(state_dict, strict)
        except RuntimeError as error:
            details = [line.strip() for line in str(error).splitlines()[1:]]
            more = f" (and {len(details) - 1} more like it)" if len(details) > 1 else ""
            raise ValueError(
                "the checkpoint does not fit this model: it was trained with other settings, or by another "
                "version of nest_nerfstudio. Repeat the settings of its config.yml, go back to that version, "
                "or train without --load-checkpoint and --load-dir. "
                f"First difference: {details[0] if details else error}{more}"
            ) from error
