"""A web page that plays a scene: its numbers, quantised and packed, in one HTML file with the player."""

from __future__ import annotations

import base64
import gzip
import html
import json
import math
import re
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nest_nerfstudio.files import written_whole

Type = Literal["float32", "uint16", "uint8"]


def pack(header: dict[str, Any], arrays: dict[str, tuple[np.ndarray, Type]]) -> bytes:
    """Header and arrays of a scene as the page reads them (`web/src/scene.ts`), compressed.

    The length of a JSON text (four bytes, little endian), the text, and the arrays, each at a multiple of
    four bytes. The text is the header with, as `arrays`, the type, shape and place of each. Floats in an
    integer type are quantised evenly between the lowest and the highest value of each column, value = low +
    step · n, so to half of a 65,535th or 255th of the span; integers are stored as they are.

    Args:
        header: what JSON can hold.
        arrays: by name: values, finite, and the type to store them in.

    Raises:
        ValueError: integers that the type does not hold, or values that are not finite.
    """
    described: dict[str, Any] = {}
    blocks, offset = [], 0
    for name, (values, stored) in arrays.items():
        place: dict[str, Any] = {"type": stored, "shape": list(values.shape), "offset": offset}
        if stored != "float32" and values.dtype.kind == "f":
            values, place["low"], place["step"] = _quantised(values, stored)
        elif values.dtype.kind in "iu" and values.size and values.max() > np.iinfo(stored).max:
            raise ValueError(f"{name} up to {values.max()} are more than a page can tell apart")
        block = values.astype(f"<{np.dtype(stored).str[1:]}").tobytes()
        blocks.append(block + bytes(-len(block) % 4))
        offset += len(blocks[-1])
        described[name] = place
    text = json.dumps(header | {"arrays": described}, allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    return gzip.compress(len(text).to_bytes(4, "little") + text + b"".join(blocks), mtime=0)


def write_page(path: Path, title: str, scene: bytes) -> None:
    """Write the page that plays a packed scene; it appears when it is complete.

    Args:
        path: of the HTML file; its folder exists.
        title: of the page.
        scene: from `pack`.

    Raises:
        OSError: the file cannot be written.
    """
    parts = files("nest_nerfstudio.io") / "page"
    page = (parts / "page.html").read_text()
    licences = (parts / "LICENSES.txt").read_text().replace("--", "- -")
    filled = {"TITLE": html.escape(title), "LICENSES": licences}
    filled |= {"PLAYER": _text(parts.joinpath("player.js.gz").read_bytes()), "SCENE": _text(scene)}
    page = re.sub(r"\{\{(\w+)\}\}", lambda match: filled[match[1]], page)
    with written_whole(path) as part:
        part.write_text(page)


def _quantised(values: np.ndarray, stored: Type) -> tuple[np.ndarray, list[float], list[float]]:
    """Integers n, and the low and step of each column with value ≈ low + step · n."""
    columns = values.reshape(len(values), math.prod(values.shape[1:])).astype(np.float64)
    low, high = columns.min(0), columns.max(0)
    step = (high - low) / np.iinfo(stored).max
    steps = np.rint((columns - low) / np.where(step > 0, step, 1))
    return steps.reshape(values.shape), low.tolist(), step.tolist()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
