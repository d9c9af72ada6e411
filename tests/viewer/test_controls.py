import copy
import pickle
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from nest_nerfstudio.types import MotionCode, SceneLatent
from nest_nerfstudio.viewer.base import FAR_DEPTH
from nest_nerfstudio.viewer.controls import DynamicViewerControls
from tests.viewer.waiting import eventually


def latent_at(t: float) -> SceneLatent:
    """Four tokens that move along x with time."""
    places = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]) + torch.tensor([t, 0.0, 0.0])
    return SceneLatent(
        quats=torch.tensor([1.0, 0, 0, 0]).repeat(4, 1),
        translations=places,
        shape=torch.zeros(4, 0),
        appearance=torch.zeros(4, 0),
        light=torch.zeros(3, 9),
        motion=MotionCode(
            torch.zeros(2), torch.zeros(4, 2), torch.zeros(4, 6, 3), torch.zeros(0), torch.tensor(t)
        ),
    )


@pytest.fixture
def controls(viewer: SimpleNamespace) -> Iterator[DynamicViewerControls]:
    controls = DynamicViewerControls(latent_at, seconds_per_clip=2.0)
    controls._setup(viewer)
    yield controls
    controls.close()
    assert not controls._thread.is_alive()


def test_the_viewers_own_time_reaches_beyond_the_clip(viewer, controls) -> None:
    viewer.control_panel.time = 2.5
    assert viewer.control_panel.time == 2.5
    assert (viewer.control_panel._time.min, viewer.control_panel._time.max) == (-1.0, 3.0)
    assert eventually(lambda: viewer._trigger_rerender.called)


def test_there_is_one_time_slider(viewer) -> None:
    handles = viewer.viser_server.gui._gui_input_handle_from_id
    narrow = viewer.control_panel._time.gui_handle
    controls = DynamicViewerControls(latent_at)
    controls._setup(viewer)
    assert viewer.control_panel._time.gui_handle in handles.values()
    assert narrow not in handles.values()
    controls.close()


def test_playing_runs_in_real_time_and_renders(viewer, controls) -> None:
    controls._speed.value = 5.0
    controls._play_button.value = True  # what a click does
    assert eventually(lambda: controls.playing)
    started, begin = time.monotonic(), viewer.control_panel.time
    viewer._trigger_rerender.reset_mock()
    time.sleep(0.5)
    passed, run = time.monotonic() - started, viewer.control_panel.time - begin
    assert run == pytest.approx(passed / 5.0, abs=0.04)
    assert viewer._trigger_rerender.call_count >= 4
    controls._pause_button.value = True
    assert eventually(lambda: not controls.playing)
    time.sleep(0.1)
    held = viewer.control_panel.time
    time.sleep(0.2)
    assert viewer.control_panel.time == held


def test_time_that_stood_still_is_not_caught_up(viewer, controls) -> None:
    time.sleep(0.5)
    controls.play()
    time.sleep(0.1)
    assert viewer.control_panel.time < 0.2


def test_playing_stays_in_its_loop(viewer, controls) -> None:
    controls._speed.value, controls._loop.value = 0.5, (1.5, 1.75)
    viewer.control_panel.time = 1.5
    controls.play()
    seen = []
    for _ in range(20):
        time.sleep(0.05)
        seen.append(viewer.control_panel.time)
    assert min(seen) >= 1.5
    assert max(seen) <= 1.75
    assert max(seen) - min(seen) > 0.1


def test_tokens_follow_time_over_the_picture(viewer, controls) -> None:
    viewer.control_panel._layer_depth.value = True
    controls._tokens.value = True
    assert eventually(lambda: controls._overlay.visible)
    assert not viewer.control_panel.layer_depth
    viewer.control_panel.time = 0.75
    assert eventually(lambda: controls._overlay._points[0, 0] == 7.5)
    controls._tokens.value = False
    assert eventually(lambda: not controls._overlay.visible)
    assert viewer.control_panel.layer_depth


def test_tokens_follow_training_and_wait_for_it(viewer, controls) -> None:
    """Nothing of the model is read while the trainer holds its lock."""
    controls._tokens.value = True
    assert eventually(lambda: controls._overlay.visible)
    with viewer.train_lock:
        controls._latent_at = lambda t: latent_at(t).move((torch.tensor([1.0, 0, 0, 0]), torch.ones(3)))
        time.sleep(1.2)
        assert controls._overlay._points[0, 0] == 0
    assert eventually(lambda: controls._overlay._points[0, 0] == 10)


def test_motion_is_computed_on_request(viewer, controls) -> None:
    assert controls.motion
    controls._motion.value = False
    assert eventually(lambda: not controls.motion and viewer._trigger_rerender.called)


def test_empty_pixels_are_far_unless_depth_is_looked_at(viewer, controls) -> None:
    panel = viewer.control_panel
    assert controls.empty_depth == FAR_DEPTH
    panel.update_output_options(["rgb", "depth"])
    panel._output_render.value = "depth"
    assert controls.empty_depth is None
    panel._output_render.value, panel._split.value, panel._split_output_render.value = "rgb", True, "depth"
    assert controls.empty_depth is None
    panel._split.value = False
    assert controls.empty_depth == FAR_DEPTH
    panel._layer_depth.value = False
    assert controls.empty_depth is None


def test_without_a_viewer_there_are_only_settings() -> None:
    controls = DynamicViewerControls(latent_at, motion=False)
    assert controls.empty_depth is None
    assert not controls.motion


def test_a_copy_starts_without_a_viewer(controls) -> None:
    for other in (copy.deepcopy(controls), pickle.loads(pickle.dumps(controls))):
        assert other._panel is None
        assert other.motion == controls.motion


def test_it_ends_with_viser(stopping_viewer) -> None:
    controls = DynamicViewerControls(latent_at)
    controls._setup(stopping_viewer)
    controls.play()
    stopping_viewer.viser_server.stop()
    assert eventually(lambda: not controls._thread.is_alive())
