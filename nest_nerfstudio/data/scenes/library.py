"""Images of many scenes, read from disk through bounded caches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8

from nest_nerfstudio.data.scenes.cache import BoundedCache
from nest_nerfstudio.data.scenes.index import ScenesIndex
from nest_nerfstudio.data.scenes.reader import Scene, read_scene
from nest_nerfstudio.types import Views


@dataclass(frozen=True)
class LoadedImage:
    """A decoded image of a pinhole camera.

    Attributes:
        pixels: RGB, or RGBA with straight alpha, in [0, 255]; a mask is part of the alpha.
        depth: camera-space z, world units, 0 where unknown; None where the scene has none.
    """

    pixels: UInt8[np.ndarray, "h w c"]
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
        None if none has. Depths of images without are unknown; `depths` is None if none has one.

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
        cameras, index = scene.views, torch.tensor(list(frames))
        unknown = np.zeros((cameras.height, cameras.width, 1), np.float32)
        depths = [unknown if image.depth is None else image.depth for image in loaded]
        has_depth = any(image.depth is not None for image in loaded)
        return Views(
            viewmats=cameras.viewmats[index],
            Ks=cameras.Ks[index],
            width=cameras.width,
            height=cameras.height,
            times=None if cameras.times is None else cameras.times[index],
            images=images[..., :3].contiguous(),
            alphas=images[..., 3:].contiguous() if has_alpha else None,
            depths=torch.from_numpy(np.stack(depths)) if has_depth else None,
        )


def _load_image(scene: Scene, frame: int) -> LoadedImage:
    data = scene.dataset.get_data(frame, "uint8")
    pixels, mask, depth = data["image"].numpy(), data.get("mask"), data.get("depth_image")
    if mask is not None:
        pixels = _with_alpha(pixels, mask.numpy())
    return LoadedImage(pixels, None if depth is None else depth.numpy())


def _with_alpha(
    pixels: UInt8[np.ndarray, "h w c"], mask: Bool[np.ndarray, "h w 1"] | None = None
) -> UInt8[np.ndarray, "h w 4"]:
    """RGBA, opaque where there was no alpha, and transparent outside the mask."""
    opaque = np.full_like(pixels[..., :1], 255)
    alpha = pixels[..., 3:] if pixels.shape[-1] == 4 else opaque
    return np.concatenate([pixels[..., :3], alpha if mask is None else alpha * mask], axis=-1)


def _num_bytes(image: LoadedImage) -> int:
    return image.pixels.nbytes + (0 if image.depth is None else image.depth.nbytes)
