"""`SceneEdit`: an ordered list of steps, as a value and as a JSON file."""

from __future__ import annotations

import json
import types
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from torch import Tensor

from nest_nerfstudio.edits.base import EditableField, EditError, Step, is_finite
from nest_nerfstudio.edits.mixing import NO_SCENES, MixingStep, Scenes, ScenesStep
from nest_nerfstudio.edits.selection import SELECTIONS, All, Selection
from nest_nerfstudio.edits.steps import STEPS
from nest_nerfstudio.files import written_whole
from nest_nerfstudio.types import SceneLatent

__all__ = ["EditError", "EditableField", "SceneEdit"]

VERSION = 1


@dataclass(frozen=True)
class SceneEdit:
    """Steps that turn a latent Z into Z′, one after the other.

    As a file: `{"version": 1, "steps": [{"action": "move", "translation": [0, 0, 1], "tokens": {"sphere":
    {"centre": [0, 0, 0.5], "radius": 0.3}}}, …]}`. Names of actions and selections are those of `steps.STEPS`
    and `selection.SELECTIONS`, their values the attributes of these classes.

    Attributes:
        steps: first to last.
    """

    steps: tuple[Step, ...] = ()

    def apply(self, latent: SceneLatent, field: EditableField, scenes: Scenes = NO_SCENES) -> SceneLatent:
        """The edited latent.

        Args:
            latent: of the scene.
            field: the field of the scene.
            scenes: finds the other scenes that steps name.

        Raises:
            EditError: a step that the scene cannot carry, or that selects nothing; it is named by its number.
        """
        for number, step in enumerate(self.steps, 1):
            with _numbered(number):
                latent = _applied(step, latent, field, scenes)
        return latent

    def inverse(self, latent: SceneLatent, field: EditableField, scenes: Scenes = NO_SCENES) -> SceneEdit:
        """The edit that leads back to a latent from what this edit makes of it; arguments as for `apply`.

        Raises:
            EditError: a step that has no inverse, or that the scene cannot carry; it is named by its number.
        """
        back: tuple[Step, ...] = ()
        for number, step in enumerate(self.steps, 1):
            with _numbered(number):
                back = step.inverse(latent, field) + back
                latent = _applied(step, latent, field, scenes)
        return SceneEdit(back)

    def then(self, other: SceneEdit) -> SceneEdit:
        """This edit and then another."""
        return SceneEdit(self.steps + other.steps)

    @staticmethod
    def load(path: Path) -> SceneEdit:
        """Read an edit from its JSON file.

        Raises:
            FileNotFoundError: no such file.
            EditError: not an edit; the message names the step and what is wrong.
        """
        if not path.is_file():
            raise FileNotFoundError(f"there is no edit at {path}")
        try:
            stored = json.loads(path.read_bytes())  # UTF-8, with or without a mark, or UTF-16
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise EditError(f"{path} is not valid JSON: {error}") from error
        try:
            edit = SceneEdit.from_json(stored)
        except EditError as error:
            raise EditError(f"{path}: {error}") from error
        return SceneEdit(tuple(_run_beside(step, path.resolve().parent) for step in edit.steps))

    def save(self, path: Path) -> None:
        """Write the edit as a JSON file, which appears when it is complete."""
        with written_whole(path) as part:
            part.write_text(json.dumps(self.to_json(), indent=2) + "\n", encoding="utf-8")

    @staticmethod
    def from_json(stored: Any) -> SceneEdit:
        """The edit that a parsed JSON file holds; EditError if it is none."""
        if not isinstance(stored, dict) or set(stored) != {"version", "steps"}:
            raise EditError('an edit is a table {"version": 1, "steps": […]}')
        if stored["version"] != VERSION:
            raise EditError(f"version {stored['version']!r} is not known; this reads version {VERSION}")
        if not isinstance(stored["steps"], list):
            raise EditError("`steps` is a list")
        return SceneEdit(tuple(_read_step(step, i) for i, step in enumerate(stored["steps"], 1)))

    def to_json(self) -> dict[str, Any]:
        """What its JSON file holds."""
        steps = [{"action": step.name, **_changed(step)} for step in self.steps]
        return {"version": VERSION, "steps": steps}


@contextmanager
def _numbered(number: int) -> Iterator[None]:
    """Says in errors which step it was."""
    try:
        yield
    except EditError as error:
        raise EditError(f"step {number} of the edit: {error}") from error


