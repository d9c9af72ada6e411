"""Edits of a scene as its transforms files store them: fields of `Edit`, by the name of the edit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from nest_nerfstudio.states import Edit, SunSky

BASE = "base"
"""Name of the state of a scene that is not edited."""
NOT_ZERO = ("direction", "stretch")
NOT_NEGATIVE = ("sun", "ambient", "stretch")


def read_edits(stored: Any, where: str) -> dict[str, Edit]:
    """Read the edits of a transforms file, by name.

    The state `base` is always among them, and its light is the default of the others; `"light": null` is an
    unknown light.

    Args:
        stored: `edits` of the file: fields of `Edit` by the name of the edit.
        where: the file, for messages.

    Raises:
        ValueError: the first of `edit_table_problems`.
    """
    for problem in edit_table_problems(stored):
        raise ValueError(f"{where}: {problem}")
    base = _edit(stored.get(BASE, {}), SunSky())
    return {**{name: _edit(values, base.light) for name, values in stored.items()}, BASE: base}


def edit_table_problems(stored: Any) -> Iterator[str]:
    """What is wrong with stored edits: unknown keys, values that are not finite numbers of their shape."""
    if not isinstance(stored, dict):
        yield f"`edits` must be a table of edits by name, not {stored!r}"
        return
    for name, values in stored.items():
        yield from (f"edit {name}: {problem}" for problem in _value_problems(asdict(Edit()), values))


def edit_name_problems(shown: Iterable[str], edits: Collection[str]) -> Iterator[str]:
    """Edits that frames show, by name, but that are not listed.

    Args:
        shown: the edit of each frame.
        edits: names of the edits of the scene.
    """
    for name, count in sorted(Counter(shown).items()):
        if name not in edits:
            yield f"{count} frame(s) show the edit {name!r}; there are: {', '.join(edits)}"


def _edit(values: dict[str, Any], light: SunSky | None) -> Edit:
    """An edit without problems; what its light does not name is taken from another light."""
    fields = {key: _as_stored(value) for key, value in values.items() if key != "light"}
    if values.get("light", {}) is None:
        return Edit(light=None, **fields)
    named = {key: _as_stored(value) for key, value in values.get("light", {}).items()}
    return Edit(light=replace(light or SunSky(), **named) if named else light, **fields)


def _as_stored(value: Any) -> Any:
    return tuple(map(float, value)) if isinstance(value, list | tuple) else float(value)


def _value_problems(default: dict[str, Any], values: Any) -> Iterator[str]:
    """Keys that are not in `default`, and values that are not finite numbers of its shapes."""
    if not isinstance(values, dict):
        yield f"must be a table of {', '.join(default)}, not {values!r}"
        return
    for key, value in values.items():
        if key not in default:
            yield f"unknown key {key!r}; known are: {', '.join(default)}"
        elif key == "light" and value is None:
            continue
        elif isinstance(default[key], dict):
            yield from (f"{key}: {what}" for what in _value_problems(default[key], value))
        elif not is_finite(value, np.shape(default[key])):
            yield f"{key} must be {np.size(default[key])} finite number(s), not {value}"
        elif key in NOT_NEGATIVE and np.min(value) < 0:
            yield f"{key} must not be negative, it is {value}"
        elif key in NOT_ZERO and not np.any(value):
            yield f"{key} must not be zero"


def is_finite(value: Any, shape: tuple[int, ...]) -> bool:
    """Whether a stored value is a number, or nested lists of numbers, of a shape, all finite."""
    try:
        numbers = np.array(value)
    except ValueError:
        return False
    return numbers.dtype.kind in "iuf" and numbers.shape == shape and bool(np.isfinite(numbers).all())
