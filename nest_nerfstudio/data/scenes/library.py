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
        pixels: RGB, or RGBA with straight alpha, in [0, 255]; an image without alpha has its mask for alpha.
        mask: which pixels to use, where it is not the alpha; None for all.
        depth: camera-space z, world units, 0 where unknown; None where the scene has none.
    """

    pixels: UInt8[np.ndarray, "h w c"]
    mask: Bool[np.ndarray, "h w 1"] | None = None
    depth: Float[np.ndarray, "h w 1"] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether its alpha is zero in all pixels to use."""
        if self.pixels.shape[-1] == 3:
            return False
        alpha = self.pixels[..., 3:]
        return not (alpha if self.mask is None else alpha * self.mask).any()


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

        If an image has alpha (or in its place a mask, which is then taken for the silhouette), those without
        count as opaque; `alphas` is None if none has. Depths of images without are unknown, and all pixels of
        images without a mask are used; `depths` and `masks` are None if none has one.

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
        masks = [np.ones_like(unknown, bool) if image.mask is None else image.mask for image in loaded]
        has_mask = any(image.mask is not None for image in loaded)
        return Views(
            viewmats=cameras.viewmats[index],
            Ks=cameras.Ks[index],
            width=cameras.width,
            height=cameras.height,
            times=None if cameras.times is None else cameras.times[index],
            images=images[..., :3].contiguous(),
            alphas=images[..., 3:].contiguous() if has_alpha else None,
            depths=torch.from_numpy(np.stack(depths)) if has_depth else None,
            masks=torch.from_numpy(np.stack(masks)).float() if has_mask else None,
        )


def _load_image(scene: Scene, frame: int) -> LoadedImage:
    data = scene.dataset.get_data(frame, "uint8")
    pixels = data["image"].numpy()
    mask, depth = (data[name].numpy() if name in data else None for name in ("mask", "depth_image"))
    if mask is None or pixels.shape[-1] == 4 or not scene.dataset.has_mask_file(frame):
        return LoadedImage(pixels, mask, depth)
    lens = scene.dataset.lenses[frame]
    inside = lens.inside if lens.distorts else None
    rgba = np.concatenate([pixels, np.uint8(255) * mask], axis=-1)
    return LoadedImage(rgba, None if inside is None else inside[..., None], depth)


def _with_alpha(pixels: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w 4"]:
    """RGBA, opaque where there was no alpha."""
    opaque = np.full_like(pixels[..., :1], 255)
    return pixels if pixels.shape[-1] == 4 else np.concatenate([pixels, opaque], axis=-1)


def _num_bytes(image: LoadedImage) -> int:
    return sum(part.nbytes for part in (image.pixels, image.mask, image.depth) if part is not None)
