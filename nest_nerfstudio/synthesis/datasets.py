"""Data sets of rendered figures: one moving scene, or many scenes with known edits.

Both are written as D-NeRF JSON beside PNG files. An interrupted run continues where it stopped; a folder that
holds anything else is not touched.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float

from nest_nerfstudio.files import written_whole
from nest_nerfstudio.states import Edit, SunSky
from nest_nerfstudio.synthesis.meshes import Figure
from nest_nerfstudio.synthesis.rendering import Cameras, RenderJob, Sensor, render_missing, require_mitsuba
from nest_nerfstudio.synthesis.toy import WALKER

Split = Literal["train", "val", "test", "future"]
EditName = Literal["relight", "recolor", "turn", "move", "stretch"]

SPLITS: tuple[Split, ...] = get_args(Split)
EDITS: tuple[EditName, ...] = ("relight", "recolor", "turn", "move")
MOTION_CYCLES = 0.8  # of a figure's motion in a scene with edits: the clip does not end where it starts
TEST_EVERY = 4  # one image in so many is a test image
MIN_VIEWS = 2 * TEST_EVERY  # so that every edit, which has half as many images, has a test image


@dataclass(frozen=True)
class MovingSceneConfig:
    """Images of one moving scene.

    Attributes:
        size: Width and height of the images, pixels.
        train: Number of training frames, evenly spaced over time 0 to 1.
        val: Number of validation frames, at random times between 0 and 1.
        test: Number of test frames, at random times between 0 and 1.
        future: Number of frames to test extrapolation, evenly spaced over time 1 to 2.
        cycles: Cycles of the motion from time 0 to 1.
        samples: Samples per pixel of the path tracer, rounded up to a square number.
        seed: Random seed of figures, camera positions, frame times and path tracing.
        cameras: Camera positions and field of view.
    """

    size: int = 160
    train: int = 60
    val: int = 8
    test: int = 12
    future: int = 8
    cycles: float = 1.5
    samples: int = 100
    seed: int = 0
    cameras: Cameras = field(default_factory=Cameras)

    def __post_init__(self) -> None:
        _check_positive(self, "size", "train", "val", "test", "future", "cycles", "samples")

    @property
    def period(self) -> float:
        """Clip time after which the motion repeats."""
        return 1.0 / self.cycles


@dataclass(frozen=True)
class EditedScenesConfig:
    """Images of every one of many scenes.

    Attributes:
        edits: edits of each scene, beside the unedited `base`.
        views: images of the base, and as many of its motion; half as many of every edit. One in four is a
            test image.
        size: width and height of the images, pixels.
        samples: samples per pixel of the path tracer, rounded up to a square number.
        seed: random seed of edits, camera positions and path tracing.
        cameras: camera positions and field of view.
    """

    edits: tuple[EditName, ...] = EDITS
    views: int = 12
    size: int = 128
    samples: int = 64
    seed: int = 0
    cameras: Cameras = field(default_factory=Cameras)

    def __post_init__(self) -> None:
        _check_positive(self, "size", "samples")
        if self.views < MIN_VIEWS:
            raise ValueError(f"views must be {MIN_VIEWS} or more, got {self.views}")


def _check_positive(config: Any, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} must be greater than 0, got {getattr(config, name)}")
    if config.seed < 0:
        raise ValueError(f"seed must be 0 or greater, got {config.seed}")


@dataclass(frozen=True)
class NamedFigure:
    """A figure that becomes one of many scenes.

    Attributes:
        name: of the scene and of its folder.
        category: kind of object.
        figure: the object.
    """

    name: str
    category: str
    figure: Figure


def make_toy_scene(output: Path, config: MovingSceneConfig = MovingSceneConfig(), jobs: int = 1) -> Path:
    """Render the walker; see `make_moving_scene`."""
    return make_moving_scene(WALKER, output, config, "toy", jobs=jobs)


def make_moving_scene(
    figure: Figure,
    output: Path,
    config: MovingSceneConfig,
    kind: str,
    source: dict[str, Any] | None = None,
    jobs: int = 1,
) -> Path:
    """Render one moving scene; images that exist are kept, so an interrupted run continues.

    Args:
        figure: the object that moves.
        output: folder to write, created if missing.
        config: images to render.
        kind: of data set; `KIND.json` in the folder records the settings.
        source: further settings that the images depend on, such as a file's hash.
        jobs: maximum number of rendering processes.

    Returns:
        `output`, with `transforms_{train,val,test,future}.json` (key `period`: clip time of one cycle).

    Raises:
        ImportError: mitsuba is not installed.
        ValueError: `output` holds something else.
    """
    require_mitsuba()
    _create_or_continue(output, kind, {**asdict(config), **(source or {})})
    sensor = Sensor(config.size, config.samples, config.cameras.angle_x)
    frames = {split: frames_of(split, config) for split in SPLITS}
    images = [
        RenderJob(
            path=output / split / f"r_{i:03d}.png",
            figure=figure,
            phase=time * config.cycles,
            camera=camera,
            sensor=sensor,
            seed=_seed(config.seed, SPLITS.index(split), i),
        )
        for split in SPLITS
        for i, (time, camera) in enumerate(frames[split])
    ]
    render_missing(images, jobs, f"Rendering {output.name}")
    for split in SPLITS:
        listed = [
            {"file_path": f"./{split}/r_{i:03d}", "time": time, "transform_matrix": camera.tolist()}
            for i, (time, camera) in enumerate(frames[split])
        ]
        transforms = {"camera_angle_x": config.cameras.angle_x, "period": config.period, "frames": listed}
        _write_json(output / f"transforms_{split}.json", transforms)
    return output


def frames_of(split: Split, config: MovingSceneConfig) -> list[tuple[float, Float[np.ndarray, "4 4"]]]:
    """Time and camera of every frame of a split, each drawn from its own seed."""
    count: int = getattr(config, split)
    frames = []
    for i in range(count):
        rng = np.random.default_rng([config.seed, SPLITS.index(split), i])
        uniform = (rng.uniform(), rng.uniform())
        if split == "train":
            time = i / max(count - 1, 1)
        elif split == "future":
            time = 1 + (i + 1) / count
        else:
            time = (i + rng.uniform()) / count
        frames.append((time, config.cameras.pose(time, uniform)))
    return frames


def make_scenes(
    figures: Sequence[NamedFigure],
    output: Path,
    config: EditedScenesConfig,
    kind: str,
    source: dict[str, Any] | None = None,
    jobs: int = 1,
) -> Path:
    """Render many scenes, each unedited, edited, and in motion if its figure moves.

    Images that exist are kept, so an interrupted run continues.

    Args:
        figures: the scenes.
        output: folder to write, created if missing.
        config: images to render of each scene.
        kind: of data set; `KIND.json` in the folder records the settings.
        source: further settings that the images depend on, such as files' hashes.
        jobs: maximum number of rendering processes.

    Returns:
        `output`, with `scenes.json` and a folder per scene with `transforms_{train,test}.json`.

    Raises:
        ImportError: mitsuba is not installed.
        ValueError: two scenes of one name, or `output` holds something else.
    """
    require_mitsuba()
    name, count = Counter(named.name for named in figures).most_common(1)[0]
    if count > 1:
        raise ValueError(f"{count} scenes are named {name}; give their files different names")
    names = {named.name: named.category for named in figures}
    _create_or_continue(output, kind, {**asdict(config), "scenes": names, **(source or {})})
    scenes = {named.name: list(_scene_images(named, output / named.name, config)) for named in figures}
    images = [image for scene in scenes.values() for image, _ in scene]
    render_missing(images, jobs, f"Rendering {output.name}")
    for named in figures:
        header = {
            "camera_angle_x": config.cameras.angle_x,
            "edits": {name: edit_to_json(edit) for name, edit in edits_of(named.name, config).items()},
            "category": named.category,
        }
        for split in ("train", "test"):
            listed = [frame for image, frame in scenes[named.name] if image.path.parent.name == split]
            _write_json(output / named.name / f"transforms_{split}.json", {**header, "frames": listed})
    entries = [{"name": named.name, "category": named.category} for named in figures]
    _write_json(output / "scenes.json", {"scenes": entries})
    return output


def _scene_images(
    named: NamedFigure, folder: Path, config: EditedScenesConfig
) -> Iterator[tuple[RenderJob, dict[str, Any]]]:
    """Every image of a scene, and its entry in the list `frames` of the transforms file."""
    edits = edits_of(named.name, config)
    sensor = Sensor(config.size, config.samples, config.cameras.angle_x)
    counts = {edit: config.views if edit == "base" else config.views // 2 for edit in edits}
    if named.figure.moves:
        counts["motion"] = config.views
    for k, (group, count) in enumerate(counts.items()):
        edit = "base" if group == "motion" else group
        for i in range(count):
            seeds = (config.seed, k, i, *named.name.encode())
            x, y = np.random.default_rng(seeds).uniform(size=2).tolist()
            camera = config.cameras.pose(i / count, (x, y))
            split = "test" if i % TEST_EVERY == TEST_EVERY - 1 else "train"
            time = i / (count - 1) if group == "motion" else 0.0
            image = RenderJob(
                path=folder / split / f"{group}_{i:02d}.png",
                figure=named.figure,
                phase=MOTION_CYCLES * time,
                camera=camera,
                sensor=sensor,
                seed=_seed(*seeds),
                edit=edits[edit],
            )
            file_path = f"./{split}/{image.path.stem}"
            yield (
                image,
                {"file_path": file_path, "time": time, "edit": edit, "transform_matrix": camera.tolist()},
            )


def edits_of(scene: str, config: EditedScenesConfig) -> dict[str, Edit]:
    """The edits of a scene by name, the unedited `base` first, each drawn from its own seed."""
    edits = {"base": Edit()}
    for name in config.edits:
        seed = [config.seed, get_args(EditName).index(name), *scene.encode()]
        edits[name] = random_edit(name, np.random.default_rng(seed))
    return edits


def random_edit(name: EditName, rng: np.random.Generator) -> Edit:
    """An edit of one kind, large enough to be clearly visible."""
    if name == "relight":
        azimuth, height = rng.uniform((0.0, 0.3), (2 * np.pi, 0.95)).tolist()
        ring = (1 - height**2) ** 0.5
        direction = (-ring * float(np.cos(azimuth)), -ring * float(np.sin(azimuth)), -height)
        return Edit(light=SunSky(direction, rng.uniform(2.0, 5.0), rng.uniform(0.1, 0.5)))
    if name == "recolor":
        return Edit(hue=rng.uniform(0.2, 0.8))
    if name == "turn":
        return Edit(yaw=rng.uniform(0.2, 0.8) * 2 * np.pi)
    if name == "move":
        x, y, z = rng.uniform((-0.35, -0.35, -0.08), (0.35, 0.35, 0.08)).tolist()
        return Edit(translate=(x, y, z))
    x, y, z = rng.uniform(0.7, 1.3, 3).tolist()
    return Edit(stretch=(x, y, z))


def edit_to_json(edit: Edit) -> dict[str, Any]:
    """The fields in which the edit differs from the base."""
    base = asdict(Edit())
    return {key: value for key, value in asdict(edit).items() if value != base[key]}


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def _create_or_continue(output: Path, kind: str, settings: dict[str, Any]) -> None:
    """Create the folder, or make sure that the images in it were rendered with the same settings."""
    path = output / f"{kind}.json"
    if path.exists():
        if json.loads(path.read_bytes()) != json.loads(json.dumps(settings)):
            raise ValueError(f"{output} was rendered with other settings; remove it or choose another folder")
        return
    if output.exists() and any(output.iterdir()):
        raise ValueError(f"{output} is not empty and holds no {kind} data set; choose another folder")
    output.mkdir(parents=True, exist_ok=True)
    _write_json(path, settings)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with written_whole(path) as part:
        part.write_text(json.dumps(content, indent=1))
