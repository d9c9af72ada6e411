"""Structure from motion on what stands still in the frames of a clip, by pycolmap.

Features, matches and models stay in the folder it works in: a run that is interrupted goes on there.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from rich.progress import Progress, track

from nest_nerfstudio.types import Points

CameraModel = Literal["SIMPLE_PINHOLE", "SIMPLE_RADIAL", "OPENCV"]

FOCAL_FACTOR = 0.85
"""Focal length of a phone's video in longer sides of its image; where SfM starts."""
EXHAUSTIVE_UP_TO = 60
"""Frames up to which all pairs are matched; longer clips match neighbours and ever farther frames."""
OVERLAP = 10
"""Neighbours on each side that a frame of a longer clip is matched with."""
MAX_FEATURES = 4096
MIN_TRACK = 3
"""Frames that show a seed point at least."""
MIN_MATCHES = 15
"""Verified matches that two frames of the same thing have at least."""
MIN_SHARE = 0.5
"""Share of neighbouring frames that must match, and of frames that must be registered."""
MIN_ANGLE = 1.0
"""Median angle between the rays to a point below which the camera only turns, degrees."""
LOSS_SCALE = 0.5
"""Error of a feature's position that is usual, pixels; of the last adjustment."""
REFINE_ITERATIONS = 40
MIN_LONG_TRACKS = 256
"""Points of each frame that its camera is adjusted to at least."""
TURNS_ONLY = (
    "the camera only turns where it stands, or films one flat thing: no depth can be told from that. Walk "
    "around the scene while filming"
)
CHUNK = 8
"""Frames or pairs between two moves of a progress bar, for each thread."""


@dataclass(frozen=True)
class Registered:
    """A frame whose camera was found.

    Attributes:
        pose: camera to world, OpenGL axes, in the coordinates of SfM.
        pixels: where it shows points, x and y.
    """

    pose: Float[np.ndarray, "4 4"]
    pixels: Float[np.ndarray, "n 2"]


@dataclass(frozen=True)
class Model:
    """What SfM found, in its own coordinates: of any place, direction and scale.

    Attributes:
        camera: intrinsics of all frames under the names of transforms files.
        frames: by file name, in order.
        points: on what stands still.
    """

    camera: dict[str, Any]
    frames: dict[str, Registered]
    points: Points


def require_pycolmap() -> Any:
    """The library pycolmap, without its log.

    Raises:
        ImportError: it is not installed.
    """
    try:
        pycolmap = import_module("pycolmap")
    except ImportError as error:
        raise ImportError("cameras are found by pycolmap: pip install 'nest-nerfstudio[sfm]'") from error
    pycolmap.logging.minloglevel = pycolmap.logging.Level.ERROR.value
    return pycolmap


def reconstruct(
    images: Path, masks: Path, names: Sequence[str], folder: Path, camera_model: CameraModel, jobs: int
) -> Path:
    """Find the cameras of frames from what stands still in them.

    Args:
        images: folder of the frames.
        masks: folder of a mask for each frame, under its name: black is left out.
        names: of the frames, in order.
        folder: to work in. What an earlier run with the same arguments left is used.
        camera_model: of all frames, as COLMAP names it.
        jobs: number of threads.

    Returns:
        Folder of the largest model, in `folder`/models.

    Raises:
        ImportError: pycolmap is not installed.
        ValueError: there is nothing to match, frames do not overlap, or the camera only turns.
    """
    pycolmap = require_pycolmap()
    folder.mkdir(parents=True, exist_ok=True)
    database, output = folder / "database.db", folder / "models"
    _extract(pycolmap, database, images, masks, names, camera_model, jobs)
    _match(pycolmap, database, folder / "pairs.txt", image_pairs(names), jobs)
    _check_matches(pycolmap, database, names)
    models = _map(pycolmap, database, images, output, len(names), jobs)
    best = max(models, key=lambda number: models[number].num_reg_images(), default=None)
    if best is None or models[best].num_reg_images() < MIN_SHARE * len(names):
        raise ValueError(_unregistered(pycolmap, database, models, len(names)))
    if _median_angle(models[best]) < MIN_ANGLE:
        raise ValueError(TURNS_ONLY)
    _refine(pycolmap, models[best], output / str(best), jobs)
    return output / str(best)


