"""What our pipelines share: one or many processes, on CUDA or a CPU, progress, and checkpoints that fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, ClassVar, Literal, cast

import torch
from nerfstudio.models.base_model import Model
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig

from nest_nerfstudio import __version__
from nest_nerfstudio.host import share_gradients, take_splatfacto_form
from nest_nerfstudio.models.gaussian_model import GaussianModel
from nest_nerfstudio.thread_pool import give_cores_to_kernels


@dataclass
class NestPipelineConfig(VanillaPipelineConfig):
    """Settings of all our pipelines."""

    _target: type = field(default_factory=lambda: NestPipeline)
    num_iterations: ClassVar[dict[str, int]] = {"cpu": 20_000, "cuda": 30_000}
    """Training steps on a kind of device, where no number is given."""

    def resolve(self, device_type: str) -> dict[str, Any]:
        """Give settings that are unset values for a kind of device; returns those that were set."""
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Read settings from a config.yml.

        Raises:
            ValueError: another version wrote it, which did not know all of them.
        """
        self.__dict__.update(state)
        if missing := list(_missing(self)):
            raise ValueError(
                "the run was made by another version of nest_nerfstudio, or by an earlier state of "
                f"{__version__}, which is installed: its config.yml lacks "
                f"pipeline.{', pipeline.'.join(missing)}. Train it anew, or use what made it"
            )


def _missing(settings: Any, prefix: str = "") -> Iterator[str]:
    """Names of settings that have no value, not even one of their class, at any depth."""
    for name in (setting.name for setting in fields(settings)):
        if not hasattr(settings, name):
            yield prefix + name
        elif is_dataclass(value := getattr(settings, name)) and not isinstance(value, type):
            yield from _missing(value, f"{prefix}{name}.")


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
        cast(GaussianModel, self.model).is_trained_here = test_mode == "val"
        if test_mode == "inference":  # of ns-render, which does not mind, and ns-export
            take_splatfacto_form(self.model)
        self.register_buffer("_progress", torch.zeros((), dtype=torch.float64))
        if world_size > 1:
            self._model = cast(Model, share_gradients(self._model, local_rank, on_cuda))

    @property
    def progress(self) -> float:
        """Progress of the training, or of that from which a checkpoint was loaded; a fraction in [0, 1]."""
        return cast(torch.Tensor, self._progress).item()

    def set_progress(self, step: int, progress: float) -> None:
        """Bring model and data to this point of the schedule; called before every training step.

        Args:
            step: of the training.
            progress: fraction of the training, in [0, 1].
        """
        cast(torch.Tensor, self._progress).fill_(progress)

    def failure(self) -> str | None:
        """Why the training has failed, and what to do; None if it has not."""
        return None

    def get_extra_state(self) -> dict[str, str]:
        """Which version wrote a checkpoint."""
        return {"version": __version__}

    def set_extra_state(self, state: dict[str, str]) -> None:
        """Nothing to restore."""

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
            version = _version_of(state_dict)
            cause = (
                "it was trained with other settings, or by an earlier state of this version; repeat the "
                "settings of its config.yml"
                if version == __version__
                else f"it was trained by {f'version {version}' if version else 'a version before 0.1.0'}, or "
                "with other settings; install that version, or repeat the settings of its config.yml"
            )
            raise ValueError(
                f"the checkpoint does not fit this model of nest_nerfstudio {__version__}: {cause}, or train "
                f"without --load-checkpoint and --load-dir. First difference: "
                f"{details[0] if details else error}{more}"
            ) from error


def _version_of(state_dict: Mapping[str, Any]) -> str | None:
    return (state_dict.get("_extra_state") or {}).get("version")
