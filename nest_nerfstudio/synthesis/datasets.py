"""Data sets of rendered figures: one scene that moves, or many scenes with known edits.

Both are D-NeRF JSON beside PNG files. A broken run goes on where it stopped; a folder that holds anything
else is left alone.
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

from nest_nerfstudio.synthesis.rendering import Cameras, Figure, Sensor, Shot, require_mitsuba, take_all
from nest_nerfstudio.synthesis.toy import WALKER
from nest_nerfstudio.types import Edit, SunSky

Split = Literal["train", "val", "test", "future"]
EditName = Literal["relight", "recolor", "turn", "move", "stretch"]

SPLITS: tuple[Split, ...] = get_args(Split)
EDITS: tuple[EditName, ...] = ("relight", "recolor", "turn", "move")
MOTION_CYCLES = 0.8  # of a figure's motion in a scene with edits: its end is not its start
TEST_EVERY = 4  # pictures of a state; one of them is for testing
MIN_VIEWS = 2 * TEST_EVERY  # so that every state, which has at least half as many, has one for testing


@dataclass(frozen=True)
class MovingSceneConfig:
    """What to render of one moving scene.

    Attributes:
        size: width and height of the pictures, pixels.
        train: number of training frames, t in [0, 1].
        val: number of validation frames, t in (0, 1).
        test: number of test frames, t in (0, 1).
        future: number of frames after the clip, t in (1, 2].
        cycles: cycles of the motion within the clip; it repeats every 1 / cycles of clip time.
        samples: light paths per pixel, rounded up to a square number.
        seed: of the cameras, the times of val and test, and the light paths.
        cameras: where the pictures are taken from.
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

    @property
    def settings(self) -> dict[str, Any]:
        """What a folder remembers; the usual cameras are not named, as when they could not be chosen."""
        values = asdict(self)
        return values if self.cameras != Cameras() else {k: v for k, v in values.items() if k != "cameras"}


