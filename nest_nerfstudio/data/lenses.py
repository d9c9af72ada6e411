"""Lenses: the pinhole image of a camera whose lens distorts, or that is a fisheye.

This module must stay importable without nerfstudio's data managers, as `dataparser` must.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from nerfstudio.cameras.cameras import CAMERA_MODEL_TO_TYPE, Cameras, CameraType

MAX_FIELD_OF_VIEW = 120.0
"""Widest pinhole image that is made of a fisheye image, degrees: beyond it pixels are mostly stretched."""

_REMEDIES = {
    CameraType.EQUIRECTANGULAR: "cut its images into perspective ones (`ns-process-data images "
    "--camera-type equirectangular`)",
    CameraType.FISHEYE624: "undistort its images (projectaria_tools does) and give camera_model PINHOLE",
}


def model_problems(kind: CameraType) -> Iterator[str]:
    """Whether a kind of camera has no pinhole image that Gaussians could be trained on."""
    if kind not in (CameraType.PERSPECTIVE, CameraType.FISHEYE):
        names = [name for name, other in CAMERA_MODEL_TO_TYPE.items() if other == kind]
        remedy = _REMEDIES.get(kind, "give images of perspective or fisheye cameras")
        yield f"camera_model {'/'.join(names)} cannot be trained on: {remedy}"


@dataclass(frozen=True)
class Lens:
    """A lens that does not map as a pinhole, and how its images become those of a pinhole of the same size.

    Attributes:
        fx, fy: focal lengths, pixels.
        cx, cy: principal point, pixels, (0.5, 0.5) at the centre of the first pixel.
        size: width and height, pixels.
        params: (k1, k2, k3, k4, p1, p2) in nerfstudio's order.
        is_fisheye: OpenCV's fisheye model, equidistant where its k1 to k4 are 0; else Brown's.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    size: tuple[int, int]
    params: tuple[float, ...]
    is_fisheye: bool

    @property
    def distorts(self) -> bool:
        """Whether its images are not pinhole images already."""
        return self.is_fisheye or any(self.params)

    def problems(self) -> Iterator[str]:
        """Whether the distortion cannot be undone."""
        if not self.is_fisheye and self.params[3]:
            yield (
                f"k4 is {self.params[3]:g}, but the lens of a perspective camera has k1, k2, k3, p1 and p2 "
                "only; if it is a fisheye, give camera_model OPENCV_FISHEYE"
            )
        elif self.distorts:
            K, (width, height) = self.pinhole, self.size
            if (
                not np.isfinite(K).all()
                or not 0.1 < K[0, 0] / self.fx < 10
                or not 0.1 < K[1, 1] / self.fy < 10
            ):
                yield (
                    f"its distortion {tuple(round(p, 4) for p in self.params)} cannot be undone over an "
                    f"image of {width}×{height} pixels; calibrate it anew, or undistort the images first"
                )

    @cached_property
    def pinhole(self) -> Float[np.ndarray, "3 3"]:
        """Intrinsics of the pinhole image, with its principal point in the same convention, pixels."""
        K = self._fisheye_pinhole() if self.is_fisheye else self._brown_pinhole()
        return K + _HALF_PIXEL

    @property
    def is_cropped(self) -> bool:
        """Whether it is a fisheye that sees more than the widest pinhole image that is made."""
        return self.is_fisheye and bool(self.pinhole[0, 0] <= self.fx * self._widest * (1 + 1e-6))

    def undistort(self, image: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w c"]:
        """The pinhole image of an image, RGB or RGBA with straight alpha, which weighs its colours."""
        if image.shape[-1] == 3:
            return _remap(image, self)
        alpha = image[..., 3:].astype(np.float32)
        moved = _remap(np.concatenate([image[..., :3] * (alpha / 255), alpha], axis=-1), self)
        moved[..., :3] *= 255 / np.maximum(moved[..., 3:], 1e-3)
        return np.rint(moved.clip(0, 255)).astype(np.uint8)

    def undistort_mask(self, mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
        """The mask of the pinhole image: pixels that lie between used ones only."""
        used = _remap(mask.astype(np.float32), self) > 1 - 1e-3
        return used if self.inside is None else used & self.inside

    def undistort_depth(self, depth: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
        """The depth image, camera-space z, of the pinhole image."""
        return _remap(depth, self, cv2.INTER_NEAREST)

    @property
    def inside(self) -> Bool[np.ndarray, "h w"] | None:
        """Which pixels of the pinhole image the image shows; None if all."""
        (u, v), (width, height) = _maps(self), self.size
        if u.min() > -1 and u.max() < width and v.min() > -1 and v.max() < height:
            return None
        return (u > -1) & (u < width) & (v > -1) & (v < height)

    @property
    def _K(self) -> Float[np.ndarray, "3 3"]:
        """Its intrinsics as OpenCV takes them: (0, 0) is the centre of the first pixel."""
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1.0]]) - _HALF_PIXEL

    @property
    def _coefficients(self) -> Float[np.ndarray, " n"]:
        """The parameters in OpenCV's order."""
        k1, k2, k3, k4, p1, p2 = self.params
        return np.array([k1, k2, k3, k4] if self.is_fisheye else [k1, k2, p1, p2, k3], np.float64)

    def _brown_pinhole(self) -> Float[np.ndarray, "3 3"]:
        return cv2.getOptimalNewCameraMatrix(self._K, self._coefficients, self.size, 0)[0]

    def _fisheye_pinhole(self) -> Float[np.ndarray, "3 3"]:
        """The widest pinhole whose pixels all lie in the image, up to `MAX_FIELD_OF_VIEW`.

        It keeps the principal point and the ratio of the focal lengths. OpenCV's own estimate has no finite
        focal length where the image reaches 180°.
        """
        K, ends = self._K, np.array(self.size) - 1
        (u, v), centre, focal = (np.linspace(0, end, 65) for end in ends), K[:2, 2], K[[0, 1], [0, 1]]
        border = np.array([*product(u, (0, ends[1])), *product((0, ends[0]), v)])

        def fits(zoom: float) -> bool:
            rays = (border - centre) / (zoom * focal)
            seen = cv2.fisheye.distortPoints(rays[None], K, self._coefficients)[0]
            return bool(((seen >= -0.5) & (seen <= ends + 0.5)).all())

        high = 4.0  # from narrow to wide, as the model may fold back into the image far outside it
        while high > self._widest and fits(high / 1.1):
            high /= 1.1
        low = high / 1.1
        for _ in range(20):
            middle = (low + high) / 2
            low, high = (low, middle) if fits(middle) else (middle, high)
        K[[0, 1], [0, 1]] *= max(high, self._widest)
        return K

    @property
    def _widest(self) -> float:
        """Factor on the focal lengths that gives the widest pinhole image that is made of a fisheye."""
        (width, height), tangent = self.size, math.tan(math.radians(MAX_FIELD_OF_VIEW / 2))
        reach = (
            self.cx / self.fx,
            (width - self.cx) / self.fx,
            self.cy / self.fy,
            (height - self.cy) / self.fy,
        )
        return max(reach) / tangent