def _applied(step: Step, latent: SceneLatent, field: EditableField, scenes: Scenes) -> SceneLatent:
    if isinstance(step, ScenesStep):
        latent = step.apply_among(scenes, latent, field)
    else:
        latent = step.apply(latent, field)
    tensors = [value for part in (latent, latent.motion) for value in vars(part).values()]
    if not all(value.isfinite().all() for value in tensors if isinstance(value, Tensor)):
        raise EditError(
            f"{step.name}: its numbers are so large, or small, that the scene is no longer finite"
        )
    return latent


def _run_beside(step: Step, folder: Path) -> Step:
    """The step with the path of a run that was relative to the folder of its file."""
    if isinstance(step, MixingStep) and step.run is not None:
        return replace(step, run=str(folder / Path(step.run).expanduser()))  # type: ignore[type-var]
    return step


def _read_step(stored: Any, number: int) -> Step:
    where = f"step {number}"
    if not isinstance(stored, dict) or "action" not in stored:
        raise EditError(f"{where} is a table with an `action`: {', '.join(STEPS)}")
    action = stored["action"]
    if not isinstance(action, str) or action not in STEPS:
        raise EditError(f"{where}: unknown action {action!r}; there are {', '.join(STEPS)}")
    rest = {key: value for key, value in stored.items() if key != "action"}
    return _read(STEPS[action], rest, f"{where} ({action})")


def _read(kind: type, stored: Any, where: str) -> Any:
    """An instance of a dataclass from a table of its attributes."""
    if not isinstance(stored, dict):
        raise EditError(f"{where} is a table, not {stored!r}")
    hints = get_type_hints(kind)
    known = [part.name for part in fields(kind)]
    if unknown := [key for key in stored if key not in known]:
        raise EditError(f"{where} has no `{unknown[0]}`; it has {', '.join(known)}")
    required = [part.name for part in fields(kind) if part.default is MISSING]
    if missing := [name for name in required if name not in stored]:
        raise EditError(f"{where} needs `{missing[0]}`")
    values = {key: _value(hints[key], value, f"{where}, `{key}`") for key, value in stored.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise EditError(f"{where}: {error}") from error


def _value(hint: Any, stored: Any, where: str) -> Any:
    """A value of an attribute's type from its JSON."""
    if get_origin(hint) in (Union, types.UnionType):
        if stored is None and type(None) in get_args(hint):
            return None
        hint = next(option for option in get_args(hint) if option is not type(None))
    if hint is Selection:
        return _read_selection(stored, where)
    if is_dataclass(hint):
        return _read(hint, stored, where)  # type: ignore[arg-type]
    if get_origin(hint) is Literal:
        if stored not in get_args(hint):
            raise EditError(f"{where} is one of {', '.join(get_args(hint))}, not {stored!r}")
        return stored
    if hint is str:
        if not isinstance(stored, str) or not stored:
            raise EditError(f"{where} is a text, not {stored!r}")
        return stored
    if get_origin(hint) is tuple:
        options = get_args(hint)
        if not isinstance(stored, list) or (Ellipsis not in options and len(stored) != len(options)):
            count = "numbers" if Ellipsis in options else f"{len(options)} numbers"
            raise EditError(f"{where} is a list of {count}, not {stored!r}")
        return tuple(_value(options[0], item, where) for item in stored)
    allowed = int if hint is int else int | float
    if isinstance(stored, bool) or not isinstance(stored, allowed) or not is_finite(stored):
        raise EditError(f"{where} is a finite {'whole ' if hint is int else ''}number, not {stored!r}")
    return hint(stored)


def _read_selection(stored: Any, where: str) -> Selection:
    if stored == "all":
        return All()
    if not isinstance(stored, dict) or len(stored) != 1 or next(iter(stored)) not in SELECTIONS:
        raise EditError(f'{where} is "all", or a table of one of {", ".join(list(SELECTIONS)[1:])}')
    name, values = next(iter(stored.items()))
    return _read(SELECTIONS[name], values, f"{where} ({name})")


def _stored(value: Any) -> Any:
    if isinstance(value, All):
        return "all"
    if isinstance(value, Selection):
        name = next(name for name, kind in SELECTIONS.items() if type(value) is kind)
        return {name: _changed(value)}
    if is_dataclass(value):
        return _changed(value)
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_stored(item) for item in value]
    return value


def _changed(value: Any) -> dict[str, Any]:
    """The attributes of a dataclass that are not as by default."""
    attributes = {part.name: getattr(value, part.name) for part in fields(value)}
    defaults = {part.name: part.default for part in fields(value)}
    return {name: _stored(given) for name, given in attributes.items() if given != defaults[name]}
