"""Posed pictures with times, from D-NeRF/Blender JSON and from nerfstudio's `transforms.json`.

This module must stay importable without nerfstudio's data managers: nerfstudio loads it while it is
still putting its own configs together.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.cameras import camera_utils
from nerfstudio.cameras.cameras import CAMERA_MODEL_TO_TYPE, Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from nerfstudio.data.dataparsers.nerfstudio_dataparser import MAX_AUTO_RESOLUTION
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.utils.colors import get_color
from nerfstudio.utils.rich_utils import CONSOLE
from PIL import Image
from torch import Tensor

from nest_nerfstudio.io.point_clouds import read_cloud

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
DISTORTION_KEYS = ("k1", "k2", "k3", "k4", "p1", "p2")
EVAL_SPLITS = ("val", "test")
FRAME_ORDER_HINT = (
    "pass `nest-dynamic-data --time-from frame-order` if the order of the file names is the order of time."
)


@dataclass
class NestDynamicDataParserConfig(DataParserConfig):
    """Settings of `NestDynamicDataParser`."""

    _target: type = field(default_factory=lambda: NestDynamicDataParser)
    data: Path = Path()
    """Folder with `transforms_train.json` (and _val, _test, or others) or with one `transforms.json`; or one
    of these files: `transforms_future.json` evaluates on the split `future`."""
    time_from: Literal["auto", "field", "frame-order"] = "auto"
    """Where times come from: the `time` of each frame (auto, field), or the order of the file names, evenly
    spaced (frame-order: for a video in a single `transforms.json`)."""
    time_scale: Literal["auto", "none"] = "auto"
    """auto: train times outside [0, 1] are mapped so that they span [0, 1], and all splits with them.
    none: times stay as they are."""
    eval_split: str = ""
    """Split to evaluate on in place of val and test, for instance `future`."""
    eval_interval: int = 8
    """Where no split to evaluate on is given, every so many frames one is held out; 0 holds none out and
    evaluates on the train frames."""
    train_interval: int = 1
    """Train on every so many of the train frames, in order of time; the others are the split `left_out`."""
    train_span: tuple[float, float] = (0.0, 1.0)
    """Part of the clip to train on, from and to a time in [0, 1]. It becomes the clip: its own times span
    [0, 1], and what came before or after lies beyond them, in all splits. Train frames there are left out."""
    downscale_factor: float | None = None
    """How much smaller to make the images. A folder of smaller images (`images_2`) is used if there is one,
    else they are resized when loaded. Unset: 1, or the first power of two that brings them to 1600 pixels."""
    scale_factor: float = 1.0
    """Factor on camera positions."""
    scene_scale: float | None = None
    """Half the side of the scene box. Unset: 1.5 for D-NeRF/Blender scenes, 1 for `transforms.json`."""
    orientation_method: Literal["pca", "up", "vertical", "none"] = "up"
    """How to turn the poses of a `transforms.json`; D-NeRF/Blender poses are left as they are."""
    center_method: Literal["poses", "focus", "none"] = "poses"
    """How to centre the poses of a `transforms.json`."""
    auto_scale_poses: bool = True
    """Scale the poses of a `transforms.json` into the box [-1, 1]."""
    alpha_color: str | None = None
    """Colour to lay transparent images over; unset keeps the alpha, and the model lays both over its own."""
    depth_unit_scale_factor: float = 1e-3
    """Metres per unit of the depth images."""


@dataclass(frozen=True)
class Frame:
    """One picture, as a transforms file lists it.

    Attributes:
        name: its `file_path`, for messages.
        image: the picture.
        mask: pixels to use; None for all.
        depth: camera-space z; None if unknown.
        time: as stored; None if not stored.
        pose: camera to world, OpenGL axes.
        camera: intrinsics under the names of the format; a frame's own come before its file's.
    """

    name: str
    image: Path
    mask: Path | None
    depth: Path | None
    time: float | None
    pose: Float[np.ndarray, "4 4"]
    camera: dict[str, Any]


@dataclass(frozen=True)
class Capture:
    """All frames of a scene, and how its coordinates become the parser's.

    Attributes:
        splits: frames of each split, with times scaled.
        transform: stored to parsed coordinates, before the scale.
        scale: factor on positions, after the transform.
        recenter: whether the poses were turned, centred and scaled to fit (`transforms.json`).
        meta: the transforms file of the train split, without its frames.
        folder: where the paths in `meta` start.
        eval_split: split to evaluate on in place of val and test; "" for none.
    """

    splits: dict[str, list[Frame]]
    transform: Float[Tensor, "3 4"]
    scale: float
    recenter: bool
    meta: dict[str, Any]
    folder: Path
    eval_split: str


@dataclass
class NestDynamicDataParser(DataParser):
    """Reads a dynamic scene: D-NeRF/Blender split files, or one nerfstudio `transforms.json`."""

    config: NestDynamicDataParserConfig
    includes_time: bool = True

    def __init__(self, config: NestDynamicDataParserConfig):
        super().__init__(config)
        self.config = config
        # nerfstudio's data manager sets this attribute to 1 where only cameras are wanted.
        self.downscale_factor = config.downscale_factor

    @cached_property
    def capture(self) -> Capture:
        """The scene as its files describe it; read once."""
        return read_capture(self.config)

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> DataparserOutputs:
        capture = self.capture
        frames = capture.splits[_resolve_split(capture, split)]
        masks, depths = file_paths(frames, "mask"), file_paths(frames, "depth")
        check_files(frames)
        headers = [image_header(frame.image) for frame in frames]
        factor = self._factor([size for size, _ in headers])
        images, resize = _scaled_images(frames, factor)
        return DataparserOutputs(
            image_filenames=images,
            cameras=make_cameras(capture, frames, [size for size, _ in headers], factor),
            alpha_color=get_color(self.config.alpha_color) if self.config.alpha_color else None,
            scene_box=self._scene_box(),
            mask_filenames=masks,
            dataparser_transform=_to_original(capture),
            dataparser_scale=capture.scale,
            metadata={
                "has_alpha": all(alpha for _, alpha in headers),
                "resize_on_load": resize,
                "depth_filenames": depths,
                "depth_unit_scale_factor": self.config.depth_unit_scale_factor,
                **(_seed_points(capture) if split == "train" else {}),
            },
        )

    def _scene_box(self) -> SceneBox:
        half = self.config.scene_scale or (1.0 if self.capture.recenter else 1.5)
        return SceneBox(aabb=torch.tensor([[-half] * 3, [half] * 3]))

    def _factor(self, sizes: list[tuple[int, int]]) -> float:
        """The down-scaling factor that is asked for, or the one that fits these image sizes."""
        if self.downscale_factor is None:
            longest = max(max(size) for size in sizes)
            self.downscale_factor = float(2 ** max(0, math.ceil(math.log2(longest / MAX_AUTO_RESOLUTION))))
            if self.downscale_factor > 1:
                CONSOLE.log(f"Images are {longest} pixels long: down-scaling by {self.downscale_factor:g}")
        if not self.downscale_factor > 0:
            raise ValueError(f"downscale_factor must be positive, not {self.downscale_factor}")
        return float(self.downscale_factor)


def read_capture(config: NestDynamicDataParserConfig) -> Capture:
    """Read all transforms files of a scene and check what can be checked without its images.

    Args:
        config: where the scene is and how to read it.

    Returns:
        The scene, with its splits and times resolved.

    Raises:
        FileNotFoundError: no such scene.
        ValueError: broken JSON, poses that are not finite, fewer than two train frames, no or equal times.
    """
    files, eval_split = _find_files(config.data)
    metas = {split: read_transforms(path) for split, path in files.items()}
    frames = {split: read_frames(metas[split], path) for split, path in files.items()}
    frames = {split: _with_times(f, config.time_from, files) for split, f in frames.items()}
    single = "" in files
    if single:
        transform, scale = _fit_poses(frames[""], metas[""], config)
        frames = _listed_splits(frames[""], metas[""], files[""])
    else:
        transform, scale = torch.eye(4)[:3], config.scale_factor
    eval_split = eval_split or config.eval_split
    if not eval_split and not any(name in frames for name in EVAL_SPLITS):
        frames |= _hold_out(frames["train"], config.eval_interval)
    path = files["" if single else "train"]
    meta = {key: value for key, value in metas["" if single else "train"].items() if key != "frames"}
    frames = _scale_times(frames, config.time_scale)
    if (config.train_interval, config.train_span) != (1, (0.0, 1.0)):
        frames = _part_of_clip(frames, config.train_interval, config.train_span)
    return Capture(frames, transform, scale, single, meta, path.parent, eval_split)


def _find_files(data: Path) -> tuple[dict[str, Path], str]:
    """Transforms files by split ("" for one `transforms.json`), and the split that `data` itself names."""
    if not data.exists():
        raise FileNotFoundError(f"{data} does not exist; --data takes a scene folder or its transforms file")
    folder = data.parent if data.is_file() else data
    by_split = {p.stem.removeprefix("transforms_"): p for p in sorted(folder.glob("transforms_*.json"))}
    named = next((split for split, path in by_split.items() if path == data), "")
    if "train" in by_split and (named or data.is_dir()):
        return by_split, named if named != "train" else ""
    single = data if data.is_file() else folder / "transforms.json"
    if single.is_file():
        return {"": single}, ""
    there = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
    raise FileNotFoundError(
        f"{folder} has neither transforms_train.json nor transforms.json; it has: {there}. "
        "A video or a folder of photos becomes such a scene with ns-process-data."
    )


def read_transforms(path: Path) -> dict[str, Any]:
    """Read a transforms file; ValueError if it is not JSON with at least one frame."""
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(meta, dict) or not isinstance(meta.get("frames"), list) or not meta["frames"]:
        raise ValueError(f"{path} has no list `frames` with at least one frame")
    return meta


def read_frames(meta: dict[str, Any], path: Path) -> list[Frame]:
    """The frames of a transforms file; ValueError, naming file and frame, if one is not whole and finite."""
    shared = {key: value for key, value in meta.items() if key != "frames"}
    return [_read_frame(frame, shared, path, i) for i, frame in enumerate(meta["frames"])]


def _read_frame(frame: dict[str, Any], shared: dict[str, Any], path: Path, index: int) -> Frame:
    missing = [key for key in ("file_path", "transform_matrix") if key not in frame]
    if missing:
        raise ValueError(f"frame {index} of {path} has no `{missing[0]}`")
    name, folder, time = frame["file_path"], path.parent, frame.get("time")
    try:
        pose = np.asarray(frame["transform_matrix"], dtype=np.float64)
        time = None if time is None else float(time)
    except (TypeError, ValueError) as error:
        raise ValueError(f"frame {name} of {path} is not numeric: {error}") from error
    if pose.shape not in ((3, 4), (4, 4)) or not np.isfinite(pose).all():
        raise ValueError(f"frame {name} of {path}: transform_matrix is not a finite 4×4 matrix")
    if time is not None and not math.isfinite(time):
        raise ValueError(f"frame {name} of {path}: time is {time}")
    return Frame(
        name=name,
        image=_image_path(folder / name),
        mask=folder / frame["mask_path"] if "mask_path" in frame else None,
        depth=folder / frame["depth_file_path"] if "depth_file_path" in frame else None,
        time=time,
        pose=np.vstack([pose[:3], [0.0, 0.0, 0.0, 1.0]]),
        camera={**shared, **frame},
    )


def _image_path(path: Path) -> Path:
    """The picture behind a `file_path`, which D-NeRF stores without its extension."""
    named = [path.with_name(path.name + suffix) for suffix in IMAGE_SUFFIXES]
    if path.suffix.lower() in IMAGE_SUFFIXES:
        named.insert(0, path)
    return next((candidate for candidate in named if candidate.is_file()), named[0])


def natural_order(name: str) -> list[tuple[int, str]]:
    """Sort key under which `r_2` comes before `r_10`."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _with_times(frames: list[Frame], time_from: str, files: dict[str, Path]) -> list[Frame]:
    """The frames with a time each, or a message that says how to give them one."""
    if time_from == "frame-order":
        if len(files) > 1:
            raise ValueError(
                "--time-from frame-order needs all frames in one file: the file names say nothing about how "
                f"the times of the splits {', '.join(files)} relate. Give each frame a `time`."
            )
        ranked = sorted(frames, key=lambda frame: natural_order(frame.name))
        return [replace(frame, time=i / max(len(ranked) - 1, 1)) for i, frame in enumerate(ranked)]
    timeless = [frame.name for frame in frames if frame.time is None]
    if timeless:
        raise ValueError(
            f"{len(timeless)} of {len(frames)} frames have no `time` (first: {timeless[0]}). Give each frame "
            f"one, or {FRAME_ORDER_HINT}"
        )
    return frames