@dataclass(frozen=True)
class EditedScenesConfig:
    """What to render of every one of many scenes.

    Attributes:
        edits: states of each scene beside its base.
        views: pictures of the base and of the motion; half as many of every other state. One in four is for
            testing.
        size: width and height of the pictures, pixels.
        samples: light paths per pixel, rounded up to a square number.
        seed: of the edits, the cameras and the light paths.
        cameras: where the pictures are taken from.
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
        name: of the scene, and of its folder.
        category: what kind of object it is.
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
    """Render one scene that moves; frames that are there already are kept, so a broken run goes on.

    Args:
        figure: what moves.
        output: folder to write, made if missing.
        config: what to render.
        kind: of data set, under whose name the folder remembers its settings.
        source: what else the pictures depend on, for instance a file.
        jobs: processes to render with.

    Returns:
        `output`, with `transforms_{train,val,test,future}.json` (key `period`: clip time of one cycle).

    Raises:
        ImportError: mitsuba is not installed.
        ValueError: `output` holds something else.
    """
    require_mitsuba()
    _claim(output, kind, {**config.settings, **(source or {})})
    sensor = Sensor(config.size, config.samples, config.cameras.angle_x)
    frames = {split: frames_of(split, config) for split in SPLITS}
    shots = [
        Shot(
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
    take_all(shots, jobs, f"Rendering {output.name}")
    for split in SPLITS:
        listed = [
            {"file_path": f"./{split}/r_{i:03d}", "time": time, "transform_matrix": camera.tolist()}
            for i, (time, camera) in enumerate(frames[split])
        ]
        transforms = {"camera_angle_x": config.cameras.angle_x, "period": config.period, "frames": listed}
        (output / f"transforms_{split}.json").write_text(json.dumps(transforms, indent=1))
    return output


def frames_of(split: Split, config: MovingSceneConfig) -> list[tuple[float, Float[np.ndarray, "4 4"]]]:
    """Time and camera of every frame of a split, each drawn from its own seed."""
    count: int = getattr(config, split)
    frames = []
    for i in range(count):
        rng = np.random.default_rng([config.seed, SPLITS.index(split), i])
        place = (rng.uniform(), rng.uniform())
        if split == "train":
            time = i / max(count - 1, 1)
        elif split == "future":
            time = 1 + (i + 1) / count
        else:
            time = (i + rng.uniform()) / count
        frames.append((time, config.cameras.pose(time, place)))
    return frames


def make_scenes(
    figures: Sequence[NamedFigure],
    output: Path,
    config: EditedScenesConfig,
    kind: str,
    source: dict[str, Any] | None = None,
    jobs: int = 1,
) -> Path:
    """Render many scenes, each in its base state, edited, and, if it moves, in motion; a broken run goes on.

    Args:
        figures: the scenes.
        output: folder to write, made if missing.
        config: what to render of each.
        kind: of data set, under whose name the folder remembers its settings.
        source: what else the pictures depend on, for instance files.
        jobs: processes to render with.

    Returns:
        `output`, with `scenes.json` and a folder per scene with `transforms_{train,test}.json`.

    Raises:
        ImportError: mitsuba is not installed.
        ValueError: two scenes of one name, or `output` holds something else.
    """
    require_mitsuba()
    name, times = Counter(named.name for named in figures).most_common(1)[0]
    if times > 1:
        raise ValueError(f"{times} scenes are named {name}; give their files different names")
    names = {named.name: named.category for named in figures}
    _claim(output, kind, {**asdict(config), "scenes": names, **(source or {})})
    scenes = {named.name: list(_frames_with_edits(named, output, config)) for named in figures}
    take_all([shot for frames in scenes.values() for shot, _ in frames], jobs, f"Rendering {output.name}")
    for named in figures:
        header = {
            "camera_angle_x": config.cameras.angle_x,
            "edits": {name: edit_to_json(edit) for name, edit in edits_of(named.name, config).items()},
            "category": named.category,
        }
        for split in ("train", "test"):
            listed = [entry for shot, entry in scenes[named.name] if shot.path.parent.name == split]
            path = output / named.name / f"transforms_{split}.json"
            path.write_text(json.dumps({**header, "frames": listed}, indent=1))
    entries = [{"name": named.name, "category": named.category} for named in figures]
    (output / "scenes.json").write_text(json.dumps({"scenes": entries}, indent=1))
    return output


def _frames_with_edits(
    named: NamedFigure, output: Path, config: EditedScenesConfig
) -> Iterator[tuple[Shot, dict[str, Any]]]:
    """Every picture of a scene, and how its transforms file lists it."""
    edits = edits_of(named.name, config)
    sensor = Sensor(config.size, config.samples, config.cameras.angle_x)
    views = {name: config.views if name == "base" else config.views // 2 for name in edits}
    if named.figure.moves:
        views["motion"] = config.views
    for k, (name, count) in enumerate(views.items()):
        for i in range(count):
            place = np.random.default_rng([config.seed, k, i, *named.name.encode()]).uniform(size=2)
            camera = config.cameras.pose(i / count, (place[0], place[1]))
            split = "test" if i % TEST_EVERY == TEST_EVERY - 1 else "train"
            state = "base" if name == "motion" else name
            time = i / (count - 1) if name == "motion" else 0.0
            shot = Shot(
                path=output / named.name / split / f"{name}_{i:02d}.png",
                figure=named.figure,
                phase=MOTION_CYCLES * time,
                camera=camera,
                sensor=sensor,
                seed=_seed(config.seed, k, i, *named.name.encode()),
                edit=edits[state],
            )
            yield (
                shot,
                {
                    "file_path": f"./{split}/{name}_{i:02d}",
                    "time": time,
                    "edit": state,
                    "transform_matrix": camera.tolist(),
                },
            )


def edits_of(scene: str, config: EditedScenesConfig) -> dict[str, Edit]:
    """The states of a scene by name, `base` first, each drawn from its own seed."""
    edits = {"base": Edit()}
    for name in config.edits:
        seed = [config.seed, get_args(EditName).index(name), *scene.encode()]
        edits[name] = random_edit(name, np.random.default_rng(seed))
    return edits


def random_edit(name: EditName, rng: np.random.Generator) -> Edit:
    """An edit of one kind, clearly visible."""
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


def _claim(output: Path, kind: str, settings: dict[str, Any]) -> None:
    """Make the folder, or make sure that the frames in it come from the same settings."""
    path, text = output / f"{kind}.json", json.dumps(settings, indent=1)
    if path.exists():
        if json.loads(path.read_text()) != json.loads(text):
            raise ValueError(f"{output} holds a scene of other settings; remove it or choose another folder")
        return
    if output.exists() and any(output.iterdir()):
        raise ValueError(f"{output} is not empty and holds no scene of this kind; choose another folder")
    output.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
