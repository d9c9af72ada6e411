"""The edit panel on a real viser server, over a scene of either field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nest_nerfstudio.dynamics.flow import LatentFlowConfig
from nest_nerfstudio.edits.scene_edit import SceneEdit
from nest_nerfstudio.edits.selection import Ids
from nest_nerfstudio.edits.steps import (
    Delete,
    GenerateMotion,
    Interpolate,
    Move,
    Recolor,
    Relight,
    Retime,
    Traverse,
)
from nest_nerfstudio.models.decoded_scene import DecodedScene
from nest_nerfstudio.models.runs import OtherScenes
from nest_nerfstudio.viewer.controls import DynamicViewerControls
from nest_nerfstudio.viewer.edit_panel import EditPanel
from tests.edits.test_inverses import BOUND, LATENT, scene
from tests.edits.test_steps import TOKENS
from tests.viewer.waiting import eventually

RATIO = 10.0  # viser units for one of the world


class Model:
    """A model of one scene, without training or images."""

    shared_motion: Any = None

    def __init__(self, kind: str, motion: str) -> None:
        latent, self.field = scene(kind)
        self.flow = LatentFlowConfig(state_dim=4).setup()
        self.latent = replace(latent, motion=replace(latent.motion, kind=motion))  # type: ignore[arg-type]
        self.edit: SceneEdit | None = None
        self.is_trained_here = False
        self.scenes = OtherScenes(self)

    def shown_scene(self) -> DecodedScene:
        latent, edit = self.latent, self.edit
        latent = latent if edit is None else edit.apply(latent, self.field, self.scenes)
        return DecodedScene(latent, self.field, self.flow)


@pytest.fixture
def open_panel(viewer: SimpleNamespace, tmp_path: Path):
    opened = []

    def make(kind: str = BOUND, motion: str = "cyclic") -> SimpleNamespace:
        viewer.log_filename = tmp_path / "run" / "viewer.log"
        viewer.pipeline = SimpleNamespace(model=Model(kind, motion))
        controls = DynamicViewerControls(
            lambda t: viewer.pipeline.model.shown_scene().poses_at(t)[1].detach()
        )
        controls._setup(viewer)
        opened.append(controls)
        viewer.panel, viewer.model = controls.edit_panel, viewer.pipeline.model
        return viewer

    yield make
    for controls in opened:
        controls.close()


def offered(viewer: SimpleNamespace) -> set[str]:
    names = LIGHT | COLOR | CODES | {"Speed", "Phase"}
    return {name for name in names if viewer.elements[name].visible}


def steps(viewer: SimpleNamespace) -> tuple:
    return () if viewer.model.edit is None else viewer.model.edit.steps


LIGHT, COLOR = {"Light azimuth", "Light elevation", "Light gain"}, {"Hue", "Brightness"}
CODES = {f"{factor} {i}" for factor in ("Geometry", "Appearance") for i in (1, 2, 3)}


@pytest.mark.parametrize(
    ("kind", "motion", "expected"),
    [
        (BOUND, "still", COLOR),
        (BOUND, "cyclic", COLOR | {"Speed", "Phase"}),
        (BOUND, "free", COLOR | {"Speed"}),
        (LATENT, "still", COLOR | LIGHT | CODES),
        (LATENT, "cyclic", COLOR | LIGHT | CODES | {"Speed", "Phase"}),
    ],
)
def test_what_the_scene_cannot_carry_is_absent(
    open_panel: Callable, kind: str, motion: str, expected: set[str]
) -> None:
    assert offered(open_panel(kind, motion)) == expected


def test_sliders_edit_what_is_shown(open_panel: Callable) -> None:
    viewer = open_panel(LATENT)
    viewer._trigger_rerender.reset_mock()
    viewer.elements["Hue"].value = 0.2
    assert eventually(lambda: steps(viewer) == (Recolor(0.2),))
    assert eventually(lambda: viewer._trigger_rerender.called)
    viewer.elements["Light gain"].value = 0.5
    assert eventually(lambda: steps(viewer) == (Recolor(0.2), Relight(gain=0.5)))
    viewer.elements["Speed"].value = 2.0
    assert eventually(lambda: steps(viewer) == (Recolor(0.2), Relight(gain=0.5), Retime(2.0)))
    viewer.elements["Undo"].value = True  # what a click does
    assert eventually(lambda: viewer.elements["Speed"].value == 1.0)
    assert steps(viewer) == (Recolor(0.2), Relight(gain=0.5))
    viewer.elements["Reset edit"].value = True
    assert eventually(lambda: viewer.model.edit is None)
    assert eventually(lambda: viewer.elements["Hue"].value == 0.0)
    viewer.elements["Undo"].value = True
    assert eventually(lambda: viewer.elements["Hue"].value == pytest.approx(0.2))
    assert steps(viewer) == (Recolor(0.2), Relight(gain=0.5))


def test_a_late_callback_takes_nothing_back(open_panel: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """viser calls back from other threads, also while the elements are still to follow an undo."""
    viewer = open_panel(LATENT)
    panel, hue = viewer.panel, viewer.elements["Hue"]
    hue.value = 0.2
    assert eventually(lambda: steps(viewer) == (Recolor(0.2),))
    show, late = panel.show, []

    def show_and_call_back() -> None:
        monkeypatch.undo()
        show()
        (callback,) = hue._impl.update_cb
        late.append(Thread(target=callback, args=(None,)))
        late[0].start()
        late[0].join(timeout=0.5)  # as long as a callback takes that need not wait

    monkeypatch.setattr(panel, "show", show_and_call_back)
    panel.undo()
    late[0].join()
    assert steps(viewer) == ()
    assert hue.value == 0.0


def test_new_motions_are_offered_where_a_prior_has_learned_some(open_panel: Callable) -> None:
    viewer = open_panel(LATENT)
    assert not viewer.elements["New motion"].visible
    shared = SimpleNamespace(generate=lambda latent, seed, spread: latent)
    viewer.model.shared_motion = shared
    viewer.panel.reset()
    assert viewer.elements["New motion"].visible
    viewer.elements["New motion"].value = 7
    assert eventually(lambda: steps(viewer) == (GenerateMotion(seed=7),))


def test_something_is_taken_from_the_scene_that_is_shown_without_choosing_it(open_panel: Callable) -> None:
    viewer = open_panel(LATENT)
    tokens = SimpleNamespace(show_tokens=lambda chosen: None, redraw_tokens=lambda: None)
    session = EditPanel(viewer, tokens, ("deer", "horse")).session
    session.change_scene(amount=0.5)
    assert session.edit().steps == (Interpolate("appearance", 0.5, "deer"),)
    session.reset()
    assert session.edit().steps == ()
    session.change_scene(amount=1.0)
    assert session.edit().steps == (Interpolate("appearance", 1.0, "deer"),)


def test_sliders_go_along_principal_directions(open_panel: Callable) -> None:
    viewer = open_panel(LATENT)
    before = viewer.model.shown_scene().latent
    viewer.panel.select(np.array([True] * 5 + [False]))
    viewer.elements["Geometry 2"].value = 1.5
    chosen = Ids((0, 1, 2, 3, 4), (0,))
    step = Traverse("geometry", (0.0, 1.5, 0.0), chosen)
    assert eventually(lambda: steps(viewer) == (step,))
    change = viewer.model.shown_scene().latent.geometry - before.geometry
    torch.testing.assert_close(change[:5], 1.5 * viewer.model.field.directions("geometry")[1].expand(5, -1))
    assert not change[5].any()
    viewer.elements["Appearance 1"].value = -1.0
    assert eventually(lambda: steps(viewer) == (step, Traverse("appearance", (-1.0, 0.0, 0.0), chosen)))
    viewer.elements["Undo"].value = True
    assert eventually(lambda: viewer.elements["Appearance 1"].value == 0.0)
    assert steps(viewer) == (step,)


def test_a_click_selects_highlights_and_brings_a_gizmo_that_moves(open_panel: Callable) -> None:
    viewer = open_panel(BOUND, "still")
    token = viewer.model.latent.translations[5]
    click = SimpleNamespace(
        event_type="click",
        ray_origin=tuple(RATIO * (token + torch.tensor([0.0, 0.0, 4.0]))),
        ray_direction=(0.0, 0.0, -1.0),
    )
    viewer.elements["Reach"].value = 0.0
    viewer.panel.pick(click)
    assert viewer.panel._tokens._overlay._chosen.tolist() == [False] * 5 + [True]
    assert viewer.elements["Show tokens"].value
    assert "1 of 6 tokens" in viewer.panel._message.content
    gizmo = viewer.panel._gizmo
    np.testing.assert_allclose(gizmo.position, RATIO * token.numpy(), atol=1e-4)
    gizmo.position = tuple(np.asarray(gizmo.position) + np.array([0.0, 0.0, 5.0]))
    gizmo.wxyz = (np.sqrt(0.5), 0.0, 0.0, np.sqrt(0.5))
    viewer.panel._drag()
    (move,) = steps(viewer)
    assert isinstance(move, Move)
    assert move.translation == pytest.approx((0.0, 0.0, 0.5), abs=1e-5)
    assert move.rotation == pytest.approx((0.0, 0.0, np.pi / 2))
    moved = viewer.model.shown_scene().latent.translations
    torch.testing.assert_close(moved[5], token + torch.tensor([0.0, 0.0, 0.5]))
    assert torch.equal(moved[:5], viewer.model.latent.translations[:5])
    viewer.panel._drag()  # called once more for the same place, as viser does from many threads
    viewer.panel.undo()
    np.testing.assert_allclose(gizmo.position, RATIO * token.numpy(), atol=1e-4)
    np.testing.assert_allclose(gizmo.wxyz, (1.0, 0.0, 0.0, 0.0), atol=1e-6)
    assert steps(viewer) == ()
    viewer.panel._drag()
    assert steps(viewer) == ()
    viewer.panel.undo()  # of the selection: nothing is left that a drag would move
    assert viewer.panel._gizmo is None
    assert viewer.panel._tokens._overlay._chosen is None


def test_a_click_is_asked_for_once_the_image_listens(
    open_panel: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel = open_panel(BOUND, "still").panel
    listen, said = panel._server.scene.on_pointer_event, []

    def listening(event_type: str) -> Callable:
        said.append(panel._message.content)
        return listen(event_type=event_type)

    monkeypatch.setattr(panel._server.scene, "on_pointer_event", listening)
    panel._wait_for("click")
    assert said == [""]
    assert panel._message.content == "Click the image."


def test_a_click_beside_the_scene_keeps_the_selection(open_panel: Callable) -> None:
    viewer = open_panel()
    viewer.panel.pick(
        SimpleNamespace(event_type="click", ray_origin=(0, 999.0, 0), ray_direction=(0, 1.0, 0))
    )
    assert "There is nothing" in viewer.panel._message.content
    assert viewer.panel._gizmo is None


def test_a_box_selects(open_panel: Callable) -> None:
    viewer = open_panel(BOUND, "still")
    camera = SimpleNamespace(wxyz=(0.0, 1.0, 0.0, 0.0), position=(0, 0, 200.0), fov=np.pi / 2, aspect=1.0)
    viewer.panel.pick(
        SimpleNamespace(
            event_type="rect-select",
            client=SimpleNamespace(camera=camera),
            screen_pos=((0.49, 0.4), (0.75, 0.6)),
        )
    )
    x = viewer.model.latent.translations[:, 0]
    assert viewer.panel._tokens._overlay._chosen.tolist() == (x >= 0).tolist()
    viewer.elements["Hue"].value = 0.3
    assert eventually(lambda: len(steps(viewer)) == 1)
    assert steps(viewer)[0].tokens.ids == (2, 3, 4, 5)
    viewer.elements["Select all"].value = True
    assert eventually(lambda: viewer.elements["Hue"].value == 0.0)
    assert f"{TOKENS} of {TOKENS} tokens" in viewer.panel._message.content


def test_what_was_done_is_saved_and_read_again(open_panel: Callable, tmp_path: Path) -> None:
    viewer = open_panel(LATENT)
    assert viewer.panel.save() is None
    assert "nothing is edited yet" in viewer.panel._message.content
    viewer.elements["Hue"].value = 0.2
    assert eventually(lambda: steps(viewer) == (Recolor(0.2),))
    viewer.elements["Edit name"].value = "blue"
    path = tmp_path / "run" / "edits" / "blue.json"
    viewer.elements["Save edit"].value = True
    assert eventually(lambda: path.is_file())
    assert eventually(lambda: f"Wrote `{path}`" in viewer.panel._message.content)
    assert f"nest-edit {tmp_path / 'run'} {path}" in viewer.panel._message.content
    assert SceneEdit.load(path) == viewer.model.edit
    assert viewer.panel.save() is None
    assert "is there; give another name" in viewer.panel._message.content
    viewer.elements["Edit name"].value = "../blue"
    assert viewer.panel.save() is None
    assert "no name of a file" in viewer.panel._message.content


def test_what_the_scene_cannot_carry_is_told_and_taken_back(open_panel: Callable) -> None:
    viewer = open_panel(BOUND)
    viewer.elements["Hue"].value = 0.2
    assert eventually(lambda: steps(viewer) == (Recolor(0.2),))
    viewer.elements["Light gain"].value = 0.5  # not offered
    assert eventually(lambda: "Not shown: step 2 of the edit: relight" in viewer.panel._message.content)
    assert steps(viewer) == (Recolor(0.2),)
    assert eventually(lambda: viewer.elements["Light gain"].value == 1.0)


def test_a_run_that_is_edited_already_keeps_its_edit(viewer: SimpleNamespace, open_panel: Callable) -> None:
    viewer = open_panel(BOUND)
    base = SceneEdit((Delete(Ids((5,))),))
    viewer.panel.session.base = viewer.model.edit = base
    viewer.panel.select(np.array([True] * 5))
    viewer.elements["Hue"].value = 0.1
    assert eventually(lambda: len(steps(viewer)) == 2)
    assert steps(viewer)[0] == base.steps[0]


def test_a_scene_that_cannot_be_shown_leaves_the_viewer_usable(viewer: SimpleNamespace) -> None:
    def shown_scene() -> None:
        raise ValueError("its images are missing")

    model = SimpleNamespace(edit=None, is_trained_here=False, shown_scene=shown_scene)
    viewer.pipeline = SimpleNamespace(model=model)
    controls = DynamicViewerControls(lambda t: torch.zeros(1, 3))
    controls._setup(viewer)
    controls.close()
    assert "its images are missing" in controls.edit_panel._message.content


def test_every_element_has_a_hint(open_panel: Callable) -> None:
    viewer = open_panel()
    ours = {
        "Select by click",
        "Select by box",
        "Select all",
        "Reach",
        "Undo",
        "Reset edit",
        "Edit name",
        "Save edit",
    }
    assert all(viewer.hints[name] for name in ours | LIGHT | COLOR | CODES)
