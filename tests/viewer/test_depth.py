"""Depth for the depth compositing of nerfstudio's viewer."""

from types import SimpleNamespace
from typing import Literal

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import CameraType
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.viewer.render_state_machine import RenderStateMachine
from nerfstudio.viewer.utils import CameraState, parse_object
from nerfstudio.viewer.viewer_elements import ViewerControl

from nest_nerfstudio.models.nest_dynamic import NestDynamicModel, NestDynamicModelConfig
from nest_nerfstudio.types import Points
from nest_nerfstudio.viewer.base import FAR_DEPTH

DISTANCE = 4.0


@pytest.fixture
def model() -> NestDynamicModel:
    return plane_model("static")


def plane_model(motion: Literal["static", "mlp"]) -> NestDynamicModel:
    """Gaussians on the plane z = 0, out to the corners of the image on one side only."""
    config = NestDynamicModelConfig(num_random=400, num_tokens=4, rasterizer="dense", motion=motion)
    box = SceneBox(aabb=torch.tensor([[-1.0, -1, -1], [1, 1, 1]]))
    model = config.setup(scene_box=box, num_train_data=1, metadata={})
    x, y = torch.meshgrid(torch.linspace(0.3, 2.2, 20), torch.linspace(-2.2, 2.2, 20), indexing="ij")
    points = torch.stack([x, y, torch.zeros_like(x)], -1).reshape(-1, 3)
    model.initialize([], Points(points, torch.full_like(points, 0.8)))
    return model.eval()


def from_above(kind: CameraType = CameraType.PERSPECTIVE) -> CameraState:
    """A camera over the plane that looks straight down."""
    c2w = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, DISTANCE]])
    return CameraState(fov=1.0, aspect=1.0, c2w=c2w, camera_type=kind)  # type: ignore[arg-type]


def viewer_outputs(
    viewer: SimpleNamespace, model: NestDynamicModel, kind: CameraType = CameraType.PERSPECTIVE
) -> dict[str, torch.Tensor]:
    viewer.include_time, viewer.step, viewer.get_model = True, 0, lambda: model
    viewer.render_tab_state = SimpleNamespace(preview_render=False)
    viewer.control_panel._max_res.value = 64
    model.viewer_controls._setup(viewer)
    try:
        return RenderStateMachine(viewer, 10.0, client=None)._render_img(from_above(kind))
    finally:
        model.viewer_controls.close()


def test_the_viewer_gets_back_camera_depth(viewer, model) -> None:
    """A plane across the view has one depth, although rays to its edges are longer."""
    outputs = viewer_outputs(viewer, model)
    solid = outputs["accumulation"] > 0.9
    assert solid.sum() > 500
    depth = outputs["gl_z_buf_depth"][solid]
    np.testing.assert_allclose(depth.numpy(), DISTANCE, rtol=1e-3)
    assert outputs["depth"][solid].max() > 1.1 * DISTANCE


def test_empty_pixels_hide_nothing(viewer, model) -> None:
    outputs = viewer_outputs(viewer, model)
    empty = outputs["accumulation"] == 0
    assert empty.sum() > 200
    assert outputs["gl_z_buf_depth"][empty].min() > 0.5 * FAR_DEPTH


def test_without_a_viewer_empty_pixels_are_as_far_as_the_farthest(model) -> None:
    from nerfstudio.viewer.utils import get_camera

    outputs = model.get_outputs_for_camera(get_camera(from_above(), 64, 64))
    empty = outputs["accumulation"] == 0
    assert (outputs["depth"][empty] == outputs["depth"][~empty].max()).all()


def test_the_motion_output_follows_its_checkbox() -> None:
    from nerfstudio.viewer.utils import get_camera

    model = plane_model("mlp")
    camera = get_camera(from_above(), 32, 32)
    assert "motion" in model.get_outputs_for_camera(camera)
    model.viewer_controls.motion = False
    assert "motion" not in model.get_outputs_for_camera(camera)


def test_controls_are_not_in_a_checkpoint(model) -> None:
    assert not [key for key in model.state_dict() if "viewer" in key]


def test_the_viewer_finds_the_controls(model) -> None:
    """It reads every attribute of every module, also of a model that is not training."""
    found = parse_object(model, ViewerControl, "Custom Elements")
    assert [element for _, element in found] == [model.viewer_controls]


@pytest.mark.parametrize("kind", [CameraType.FISHEYE, CameraType.EQUIRECTANGULAR])
def test_the_previews_of_the_render_tab_are_drawn_through_their_lens(viewer, model, kind: CameraType) -> None:
    """Its thread ends where drawing raises."""
    outputs = viewer_outputs(viewer, model, kind)
    assert all(outputs[name].isfinite().all() for name in ("rgb", "accumulation", "depth"))
    assert (outputs["accumulation"] > 0.9).sum() > 10  # small in a panorama
    assert outputs["gl_z_buf_depth"].shape == outputs["depth"].shape
