"""`nest-data`: make and inspect data sets."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Annotated

import tyro

from nest_nerfstudio.data.check import check_dataset
from nest_nerfstudio.synthesis.figures import (
    EDITS,
    EditedScenesConfig,
    EditName,
    MovingSceneConfig,
    NamedFigure,
    make_moving_scene,
    make_scenes,
    make_toy_scene,
)
from nest_nerfstudio.synthesis.gltf import gltf_figure
from nest_nerfstudio.synthesis.toy import CATEGORIES, random_figure

Flags = Annotated[MovingSceneConfig, tyro.conf.arg(name="")]
JOBS = min(os.cpu_count() or 1, 8)
VIEWS = EditedScenesConfig().views


def toy(
    output: Path,
    scenes_per_category: int = 0,
    edits: tuple[EditName, ...] = EDITS,
    views: int = VIEWS,
    jobs: int = JOBS,
    config: Flags = MovingSceneConfig(),  # noqa: B008
) -> None:
    """Render a small scene of a walking figure, or many scenes of random figures with known edits.

    Args:
        output: Folder to write; a broken run with the same settings goes on there.
        scenes_per_category: 0 renders the walker; more render so many quadrupeds, fish, snakes, vehicles and
            stacks each.
        edits: States of each of these scenes beside its base.
        views: Pictures of the base and of the motion of each; half as many of every other state.
        jobs: Most processes to render with.
        config: Of the walker; many scenes take its size, samples, seed and cameras.
    """
    if scenes_per_category < 0:
        raise ValueError(f"scenes_per_category must be 0 or greater, got {scenes_per_category}")
    if not scenes_per_category:
        scene = make_toy_scene(output, config, jobs)
        print(f"The scene is in {scene}. Train on it: ns-train nest-dynamic --data {scene}")
        return
    figures = [
        NamedFigure(f"{category}_{i:03d}", category, random_figure(category, i, config.seed))
        for category in CATEGORIES
        for i in range(scenes_per_category)
    ]
    scenes = make_scenes(figures, output, _edited(edits, views, config), "toy_scenes", jobs=jobs)
    print(f"{len(figures)} scenes are in {scenes}.")


def glb(
    files: tyro.conf.Positional[list[Path]],
    output: Path,
    clip: str | None = None,
    edits: tuple[EditName, ...] = (),
    category: str | None = None,
    views: int = VIEWS,
    jobs: int = JOBS,
    config: Flags = MovingSceneConfig(),  # noqa: B008
) -> None:
    """Render glTF binaries: one as a moving scene, or, with --edits, any number as scenes with known edits.

    Args:
        files: Models, static or animated by joints or morph targets.
        output: Folder to write; a broken run with the same settings goes on there.
        clip: Name of the animation, or a part of it that no other has; by default the first.
        edits: States of each scene beside its base.
        category: Of the scenes; by default the file's name up to its first underscore.
        views: With --edits, pictures of the base and of the motion; half as many of every other state.
        jobs: Most processes to render with.
        config: Of a moving scene; with --edits, size, samples, seed and cameras of it are taken.
    """
    source = {"clip": clip, "sha256": [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]}
    if not edits:
        if len(files) > 1:
            raise ValueError(
                "several files make a folder of many scenes: name its --edits, for instance relight"
            )
        figure = gltf_figure(files[0], clip)
        scene = make_moving_scene(figure, output, config, "glb", source, jobs)
        print(f"The scene is in {scene}. Train on it: ns-train nest-dynamic --data {scene}")
        return
    figures = [_named(path, clip, category) for path in files]
    scenes = make_scenes(figures, output, _edited(edits, views, config), "glb_scenes", source, jobs)
    print(f"{len(figures)} scene(s) are in {scenes}.")


def _named(path: Path, clip: str | None, category: str | None) -> NamedFigure:
    """A file as one of many scenes, named `category_file`."""
    stem = re.sub(r"[^a-z0-9_-]+", "-", path.stem.lower())
    kind = category or stem.partition("_")[0]
    name = stem if stem.startswith(kind) else f"{kind}_{stem}"
    return NamedFigure(name, kind, gltf_figure(path, clip, still=True))


def _edited(edits: tuple[EditName, ...], views: int, config: MovingSceneConfig) -> EditedScenesConfig:
    """Settings of many scenes; those that only a moving scene has must be as they were."""
    defaults = MovingSceneConfig()
    for name in ("train", "val", "test", "future", "cycles"):
        if getattr(config, name) != getattr(defaults, name):
            raise ValueError(
                f"--{name} is for one moving scene; --views says how many pictures many scenes have"
            )
    return EditedScenesConfig(edits, views, config.size, config.samples, config.seed, config.cameras)


def check(folder: tyro.conf.Positional[Path]) -> None:
    """Look for everything that is wrong with a data set, and exit with 1 if anything is.

    Args:
        folder: One scene (`transforms_train.json` or `transforms.json`), or many (`scenes.json`).
    """
    report = check_dataset(folder)
    for problem in report.problems:
        print(problem)
    counted = f"{report.num_scenes} scene(s), {report.num_frames} frames"
    if report.problems:
        raise SystemExit(f"nest-data: {len(report.problems)} problem(s) in {counted}")
    print(f"fine: {counted}")


def entrypoint() -> None:
    """Run the command line; bad input ends in one line."""
    try:
        tyro.extras.subcommand_cli_from_dict({"toy": toy, "glb": glb, "check": check})
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"nest-data: {error}") from error


if __name__ == "__main__":
    entrypoint()