def _listed_splits(frames: list[Frame], meta: dict[str, Any], path: Path) -> dict[str, list[Frame]]:
    """The splits that a file lists as `<split>_filenames`; all frames are train if it lists none."""
    lists = {key.removesuffix("_filenames"): meta[key] for key in meta if key.endswith("_filenames")}
    if not lists:
        return {"train": frames}
    if "train" not in lists:
        raise ValueError(f"{path} lists {', '.join(lists)} but has no `train_filenames`")
    by_name = {frame.name: frame for frame in frames}
    unknown = [name for names in lists.values() for name in names if name not in by_name]
    if unknown:
        raise ValueError(f"{path} lists {unknown[0]} in a split, but no frame has that file_path")
    return {split: [by_name[name] for name in names] for split, names in lists.items() if names}


def _hold_out(frames: list[Frame], interval: int) -> dict[str, list[Frame]]:
    """Hold one frame in `interval` out of train, in order of time, and never the first or the last."""
    ranked = sorted(frames, key=lambda frame: (frame.time, natural_order(frame.name)))
    held = ranked[interval // 2 : -1 : interval] if interval > 1 else []
    if not held:
        CONSOLE.log("No split to evaluate on and no frame held out: evaluating on the train frames")
        return {split: frames for split in EVAL_SPLITS}
    CONSOLE.log(f"No split to evaluate on: holding out {len(held)} of {len(frames)} frames")
    names = {frame.name for frame in held}
    train = [frame for frame in frames if frame.name not in names]
    return {"train": train, **{split: held for split in EVAL_SPLITS}}


def _scale_times(splits: dict[str, list[Frame]], mode: str) -> dict[str, list[Frame]]:
    """Map times so that the train frames span [0, 1], unless they lie in it already."""
    times = [frame.time for frame in splits["train"] if frame.time is not None]
    first, last = min(times), max(times)
    if len(times) < 2:
        raise ValueError(
            "there is only one train frame; a moving scene needs two or more, at different times"
        )
    if first == last:
        raise ValueError(
            f"all {len(times)} train frames have time {first:g}; a moving scene needs different times. Give "
            f"each frame its own, or {FRAME_ORDER_HINT}"
        )
    if mode == "none" or (first >= 0.0 and last <= 1.0):
        return splits
    return _with_clip(splits, first, last)


def _with_clip(splits: dict[str, list[Frame]], first: float, last: float) -> dict[str, list[Frame]]:
    """The frames at times that are 0 where they were `first`, and 1 where they were `last`."""
    CONSOLE.log(f"Times: {first:g} … {last:g} of the train frames becomes 0 … 1")

    def scaled(frame: Frame) -> Frame:
        assert frame.time is not None
        return replace(frame, time=(frame.time - first) / (last - first))

    return {split: [scaled(frame) for frame in frames] for split, frames in splits.items()}


def _part_of_clip(
    splits: dict[str, list[Frame]], interval: int, span: tuple[float, float]
) -> dict[str, list[Frame]]:
    """Train on every `interval`-th frame of a span of the clip, which becomes the clip."""
    first, last = span
    if interval < 1 or not 0 <= first < last <= 1:
        raise ValueError(
            f"train_interval {interval} and train_span {first:g} {last:g} are not a part of the clip: the "
            "interval must be 1 or more, and the span two times in [0, 1], the earlier one first"
        )
    ranked = sorted(splits["train"], key=lambda frame: (frame.time, natural_order(frame.name)))
    kept = [frame for frame in ranked if frame.time is not None and first <= frame.time <= last][::interval]
    if len({frame.time for frame in kept}) < 2:
        raise ValueError(
            f"{len(kept)} of {len(ranked)} train frames are in the part of the clip that train_interval and "
            "train_span keep; a moving scene needs two or more, at different times"
        )
    CONSOLE.log(f"Training on {len(kept)} of {len(ranked)} frames")
    chosen = {id(frame) for frame in kept}
    left_out = [frame for frame in ranked if id(frame) not in chosen]
    splits = {**splits, "train": kept, **({"left_out": left_out} if left_out else {})}
    return splits if span == (0.0, 1.0) else _with_clip(splits, first, last)


def _fit_poses(
    frames: list[Frame], meta: dict[str, Any], config: NestDynamicDataParserConfig
) -> tuple[Float[Tensor, "3 4"], float]:
    """Turn, centre and scale the poses as nerfstudio's own parser does."""
    poses = torch.from_numpy(np.stack([frame.pose for frame in frames]).astype(np.float32))
    method = meta.get("orientation_override", config.orientation_method)
    poses, transform = camera_utils.auto_orient_and_center_poses(poses, method, config.center_method)
    extent = float(poses[:, :3, 3].abs().max())
    scale = config.scale_factor / extent if config.auto_scale_poses and extent > 0 else config.scale_factor
    return transform, scale


def _to_original(capture: Capture) -> Float[Tensor, "3 4"]:
    """The transform from the coordinates before processing, which `applied_transform` led out of."""
    applied = capture.meta.get("applied_transform")
    if applied is None:
        return capture.transform
    rows = torch.tensor(applied, dtype=torch.float32)[:3]
    return capture.transform @ torch.cat([rows, torch.tensor([[0.0, 0.0, 0.0, 1.0]])])


def _resolve_split(capture: Capture, split: str) -> str:
    """The split to read where nerfstudio asks for `split`."""
    wanted = capture.eval_split if capture.eval_split and split in EVAL_SPLITS else split
    if wanted in capture.splits:
        return wanted
    other = next((name for name in EVAL_SPLITS if name in capture.splits), None)
    if wanted in EVAL_SPLITS and other and not capture.eval_split:
        CONSOLE.log(f"There is no split {wanted}: using {other}")
        return other
    raise ValueError(
        f"there is no split '{wanted}' in {capture.folder}; there are: {', '.join(capture.splits)}"
    )


def file_paths(frames: list[Frame], kind: Literal["mask", "depth"]) -> list[Path] | None:
    """The mask or depth files of all frames, None if no frame has one."""
    paths = [path for frame in frames if (path := getattr(frame, kind)) is not None]
    if paths and len(paths) < len(frames):
        raise ValueError(f"only {len(paths)} of {len(frames)} frames have a {kind} file; give all or none")
    return paths or None


def check_files(frames: list[Frame]) -> None:
    """FileNotFoundError, naming the first five, if pictures, masks or depths of the frames are missing."""
    paths = [p for frame in frames for p in (frame.image, frame.mask, frame.depth) if p is not None]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise FileNotFoundError(
            f"{len(missing)} of {len(paths)} files are missing: {', '.join(missing[:5])}{more}"
        )


def image_header(path: Path) -> tuple[tuple[int, int], bool]:
    """Width and height of a picture, and whether it has alpha, without decoding it."""
    try:
        with Image.open(path) as image:
            return image.size, "A" in image.getbands() or "transparency" in image.info
    except OSError as error:
        raise ValueError(f"cannot read image {path}: {error}") from error


def _scaled_images(frames: list[Frame], factor: float) -> tuple[list[Path], bool]:
    """The pictures at 1/factor: those of a sibling folder (`images_2`), or the full ones, to be resized."""
    images = [frame.image for frame in frames]
    if factor == 1:
        return images, False
    small = [p.parent.with_name(f"{p.parent.name}_{factor:g}") / p.name for p in images]
    return (small, False) if all(path.is_file() for path in small) else (images, True)


def make_cameras(
    capture: Capture, frames: list[Frame], sizes: list[tuple[int, int]], factor: float
) -> Cameras:
    """Cameras of the frames at 1/factor of their stored size."""
    c2w = torch.from_numpy(np.stack([frame.pose for frame in frames]).astype(np.float32))
    c2w = capture.transform @ c2w
    c2w[:, :, 3] *= capture.scale
    rows = [_intrinsics(frame, size, factor) for frame, size in zip(frames, sizes, strict=True)]
    fx, fy, cx, cy, width, height = torch.tensor(rows, dtype=torch.float64).T
    return Cameras(
        camera_to_worlds=c2w,
        fx=fx.float(),
        fy=fy.float(),
        cx=cx.float(),
        cy=cy.float(),
        width=width.long(),
        height=height.long(),
        distortion_params=_distortion(frames),
        camera_type=[_camera_type(frame) for frame in frames],
        times=torch.tensor([frame.time for frame in frames], dtype=torch.float32)[:, None],
    )


def _intrinsics(frame: Frame, size: tuple[int, int], factor: float) -> list[float]:
    """fx, fy, cx, cy, width and height of a frame, in pixels at 1/factor of its stored size."""
    camera, (w, h) = frame.camera, size
    if (int(camera.get("w", w)), int(camera.get("h", h))) != size:
        stored = f"{camera.get('w', w)}×{camera.get('h', h)}"
        raise ValueError(f"image {frame.image} is {w}×{h} pixels, but its camera is {stored}")
    fx, fy = _focal_lengths(frame, size)
    values = [fx, fy, float(camera.get("cx", w / 2)), float(camera.get("cy", h / 2))]
    if not all(math.isfinite(value) for value in values) or min(fx, fy) <= 0:
        raise ValueError(f"frame {frame.name} has impossible intrinsics: fx, fy, cx, cy = {values}")
    width, height = int(w / factor), int(h / factor)
    if min(width, height) < 1:
        raise ValueError(f"downscale_factor {factor:g} leaves nothing of {frame.image}, {w}×{h} pixels")
    sx, sy = width / w, height / h
    scaled = [value * s for value, s in zip(values, (sx, sy, sx, sy), strict=True)]
    return [*scaled, float(width), float(height)]


def _focal_lengths(frame: Frame, size: tuple[int, int]) -> tuple[float, float]:
    """fx and fy in pixels, stored or from the angles of view: f = size / (2 tan(angle/2))."""
    camera = frame.camera
    if "fl_x" in camera:
        return float(camera["fl_x"]), float(camera.get("fl_y", camera["fl_x"]))
    if "camera_angle_x" not in camera:
        raise ValueError(f"frame {frame.name} has no focal length: no `fl_x` and no `camera_angle_x`")
    fx = 0.5 * size[0] / math.tan(0.5 * float(camera["camera_angle_x"]))
    if "camera_angle_y" not in camera:
        return fx, fx
    return fx, 0.5 * size[1] / math.tan(0.5 * float(camera["camera_angle_y"]))


def _distortion(frames: list[Frame]) -> Float[Tensor, "n 6"] | None:
    """Lens distortion in nerfstudio's order (k1, k2, k3, k4, p1, p2); None if no frame has any."""
    rows = [
        torch.tensor(frame.camera["distortion_params"], dtype=torch.float32)
        if "distortion_params" in frame.camera
        else camera_utils.get_distortion_params(**{k: float(frame.camera.get(k, 0)) for k in DISTORTION_KEYS})
        for frame in frames
    ]
    params = torch.stack(rows)
    return params if params.any() else None


def _camera_type(frame: Frame) -> Any:
    model = frame.camera.get("camera_model", "PINHOLE")
    if model not in CAMERA_MODEL_TO_TYPE:
        raise ValueError(f"camera_model {model} is unknown; there are: {', '.join(CAMERA_MODEL_TO_TYPE)}")
    return CAMERA_MODEL_TO_TYPE[model]


def _seed_points(capture: Capture) -> dict[str, Tensor]:
    """The point cloud that the transforms file names, in parsed coordinates, under nerfstudio's keys."""
    name = capture.meta.get("ply_file_path")
    if not name:
        return {}
    try:
        cloud = read_cloud(capture.folder / name, grey=True)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"the seed points: {error}; remove `ply_file_path` to start without") from None
    xyz = (cloud.positions @ capture.transform[:, :3].T + capture.transform[:, 3]) * capture.scale
    return {"points3D_xyz": xyz, "points3D_rgb": (cloud.rgb * 255).round().to(torch.uint8)}