_HALF_PIXEL = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])


@lru_cache(maxsize=8)
def _maps(lens: Lens) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    """Where each pixel of the pinhole image lies in the image, u and v; kept for the lenses used last."""
    make = cv2.fisheye.initUndistortRectifyMap if lens.is_fisheye else cv2.initUndistortRectifyMap
    pinhole = lens.pinhole - _HALF_PIXEL
    return make(lens._K, lens._coefficients, np.eye(3), pinhole, lens.size, cv2.CV_32FC1)


def _remap(image: np.ndarray, lens: Lens, interpolation: int = cv2.INTER_LINEAR) -> np.ndarray:
    return cv2.remap(image, *_maps(lens), interpolation, borderMode=cv2.BORDER_REPLICATE)


def lenses_of(cameras: Cameras) -> list[Lens]:
    """The lens of each camera.

    Raises:
        ValueError: the first of `model_problems`.
    """
    params = cameras.distortion_params
    rows = torch.zeros(len(cameras), 6) if params is None else params
    names = ("fx", "fy", "cx", "cy", "width", "height", "camera_type")
    columns = [getattr(cameras, name).flatten().tolist() for name in names]
    lenses = []
    for fx, fy, cx, cy, width, height, kind, lens in zip(*columns, rows.tolist(), strict=True):
        for problem in model_problems(CameraType(kind)):
            raise ValueError(problem)
        is_fisheye = kind == CameraType.FISHEYE.value
        lenses.append(Lens(fx, fy, cx, cy, (width, height), tuple(lens), is_fisheye))
    return lenses


def pinhole_cameras(cameras: Cameras, lenses: Sequence[Lens]) -> Cameras:
    """The cameras of the images that are undistorted: all perspective, without distortion."""
    cameras = copy(cameras)
    cameras.distortion_params = None
    cameras.camera_type = torch.full_like(cameras.camera_type, CameraType.PERSPECTIVE.value)
    for name in ("fx", "fy", "cx", "cy"):
        setattr(cameras, name, getattr(cameras, name).clone())
    for i, lens in enumerate(lenses):
        if lens.distorts:
            K = lens.pinhole
            cameras.fx[i], cameras.fy[i] = float(K[0, 0]), float(K[1, 1])
            cameras.cx[i], cameras.cy[i] = float(K[0, 2]), float(K[1, 2])
    return cameras
