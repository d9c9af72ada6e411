"""GLB files written by hand: as much of the format as the tests need, and a flexible arm."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

_COMPONENTS = {"f4": 5126, "u4": 5125, "u2": 5123, "u1": 5121}
_TYPES = {(): "SCALAR", (2,): "VEC2", (3,): "VEC3", (4,): "VEC4", (4, 4): "MAT4"}

QUARTER_TURN_Z = (0.0, 0.0, 0.5**0.5, 0.5**0.5)


class GlbWriter:
    """Collects a header and its binary chunk."""

    def __init__(self, **header: Any) -> None:
        self.header: dict[str, Any] = {
            "asset": {"version": "2.0"},
            "accessors": [],
            "bufferViews": [],
            **header,
        }
        self.binary = b""

    def view(self, content: bytes, **keys: int) -> int:
        """Append bytes; the index of their buffer view."""
        self.binary += b"\0" * (-len(self.binary) % 4)
        location = {"buffer": 0, "byteOffset": len(self.binary), "byteLength": len(content)}
        self.header["bufferViews"].append({**location, **keys})
        self.binary += content
        return len(self.header["bufferViews"]) - 1

    def accessor(self, values: Any, kind: str = "f4", **keys: Any) -> int:
        """Append an array; the index of its accessor. Matrices are stored column by column."""
        array = np.asarray(values, dtype=f"<{kind}")
        stored = array.swapaxes(-1, -2) if array.ndim == 3 else array
        self.header["accessors"].append(
            {
                "bufferView": self.view(stored.tobytes()),
                "componentType": _COMPONENTS[kind],
                "count": len(array),
                "type": _TYPES[array.shape[1:]],
                **keys,
            }
        )
        return len(self.header["accessors"]) - 1

    def write(self, path: Path) -> Path:
        self.header["buffers"] = [{"byteLength": len(self.binary)}]
        text = json.dumps(self.header).encode()
        text += b" " * (-len(text) % 4)
        binary = self.binary + b"\0" * (-len(self.binary) % 4)
        total = 12 + 8 + len(text) + 8 + len(binary)
        chunks = (
            struct.pack("<I4s", len(text), b"JSON")
            + text
            + struct.pack("<I4s", len(binary), b"BIN\0")
            + binary
        )
        path.write_bytes(struct.pack("<4sII", b"glTF", 2, total) + chunks)
        return path


ARM = np.array([[0.0, 0, 0], [1.0, 0, 0], [2.0, 0, 0], [2.0, 0.5, 0]])
"""Shoulder, elbow and hand along x, and a thumb; the elbow's joint is at x = 1."""


def arm(weights: Any = ((1, 0), (0.5, 0.5), (0, 1), (0, 1)), animated: bool = True) -> GlbWriter:
    """A two-joint arm. In the clip `bend` (one second) the elbow turns a quarter about z.

    Nodes: 0 the mesh, in a frame that skinning must ignore; 1 shoulder; 2 elbow.
    """
    glb = GlbWriter(
        scenes=[{"nodes": [0, 1]}],
        nodes=[
            {"mesh": 0, "skin": 0, "translation": [7.0, 7.0, 7.0]},
            {"name": "shoulder", "children": [2]},
            {"name": "elbow", "translation": [1.0, 0.0, 0.0]},
        ],
        skins=[{"joints": [1, 2]}],
    )
    inverse_binds = np.tile(np.eye(4), (2, 1, 1))
    inverse_binds[1, 0, 3] = -1.0
    glb.header["skins"][0]["inverseBindMatrices"] = glb.accessor(inverse_binds)
    attributes = {
        "POSITION": glb.accessor(ARM),
        "NORMAL": glb.accessor(np.tile([0.0, 1.0, 0.0], (4, 1))),
        "JOINTS_0": glb.accessor(np.tile([0, 1, 0, 0], (4, 1)), "u1"),
        "WEIGHTS_0": glb.accessor(np.pad(np.asarray(weights, dtype=float), ((0, 0), (0, 2)))),
    }
    indices = glb.accessor([0, 1, 3, 1, 2, 3], "u2")
    glb.header["meshes"] = [{"name": "arm", "primitives": [{"attributes": attributes, "indices": indices}]}]
    if animated:
        animate(glb, "bend", 2, "rotation", [0.0, 1.0], [(0.0, 0.0, 0.0, 1.0), QUARTER_TURN_Z])
    return glb


def animate(
    glb: GlbWriter, name: str, node: int, path: str, times: Any, values: Any, interpolation: str = "LINEAR"
) -> None:
    """Add an animation of one property."""
    flat = np.asarray(values, dtype=float)
    keys = {"input": glb.accessor(times), "output": glb.accessor(flat), "interpolation": interpolation}
    channel = {"sampler": 0, "target": {"node": node, "path": path}}
    clip = {"name": name, "samplers": [keys], "channels": [channel]}
    glb.header.setdefault("animations", []).append(clip)


def triangle(**attributes: tuple[Any, str]) -> GlbWriter:
    """One triangle without a skin; more attributes as (values, kind)."""
    glb = GlbWriter(nodes=[{"mesh": 0}])
    values = {"POSITION": (np.eye(3), "f4"), **attributes}
    stored = {
        name: glb.accessor(v, kind, **({"normalized": True} if kind != "f4" else {}))
        for name, (v, kind) in values.items()
    }
    glb.header["meshes"] = [{"primitives": [{"attributes": stored}]}]
    return glb
