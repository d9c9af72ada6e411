"""Time, playback, tokens and the motion output, on a real viser server: elements are used by their labels."""

import copy
import pickle
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nest_nerfstudio.viewer.base import FAR_DEPTH
from nest_nerfstudio.viewer.controls import DynamicViewerControls
from tests.viewer.waiting import eventually

TOKENS = "/tokens"
"""The point cloud of the token overlay."""


class Scene:
    """Four tokens that move along x with time, and by an offset as in a training."""

    def __init__(self) -> None:
        self.offset = 0.0

    def positions_at(self, t: float) -> torch.Tensor:
        positions = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
        return positions + torch.tensor([t + self.offset, 0.0, 0.0])


def time_threads() -> int:
    return sum(thread.name == "viewer-time" for thread in threading.enumerate())


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
def controls(viewer: SimpleNamespace, scene: Scene) -> Iterator[DynamicViewerControls]:
    before = time_threads()
    controls = DynamicViewerControls(scene.positions_at, seconds_per_clip=2.0)
    controls._setup(viewer)
    assert time_threads() == before + 1
    yield controls
    controls.close()
    assert time_threads() == before


def test_time_reaches_beyond_the_clip(viewer, controls) -> None:
    viewer.control_panel.time = 2.5
    assert viewer.control_panel.time == 2.5
    assert eventually(lambda: viewer._trigger_rerender.called)


def test_there_is_one_time_slider(viewer, scene) -> None:
    handles = viewer.viser_server.gui._gui_input_handle_from_id
    narrow = viewer.control_panel._time.gui_handle
    controls = DynamicViewerControls(scene.positions_at)
    controls._setup(viewer)
    assert viewer.control_panel._time.gui_handle in handles.values()
    assert narrow not in handles.values()
    controls.close()


def test_playback_runs_in_real_time_and_renders(viewer, controls) -> None:
    viewer.elements["Seconds per clip"].value = 5.0
    viewer.elements["Play"].value = True  # what a click does
    assert eventually(lambda: controls.playing)
    started, begin = time.monotonic(), viewer.control_panel.time
    viewer._trigger_rerender.reset_mock()
    time.sleep(0.5)
    passed, run = time.monotonic() - started, viewer.control_panel.time - begin
    assert run == pytest.approx(passed / 5.0, abs=0.04)
    assert viewer._trigger_rerender.call_count >= 4
    viewer.elements["Pause"].value = True
    assert eventually(lambda: not controls.playing)
    time.sleep(0.1)
    held = viewer.control_panel.time
    time.sleep(0.2)
    assert viewer.control_panel.time == held


def test_play_and_pause_take_turns(viewer, controls) -> None:
    play, pause = viewer.elements["Play"], viewer.elements["Pause"]
    assert (play.visible, pause.visible) == (True, False)
    controls.play()
    assert (play.visible, pause.visible) == (False, True)
    controls.pause()
    assert (play.visible, pause.visible) == (True, False)


def test_time_that_stood_still_is_not_caught_up(viewer, controls) -> None:
    time.sleep(0.5)
    controls.play()
    time.sleep(0.1)
    assert viewer.control_panel.time < 0.2


def test_playback_stays_in_its_range(viewer, controls) -> None:
    viewer.elements["Seconds per clip"].value = 0.5
    viewer.elements["Playback range"].value = (1.5, 1.75)
    viewer.control_panel.time = 1.5
    controls.play()
    times = []
    for _ in range(20):
        time.sleep(0.05)
        times.append(viewer.control_panel.time)
    assert min(times) >= 1.5
    assert max(times) <= 1.75
    assert max(times) - min(times) > 0.1


def test_tokens_follow_time_over_the_image(viewer, controls) -> None:
    viewer.control_panel._layer_depth.value = True
    viewer.elements["Show tokens"].value = True
    assert eventually(lambda: TOKENS in viewer.points)
    assert not viewer.control_panel.layer_depth
    viewer.control_panel.time = 0.75
    assert eventually(lambda: viewer.points[TOKENS][0, 0] == 7.5)
    viewer.elements["Show tokens"].value = False
    assert eventually(lambda: TOKENS not in viewer.points)
    assert viewer.control_panel.layer_depth


def test_tokens_follow_training_and_wait_for_it(viewer, controls, scene) -> None:
    """Nothing of the model is read while the trainer holds its lock."""
    viewer.elements["Show tokens"].value = True
    assert eventually(lambda: TOKENS in viewer.points)
    with viewer.train_lock:
        scene.offset = 1.0
        time.sleep(1.2)
        assert viewer.points[TOKENS][0, 0] == 0
    assert eventually(lambda: viewer.points[TOKENS][0, 0] == 10)


def test_motion_is_rendered_on_request(viewer, controls) -> None:
    assert controls.motion
    viewer._trigger_rerender.reset_mock()
    viewer.elements["Render motion"].value = False
    assert eventually(lambda: not controls.motion and viewer._trigger_rerender.called)


def test_every_setting_has_a_hint(viewer, controls) -> None:
    settings = set(viewer.elements) - {"Play", "Pause"}
    assert {"Time", "Seconds per clip", "Playback range", "Show tokens", "Render motion"} <= settings
    assert all(viewer.hints[label] for label in settings)


def test_empty_pixels_are_far_unless_depth_is_displayed(viewer, controls) -> None:
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


def test_a_client_starts_outside_the_cameras_orbit_towards_the_origin(viewer, controls) -> None:
    """In front of the first training camera, a tenth of the way to the origin; in viser units."""
    poses = torch.eye(4)[None, :3].repeat(2, 1, 1)
    poses[0, :, 3] = torch.tensor([1.0, 2.0, 3.0])
    cameras = SimpleNamespace(camera_to_worlds=poses)
    viewer.pipeline = SimpleNamespace(
        datamanager=SimpleNamespace(train_dataset=SimpleNamespace(cameras=cameras))
    )
    client = SimpleNamespace(atomic=threading.Lock, camera=SimpleNamespace())
    viewer.viser_server._client_connect_cb[-1](client)
    np.testing.assert_allclose(client.camera.position, [9.0, 18.0, 27.0])
    assert client.camera.look_at == (0.0, 0.0, 0.0)


def test_without_a_viewer_there_are_only_settings(scene) -> None:
    controls = DynamicViewerControls(scene.positions_at, motion=False)
    assert controls.empty_depth is None
    assert not controls.motion


def test_a_copy_has_no_viewer(controls) -> None:
    controls.motion = False
    for other in (copy.deepcopy(controls), pickle.loads(pickle.dumps(controls))):
        assert other.empty_depth is None
        assert controls.empty_depth is not None
        assert not other.motion


def test_it_ends_with_viser(stopping_viewer, scene) -> None:
    before = time_threads()
    controls = DynamicViewerControls(scene.positions_at)
    controls._setup(stopping_viewer)
    assert time_threads() == before + 1
    controls.play()
    stopping_viewer.viser_server.stop()
    assert eventually(lambda: time_threads() == before)
