"""Pictures of one split as tensors, with masks and depths where there are any."""

from __future__ import annotations

import struct
import zlib
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

# What Pillow raises on broken files, depending on where in the file the fault is.
BROKEN_IMAGE = (OSError, SyntaxError, ValueError, struct.error, zlib.error)


class DynamicDataset(InputDataset):
    """Reads pictures, masks and depths at the size of their cameras; a bad file is named.

    A picture of another size is an error, unless the parser asks for resizing (`metadata["resize_on_load"]`)
    or the data manager does (`scale_factor`). Masks are resized to fit.
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
        """Read one picture.

        Args:
            image_idx: which one.

        Returns:
            RGB or RGBA (straight alpha) in [0, 255], [h, w, 3 or 4].

        Raises:
            ValueError: a broken file, or a picture that is not of its camera's size.
        """
        path, size = self.image_filenames[image_idx], self.sizes[image_idx]
        try:
            with Image.open(path) as file:
                alpha = "A" in file.getbands() or "transparency" in file.info
                image = file.convert("RGBA" if alpha else "RGB")
        except BROKEN_IMAGE as error:
            raise ValueError(f"cannot read image {path}: {error}; it is damaged or cut short") from error
        if image.size != size and not self.resize:
            raise ValueError(f"image {path} is {_by(image.size)} pixels, but its camera is {_by(size)}")
        if image.size != size:
            image = image.resize(size, Image.Resampling.BOX)  # Pillow weights colours by alpha here
        return np.array(image)

    def get_data(self, image_idx: int, image_type: Literal["uint8", "float32"] = "float32") -> dict[str, Any]:
        """Read one picture with all that belongs to it.

        Args:
            image_idx: which one.
            image_type: of the picture: float32 in [0, 1] or uint8.

        Returns:
            `image_idx`, `image` [h, w, 3 or 4], and `mask` and `depth_image` [h, w, 1] where there are any.
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
        """Read one picture to be shown; transparent ones are laid over white, as the model shows them."""
        data = self.get_data(image_idx)
        rgb, alpha = data["image"][..., :3], data["image"][..., 3:]
        return {**data, "image": rgb * alpha + (1 - alpha)} if alpha.shape[-1] else data

    def get_mask(self, image_idx: int) -> Bool[Tensor, "h w 1"]:
        """Read which pixels of a picture to use."""
        assert self._dataparser_outputs.mask_filenames is not None
        path = self._dataparser_outputs.mask_filenames[image_idx]
        try:
            with Image.open(path) as file:
                mask = file.convert("L").resize(self.sizes[image_idx], Image.Resampling.NEAREST)
        except BROKEN_IMAGE as error:
            raise ValueError(f"cannot read mask {path}: {error}; it is damaged or cut short") from error
        return torch.from_numpy(np.array(mask)).bool()[..., None]

    def get_depth(self, image_idx: int) -> Float[Tensor, "h w 1"]:
        """Read the camera-space z of a picture in parsed units; 0 where unknown."""
        path, (width, height) = self.metadata["depth_filenames"][image_idx], self.sizes[image_idx]
        unit = self.metadata["depth_unit_scale_factor"] * self._dataparser_outputs.dataparser_scale
        try:
            return get_depth_image_from_path(path, height, width, unit)
        except (*BROKEN_IMAGE, AttributeError, cv2.error) as error:
            raise ValueError(f"cannot read depth image {path}: {error}") from error

    def _paint_masked(self, data: dict[str, Any]) -> None:
        """Give unused pixels the parser's `mask_color`, if it has one."""
        if self.mask_color:
            whole = 255 if data["image"].dtype == torch.uint8 else 1
            paint = (torch.tensor(self.mask_color) * whole).to(data["image"].dtype)
            data["image"][..., :3] = torch.where(data["mask"], data["image"][..., :3], paint)


def _to_float32(cameras: Cameras) -> None:
    """Some of nerfstudio's parsers leave intrinsics in float64, which no renderer takes."""
    for name in ("fx", "fy", "cx", "cy"):
        setattr(cameras, name, getattr(cameras, name).float())


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"
