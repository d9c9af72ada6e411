"""Image files: finding, opening and decoding them, with errors that name the file."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float
from PIL import ExifTags, Image, UnidentifiedImageError

USUAL_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
# What Pillow raises on broken files, depending on where in the file the fault is.
BROKEN_IMAGE = (OSError, SyntaxError, ValueError, struct.error, zlib.error)

Size = tuple[int, int]
"""Width and height, pixels."""

_ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")
_WIDE_MODES = {"I;16": 65535, "I;16L": 65535, "I;16B": 65535, "I;16N": 65535, "I": 65535, "F": 1}
"""Pillow's modes of more than 8 bits, all grey, and the value that is white."""
_LOSSY_FORMATS = ("AVIF", "JPEG", "JPEG2000", "MPO", "WEBP")
"""Pillow's formats that may blur black into values of a few."""


class ImageHeader(NamedTuple):
    """What is known of an image without decoding it.

    Attributes:
        size: width and height as Pillow reads it, pixels.
        has_alpha: whether it has an alpha channel or a transparent colour.
        orientation: EXIF orientation, 1 to 8; 1 is upright. Pixels are used as they are stored.
    """

    size: Size
    has_alpha: bool = False
    orientation: int = 1


@contextmanager
def open_image(path: Path, kind: Literal["image", "mask"] = "image") -> Iterator[Image.Image]:
    """Open an image file for the block; decoding it within the block raises the same errors.

    Args:
        path: image file.
        kind: what the file is, for the error message.

    Raises:
        ValueError: the file is missing, damaged, or not an image; the message names it.
    """
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError as error:
        raise ValueError(f"{path}: cannot read the {kind}: no such file") from error
    except UnidentifiedImageError as error:
        raise ValueError(
            f"{path}: cannot read the {kind}: it is damaged, or of a format that Pillow does not read; "
            "save it as PNG"
        ) from error
    except BROKEN_IMAGE as error:
        raise ValueError(f"{path}: cannot read the {kind}: {error}; it is damaged or cut short") from error


def image_header(path: Path) -> ImageHeader:
    """Read the header of an image file.

    Raises:
        ValueError: as `open_image` does.
    """
    with open_image(path) as image:
        return ImageHeader(image.size, has_alpha(image), _orientation(image))


def read_image(path: Path, size: Size | None = None) -> Image.Image:
    """Decode an image file: RGB, or RGBA with straight alpha, of 8 bits a channel.

    Args:
        path: image file, of any format and mode that Pillow reads.
        size: width and height that the caller will resize it to; a JPEG may then be decoded at a smaller
            size, but no smaller than this.

    Raises:
        ValueError: as `open_image` and `to_8_bit` do, with the path.
    """
    with open_image(path) as image:
        if size is not None:
            image.draft(None, size)  # type: ignore[arg-type]
        image.load()
    try:
        return to_8_bit(image)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def to_8_bit(image: Image.Image) -> Image.Image:
    """An image as RGB, or RGBA if it has alpha: integers of 16 bits are scaled by 255/65535, floats by 255.

    Raises:
        ValueError: its values have no known white (floats outside [0, 1], integers beyond 16 bits, or of so
            many that all fit into 8), or its mode has no conversion to RGB.
    """
    mode = "RGBA" if has_alpha(image) else "RGB"
    try:
        return (_narrowed(image) if image.mode in _WIDE_MODES else image).convert(mode)
    except ValueError as error:
        if image.mode in _WIDE_MODES:
            raise
        raise ValueError(
            f"its colours (Pillow's mode {image.mode}) cannot be read as RGB; save it as RGB or RGBA"
        ) from error


def _narrowed(image: Image.Image) -> Image.Image:
    """A grey image of more than 8 bits with 8, and alpha where it has a transparent value."""
    values, white = np.asarray(image, dtype=np.float32), _WIDE_MODES[image.mode]
    kind = "floats" if image.mode == "F" else "integers"
    span = f"from {np.nanmin(values):g} to {np.nanmax(values):g}"
    found = f"its pixels are {kind} {span} (Pillow's mode {image.mode})"
    if not ((values >= 0) & (values <= white)).all():
        raise ValueError(
            f"{found}, and only [0, {white}] is known to be black to white; save it with 8 or 16 bits a "
            "channel"
        )
    if white > 255 >= values.max() > 0:
        raise ValueError(f"{found}, which of 16 bits are all black; if 255 is white, save it with 8 bits")
    grey = _grey(np.rint(values * (255 / white)))
    if "transparency" in image.info:
        grey.putalpha(_grey(255 * (values != image.info["transparency"])))
    return grey


def _grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.astype(np.uint8))


def has_alpha(image: Image.Image) -> bool:
    """Whether an image has an alpha channel or a transparent colour."""
    return image.mode in _ALPHA_MODES or "transparency" in image.info


def _orientation(image: Image.Image) -> int:
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # Pillow would decode all of the image to look for it
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except BROKEN_IMAGE:  # broken metadata of an image that may be fine
        return 1
    return found if found in range(1, 9) else 1


