"""Make data sets of videos, render synthetic ones, and check data sets for errors."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Annotated

import tyro

from nest_nerfstudio.data.check import check_dataset
from nest_nerfstudio.data.video.capture import VideoConfig, make_capture
from nest_nerfstudio.synthesis.datasets import (
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

Files = Annotated[list[Path], tyro.conf.Positional, tyro.conf.arg(metavar="FILE.glb [FILE.glb ...]")]
Flags = Annotated[MovingSceneConfig, tyro.conf.arg(name="")]
JOBS = min(os.cpu_count() or 1, 8)
Clip = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CLIP.mp4")]
VideoFlags = Annotated[VideoConfig, tyro.conf.arg(name="")]
VIEWS = EditedScenesConfig().views


def toy(
    output: Path,
    scenes_per_category: int = 0,
    edits: tuple[EditName, ...] = EDITS,
    views: int = VIEWS,
    jobs: int = JOBS,
    config: Flags = MovingSceneConfig(),  # noqa: B008
) -> None:
    """Render procedural figures: one moving scene, or many scenes, each also edited in known ways.

    One moving scene (the default) shows a walking figure, for nest-dynamic. Its images are set by --train,
    --val, --test, --future and --cycles.

    Many scenes (--scenes-per-category 1 or more) show random figures, for nest-prior. Their images are set by
    --edits and --views.

    Args:
        output: Output folder. An interrupted run with the same settings continues there.
        scenes_per_category: Scenes of each category: quadruped, fish, snake, vehicle, stack.
        edits: Edits of each scene: new light, shifted hues, turned about z, moved, stretched.
        views: Images of each unedited scene, and again of its motion; half as many of each edit.
        jobs: Maximum number of rendering processes.
        config: Images of the moving scene; many scenes use size, samples, seed and cameras.
    """
    if scenes_per_category < 0:
        raise ValueError(f"scenes_per_category must be 0 or greater, got {scenes_per_category}")
    if not scenes_per_category:
        _report_scene(make_toy_scene(output, config, jobs))
        return
    figures = [
        NamedFigure(f"{category}_{i:03d}", category, random_figure(category, i, config.seed))
        for category in CATEGORIES
        for i in range(scenes_per_category)
    ]
    make_scenes(figures, output, _many_scenes(edits, views, config), "toy_scenes", jobs=jobs)
    _report_scenes(output, len(figures))


def glb(
    files: Files,
    output: Path,
    clip: str | None = None,
    edits: tuple[EditName, ...] = (),
    category: str | None = None,
    views: int = VIEWS,
    jobs: int = JOBS,
    config: Flags = MovingSceneConfig(),  # noqa: B008
) -> None:
    """Render binary glTF models: one as a moving scene, or many scenes, each also edited in known ways.

    One moving scene (the default) shows an animated model, for nest-dynamic. Its images are set by --train,
    --val, --test, --future and --cycles.

    Many scenes (with --edits) show a model each, static or animated, for nest-prior. Their images are set by
    --edits and --views.

    Args:
        files: Models: static, or animated by skins, morph targets or node transforms.
        output: Output folder. An interrupted run with the same settings continues there.
        clip: Name of the animation, or a unique part of the name. By default the first.
        edits: Edits of each scene: new light, shifted hues, turned about z, moved, stretched.
        category: Category of all scenes. By default a file's name up to its first underscore.
        views: Images of each unedited scene, and again of its motion; half as many of each edit.
        jobs: Maximum number of rendering processes.
        config: Images of the moving scene; many scenes use size, samples, seed and cameras.
    """
    if not files:
        raise ValueError("name one or more .glb files")
    source = {"clip": clip, "sha256": [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]}
    if not edits:
        if len(files) > 1:
            raise ValueError("several files need --edits, for instance --edits relight turn")
        _report_scene(make_moving_scene(gltf_figure(files[0], clip), output, config, "glb", source, jobs))
        return
    figures = [_named_figure(path, clip, category) for path in files]
    make_scenes(figures, output, _many_scenes(edits, views, config), "glb_scenes", source, jobs)
    _report_scenes(output, len(figures))


def video(
    clip: Clip,
    output: Path,
    jobs: int = min(JOBS, 2),
    config: VideoFlags = VideoConfig(),  # noqa: B008
) -> None:
    """Make a data set for nest-dynamic of a video of a moving scene, filmed by one camera that moves.

    Of what stands still, structure from motion (pycolmap) finds the cameras and seed points; what moves is
    found by optical flow and left out there. Look at report.png before training.

    Args:
        clip: Video file, or a folder of images in the order of their names.
        output: Output folder. An interrupted run continues there, and steps that are done are not repeated.
        jobs: Maximum number of threads.
        config: Frames and camera.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be 1 or more, got {jobs}")
    made = make_capture(clip, output, config, jobs)
    for note in made.notes:
        print(f"Note: {note}")
    print(f"Wrote {output}: {made.summary}; report.png shows them.")
    print(f"To train on it: ns-train nest-dynamic --data {output}")


def check(folder: tyro.conf.Positional[Path]) -> None:
    """Check a data set and print every problem found; the exit status is 1 if there are any.

    Lines that start with "Note:" are of data that trains, and of which something had to be assumed.

    Args:
        folder: One scene (transforms_train.json or transforms.json) or many scenes (scenes.json).
    """
    report = check_dataset(folder)
    for line in (*report.problems, *(f"Note: {note}" for note in report.notes)):
        print(line)
    counted = f"{report.num_scenes} scene(s), {report.num_frames} frames"
    if report.problems:
        raise SystemExit(f"nest-data: {len(report.problems)} problem(s) in {counted}")
    print(f"No problems in {counted}.")


def _named_figure(path: Path, clip: str | None, category: str | None) -> NamedFigure:
    """A model file as one of many scenes, named `CATEGORY_FILE`."""
    stem = re.sub(r"[^a-z0-9_-]+", "-", path.stem.lower())
    kind = category or stem.partition("_")[0]
    name = stem if stem.startswith(kind) else f"{kind}_{stem}"
    return NamedFigure(name, kind, gltf_figure(path, clip, still=True))


def _many_scenes(edits: tuple[EditName, ...], views: int, config: MovingSceneConfig) -> EditedScenesConfig:
    """Settings of many scenes; those that only a moving scene has must be the defaults."""
    defaults = MovingSceneConfig()
    for name in ("train", "val", "test", "future", "cycles"):
        if getattr(config, name) != getattr(defaults, name):
            raise ValueError(f"--{name} applies to one moving scene; for many scenes set --views")
    return EditedScenesConfig(edits, views, config.size, config.samples, config.seed, config.cameras)


def _report_scene(scene: Path) -> None:
    print(f"Rendered {scene}. To train on it: ns-train nest-dynamic --data {scene}")


def _report_scenes(folder: Path, count: int) -> None:
    print(f"Rendered {count} scene(s) in {folder}. To train on them: ns-train nest-prior --data {folder}")


def entrypoint() -> None:
    """Run the command line; errors of the input are printed as one line."""
    try:
        tyro.extras.subcommand_cli_from_dict(
            {"video": video, "toy": toy, "glb": glb, "check": check}, prog="nest-data", description=__doc__
        )
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"nest-data: {error}") from error


if __name__ == "__main__":
    entrypoint()
