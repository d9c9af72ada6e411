"""Data parser of a dynamic scene: posed images with times.

This module must stay importable without nerfstudio's data managers: nerfstudio loads it while it is
still putting its own configs together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from nerfstudio.data.dataparsers.nerfstudio_dataparser import MAX_AUTO_RESOLUTION
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.utils.colors import get_color
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from nest_nerfstudio.data.coordinates import Coordinates, fit_poses, keep_poses
from nest_nerfstudio.data.frame_cameras import camera_notes, make_cameras, stack_poses, viewpoint_notes
from nest_nerfstudio.data.frame_order import FrameOrder
from nest_nerfstudio.data.images import ImageHeader, Size, alpha_problems, image_header, is_scaled
from nest_nerfstudio.data.splits import (
    EVAL_SPLITS,
    Splits,
    crop_clip,
    hold_out,
    hold_out_camera,
    listed_splits,
    scale_times,
    with_times,
)
from nest_nerfstudio.data.transforms import (
    Frame,
    check_files,
    file_notes,
    file_paths,
    find_transforms,
    read_frames,
    read_seed_points,
    read_transforms,
    skip_missing,
)
from nest_nerfstudio.data.world import GIVEN_BOX


@dataclass
class NestDynamicDataParserConfig(DataParserConfig):
    """Settings of `NestDynamicDataParser`."""

    _target: type = field(default_factory=lambda: NestDynamicDataParser)
    data: Path = Path()
    """Folder with `transforms_train.json` (and _val, _test, or others) or with one `transforms.json`; or one
    of these files: `transforms_future.json` evaluates on the split `future`."""
    skip_missing: bool = False
    """Leave out listed frames whose image is missing, with a line in the log, instead of stopping."""
    time_from: Literal["auto", "field", "still"] | FrameOrder = "auto"
    """Source of the times: the `time` of each frame (auto, field), or the order of the file names in a single
    `transforms.json`, evenly spaced. frame-order: a video, or several cameras, where files of one name in
    several folders are of one time; where names leave that open, an error asks to choose frame-name (the
    same, unasked), camera-order (the k-th files of all cameras are of one time) or path-order (each file has
    a time of its own). still: the scene stands still; times are not read, one image is enough, and of a scene
    with edits the base state is used."""
    time_scale: Literal["auto", "none"] = "auto"
    """auto: times are mapped so that the train times span [0, 1], those of all splits alike. none: times stay
    as they are."""
    eval_split: str = ""
    """Split to evaluate on instead of val and test, for instance `future`."""
    eval_interval: int = 8
    """Without an evaluation split in the data, hold out every n-th frame, of each camera at times of its own;
    0 holds none out and evaluates on the train frames."""
    eval_camera: str = ""
    """Evaluate on this camera, and train on the others: the name of its folder, or what tells it from others
    in the file names (`cam00`)."""
    train_interval: int = 1
    """Train on every n-th of the train frames, in order of time; the others are the split `left_out`."""
    train_span: tuple[float, float] = (0.0, 1.0)
    """Part of the clip to train on: first and last time, in [0, 1]. It becomes the clip: all times are mapped
    so that this part spans [0, 1]. Train frames outside it are the split `left_out`."""
    downscale_factor: float | None = None
    """Factor by which images are made smaller. A folder of smaller images (`images_2`) is used if there is
    one, else images are resized when loaded. Unset: 1, or the first power of two that brings their longest
    side to 1600 pixels."""
    scale_factor: float = 1.0
    """Factor on camera positions."""
    scene_scale: float | None = None
    """Half the side of the scene box. Unset: 1.5 for D-NeRF/Blender scenes, 1 for `transforms.json`."""
    orientation_method: Literal["pca", "up", "vertical", "none"] = "up"
    """Method to orient the poses of a `transforms.json`; D-NeRF/Blender poses are left as they are."""
    center_method: Literal["poses", "focus", "none"] = "poses"
    """Method to centre the poses of a `transforms.json`."""
    auto_scale_poses: bool = True
    """Scale the poses of a `transforms.json` into the box [-1, 1]."""
    alpha_color: str | None = None
    """Background colour to composite transparent images over; unset keeps their alpha, and the model
    composites them and its renderings over its own background."""
    missing_alpha: Literal["error", "opaque"] = "error"
    """Images without alpha where others have it: error stops, as something may be painted behind the object;
    opaque takes them to show the object, or what is to be learned, in all of their pixels."""
    depth_unit_scale_factor: float = 1e-3
    """Metres per unit of the depth images."""


@dataclass
class PreciseOutputs(DataparserOutputs):
    """nerfstudio's outputs with a transform in float64, as cameras far from the origin of a map need."""

    def transform_poses_to_original_space(
        self, poses: Float[Tensor, "n 3 4"], camera_convention: Literal["opengl", "opencv"] = "opencv"
    ) -> Float[Tensor, "n 3 4"]:
        """Map parsed poses to the coordinates of the files, in float64."""
        return super().transform_poses_to_original_space(poses.double(), camera_convention)


