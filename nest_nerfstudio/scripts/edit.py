"""`nest-edit`: an edited scene as a run of its own, beside the run that it comes from."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
import yaml
from nerfstudio.utils.rich_utils import CONSOLE

from nest_nerfstudio.edits.scene_edit import SceneEdit
from nest_nerfstudio.models.runs import config_of, load_run

EDIT_FILE = "edit.json"
"""Name of the edit in an edited run."""


def edit_run(
    run: Annotated[Path, tyro.conf.Positional],
    edit: Annotated[Path | None, tyro.conf.Positional] = None,
    name: str | None = None,
    overwrite: bool = False,
    fixed_time: float | None = None,
) -> Path:
    """Write a run whose scene is edited, beside the run that it comes from, which stays as it is.

    The new run shares the checkpoint on disk, and all tools open it: ns-viewer, ns-render, ns-eval,
    nest-export. If `run` is an edited one already, the new one has its edit and then this one.

    Args:
        run: the run: its folder, or its `config.yml`.
        edit: JSON file with the edit; docs/edits.md lists the steps. It may be left out with `fixed-time`.
        name: name of the new run's folder; by default that of `run` with "-edited".
        overwrite: replace an edited run of that name.
        fixed_time: clip time that all cameras of the new run show, whatever their own.

    Returns:
        The new run's `config.yml`.

    Raises:
        FileNotFoundError: no such run, or edit.
        FileExistsError: there is a run of that name.
        EditError: the edit is wrong, or the scene cannot carry it; nothing is written.
        ValueError: a run of another method, a name that is no folder's name, or nothing to change.
    """
    if edit is None and fixed_time is None:
        raise ValueError("there is nothing to change: give a JSON file with an edit, --fixed-time, or both")
    source = config_of(run).resolve()
    step = SceneEdit() if edit is None else SceneEdit.load(edit)
    target = _target(source.parent, name, overwrite)
    composed = _carried(source, step)
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        config = _write(partial, target, source, composed, fixed_time)
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    CONSOLE.print(_commands(target / "config.yml", config), highlight=False, soft_wrap=True)
    return target / "config.yml"


def _target(source: Path, name: str | None, overwrite: bool) -> Path:
    """Folder of the new run; where it may not be, an error says so."""
    name = f"{source.name}-edited" if name is None else name
    if name in ("", ".", "..") or Path(name).name != name:
        raise ValueError(f"--name {name!r} is no folder's name; the new run lies beside the old one")
    target = source.with_name(name)
    if target == source:
        raise ValueError(f"--name {name} is the run itself, which is not changed; give another name")
    if target.exists():
        if not (target / EDIT_FILE).is_file():
            raise FileExistsError(f"{target} is there, and no edited run; give another --name")
        if not overwrite:
            raise FileExistsError(f"{target} is there; give another --name, or --overwrite")
    return target


@torch.no_grad()
def _carried(source: Path, edit: SceneEdit) -> SceneEdit:
    """The run's own edit and then another, after the scene that the run shows has carried both."""
    model = load_run(source, lambda config: _require_place(config, source.parent)).model
    shown = model.shown_scene()
    base = model.edit or SceneEdit()
    edit.apply(shown.latent, model.field, model.other_scenes)  # so that errors number the steps of its file
    model.edit = base.then(edit)
    gaussians = model.shown_scene().gaussians_at(0.0)
    if not len(gaussians) or not gaussians.means.isfinite().all():
        raise ValueError("the edited scene has no Gaussians that could be drawn")
    return model.edit


def _require_place(config: Any, folder: Path) -> None:
    """ValueError where a run lies elsewhere than its config says, so that no tool would find its sibling's
    checkpoint."""
    expected = config.get_base_dir()
    if expected.resolve() != folder:
        raise ValueError(
            f"{folder} is not where its config.yml says that the run is, {expected}: start from the folder "
            "that it was trained in, or set its output_dir, experiment_name and timestamp"
        )


def _write(folder: Path, target: Path, source: Path, edit: SceneEdit, fixed_time: float | None) -> Any:
    """Write an edited run into a folder that will become `target`; returns its config."""
    config = yaml.load(source.read_text(), Loader=yaml.Loader)
    checkpoints = config.get_checkpoint_dir()
    config.timestamp = target.name
    config.pipeline.model.edit = config.get_base_dir() / EDIT_FILE
    if fixed_time is not None:
        config.pipeline.model.fixed_time = fixed_time
    shared = folder / config.relative_model_dir
    shared.mkdir(parents=True)
    for path in sorted(checkpoints.glob("step-*.ckpt")):
        _share(path, shared / path.name)
    transforms = source.with_name("dataparser_transforms.json")
    if transforms.is_file():
        shutil.copy2(transforms, folder / transforms.name)
    edit.save(folder / EDIT_FILE)
    (folder / "config.yml").write_text(yaml.dump(config), encoding="utf8")
    return config


def _share(path: Path, link: Path) -> None:
    """One file under two names: a hard link, else a symbolic one, else a copy."""
    path = path.resolve()
    for make in (os.link, os.symlink):
        try:
            return make(path, link)
        except OSError:
            continue
    CONSOLE.print(f"This system links no files here, so {path.name} is copied.")
    shutil.copy2(path, link)


def _commands(path: Path, config: Any) -> str:
    """What shows the new run."""
    run = shlex.quote(str(path))
    video, splats = (shlex.quote(str(path.with_name(name))) for name in ("render.mp4", "exports"))
    return "\n".join(
        (
            f"Wrote {path.parent}, which shares the checkpoint of the run that it comes from. It is shown by",
            f"  ns-viewer --load-config {run}",
            f"  ns-render interpolate --load-config {run} --output-path {video}",
            f"  nest-export splat --load-config {run} --output-dir {splats}",
        )
    )


def entrypoint() -> None:
    """The `nest-edit` command."""
    try:
        tyro.cli(edit_run, prog="nest-edit", description=__doc__)
    except (ValueError, OSError) as error:
        sys.exit(f"nest-edit: {error}")


if __name__ == "__main__":
    entrypoint()
