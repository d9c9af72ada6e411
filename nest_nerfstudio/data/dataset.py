"""Images of one split as tensors, with masks and depths where there are any."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, UInt8
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from PIL import Image
from torch import Tensor

from nest_nerfstudio.data.images import Size, image_header, read_depth, read_image, read_mask
from nest_nerfstudio.data.lenses import lenses_of, pinhole_cameras
from nest_nerfstudio.data.world import World
from nest_nerfstudio.host import to_float32


class DynamicDataset(InputDataset):
    """Reads pinhole images with masks and depths, at the size of their cameras; errors name the file.

    Lens distortion and fisheye projection are undone as a file is read, and `cameras` are those of the
    pinhole images from the start. An image of another size is an error, unless the data parser asks for
    resizing (`metadata["resize_on_load"]`) or the data manager does (`scale_factor`). Masks and depths of the
    same ratio are always resized. An image may have no mask, then all of its pixels are used, or no depth,
    then it is unknown.

    Args:
        dataparser_outputs: files and cameras of the split.
        scale_factor: factor on the size of cameras and images.

    Attributes:
        sizes: width and height of each image, pixels.
        lenses: lens of each image as stored.
        resize: whether images of other sizes are resized.
        fill_alpha: whether images without alpha get one, opaque (`metadata["fill_alpha"]`).

    Raises:
        ValueError: a camera that has no pinhole image.
    """

    def __init__(self, dataparser_outputs: DataparserOutputs, scale_factor: float = 1.0):
        super().__init__(dataparser_outputs, scale_factor)
        to_float32(self.cameras)
        self.exclude_batch_keys_from_device = ["image", "mask", "depth_image"]
        self.lenses = lenses_of(self.cameras)
        self.cameras = pinhole_cameras(self.cameras, self.lenses)
        self.sizes = [lens.size for lens in self.lenses]
        self.fill_alpha = bool(self.metadata.get("fill_alpha", False))
        self.resize = scale_factor != 1.0 or bool(self.metadata.get("resize_on_load", False))

    def move(self, change: World) -> None:
        """Go over to other coordinates, cameras and depths."""
        self._dataparser_outputs = change.apply(self._dataparser_outputs)
        self.cameras = change.move(self.cameras)

    def get_numpy_image(self, image_idx: int) -> npt.NDArray[np.uint8]:
        """Read one image.

        Args:
            image_idx: index of the image in the split.

        Returns:
            RGB or RGBA (straight alpha) in [0, 255], [h, w, 3 or 4].

        Raises:
            ValueError: a damaged file, or an image of another size than its camera.
        """
        path, lens = self.image_filenames[image_idx], self.lenses[image_idx]
        image = read_image(path, lens.size if self.resize else None)
        if image.size != lens.size and not self.resize:
            raise ValueError(
                f"{path}: the image is {_by(image.size)} pixels, but its camera is {_by(lens.size)}"
            )
        if image.size != lens.size:
            image = image.resize(lens.size, Image.Resampling.BOX)  # Pillow weights colours by alpha here
        if self.fill_alpha:
            image = image.convert("RGBA")
        return lens.undistort(np.array(image)) if lens.distorts else np.array(image)

    def get_image_uint8(self, image_idx: int) -> UInt8[Tensor, "h w c"]:
        """Read one image, laid over the data parser's `alpha_color` if it has one."""
        if self._dataparser_outputs.alpha_color is None:
            return torch.from_numpy(self.get_numpy_image(image_idx))
        return (self.get_image_float32(image_idx) * 255).round().to(torch.uint8)

    def get_data(self, image_idx: int, image_type: Literal["uint8", "float32"] = "float32") -> dict[str, Any]:
        """Read one image with its mask and depth.

        Args:
            image_idx: index of the image in the split.
            image_type: float32 in [0, 1], or uint8.

        Returns:
            `image_idx`, `image` [h, w, 3 or 4], and `mask` and `depth_image` [h, w, 1] where there are any.

        Raises:
            ValueError: as `get_numpy_image`, `get_mask` and `get_depth`.
        """
        read = self.get_image_float32 if image_type == "float32" else self.get_image_uint8
        data: dict[str, Any] = {"image_idx": image_idx, "image": read(image_idx)}
        mask, depth = self.get_mask(image_idx), self.get_depth(image_idx)
        if mask is not None:
            data["mask"] = mask
            self._paint_masked(data)
        if depth is not None:
            data["depth_image"] = depth
        return data

    def __getitem__(self, image_idx: int) -> dict[str, Any]:
        """Read one image for display: as `get_data`, with transparent images composited over white."""
        data = self.get_data(image_idx)
        rgb, alpha = data["image"][..., :3], data["image"][..., 3:]
        return {**data, "image": rgb * alpha + (1 - alpha)} if alpha.shape[-1] else data

    def get_mask(self, image_idx: int) -> Bool[Tensor, "h w 1"] | None:
        """Read which pixels of an image to use, None for all; ValueError as `read_mask`."""
        files, lens = self._dataparser_outputs.mask_filenames, self.lenses[image_idx]
        path = files[image_idx] if files else None
        mask = None if path is None else read_mask(path, lens.size, self._stored_size(image_idx))
        if lens.distorts:
            mask = lens.inside if mask is None else lens.undistort_mask(mask)
        return None if mask is None else torch.from_numpy(mask)[..., None]

    def has_mask_file(self, image_idx: int) -> bool:
        """Whether the data has a mask of an image; a lens may mask out pixels where it has none."""
        files = self._dataparser_outputs.mask_filenames
        return bool(files) and files[image_idx] is not None

    def get_depth(self, image_idx: int) -> Float[Tensor, "h w 1"] | None:
        """Read the camera-space z of an image in parsed units, 0 where unknown; errors as `read_depth`."""
        files, lens = self.metadata.get("depth_filenames"), self.lenses[image_idx]
        path = files[image_idx] if files else None
        if path is None:
            return None
        unit = self.metadata["depth_unit_scale_factor"] * self._dataparser_outputs.dataparser_scale
        depth = read_depth(path, lens.size, self._stored_size(image_idx)) * np.float32(unit)
        return torch.from_numpy(lens.undistort_depth(depth) if lens.distorts else depth)[..., None]

    def _stored_size(self, image_idx: int) -> Size:
        """Width and height of an image before it is resized."""
        return image_header(self.image_filenames[image_idx]).size if self.resize else self.sizes[image_idx]

    def _paint_masked(self, data: dict[str, Any]) -> None:
        """Give pixels outside the mask the data parser's `mask_color`, if it has one."""
        if self.mask_color:
            most = 255 if data["image"].dtype == torch.uint8 else 1
            paint = (torch.tensor(self.mask_color) * most).to(data["image"].dtype)
            data["image"][..., :3] = torch.where(data["mask"], data["image"][..., :3], paint)


def _by(size: Size) -> str:
    return f"{size[0]}×{size[1]}"