@dataclass(frozen=True)
class Capture:
    """All frames of a scene, and what holds for all of them.

    Attributes:
        splits: frames of each split, with times scaled.
        coordinates: the map from stored to parsed coordinates.
        is_single: whether one `transforms.json` lists all frames; its poses are oriented, centred and scaled.
        meta: contents of the transforms file of the train split.
        folder: its folder, where the paths in `meta` start.
        eval_split: split to evaluate on instead of val and test; "" for none.
    """

    splits: Splits
    coordinates: Coordinates
    is_single: bool
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
        self._headers: dict[Path, ImageHeader] = {}

    @cached_property
    def capture(self) -> Capture:
        """The scene as its files describe it; read once."""
        return read_capture(self.config)

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> DataparserOutputs:
        capture = self.capture
        frames = capture.splits[_resolve_split(capture, split)]
        check_files(frames, can_skip=True)
        headers = [self._header(frame.image) for frame in frames]
        if self.config.alpha_color is None and self.config.missing_alpha == "error":
            self._check_alpha(frames[0].file)
        images, sizes = self._images_at_size(frames, [header.size for header in headers])
        cameras = make_cameras(frames, headers, sizes, capture.coordinates)
        viewpoints = viewpoint_notes(frames) if split == "train" else ()
        for note in (*camera_notes(frames, headers), *file_notes(frames), *viewpoints):
            CONSOLE.log(note[0].upper() + note[1:])
        return PreciseOutputs(
            image_filenames=images,
            cameras=cameras,
            alpha_color=get_color(self.config.alpha_color) if self.config.alpha_color else None,
            scene_box=self._scene_box(),
            mask_filenames=cast(list[Path], file_paths(frames, "mask")),
            dataparser_transform=_to_original(capture),
            dataparser_scale=capture.coordinates.scale,
            metadata={
                "fill_alpha": self.config.missing_alpha == "opaque" and self._has_alpha(),
                "resize_on_load": sizes != [self._header(image).size for image in images],
                "depth_filenames": file_paths(frames, "depth"),
                "depth_unit_scale_factor": self.config.depth_unit_scale_factor,
                GIVEN_BOX: self.config.scene_scale is not None,
                **(_seed_points(capture) if split == "train" else {}),
            },
        )

    def _scene_box(self) -> SceneBox:
        half = self.config.scene_scale or (1.0 if self.capture.is_single else 1.5)
        return SceneBox(aabb=torch.tensor([[-half] * 3, [half] * 3]))

    def _header(self, image: Path) -> ImageHeader:
        """The header of an image, read once."""
        if image not in self._headers:
            self._headers[image] = image_header(image)
        return self._headers[image]

    def _check_alpha(self, file: Path) -> None:
        """ValueError if only some of the images that a transforms file lists have alpha."""
        frames = [frame for split in self.capture.splits.values() for frame in split if frame.file == file]
        images = {
            frame.image: self._header(frame.image).has_alpha for frame in frames if frame.image.is_file()
        }
        for problem in alpha_problems(images):
            raise ValueError(f"{file}: {problem}")

    def _has_alpha(self) -> bool:
        """Whether any image of the scene has alpha."""
        images = (frame.image for split in self.capture.splits.values() for frame in split)
        return any(self._header(image).has_alpha for image in images if image.is_file())

    def _images_at_size(self, frames: list[Frame], stored: list[Size]) -> tuple[list[Path], list[Size]]:
        """Image files, and the sizes to use them at: those of a sibling folder (`images_2`) as they are, or
        the stored ones, to be made smaller."""
        factor, images = self._factor(stored), [frame.image for frame in frames]
        if factor == 1:
            return images, stored
        small = [p.parent.with_name(f"{p.parent.name}_{factor:g}") / p.name for p in images]
        if not all(path.is_file() for path in small):
            return images, [_shrunk(size, factor, image) for size, image in zip(stored, images, strict=True)]
        sizes = [self._header(path).size for path in small]
        for path, size, full in zip(small, sizes, stored, strict=True):
            if not is_scaled(size, full):
                raise ValueError(
                    f"{path}: the image is {size[0]}×{size[1]} pixels, which is no {full[0]}×{full[1]} made "
                    f"{factor:g} times smaller; remove the folder, and images are made smaller when loaded"
                )
        return small, sizes

    def _factor(self, sizes: list[Size]) -> float:
        """The downscaling factor that the settings ask for, or the one that suits these image sizes."""
        if self.downscale_factor is None:
            longest = max(max(size) for size in sizes)
            self.downscale_factor = float(2 ** max(0, math.ceil(math.log2(longest / MAX_AUTO_RESOLUTION))))
            if self.downscale_factor > 1:
                CONSOLE.log(f"Images are {longest} pixels long: downscaling by {self.downscale_factor:g}")
        if not self.downscale_factor > 0:
            raise ValueError(f"downscale_factor must be positive, not {self.downscale_factor}")
        return float(self.downscale_factor)


