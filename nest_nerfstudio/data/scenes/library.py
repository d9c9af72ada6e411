"""Pictures of many scenes, streamed from disk through bounded caches."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Generic, TypeVar

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datamanagers.full_images_datamanager import _undistort_image

from nest_nerfstudio.data.scenes.index import ScenesIndex
from nest_nerfstudio.data.scenes.reader import Scene, read_scene
from nest_nerfstudio.types import Views

V = TypeVar("V")


def _one(value: object) -> int:
    return 1


class BoundedCache(Generic[V]):
    """Keeps what was used last, up to a total cost; safe among threads, and of each process alone.

    A process that was forked, or that received the cache in a message, starts with an empty one.

    Args:
        capacity: largest total cost; what alone costs more is not kept.
        cost: of one value.
    """

    def __init__(self, capacity: int, cost: Callable[[V], int] = _one):
        self.capacity, self.cost = capacity, cost
        self._start()

    def get(self, key: Hashable, make: Callable[[], V]) -> V:
        """The value kept under a key, or a new one, kept in place of those unused for longest."""
        if self._pid != os.getpid():
            self._start()
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = make()  # outside the lock: threads that want other values need not wait
        with self._lock:
            if key not in self._values:
                self._values[key] = value
                self.total += self.cost(value)
            while self.total > self.capacity:
                self.total -= self.cost(self._values.popitem(last=False)[1])
        return value

    def __len__(self) -> int:
        return len(self._values)

    def _start(self) -> None:
        self._pid, self._lock, self.total = os.getpid(), Lock(), 0
        self._values: OrderedDict[Hashable, V] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"capacity": self.capacity, "cost": self.cost}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)


@dataclass(frozen=True)
class Picture:
    """A picture as a pinhole camera would have taken it.

    Attributes:
        pixels: RGB, or RGBA with straight alpha; a mask is part of the alpha.
        K: pinhole intrinsics, pixels.
        depth: camera-space z, world units, 0 where unknown; None where the scene has none.
    """

    pixels: UInt8[np.ndarray, "h w c"]
    K: Float[np.ndarray, "3 3"]
    depth: Float[np.ndarray, "h w 1"] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is in it: alpha or mask are zero everywhere."""
        return self.pixels.shape[-1] == 4 and not self.pixels[..., 3].any()


class SceneLibrary:
    """Reads scenes and pictures of an index when they are asked for, and keeps those used last.

    Args:
        index: of all scenes.
        cache_megabytes: decoded pictures to keep, as uint8.
        max_scenes: scenes whose frames (not pictures) to keep.
    """

    def __init__(self, index: ScenesIndex, cache_megabytes: float = 128.0, max_scenes: int = 128):
        self.index = index
        self._scenes: BoundedCache[Scene] = BoundedCache(max_scenes)
        self._pictures: BoundedCache[Picture] = BoundedCache(int(cache_megabytes * 2**20), _num_bytes)

    @property
    def cached_megabytes(self) -> float:
        """Size of the pictures kept now."""
        return self._pictures.total / 2**20

    def scene(self, number: int) -> Scene:
        """The frames of a scene; raises as `read_scene` does."""
        return self._scenes.get(number, lambda: read_scene(self.index, number))

    def picture(self, scene: Scene, frame: int) -> Picture:
        """One picture of a scene, with its lens distortion undone.

        Raises:
            ValueError: a file is broken; it is named.
        """
        path = str(scene.dataset.image_filenames[frame])
        return self._pictures.get((scene.name, path), lambda: _read_picture(scene, frame))

    def views(self, scene: Scene, frames: Sequence[int]) -> Views:
        """Cameras and pictures of some frames.

        Where a picture has alpha (or a mask, which is taken for it), those that have none count as opaque;
        where none has, `alphas` is None. Depths are left out under lens distortion, which displaces them.
        """
        pictures = [self.picture(scene, frame) for frame in frames]
        has_alpha = any(p.pixels.shape[-1] == 4 for p in pictures)
        pixels = [_with_alpha(p.pixels) if has_alpha else p.pixels for p in pictures]
        images = torch.from_numpy(np.stack(pixels)).float() / 255.0
        depths = [p.depth for p in pictures if p.depth is not None]
        cameras, index = scene.views, torch.tensor(list(frames))
        return Views(
            viewmats=cameras.viewmats[index],
            Ks=torch.from_numpy(np.stack([p.K for p in pictures])),
            width=cameras.width,
            height=cameras.height,
            times=None if cameras.times is None else cameras.times[index],
            images=images[..., :3].contiguous(),
            alphas=images[..., 3:].contiguous() if has_alpha else None,
            depths=torch.from_numpy(np.stack(depths)) if len(depths) == len(pictures) else None,
        )


def _read_picture(scene: Scene, frame: int) -> Picture:
    dataset = scene.dataset
    pixels, K = dataset.get_numpy_image(frame), scene.views.Ks[frame].numpy()
    if dataset._dataparser_outputs.mask_filenames is not None:
        pixels = _with_alpha(pixels, dataset.get_mask(frame).numpy())
    camera = dataset.cameras[frame]
    if camera.distortion_params is not None and camera.distortion_params.any():
        pixels, K = _undistorted(pixels, camera)
        return Picture(pixels, K.astype(np.float32))
    has_depth = dataset.metadata.get("depth_filenames") is not None
    depth = dataset.get_depth(frame).numpy().astype(np.float32) if has_depth else None
    return Picture(pixels, K.astype(np.float32), depth)


def _undistorted(
    pixels: UInt8[np.ndarray, "h w c"], camera: Cameras
) -> tuple[UInt8[np.ndarray, "h w c"], Float[np.ndarray, "3 3"]]:
    """The pinhole picture that nerfstudio makes, at the size of the camera, which it crops."""
    assert camera.distortion_params is not None
    K = camera.get_intrinsics_matrices().numpy()
    K, cropped, valid = _undistort_image(
        camera, camera.distortion_params.numpy(), {"image": pixels}, pixels, K
    )
    if valid is not None:
        cropped = _with_alpha(cropped, valid.numpy())
    width, height = int(camera.width), int(camera.height)
    K = K * np.array([[width / cropped.shape[1]], [height / cropped.shape[0]], [1.0]])
    return cv2.resize(cropped, (width, height), interpolation=cv2.INTER_AREA), K


def _with_alpha(
    pixels: UInt8[np.ndarray, "h w c"], mask: Bool[np.ndarray, "h w 1"] | None = None
) -> UInt8[np.ndarray, "h w 4"]:
    """RGBA, opaque where there was no alpha, and transparent outside the mask."""
    opaque = np.full_like(pixels[..., :1], 255)
    alpha = pixels[..., 3:] if pixels.shape[-1] == 4 else opaque
    return np.concatenate([pixels[..., :3], alpha if mask is None else alpha * mask], axis=-1)


def _num_bytes(picture: Picture) -> int:
    return picture.pixels.nbytes + (0 if picture.depth is None else picture.depth.nbytes)
