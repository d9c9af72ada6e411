"""Selection of scene and context views, refinement and tokens, on a real viser server."""

import copy
from types import SimpleNamespace

import pytest
import torch

from nest_nerfstudio.viewer.scene_controls import SceneViewerControls
from tests.viewer.waiting import eventually

NAMES = ["cow", "wolf", "trex"]
TOKENS = "/tokens"


@pytest.fixture
def controls(viewer: SimpleNamespace) -> SceneViewerControls:
    """Tokens stand at (10 · scene + views + ½ if refined); the first scene cannot be read with 9 views."""

    def positions_of(scene: int, num_views: int, refined: bool) -> torch.Tensor:
        if scene == 0 and num_views == 9:
            raise ValueError("its images are missing")
        return torch.full((5, 3), float(10 * scene + num_views) + 0.5 * refined)

    made = SceneViewerControls(positions_of)
    made.offer(NAMES, 1, 4)
    made._setup(viewer)
    return made


def test_starts_with_the_scene_that_is_offered(controls, viewer) -> None:
    assert viewer.elements["Scene"].value == "wolf"
    assert tuple(viewer.elements["Scene"].options) == tuple(NAMES)
    assert viewer.elements["Context views"].value == 4
    assert (controls.scene, controls.num_views, controls.refined) == (1, 4, False)


def test_another_scene_and_other_views_are_displayed(controls, viewer) -> None:
    viewer._trigger_rerender.reset_mock()
    viewer.elements["Scene"].value = "trex"
    assert eventually(lambda: controls.scene == 2)
    viewer.elements["Context views"].value = 7
    assert eventually(lambda: controls.num_views == 7)
    assert eventually(lambda: viewer._trigger_rerender.call_count == 2)


def test_tokens_follow_scene_and_refinement(controls, viewer) -> None:
    def tokens_stand_at(x: float) -> bool:  # in viser units, 10 for one of the world
        return TOKENS in viewer.points and float(viewer.points[TOKENS][0, 0]) == 10 * x

    viewer.elements["Show tokens"].value = True
    assert eventually(lambda: tokens_stand_at(14))
    viewer.elements["Scene"].value = "cow"
    assert eventually(lambda: tokens_stand_at(4))
    viewer.elements["Refine"].value = True
    assert eventually(lambda: tokens_stand_at(4.5))
    assert controls.refined
    viewer.elements["Show tokens"].value = False
    assert eventually(lambda: TOKENS not in viewer.points)


def test_tokens_pause_depth_compositing(controls, viewer) -> None:
    viewer.control_panel._layer_depth.value = True
    viewer.elements["Show tokens"].value = True
    assert eventually(lambda: not viewer.control_panel.layer_depth)
    viewer.elements["Show tokens"].value = False
    assert eventually(lambda: viewer.control_panel.layer_depth)


def test_a_scene_that_cannot_be_read_is_reported_and_not_displayed(controls, viewer, capsys) -> None:
    viewer.elements["Context views"].value = 9
    assert eventually(lambda: controls.num_views == 9)
    viewer.elements["Scene"].value = "cow"
    assert eventually(lambda: viewer.elements["Scene"].value == "wolf")
    assert controls.scene == 1
    assert "Cannot display scene cow: its images are missing" in capsys.readouterr().out


def test_every_setting_has_a_hint(controls, viewer) -> None:
    assert {"Scene", "Context views", "Refine", "Show tokens", "Write splat file"} <= set(viewer.elements)
    assert all(viewer.hints.values())


def test_a_copy_has_no_viewer(controls) -> None:
    controls.scene = 2
    twin = copy.deepcopy(controls)
    assert twin.empty_depth is None
    assert controls.empty_depth is not None
    assert (twin.scene, twin.num_views) == (2, 4)


def test_the_displayed_scene_is_exported(controls, viewer) -> None:
    viewer.elements["Scene"].value = "trex"
    assert eventually(lambda: controls.scene == 2)
    name, options = controls._exported()
    assert name == "trex"
    assert options == ["--scenes.names", "trex", "--scenes.num-views", "4", "--scenes.no-refined"]