def read_capture(config: NestDynamicDataParserConfig) -> Capture:
    """Read all transforms files of a scene and check what can be checked without its images.

    Args:
        config: settings of the data parser.

    Returns:
        The scene, with its splits and times resolved.

    Raises:
        FileNotFoundError: no such scene.
        ValueError: broken JSON, poses that are not finite, fewer than two train frames, no or equal times.
    """
    files, eval_split = find_transforms(config.data)
    metas = {split: read_transforms(path) for split, path in files.items()}
    splits: Splits = {split: read_frames(metas[split], path) for split, path in files.items()}
    splits = {split: with_times(frames, config.time_from, list(files)) for split, frames in splits.items()}
    single = "" in files
    train = "" if single else "train"
    folder = files[train].parent
    present = splits
    if config.skip_missing:
        present = {split: skip_missing(frames) for split, frames in splits.items()}
    if single:
        splits = listed_splits(splits[""], metas[""], files[""])
    splits = _only(splits, [frame for frames in present.values() for frame in frames])
    if "train" not in splits:
        raise FileNotFoundError(f"{files[train]}: all images of the train split are missing")
    coordinates = _coordinates(present[train], metas[train], config, single)
    eval_split = eval_split or config.eval_split
    if config.eval_camera and eval_split:
        raise ValueError(f"evaluate either on the camera {config.eval_camera} or on the split {eval_split}")
    if config.eval_camera:
        splits = hold_out_camera(splits, config.eval_camera)
    elif not eval_split and not any(name in splits for name in EVAL_SPLITS):
        splits |= hold_out(splits["train"], config.eval_interval)
    if config.time_from == "still":
        return Capture(splits, coordinates, single, metas[train], folder, eval_split)
    splits = scale_times(splits, config.time_scale, can_order=len(files) == 1)
    if (config.train_interval, config.train_span) != (1, (0.0, 1.0)):
        splits = crop_clip(splits, config.train_interval, config.train_span)
    return Capture(splits, coordinates, single, metas[train], folder, eval_split)


def _only(splits: Splits, kept: list[Frame]) -> Splits:
    """The splits without the frames that were not kept, and without those that are empty then."""
    chosen = {id(frame) for frame in kept}
    left = {split: [frame for frame in frames if id(frame) in chosen] for split, frames in splits.items()}
    return {split: frames for split, frames in left.items() if frames}


def _coordinates(
    frames: list[Frame], meta: dict[str, Any], config: NestDynamicDataParserConfig, single: bool
) -> Coordinates:
    """The map from stored to parsed coordinates that the settings ask for."""
    poses = stack_poses(frames)
    if not single:
        return keep_poses(poses, config.scale_factor)
    orientation = meta.get("orientation_override", config.orientation_method)
    return fit_poses(poses, orientation, config.center_method, config.auto_scale_poses, config.scale_factor)


def _to_original(capture: Capture) -> Float[Tensor, "3 4"]:
    """The transform from the coordinates before processing, which `applied_transform` maps to the stored."""
    transform, applied = capture.coordinates.transform, capture.meta.get("applied_transform")
    if applied is None:
        return transform
    rows = torch.tensor(applied, dtype=torch.float64)[:3]
    return transform @ torch.cat([rows, torch.tensor([[0.0, 0.0, 0.0, 1.0]], dtype=torch.float64)])


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


def _shrunk(size: Size, factor: float, image: Path) -> Size:
    """A size, made smaller by a factor; ValueError if nothing is left."""
    width, height = (int(length / factor) for length in size)
    if min(width, height) < 1:
        raise ValueError(f"downscale_factor {factor:g} leaves nothing of {image}, {size[0]}×{size[1]} pixels")
    return width, height


def _seed_points(capture: Capture) -> dict[str, Tensor]:
    """The point cloud that the transforms file names, in parsed coordinates, under nerfstudio's keys."""
    cloud = read_seed_points(capture.meta, capture.folder)
    if cloud is None:
        return {}
    xyz = capture.coordinates.points(cloud.positions).float()
    return {"points3D_xyz": xyz, "points3D_rgb": (cloud.rgb * 255).round().to(torch.uint8)}