def image_pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Which frames to match: all with all in a short clip, else neighbours and frames 2, 4, 8, … on."""
    count = len(names)
    steps = (
        range(1, count) if count <= EXHAUSTIVE_UP_TO else {*range(1, OVERLAP + 1), *(2**k for k in range(20))}
    )
    return [(names[i], names[i + step]) for step in sorted(steps) for i in range(count - step)]


def read_model(folder: Path) -> Model:
    """Read a model that `reconstruct` found; of its points, those that `MIN_TRACK` frames show."""
    found = require_pycolmap().Reconstruction(str(folder))
    (camera,) = found.cameras.values()
    images = sorted((found.images[i] for i in found.reg_image_ids()), key=lambda image: image.name)
    points = [point for point in found.points3D.values() if point.track.length() >= MIN_TRACK]
    positions, colors = [point.xyz for point in points], [point.color for point in points]
    return Model(
        camera=_intrinsics(camera),
        frames={image.name: _registered(image) for image in images},
        points=Points(
            torch.from_numpy(np.array(positions, np.float64).reshape(-1, 3)),
            torch.from_numpy(np.array(colors, np.float32).reshape(-1, 3) / 255),
        ),
    )


# Steps


def _extract(
    pycolmap: Any,
    database: Path,
    images: Path,
    masks: Path,
    names: Sequence[str],
    camera_model: CameraModel,
    jobs: int,
) -> None:
    reader = pycolmap.ImageReaderOptions()
    reader.camera_model, reader.mask_path = camera_model, str(masks)
    reader.default_focal_length_factor = FOCAL_FACTOR
    options = pycolmap.FeatureExtractionOptions()
    options.num_threads, options.sift.max_num_features = jobs, MAX_FEATURES
    for chunk in track(_chunks(names, CHUNK * jobs), "Features"):
        with pycolmap.Database.open(str(database)) as opened:
            if opened.num_cameras():  # else a camera for each chunk
                reader.existing_camera_id = opened.read_all_cameras()[0].camera_id
        pycolmap.extract_features(
            str(database), str(images), chunk, pycolmap.CameraMode.SINGLE, reader, options
        )


def _match(pycolmap: Any, database: Path, listed: Path, pairs: Sequence[tuple[str, str]], jobs: int) -> None:
    options, pairing = pycolmap.FeatureMatchingOptions(), pycolmap.ImportedPairingOptions()
    verification = pycolmap.TwoViewGeometryOptions()
    options.num_threads, pairing.match_list_path = jobs, str(listed)
    verification.ransac.random_seed = 0
    for chunk in track(_chunks(pairs, CHUNK * jobs), "Matches"):
        listed.write_text("".join(f"{first} {second}\n" for first, second in chunk))
        pycolmap.match_image_pairs(str(database), options, pairing, verification)


def _map(pycolmap: Any, database: Path, images: Path, output: Path, count: int, jobs: int) -> dict[int, Any]:
    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads, options.random_seed = jobs, 0
    options.max_num_models, options.min_model_size = 3, 3
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    with Progress() as progress:
        task = progress.add_task("Cameras", total=count)
        return pycolmap.incremental_mapping(
            str(database),
            str(images),
            str(output),
            options,
            initial_image_pair_callback=lambda: progress.update(task, completed=2),
            next_image_callback=lambda: progress.advance(task),
        )


def _refine(pycolmap: Any, model: Any, folder: Path, jobs: int) -> None:
    """Adjust a model under a robust loss, and write it: first its cameras on long tracks, then all points.

    What moves along epipolar lines is in no mask, but no place explains it for long: its tracks are short.
    """
    options, config = pycolmap.BundleAdjustmentOptions(), pycolmap.BundleAdjustmentConfig()
    options.print_summary = False
    options.ceres.loss_function_type = pycolmap.LossFunctionType.CAUCHY
    options.ceres.loss_function_scale = LOSS_SCALE
    options.ceres.solver_options.num_threads = jobs
    options.ceres.solver_options.max_num_iterations = REFINE_ITERATIONS
    for image in model.reg_image_ids():
        config.add_image(image)
    config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    options.min_track_length = _long_track(model)
    pycolmap.create_default_bundle_adjuster(options, config, model).solve()
    options.min_track_length = 0
    options.refine_focal_length = options.refine_extra_params = options.refine_rig_from_world = False
    pycolmap.create_default_bundle_adjuster(options, config, model).solve()
    model.write(str(folder))


def _long_track(model: Any) -> int:
    """Largest length of tracks of which every frame has `MIN_LONG_TRACKS` that long; 0 if one has too few."""
    lengths = [
        sorted(model.points3D[point.point3D_id].track.length() for point in image.get_observation_points2D())
        for image in model.images.values()
        if image.has_pose
    ]
    if min(map(len, lengths)) < MIN_LONG_TRACKS:
        return 0
    return min(frame[-MIN_LONG_TRACKS] for frame in lengths)


def _chunks(values: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [values[i : i + size] for i in range(0, len(values), size)]


# What went wrong


def _check_matches(pycolmap: Any, database: Path, names: Sequence[str]) -> None:
    """ValueError if most frames show nothing that the next one shows too."""
    with pycolmap.Database.open(str(database)) as opened:
        ids = {image.name: image.image_id for image in opened.read_all_images()}
        features = [opened.num_keypoints_for_image(ids[name]) for name in names]
        neighbours = [
            opened.exists_two_view_geometry(ids[a], ids[b])
            and len(opened.read_two_view_geometry(ids[a], ids[b]).inlier_matches) >= MIN_MATCHES
            for a, b in pairwise(names)
        ]
    if sum(neighbours) < MIN_SHARE * len(neighbours):
        raise ValueError(
            f"there is nothing to match: only {sum(neighbours)} of {len(neighbours)} frames show what the "
            f"next one shows too, and the median frame has {np.median(features):.0f} features that stand "
            "still. A moving scene needs a background with texture that stays in view from frame to frame"
        )


def _unregistered(pycolmap: Any, database: Path, models: dict[int, Any], count: int) -> str:
    """Why SfM has placed too few frames."""
    with pycolmap.Database.open(str(database)) as opened:
        found = [geometry.config for geometry in opened.read_two_view_geometries()[1]]
    kinds = pycolmap.TwoViewGeometryConfiguration
    flat = (kinds.PLANAR, kinds.PANORAMIC, kinds.PLANAR_OR_PANORAMIC)
    if sum(kind in flat for kind in found) > 0.5 * len(found):
        return TURNS_ONLY
    sizes = sorted((model.num_reg_images() for model in models.values()), reverse=True)
    parts = f", in parts of {', '.join(map(str, sizes))}" if len(sizes) > 1 else ""
    return (
        f"cameras were found for only {max(sizes, default=0)} of {count} frames{parts}: the frames do not "
        "overlap. Cut the clip where the view jumps, or take more frames of it (--num-frames)"
    )


# Reading


def _registered(image: Any) -> Registered:
    pose = np.eye(4)
    pose[:3] = image.cam_from_world().inverse().matrix()
    pose[:, 1:3] *= -1  # OpenCV to OpenGL axes
    pixels = [point.xy for point in image.get_observation_points2D()]
    return Registered(pose, np.array(pixels).reshape(-1, 2))


def _intrinsics(camera: Any) -> dict[str, Any]:
    """Intrinsics as nerfstudio's transforms files name them."""
    (f_x, f_y, c_x, c_y), others = camera.calibration_matrix()[[0, 1, 0, 1], [0, 1, 2, 2]], {}
    if camera.model.name == "SIMPLE_RADIAL":
        others = {"k1": camera.params[3]}
    elif camera.model.name == "OPENCV":
        others = dict(zip(("k1", "k2", "p1", "p2"), camera.params[4:], strict=True))
    return {
        "camera_model": "OPENCV",
        **{"fl_x": float(f_x), "fl_y": float(f_y), "cx": float(c_x), "cy": float(c_y)},
        **{"w": camera.width, "h": camera.height},
        **{name: float(value) for name, value in others.items()},
    }


def _median_angle(model: Any) -> float:
    """Median over points of the angle between the rays to it from the first and last frame, degrees."""
    centres = {image.image_id: image.projection_center() for image in model.images.values() if image.has_pose}
    angles = []
    for point in model.points3D.values():
        seen_from = sorted(element.image_id for element in point.track.elements)
        first, last = (centres[i] - point.xyz for i in (seen_from[0], seen_from[-1]))
        cosine = first @ last / (np.linalg.norm(first) * np.linalg.norm(last))
        angles.append(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    return float(np.median(angles)) if angles else 0.0
