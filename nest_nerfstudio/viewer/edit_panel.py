"""A folder of the viewer's panel that edits the scene that is shown, and writes the edit as a file."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from threading import RLock
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float

from nest_nerfstudio.edits.base import by_ids
from nest_nerfstudio.edits.scene_edit import SceneEdit
from nest_nerfstudio.edits.selection import ALL
from nest_nerfstudio.geometry.quaternion import quat_log
from nest_nerfstudio.types import SceneLatent
from nest_nerfstudio.viewer.edit_session import NUM_DIRECTIONS, TRAVERSED, EditSession
from nest_nerfstudio.viewer.picking import boxed, clicked

_GIZMO = "/edit"
_FACTORS = ("appearance", "geometry", "poses", "light")
_MOTIONS = 100
"""New motions that can be drawn."""


@runtime_checkable
class TokenDisplay(Protocol):
    """What the panel asks of the controls that draw the tokens."""

    def show_tokens(self, chosen: Bool[np.ndarray, " k"] | None) -> None:
        """Draw the tokens, and those that are chosen brighter; None: as no choice."""
        ...

    def redraw_tokens(self) -> None:
        """Draw the tokens where they are now, if they are shown."""
        ...


_P = ParamSpec("_P")
_R = TypeVar("_R")


def _one_at_a_time(
    act: Callable[Concatenate[EditPanel, _P], _R],
) -> Callable[Concatenate[EditPanel, _P], _R]:
    """The method under the panel's lock.

    viser calls from many threads, and the elements must follow the session before anything else changes it.
    """

    @wraps(act)
    def alone(self: EditPanel, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        with self._busy:
            return act(self, *args, **kwargs)

    return alone


class EditPanel:
    """Selects tokens, changes them, the light and the motion, and saves what was done as an edit.

    Elements that the scene cannot carry are not there. What is shown is the model's `edit`, so that every
    other tool of the viewer sees it too.

    Args:
        viewer: nerfstudio's viewer of a model that has a `shown_scene()`.
        tokens: draws the tokens.
        scenes: names of other scenes of the run that something can be taken from.
    """

    def __init__(self, viewer: Any, tokens: TokenDisplay, scenes: Sequence[str] = ()) -> None:
        self._viewer, self._tokens, self._names = viewer, tokens, scenes
        self._busy = RLock()
        self._run = viewer.log_filename.parent.resolve()
        self._ratio = viewer.control_panel.viser_scale_ratio
        self._server = viewer.viser_server
        self.session = EditSession(self._model.edit or SceneEdit(), scenes[0] if scenes else None)
        self._gizmo: Any = None
        self._gizmo_start: Float[np.ndarray, " 3"] = np.zeros(3)
        self._values: dict[str, tuple[Any, Callable[[], Any], Callable[..., None]]] = {}
        with self._server.gui.add_folder(
            "Edit", order=viewer.stats_markdown.order + 0.55, expand_by_default=False
        ):
            self._add_elements()
        if not self._model.is_trained_here:
            try:
                self._offer(self._latent())
            except (ValueError, OSError, RuntimeError) as error:  # another scene may do
                self._message.content = f"The scene cannot be shown: {error}"

    @property
    def _model(self) -> Any:
        return self._viewer.pipeline.model

    @property
    def _shares_motion(self) -> bool:
        """Whether the scene is of a prior that has learned how scenes move."""
        return self._model.shared_motion is not None

    # ---------------------------------------------------------------- elements

    def _add_elements(self) -> None:
        gui = self._server.gui
        click = gui.add_button("Select by click", hint="Then click a part of the image")
        box = gui.add_button("Select by box", hint="Then drag a box on the image")
        everything = gui.add_button("Select all", hint="Change the whole scene")
        self._message = gui.add_markdown("")
        self._reach = gui.add_slider(
            "Reach", 0.0, 1.0, 0.01, 0.15, hint="Size of what a click selects, as a fraction of the scene"
        )
        tokens, scene = self.session.change_tokens, self.session.change_scene
        self._slider("Hue", "hue", tokens, -0.5, 0.5, 0.01, "Shift of the hue, fraction of a turn")
        self._slider("Brightness", "gain", tokens, 0.1, 4.0, 0.05, "Factor of the colours")
        for factor in TRAVERSED:
            for i in range(1, NUM_DIRECTIONS + 1):
                hint = f"Along principal direction {i} of training scenes' {factor}, standard deviations"
                self._slider(f"{factor.capitalize()} {i}", f"{factor}_{i}", tokens, -3.0, 3.0, 0.1, hint)
        hint = "Turn the light about the vertical, degrees"
        self._slider("Light azimuth", "azimuth", scene, -180.0, 180.0, 1.0, hint)
        hint = "Turn the light about the x axis, degrees"
        self._slider("Light elevation", "elevation", scene, -90.0, 90.0, 1.0, hint)
        self._slider("Light gain", "light_gain", scene, 0.0, 4.0, 0.05, "Factor of the light")
        self._slider(
            "Speed", "speed", scene, -3.0, 3.0, 0.05, "Speed of time; 0 stands still, −1 runs backwards"
        )
        self._slider("Phase", "phase", scene, 0.0, 1.0, 0.01, "Start elsewhere in the cycle")
        hint = "Move by a motion drawn from those of the training scenes; 0: by its own"
        drawn = gui.add_slider("New motion", 0, _MOTIONS, 1, 0, hint=hint)
        self._bind("New motion", drawn, "new_motion", scene)
        if self._names:
            hint = "What is taken from another scene"
            factors = (*_FACTORS, "motion") if self._shares_motion else _FACTORS
            self._bind("Take", gui.add_dropdown("Take", factors, factors[0], hint=hint), "factor", scene)
            names = tuple(self._names)
            self._bind(
                "From", gui.add_dropdown("From", names, names[0], hint="The other scene"), "scene", scene
            )
            self._slider("Amount", "amount", scene, 0.0, 1.0, 0.01, "How much of it")
        undo = gui.add_button("Undo", hint="Take the last change back")
        reset = gui.add_button("Reset edit", hint="Take all changes back; Undo brings them again")
        self._name = gui.add_text("Edit name", "edit", hint="Name of the file, without its ending")
        save = gui.add_button("Save edit", hint="Write the edit as a JSON file, for nest-edit and all tools")
        for button, act in (
            (click, lambda: self._wait_for("click")),
            (box, lambda: self._wait_for("rect-select")),
            (everything, lambda: self.select(None)),
            (undo, self.undo),
            (reset, self.reset),
            (save, self.save),
        ):
            button.on_click(lambda _, act=act: act())

    def _slider(
        self,
        label: str,
        name: str,
        change: Callable[..., None],
        low: float,
        high: float,
        step: float,
        hint: str,
    ) -> None:
        value = self._value(name, change)
        self._bind(label, self._server.gui.add_slider(label, low, high, step, value, hint=hint), name, change)

    def _value(self, name: str, change: Callable[..., None]) -> Any:
        owner = self.session.tokens if change == self.session.change_tokens else self.session.scene
        return getattr(owner, name)

    def _bind(self, label: str, element: Any, name: str, change: Callable[..., None]) -> None:
        """Change an attribute of the session by an element."""
        element.on_update(lambda _: self._take(element, name, change))
        self._values[label] = element, lambda: self._value(name, change), change

    def _offer(self, latent: SceneLatent) -> None:
        """Show the elements that the scene can carry, and no others."""
        kind, scene_field = latent.motion.kind, self._model.field
        offered = {
            **{f.capitalize(): len(scene_field.directions(f)) >= NUM_DIRECTIONS for f in TRAVERSED},
            "Light": scene_field.knows_light,
            "Speed": kind != "still",
            "Phase": kind == "cyclic",
            "New": self._shares_motion,
        }
        for label, (element, _, _) in self._values.items():
            element.visible = offered.get(label.split()[0], True)

    # ---------------------------------------------------------------- what a person does

    @_one_at_a_time
    def _take(self, element: Any, name: str, change: Callable[..., None]) -> None:
        """The value of an element, unless the session has it already."""
        if element.value != self._value(name, change):
            change(**{name: element.value})
            self.show()

    @_one_at_a_time
    def select(self, chosen: Bool[np.ndarray, " k"] | None) -> None:
        """Change these tokens from now on; None: all of them."""
        latent = self._latent()
        mask = torch.ones(len(latent), dtype=torch.bool) if chosen is None else torch.from_numpy(chosen)
        mask = mask.to(latent.quats.device)
        selections = [ALL] if chosen is None else by_ids(mask, latent)
        if len(selections) > 1:
            self._message.content = "These tokens are of several copies; select those of one."
            return
        centre = tuple(latent.translations[mask].mean(0).tolist())
        self.session.select(selections[0], centre)  # type: ignore[arg-type]
        self._place_gizmo(self._positions()[mask.numpy(force=True)].mean(0))
        self._tokens.show_tokens(chosen)
        self._message.content = f"{int(mask.sum())} of {len(latent)} tokens are selected."
        self._sync()

    @_one_at_a_time
    def undo(self) -> None:
        """Take the last change back."""
        before = self.session.tokens.tokens
        if self.session.undo():
            if self.session.tokens.tokens != before:
                self._remove_gizmo()
                self._tokens.show_tokens(None)
            self.show()
        self._sync()

    @_one_at_a_time
    def reset(self) -> None:
        """Take all changes back."""
        self.session.reset()
        self._remove_gizmo()
        self._tokens.show_tokens(None)
        self.show()
        self._sync()

    @_one_at_a_time
    def save(self) -> Path | None:
        """Write the edit beside the run's other files; returns the file."""
        edit, name = self.session.edit(), self._name.value.strip()
        path = self._run / "edits" / f"{name}.json"
        if not edit.steps:
            self._message.content = "Nothing was written: nothing is edited yet."
        elif not name or Path(name).name != name:
            self._message.content = f"Nothing was written: `{name}` is no name of a file."
        elif path.exists():
            self._message.content = f"Nothing was written: `{path}` is there; give another name."
        else:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                edit.save(path)
            except OSError as error:
                self._message.content = f"Nothing was written: {error}"
                return None
            command = shlex.join(["nest-edit", str(self._run), str(path)])
            self._message.content = f"Wrote `{path}`\n\nA run of it for all tools:\n```\n{command}\n```"
            return path
        return None

    @_one_at_a_time
    def show(self) -> None:
        """Show the edit; where the scene cannot carry it, say why and take the last change back."""
        model, edit = self._model, self.session.edit()
        before = model.edit
        model.edit = edit if edit.steps else None
        try:
            with torch.no_grad():
                model.shown_scene()
        except ValueError as error:
            model.edit = before
            self.session.undo()
            self._message.content = f"Not shown: {error}"
            self._sync()
        else:
            self._message.content = ""
            if not model.is_trained_here:
                self._offer(self._latent())  # what moves now has a speed and a phase
        self._tokens.redraw_tokens()
        self._viewer._trigger_rerender()

    # ---------------------------------------------------------------- selection on the image

    @_one_at_a_time
    def _wait_for(self, event: Any) -> None:
        @self._server.scene.on_pointer_event(event_type=event)
        def picked(pointer: Any) -> None:
            self._server.scene.remove_pointer_callback()
            self.pick(pointer)

        # last: who is quick must not click an image that does not listen yet
        self._message.content = "Click the image." if event == "click" else "Drag a box on the image."

    @_one_at_a_time
    def pick(self, pointer: Any) -> None:
        """Select what a click or a box on the image means."""
        positions = self._positions()
        if pointer.event_type == "click":
            origin, direction = (np.asarray(v) for v in (pointer.ray_origin, pointer.ray_direction))
            reach = self._reach.value * float(np.ptp(positions, axis=0).max())
            chosen = clicked(positions, origin / self._ratio, direction, reach)
        else:
            chosen = boxed(positions * self._ratio, pointer.client.camera, pointer.screen_pos)
        if chosen.any():
            self.select(chosen)
        else:
            self._message.content = "There is nothing; nothing is selected anew."

    def _latent(self) -> SceneLatent:
        with torch.no_grad():
            return self._model.shown_scene().latent

    def _positions(self) -> Float[np.ndarray, "k 3"]:
        with torch.no_grad():
            scene = self._model.shown_scene()
            return scene.poses_at(self._viewer.control_panel.time)[1].numpy(force=True)

    # ---------------------------------------------------------------- gizmo

    def _place_gizmo(self, position: Float[np.ndarray, " 3"]) -> None:
        self._remove_gizmo()
        self._gizmo_start = position * self._ratio
        extent = float(np.ptp(self._positions(), axis=0).max()) * self._ratio
        self._gizmo = self._server.scene.add_transform_controls(
            _GIZMO, scale=0.5 * extent, position=tuple(self._gizmo_start), depth_test=False
        )
        self._gizmo.on_update(lambda _: self._drag())

    def _remove_gizmo(self) -> None:
        if self._gizmo is not None:
            self._gizmo.remove()
        self._gizmo = None

    @_one_at_a_time
    def _drag(self) -> None:
        """Move and turn the selected tokens as the gizmo is."""
        gizmo = self._gizmo
        if gizmo is None:
            return
        shift = (np.asarray(gizmo.position) - self._gizmo_start) / self._ratio
        turn = quat_log(torch.tensor(np.asarray(gizmo.wxyz), dtype=torch.float64))
        known = self.session.tokens
        if np.allclose(shift, known.translation) and np.allclose(turn, known.rotation):
            return  # it was put there, or a later callback has been quicker
        self.session.change_tokens(translation=tuple(shift.tolist()), rotation=tuple(turn.tolist()))
        self.show()

    # ---------------------------------------------------------------- elements follow the session

    def _sync(self) -> None:
        """Show in all elements what the session holds."""
        for element, value, _ in self._values.values():
            if value() is not None and element.value != value():
                element.value = value()
        if not self._model.is_trained_here:
            self._offer(self._latent())
        if self._gizmo is not None:
            change = self.session.tokens
            self._gizmo.position = tuple(self._gizmo_start + np.asarray(change.translation) * self._ratio)
            half = np.asarray(change.rotation) / 2
            angle = np.linalg.norm(half)
            self._gizmo.wxyz = (np.cos(angle), *(np.sinc(angle / np.pi) * half))
