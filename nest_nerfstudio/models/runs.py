"""Runs on disk: their pipelines, and the scenes in them that edits name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nest_nerfstudio.dynamics.motion_map import SharedMap
from nest_nerfstudio.edits.base import EditError
from nest_nerfstudio.edits.mixing import OtherScene, SharedMotion


def config_of(run: Path) -> Path:
    """The `config.yml` of a run that is given by it, or by its folder.

    Raises:
        FileNotFoundError: no such run.
    """
    path = run / "config.yml" if run.is_dir() else run
    if not path.is_file():
        raise FileNotFoundError(f"no run at {run}; give the config.yml that ns-train wrote, or its folder")
    return path


def load_run(run: Path, change: Callable[[Any], None] | None = None) -> Any:
    """Pipeline of a run of ours, without its images; models of other methods are not built.

    Args:
        run: its `config.yml`, or its folder.
        change: changes the config, before anything is built.

    Raises:
        FileNotFoundError: no such run, or one without its checkpoint.
        ValueError: a run of another method, or what `change` raises.
    """
    path = config_of(run)
    from nerfstudio.utils.eval_utils import eval_setup  # imports every method that is installed

    def require(config: Any) -> Any:
        if change is not None:
            change(config)
        if not hasattr(config.pipeline.model._target, "shown_scene"):
            raise ValueError(f"{path} is a run of {config.method_name}, not of a method of nest_nerfstudio")
        if not any(config.get_checkpoint_dir().glob("step-*.ckpt")):
            raise FileNotFoundError(
                f"{path} has no checkpoint in {config.get_checkpoint_dir()}: start from the folder that the "
                "run was trained in, or train it further"
            )
        return config

    return eval_setup(path, test_mode="inference", update_config_callback=require)[1]


class OtherScenes:
    """Finds the scenes that steps of an edit name; see `edits.mixing.Scenes`. They are kept, but in training.

    Args:
        model: of the edited scene.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._found: dict[tuple[str | None, str | None], OtherScene] = {}

    def __call__(self, scene: str | None, run: str | None) -> OtherScene:
        if (scene, run) not in self._found or self._model.is_trained_here:
            self._found[scene, run] = self._read(scene, run)
        return self._found[scene, run]

    @property
    def shared_motion(self) -> SharedMotion | None:
        """What the prior of the edited scene knows of motion; None: nothing, or it is of none."""
        return self._model.shared_motion

    @torch.no_grad()
    def _read(self, scene: str | None, run: str | None) -> OtherScene:
        ours = theirs = self._model
        if run is None:
            latent = ours.latent_named(scene)
        else:
            try:
                theirs = load_run(Path(run)).model
            except (ValueError, OSError) as error:
                raise EditError(f"the other run cannot be read: {error}") from error
            latent = theirs.latent_named(scene)
            if theirs.edit is not None:
                latent = theirs.edit.apply(latent, theirs.field, theirs.other_scenes)
        shares_flow = _are_equal(ours.flow, theirs.flow)
        shares_map = shares_flow and _share_map(ours.shared_motion, theirs.shared_motion)
        return OtherScene(
            latent=latent,
            knows_light=theirs.field.knows_light,
            shares_codes=_are_equal(ours.field, theirs.field),
            shares_flow=shares_flow,
            shared_motion=ours.shared_motion if shares_map else None,
        )


def _share_map(ours: SharedMotion | None, theirs: SharedMotion | None) -> bool:
    """Whether two scenes are of one prior that has learned motion."""
    return isinstance(ours, SharedMap) and isinstance(theirs, SharedMap) and _are_equal(ours.map, theirs.map)


def _are_equal(a: nn.Module, b: nn.Module) -> bool:
    """Whether two modules compute the same."""
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
