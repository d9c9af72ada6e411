"""Images of one split as tensors, with masks and depths where there are any."""

from __future__ import annotations

from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.data.utils.data_utils import get_depth_image_from_path
from PIL import Image
from torch import Tensor

from nest_nerfstudio.data.images import BROKEN_IMAGE, has_alpha, open_image


class DynamicDataset(InputDataset):
    """Reads images, masks and depths at the size of their cameras; an error names the damaged file.

    An image of another size is an error, unless the data parser asks for resizing
    (`metadata["resize_on_load"]`) or the data manager does (`scale_factor`). Masks are always resized.

    Args:
        dataparser_outputs: files and cameras of the split.
        scale_factor: factor on the size of cameras and images.

    Attributes:
        sizes: width and height of each image, pixels.
        resize: whether images of other sizes are resized.
    """

    def __init__(self, dataparser_outputs: DataparserOutputs, scale_factor: float = 1.0):
        super().__init__(dataparser_outputs, scale_factor)
        _to_float32(self.cameras)
        self.exclude_batch_keys_from_device = ["image", "mask", "depth_image"]
        # A copy: undistortion crops cameras once images are cached, but files keep their size.
        sizes = torch.cat([self.cameras.width, self.cameras.height], dim=-1)
        self.sizes: list[tuple[int, int]] = [(w, h) for w, h in sizes.tolist()]
        self.resize = scale_factor != 1.0 or bool(self.metadata.get("resize_on_load", False))

    def get_numpy_image(self, image_idx: int) -> npt.NDArray[np.uint8]:
        """Read one image.

        Args:
            image_idx: index of the image in the split.

        Returns:
            RGB or RGBA (straight alpha) in [0, 255], [h, w, 3 or 4].

        Raises:
            ValueError: a damaged file, or an image of another size than its camera.
        """
        path, size = self.image_filenames[image_idx], self.sizes[image_idx]
        with open_image(path) as file:
            image = file.convert("RGBA" if has_alpha(file) else "RGB")
        if image.size != size and not self.resize:
            raise ValueError(f"{path}: the image is {_by(image.size)} pixels, but its camera is {_by(size)}")
        if image.size != size:
            image = image.resize(size, Image.Resampling.BOX)  # Pillow weights colours by alpha here
        return np.array(image)

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
        if self._dataparser_outputs.mask_filenames is not None:
            data["mask"] = self.get_mask(image_idx)
            self._paint_masked(data)
        if self.metadata.get("depth_filenames") is not None:
            data["depth_image"] = self.get_depth(image_idx)
        return data

    def __getitem__(self, image_idx: int) -> dict[str, Any]:
        """Read one image for display: as `get_data`, with transparent images composited over white."""
        data = self.get_data(image_idx)
        rgb, alpha = data["image"][..., :3], data["image"][..., 3:]
        return {**data, "image": rgb * alpha + (1 - alpha)} if alpha.shape[-1] else data

    def get_mask(self, image_idx: int) -> Bool[Tensor, "h w 1"]:
        """Read which pixels of an image to use; ValueError if the file is damaged."""
        assert self._dataparser_outputs.mask_filenames is not None
        path = self._dataparser_outputs.mask_filenames[image_idx]
        with open_image(path, "mask") as file:
            mask = file.convert("L").resize(self.sizes[image_idx], Image.Resampling.NEAREST)
        return torch.from_numpy(np.array(mask)).bool()[..., None]

    def get_depth(self, image_idx: int) -> Float[Tensor, "h w 1"]:
        """Read the camera-space z of an image in parsed units, 0 where unknown; ValueError if damaged."""
        path, (width, height) = self.metadata["depth_filenames"][image_idx], self.sizes[image_idx]
        unit = self.metadata["depth_unit_scale_factor"] * self._dataparser_outputs.dataparser_scale
        try:
            return get_depth_image_from_path(path, height, width, unit)
        except (*BROKEN_IMAGE, AttributeError, cv2.error) as error:
            raise ValueError(f"{path}: cannot read the depth image: {error}") from error

    def _paint_masked(self, data: dict[str, Any]) -> None:
        """Give pixels outside the mask the data parser's `mask_color`, if it has one."""
        if self.mask_color:
            most = 255 if data["image"].dtype == torch.uint8 else 1
            paint = (torch.tensor(self.mask_color) * most).to(data["image"].dtype)
            data["image"][..., :3] = torch.where(data["mask"], data["image"][..., :3], paint)


def _to_float32(cameras: Cameras) -> None:
    """Convert intrinsics that some of nerfstudio's parsers leave in float64, which no rasterizer takes."""
    for name in ("fx", "fy", "cx", "cy"):
        setattr(cameras, name, getattr(cameras, name).float())


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"
