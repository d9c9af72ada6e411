"""Images of many scenes, read from disk through bounded caches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datamanagers.full_images_datamanager import _undistort_image

from nest_nerfstudio.data.scenes.cache import BoundedCache
from nest_nerfstudio.data.scenes.index import ScenesIndex
from nest_nerfstudio.data.scenes.reader import Scene, read_scene
from nest_nerfstudio.types import Views


@dataclass(frozen=True)
class LoadedImage:
    """A decoded image, with lens distortion undone.

    Attributes:
        pixels: RGB, or RGBA with straight alpha, in [0, 255]; a mask is part of the alpha.
        K: pinhole intrinsics, pixels.
        depth: camera-space z, world units, 0 where unknown; None where the scene has none.
    """

    pixels: UInt8[np.ndarray, "h w c"]
    K: Float[np.ndarray, "3 3"]
    depth: Float[np.ndarray, "h w 1"] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether its alpha, and so its mask, is zero everywhere."""
        return self.pixels.shape[-1] == 4 and not self.pixels[..., 3].any()


class SceneLibrary:
    """Reads scenes and images of an index on demand, and keeps those used last.

    Args:
        index: index of all scenes.
        cache_megabytes: size of the decoded images to keep, as uint8.
        max_scenes: number of scenes to keep, without their images.
    """

    def __init__(self, index: ScenesIndex, cache_megabytes: float = 128.0, max_scenes: int = 128):
        self.index = index
        self._scenes: BoundedCache[Scene] = BoundedCache(max_scenes)
        self._images: BoundedCache[LoadedImage] = BoundedCache(int(cache_megabytes * 2**20), _num_bytes)

    @property
    def cached_megabytes(self) -> float:
        """Size of the images kept now."""
        return self._images.total / 2**20

    @property
    def num_cached_scenes(self) -> int:
        """Number of scenes kept now."""
        return len(self._scenes)

    def scene(self, number: int) -> Scene:
        """The frames of a scene; raises as `read_scene` does."""
        return self._scenes.get(number, lambda: read_scene(self.index, number))

    def image(self, scene: Scene, frame: int) -> LoadedImage:
        """One image of a scene; ValueError, naming the file, if it is damaged."""
        path = str(scene.dataset.image_filenames[frame])
        return self._images.get((scene.name, path), lambda: _load_image(scene, frame))

    def views(self, scene: Scene, frames: Sequence[int]) -> Views:
        """Cameras and images of some frames of a scene.

        If an image has alpha (or a mask, which becomes alpha), those without count as opaque; `alphas` is
        None if none has. Depths are left out under lens distortion, which displaces them.

        Args:
            scene: the scene.
            frames: numbers of its frames.

        Raises:
            ValueError: a damaged file.
        """
        loaded = [self.image(scene, frame) for frame in frames]
        has_alpha = any(image.pixels.shape[-1] == 4 for image in loaded)
        pixels = [_with_alpha(image.pixels) if has_alpha else image.pixels for image in loaded]
        images = torch.from_numpy(np.stack(pixels)).float() / 255.0
        depths = [image.depth for image in loaded if image.depth is not None]
        cameras, index = scene.views, torch.tensor(list(frames))
        return Views(
            viewmats=cameras.viewmats[index],
            Ks=torch.from_numpy(np.stack([image.K for image in loaded])),
            width=cameras.width,
            height=cameras.height,
            times=None if cameras.times is None else cameras.times[index],
            images=images[..., :3].contiguous(),
            alphas=images[..., 3:].contiguous() if has_alpha else None,
            depths=torch.from_numpy(np.stack(depths)) if len(depths) == len(loaded) else None,
        )


def _load_image(scene: Scene, frame: int) -> LoadedImage:
    dataset = scene.dataset
    pixels, K = dataset.get_numpy_image(frame), scene.views.Ks[frame].numpy()
    if dataset._dataparser_outputs.mask_filenames is not None:
        pixels = _with_alpha(pixels, dataset.get_mask(frame).numpy())
    camera = dataset.cameras[frame]
    if camera.distortion_params is not None and camera.distortion_params.any():
        pixels, K = _undistorted(pixels, camera)
        return LoadedImage(pixels, K.astype(np.float32))
    has_depth = dataset.metadata.get("depth_filenames") is not None
    depth = dataset.get_depth(frame).numpy().astype(np.float32) if has_depth else None
    return LoadedImage(pixels, K.astype(np.float32), depth)


def _undistorted(
    pixels: UInt8[np.ndarray, "h w c"], camera: Cameras
) -> tuple[UInt8[np.ndarray, "h w c"], Float[np.ndarray, "3 3"]]:
    """The pinhole image that nerfstudio makes, resized to the size of the camera, and its intrinsics."""
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


def _num_bytes(image: LoadedImage) -> int:
    return image.pixels.nbytes + (0 if image.depth is None else image.depth.nbytes)