def read_mask(path: Path, size: Size | None = None, image: Size | None = None) -> Bool[np.ndarray, "h w"]:
    """Decode which pixels to use: those that are not black, nor transparent.

    Args:
        path: image file; of a lossy format, what is darker than half of its largest value is black.
        size: width and height of the result; None for the mask's own. Of a smaller result a pixel is used if
            all are that it stands for.
        image: width and height of its image as stored; None for those of the result.

    Raises:
        ValueError: as `open_image` does, or the first of `shape_problems`, with the path.
    """
    with open_image(path, "mask") as stored:
        stored.load()
    if stored.mode in _WIDE_MODES:
        used = np.asarray(stored) > 0
    else:
        shown = to_8_bit(stored)
        if shown.mode == "RGBA":
            shown = Image.alpha_composite(Image.new("RGBA", shown.size, "black"), shown)
        grey = np.asarray(shown.convert("L"))
        used = grey >= (max(1, grey.max() / 2) if stored.format in _LOSSY_FORMATS else 1)
    if size is None:
        return used
    _check_shape(path, stored.size, image or size)
    if stored.size == size:
        return used
    return np.array(_grey(255 * used).resize(size, Image.Resampling.BOX)) == 255


def read_depth(path: Path, size: Size | None = None, image: Size | None = None) -> Float[np.ndarray, "h w"]:
    """Decode a depth image (of 16 or 32 bits) or NumPy array, in its own unit; 0 where unknown.

    Args:
        path: image file, or NumPy file `.npy`.
        size: width and height of the result; None for its own.
        image: width and height of its image as stored; None for those of the result.

    Raises:
        ValueError: the file is missing or damaged, has more than one channel, or the first of
            `shape_problems`; the message names it.
    """
    try:
        depth = np.load(path) if path.suffix == ".npy" else cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if depth is None:
            raise ValueError("it is missing, damaged, or of a format that OpenCV does not read")
        depth = np.asarray(depth, np.float32)
        depth = depth[..., 0] if depth.ndim == 3 and depth.shape[2] == 1 else depth
        if depth.ndim != 2:
            raise ValueError(f"its shape is {depth.shape}; a depth image has one channel")
    except (OSError, ValueError, EOFError, cv2.error) as error:
        raise ValueError(f"{path}: cannot read the depth image: {error}") from error
    depth = np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))
    if size is None:
        return depth
    _check_shape(path, (depth.shape[1], depth.shape[0]), image or size)
    return cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST)


def _check_shape(path: Path, size: Size, image: Size) -> None:
    for problem in shape_problems(size, image):
        raise ValueError(f"{path}: {problem}")


def shape_problems(size: Size, image: Size) -> Iterator[str]:
    """Whether a mask or depth of one size would have to be stretched to fit its image of another."""
    if not is_scaled(*sorted((size, image))):
        problem = "it is {}×{} pixels, but its image is {}×{}, of another ratio".format(*size, *image)
        if is_scaled(*sorted(((size[1], size[0]), image))):
            problem += (
                ": one of them is turned. If that is an EXIF orientation, bake it in: "
                "`mogrify -auto-orient FILES` (ImageMagick)"
            )
        yield problem


def is_scaled(size: Size, other: Size) -> bool:
    """Whether a size is the other one or has its ratio, up to the rounding to whole pixels."""
    (width, height), (w, h) = size, other
    same = width == w, height == h
    return all(same) or (not any(same) and abs(width * h - height * w) <= max(w, h))


def alpha_problems(images: Mapping[Path, bool]) -> Iterator[str]:
    """Whether some images of a scene have alpha and others have none: their backgrounds would differ.

    Args:
        images: whether each image has alpha, by file.
    """
    opaque = [path for path, alpha in images.items() if not alpha]
    with_alpha = [path for path, alpha in images.items() if alpha]
    if opaque and with_alpha:
        fewer, have = (opaque, "no alpha") if len(opaque) <= len(with_alpha) else (with_alpha, "alpha")
        names = ", ".join(f"{path.parent.name}/{path.name}" for path in fewer[:5])
        more = f" and {len(fewer) - 5} more" if len(fewer) > 5 else ""
        yield (
            f"{len(fewer)} of {len(images)} images have {have}, unlike the others: {names}{more}. If those "
            "without show the object everywhere: nest-dynamic-data --missing-alpha opaque. If a colour is "
            "painted behind it: --alpha-color black (or another) lays the others over it. Else save all with "
            "alpha, or all without"
        )


def find_image(path: Path) -> Path:
    """The image file of a `file_path`, which D-NeRF stores without its extension.

    Returns:
        The path if there is such a file, else the first that exists of it with an extension appended; the
        path where none does.
    """
    if path.is_file():
        return path
    candidates = (path.with_name(path.name + suffix) for suffix in image_suffixes())
    return next((candidate for candidate in candidates if candidate.is_file()), path)


def missing_file(path: Path) -> str:
    """A file that `find_image` does not find, in messages: as it is written, and what else was tried."""
    if path.suffix.lower() in image_suffixes() or path.suffix == ".npy":
        return str(path)
    return f"{path}{USUAL_SUFFIXES[0]} (nor {', '.join(USUAL_SUFFIXES[1:])}, …)"


@cache
def image_suffixes() -> list[str]:
    """File name extensions that Pillow reads, the usual ones first."""
    readable = [suffix for suffix, name in Image.registered_extensions().items() if name in Image.OPEN]
    lower = list(dict.fromkeys((*USUAL_SUFFIXES, *sorted(readable))))
    return [*lower, *(suffix.upper() for suffix in lower)]
