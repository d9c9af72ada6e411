"""A run of nest-prior on disk: its model, and the latents of its training scenes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import track
from torch import Tensor

from nest_nerfstudio import __version__
from nest_nerfstudio.files import written_whole
from nest_nerfstudio.models.inversion import Prior
from nest_nerfstudio.models.nest_prior import NestPriorModel, NestPriorModelConfig
from nest_nerfstudio.spread import spread
from nest_nerfstudio.types import MotionCode, SceneLatent

MAX_LATENTS = 64
"""Training scenes whose latents are kept, at most."""
NUM_VIEWS = 8
"""Views that they are encoded from; fewer where a scene has fewer."""
CACHE = "training_latents.pt"
_STORED = ("ids", "copies", "quats", "translations", "geometry", "appearance", "light")


def load_prior(config: Path, device: torch.device | str = "cpu", with_latents: bool = True) -> Prior:
    """The model of a run of nest-prior and, as `inversion.invert` needs them, latents of its training scenes.

    Args:
        config: the run's `config.yml`.
        device: of the model.
        with_latents: encode training scenes, which needs their images once: the latents are kept in the run.

    Raises:
        FileNotFoundError: there is no such run, or no checkpoint in it.
        ValueError: it is no run of nest-prior, or one of another version.
    """
    run = find_prior(config)
    model = run.model(device)
    return Prior.of(model, run.latents(model) if with_latents else ())


@dataclass(frozen=True)
class PriorRun:
    """A run of nest-prior of this version; none of its weights has been read.

    Attributes:
        config: its settings.
        checkpoint: its last one.
    """

    config: TrainerConfig
    checkpoint: Path

    @property
    def model_config(self) -> NestPriorModelConfig:
        """Settings of its model."""
        assert isinstance(self.config.pipeline.model, NestPriorModelConfig)
        return self.config.pipeline.model

    def model(self, device: torch.device | str) -> NestPriorModel:
        """Its model, for use only; ValueError if the checkpoint does not fit the settings."""
        cube = SceneBox(aabb=torch.tensor([[-1.5] * 3, [1.5] * 3]))
        model = self.model_config.setup(scene_box=cube, num_train_data=1, device=device)
        stored = torch.load(self.checkpoint, map_location="cpu", weights_only=True)["pipeline"]
        weights = {_plain(key): value for key, value in stored.items() if key.startswith("_model.")}
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            first = str(error).splitlines()[1:2] or [str(error)]
            raise ValueError(
                f"{self.checkpoint} does not fit the latents of this version ({first[0].strip()}): train the "
                "prior anew, or use the version that it was trained by"
            ) from error
        return model.to(device).eval().requires_grad_(False)

    def latents(self, model: NestPriorModel) -> list[SceneLatent]:
        """Latents of its training scenes; encoded once, and kept beside its `config.yml`."""
        path, key = self.checkpoint.parent.parent / CACHE, [self.checkpoint.name, __version__]
        if path.is_file():
            kept = torch.load(path, map_location=model.device, weights_only=True)
            if kept["key"] == key:
                return [_to_latent(parts) for parts in kept["latents"]]
        latents = self._encode(model)
        try:
            with written_whole(path) as part:
                torch.save({"key": key, "latents": [_to_parts(latent) for latent in latents]}, part)
        except (OSError, RuntimeError) as error:
            CONSOLE.log(f"The latents of the training scenes are not kept for the next time: {error}.")
        return latents

    @torch.no_grad()
    def _encode(self, model: NestPriorModel) -> list[SceneLatent]:
        try:
            data: Any = self.config.pipeline.datamanager.setup(device=model.device, test_mode="inference")
        except (OSError, ValueError) as error:
            raise type(error)(
                "the training scenes of the prior are needed once, for the distribution of latents, and "
                f"cannot be read: {error}"
            ) from error
        numbers = data.index.split("train")
        chosen = spread(numbers, MAX_LATENTS)
        return [
            model.encoder(data.contexts[number, NUM_VIEWS])
            for number in track(chosen, "Encoding training scenes", console=CONSOLE, transient=True)
        ]


def find_prior(path: Path | None) -> PriorRun:
    """A run of nest-prior by its `config.yml`; raises as `load_prior`."""
    if path is None:
        raise ValueError("nest-invert needs a prior: --pipeline.model.prior RUN/config.yml of nest-prior")
    if not path.is_file():
        raise FileNotFoundError(f"there is no prior at {path}; give the config.yml of a run of nest-prior")
    try:
        config = yaml.load(path.read_text(), Loader=yaml.Loader)  # as nerfstudio's tools do
    except (yaml.YAMLError, AttributeError, ImportError, ValueError) as error:
        raise ValueError(f"{path} is no config.yml that this version can read: {error}") from error
    if not isinstance(getattr(getattr(config, "pipeline", None), "model", None), NestPriorModelConfig):
        name = getattr(config, "method_name", "no method")
        raise ValueError(f"{path} is a run of {name}, not of nest-prior: it has no encoder to start from")
    checkpoints = sorted((path.parent / config.relative_model_dir).glob("step-*.ckpt"))
    if not checkpoints:
        raise FileNotFoundError(f"the prior {path} has no checkpoint (step-*.ckpt) yet; train it first")
    extra = torch.load(checkpoints[-1], map_location="cpu", weights_only=True, mmap=True)["pipeline"]
    version = (extra.get("_extra_state") or {}).get("version")
    if version != __version__:
        other = f"version {version}" if version else "a version before 0.1.0"
        raise ValueError(
            f"the prior {path} was trained by {other}, and its latents need not mean the same in "
            f"{__version__}: train it anew, or use that version"
        )
    return PriorRun(config, checkpoints[-1])


def _plain(key: str) -> str:
    """Name of a weight, also of a model that several processes have trained."""
    return key.removeprefix("_model.").removeprefix("module.")


def _to_parts(latent: SceneLatent) -> dict[str, Tensor]:
    return {name: getattr(latent, name).cpu() for name in _STORED}


def _to_latent(parts: dict[str, Tensor]) -> SceneLatent:
    still = MotionCode.still(len(parts["ids"]), parts["translations"])
    return SceneLatent(**parts, motion=still)
