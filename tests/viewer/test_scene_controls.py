"""The drop-down of scenes, the number of context views and the tokens, on a real viser server."""

import copy
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch

from nest_nerfstudio.viewer.scene_controls import SceneViewerControls
from tests.viewer.waiting import eventually

NAMES = ["cow", "wolf", "trex"]


@pytest.fixture
def controls(viewer: SimpleNamespace) -> SceneViewerControls:
    def latent_of(scene: int, num_views: int, refined: bool) -> SimpleNamespace:
        if scene == 0 and num_views == 9:
            raise ValueError("its pictures are missing")
        return SimpleNamespace(translations=torch.full((5, 3), float(10 * scene + num_views) + 0.5 * refined))

    made = SceneViewerControls(latent_of)
    made.offer(NAMES, 1, 4)
    made._setup(viewer)
    return made


def test_starts_with_the_scene_that_is_offered(controls) -> None:
    assert controls._scene.value == "wolf"
    assert tuple(controls._scene.options) == tuple(NAMES)
    assert (controls.scene, controls.num_views) == (1, 4)


def test_another_scene_and_other_views_are_shown(controls, viewer) -> None:
    viewer._trigger_rerender.reset_mock()
    controls._scene.value = "trex"
    assert eventually(lambda: controls.scene == 2)
    controls._views.value = 7
    assert eventually(lambda: controls.num_views == 7)
    assert eventually(lambda: viewer._trigger_rerender.call_count == 2)


def test_tokens_follow_the_scene(controls) -> None:
    controls._overlay = Mock()
    draw = controls._overlay.draw
    controls._tokens.value = True
    assert eventually(lambda: draw.called and float(draw.call_args[0][0][0, 0]) == 14)
    controls._scene.value = "cow"
    assert eventually(lambda: float(draw.call_args[0][0][0, 0]) == 4)
    controls._refine.value = True
    assert eventually(lambda: float(draw.call_args[0][0][0, 0]) == 4.5)
    assert controls.refined
    controls._tokens.value = False
    assert eventually(lambda: controls._overlay.hide.called)


def test_a_scene_that_cannot_be_read_is_not_shown(controls, viewer) -> None:
    controls._views.value = 9
    assert eventually(lambda: controls.num_views == 9)
    controls._scene.value = "cow"
    assert eventually(lambda: controls._scene.value == "wolf")
    assert controls.scene == 1


def test_a_copy_starts_without_a_viewer(controls) -> None:
    controls.scene = 2
    twin = copy.deepcopy(controls)
    assert twin._panel is None
    assert (twin.scene, twin.num_views, list(twin._names)) == (2, 4, NAMES)
