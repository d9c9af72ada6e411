"""Image files: finding and opening them, with errors that name the file."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from PIL import Image

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
# What Pillow raises on broken files, depending on where in the file the fault is.
BROKEN_IMAGE = (OSError, SyntaxError, ValueError, struct.error, zlib.error)


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
    except BROKEN_IMAGE as error:
        raise ValueError(f"{path}: cannot read the {kind}: {error}; it is damaged or cut short") from error


def image_header(path: Path) -> tuple[tuple[int, int], bool]:
    """Width and height in pixels, and whether the image has alpha, without decoding it.

    Raises:
        ValueError: as `open_image` does.
    """
    with open_image(path) as image:
        return image.size, has_alpha(image)


def has_alpha(image: Image.Image) -> bool:
    """Whether an image has an alpha channel or a transparent colour."""
    return "A" in image.getbands() or "transparency" in image.info


def find_image(path: Path) -> Path:
    """The image file of a `file_path`, which D-NeRF stores without its extension.

    Returns:
        The first candidate that exists; the most likely one where none does.
    """
    candidates = [path.with_name(path.name + suffix) for suffix in IMAGE_SUFFIXES]
    if path.suffix.lower() in IMAGE_SUFFIXES:
        candidates.insert(0, path)
    return next((candidate for candidate in candidates if candidate.is_file()), candidates[0])
