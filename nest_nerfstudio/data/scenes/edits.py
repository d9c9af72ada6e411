"""Edits of a scene as its files hold them: fields of `Edit`, by the name of the edit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from nest_nerfstudio.types import Edit, SunSky

BASE = "base"
"""The state of a scene that is not edited."""
NOT_ZERO = ("direction", "stretch")
NOT_NEGATIVE = ("sun", "ambient", "stretch")


def read_edits(stored: dict[str, Any], where: str) -> dict[str, Edit]:
    """The edits of a transforms file, by name; `base` is always among them, and its light is their default.

    `"light": null` is a light that is not known.

    Args:
        stored: `edits` of the file: fields of `Edit` by the name of the edit.
        where: the file, for messages.

    Raises:
        ValueError: an unknown key, or a value that is not as many finite numbers as its field has.
    """
    for name, values in stored.items():
        for problem in edit_problems(values):
            raise ValueError(f"{where}: edit {name}: {problem}")
    base = _edit(stored.get(BASE, {}), SunSky())
    return {**{name: _edit(values, base.light) for name, values in stored.items()}, BASE: base}


def edit_problems(values: Any) -> Iterator[str]:
    """What is wrong with a stored edit: unknown keys, values that are no finite numbers of their shape."""
    return _unlike(asdict(Edit()), values)


def _edit(values: dict[str, Any], light: SunSky | None) -> Edit:
    """An edit that was found to be right; what its light does not name is that of another."""
    fields = {key: _as_stored(value) for key, value in values.items() if key != "light"}
    if values.get("light", {}) is None:
        return Edit(light=None, **fields)
    named = {key: _as_stored(value) for key, value in values.get("light", {}).items()}
    return Edit(light=replace(light or SunSky(), **named) if named else light, **fields)


def _as_stored(value: Any) -> Any:
    return tuple(map(float, value)) if isinstance(value, list | tuple) else float(value)


def _unlike(default: dict[str, Any], values: Any) -> Iterator[str]:
    """Keys that are not in `default`, and values that are no finite numbers of its shapes."""
    if not isinstance(values, dict):
        yield f"must be a table of {', '.join(default)}, not {values!r}"
        return
    for key, value in values.items():
        if key not in default:
            yield f"unknown key {key!r}; known are: {', '.join(default)}"
        elif key == "light" and value is None:
            continue
        elif isinstance(default[key], dict):
            yield from (f"{key}: {what}" for what in _unlike(default[key], value))
        elif not is_finite(value, np.shape(default[key])):
            yield f"{key} must be {np.size(default[key])} finite number(s), not {value}"
        elif key in NOT_NEGATIVE and np.min(value) < 0:
            yield f"{key} must not be negative, it is {value}"
        elif key in NOT_ZERO and not np.any(value):
            yield f"{key} must not be zero"


def is_finite(value: Any, shape: tuple[int, ...]) -> bool:
    """Whether this is a number, or nested lists of numbers, of a shape, all finite."""
    try:
        numbers = np.array(value)
    except ValueError:
        return False
    return numbers.dtype.kind in "iuf" and numbers.shape == shape and bool(np.isfinite(numbers).all())
