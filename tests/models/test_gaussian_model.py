"""What all models show: backgrounds, crop, alpha, edits, and cameras that have no time."""

import math
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import OrientedBox, SceneBox
from torch import Tensor

from nest_nerfstudio.dynamics.flow import LatentFlowConfig
from nest_nerfstudio.edits.scene_edit import SceneEdit
from nest_nerfstudio.edits.selection import Sphere
from nest_nerfstudio.edits.steps import Delete, EditError, Move, Relight
from nest_nerfstudio.fields.bound_gaussians import COLOR_DIM, BoundGaussians
from nest_nerfstudio.geometry.sh import SH_C0
from nest_nerfstudio.models.decoded_scene import DecodedScene
from nest_nerfstudio.models.gaussian_model import GaussianModel, GaussianModelConfig
from nest_nerfstudio.types import MotionCode, SceneLatent
from nest_nerfstudio.viewer.base import SceneControls
from tests.small_capture import ANGLE, SIZE, blobs, orbit

IDENTITY = torch.tensor([[1.0, 0, 0, 0]]).repeat(3, 1)
GREY = torch.tensor([0.3, 0.4, 0.5])
FAR_BALL = Sphere(centre=(0.6, 0.0, 0.0), radius=0.3)


@dataclass
class BallsConfig(GaussianModelConfig):
    _target: type = field(default_factory=lambda: Balls)
    rasterizer: str = "dense"  # type: ignore[assignment]


class Balls(GaussianModel):
    """Three balls on a token each, of which the last swings up and down once in the clip: `blobs`."""

    def populate_modules(self) -> None:
        super().populate_modules()
        balls = blobs(0.0)
        self.field = BoundGaussians(3, 3, sh_degree=0, num_neighbors=1)
        self.field.initialize(balls.means, balls.sh[:, 0] * SH_C0 + 0.5, opacity=0.99)
        self.field.params["scales"].data.fill_(math.log(0.16))
        self.field.bind((IDENTITY, balls.means))
        self.flow = LatentFlowConfig(state_dim=2).setup()
        modes = torch.zeros(3, 6, 3)
        modes[2, 2, 1] = 0.6  # of the state (cos, sin, 1)
        one = torch.ones(())
        start, still = torch.tensor([1.0, 0.0]), torch.zeros(3, 6)
        motion = MotionCode(start, modes, still, torch.zeros(0), one, 0 * one, "cyclic")
        self.latent = SceneLatent(
            ids=torch.arange(3),
            copies=torch.zeros(3, dtype=torch.long),
            quats=IDENTITY,
            translations=balls.means,
            geometry=torch.zeros(3, 0),
            appearance=torch.zeros(3, COLOR_DIM),
            light=torch.zeros(3, 9),
            motion=motion,
        )
        self.viewer_controls = SceneControls()
        self.decoded = 0
        self.forget_scenes()

    def shown_scene(self, camera: Cameras) -> DecodedScene:
        if self._scene is None:
            self._scene, self.decoded = self.decode(self.latent, self.flow), self.decoded + 1
        return self._scene

    def forget_scenes(self, keep_latents: bool = False) -> None:
        self._scene: DecodedScene | None = None


def make_model(**settings) -> Balls:
    box = SceneBox(aabb=torch.tensor([[-1.0, -1, -1], [1, 1, 1]]))
    return BallsConfig(**settings).setup(scene_box=box, num_train_data=1).eval()


def path_of(count: int, times: Tensor | None = None) -> Cameras:
    """Cameras that stand still."""
    focal = 0.5 * SIZE / math.tan(0.5 * ANGLE)
    poses = orbit(0.35)[None, :3].repeat(count, 1, 1)
    return Cameras(poses, focal, focal, SIZE / 2, SIZE / 2, SIZE, SIZE, times=times)


def camera_at(time: float | None) -> Cameras:
    return path_of(1, None if time is None else torch.tensor([[float(time)]]))


def rgb_at(model: Balls, time: float) -> Tensor:
    return model.get_outputs_for_camera(camera_at(time))["rgb"]


# ---------------------------------------------------------------- backgrounds


@pytest.mark.parametrize("has_alpha", [True, False])
@pytest.mark.parametrize(
    ("setting", "random_with_alpha", "random_without", "shown_with_alpha", "shown_without"),
    [
        ("auto", True, False, "white", "parser"),
        ("random", True, True, "white", "parser"),
        ("white", False, False, "white", "white"),
        ("black", False, False, "black", "black"),
    ],
)
def test_backgrounds(
    setting: str,
    random_with_alpha: bool,
    random_without: bool,
    shown_with_alpha: str,
    shown_without: str,
    has_alpha: bool,
) -> None:
    model = make_model(background_color=setting)
    model.set_image_background(has_alpha, None if has_alpha else GREY)
    colors = {"white": torch.ones(3), "black": torch.zeros(3), "parser": GREY}
    shown = colors[shown_with_alpha if has_alpha else shown_without]
    assert torch.equal(model.shown_background(has_alpha), shown)
    assert torch.equal(model.eval().background(has_alpha), shown)
    in_training = [model.train().background(has_alpha) for _ in range(3)]
    if random_with_alpha if has_alpha else random_without:
        assert not torch.equal(in_training[0], in_training[1])
        assert all(((color >= 0) & (color <= 1)).all() for color in in_training)
    else:
        assert all(torch.equal(color, shown) for color in in_training)
    outputs = model.eval().get_outputs_for_camera(camera_at(0.0))
    assert torch.equal(outputs["background"], shown.expand(SIZE, SIZE, 3))
    torch.testing.assert_close(outputs["rgb"][0, 0], shown)


def test_opaque_images_whose_parser_says_nothing_are_on_black() -> None:
    model = make_model()
    model.set_image_background(False, None)
    assert torch.equal(model.shown_background(False), torch.zeros(3))


def test_a_checkpoint_keeps_the_background() -> None:
    model, loaded = make_model(), make_model()
    model.set_image_background(False, GREY)
    loaded.load_state_dict(model.state_dict())
    torch.testing.assert_close(rgb_at(loaded, 0.0)[0, 0], GREY)


def test_scores_compare_over_the_background_that_is_shown() -> None:
    model = make_model(background_color="black")
    outputs = model.get_outputs_for_camera(camera_at(0.0))
    rgba = model.get_rgba_image(outputs)
    scores, images = model.get_image_metrics_and_images(outputs, {"image": rgba})
    assert scores["psnr"] > 50
    torch.testing.assert_close(images["img"][:, :SIZE], images["img"][:, SIZE:], atol=1e-3, rtol=0)
    opaque = (outputs["rgb"] + 0.1).clamp(max=1)
    assert model.get_image_metrics_and_images(outputs, {"image": opaque})[0]["psnr"] == pytest.approx(20, 0.1)


# ---------------------------------------------------------------- outputs


def test_it_draws_the_scene_over_the_background() -> None:
    model = make_model()
    outputs = model.get_outputs_for_camera(camera_at(0.25))
    assert set(outputs) == {"rgb", "accumulation", "depth", "background"}
    views = path_of(1)
    rest = rgb_at(model, 0.0)
    assert (outputs["rgb"] - rest).abs().max() > 0.3
    covered = outputs["accumulation"][..., 0] > 0.5
    assert 30 < covered.sum() < 600
    rays = views.generate_rays(camera_indices=0)
    points = rays.origins + rays.directions * outputs["depth"]
    distances = torch.cdist(points[covered], blobs(0.25).means).min(1).values
    assert distances.quantile(0.9) < 0.3
    assert (
        outputs["depth"][~covered & (outputs["accumulation"][..., 0] == 0)] == outputs["depth"].max()
    ).all()


def test_the_alpha_image_is_the_image_over_any_background() -> None:
    white, black = make_model(background_color="white"), make_model(background_color="black")
    over_white, over_black = (model.get_outputs_for_camera(camera_at(0.1)) for model in (white, black))
    rgba = white.get_rgba_image(over_white)
    assert rgba.shape == (SIZE, SIZE, 4)
    torch.testing.assert_close(rgba[..., 3:], over_white["accumulation"])
    torch.testing.assert_close(rgba[..., :3] * rgba[..., 3:], over_black["rgb"], atol=1e-4, rtol=0)


def test_the_crop_box_hides_what_is_outside_for_one_image() -> None:
    model = make_model()
    whole = model.get_outputs_for_camera(camera_at(0.0))["accumulation"]
    box = OrientedBox.from_params((0.6, 0.0, 0.0), (0.0, 0.0, 0.0), (0.8, 0.8, 2.0))
    part = model.get_outputs_for_camera(camera_at(0.0), obb_box=box)["accumulation"]
    away = OrientedBox.from_params((9.0, 0.0, 0.0), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    nothing = model.get_outputs_for_camera(camera_at(0.0), obb_box=away)["accumulation"]
    assert 0 < part.sum() < 0.8 * whole.sum()
    assert nothing.sum() == 0
    assert torch.equal(model.get_outputs_for_camera(camera_at(0.0))["accumulation"], whole)


def test_the_crop_box_holds_for_the_motion_image_and_is_gone_after_an_error() -> None:
    model = make_model()
    model.viewer_controls.motion = True
    away = OrientedBox.from_params((9.0, 0.0, 0.0), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert model.get_outputs_for_camera(camera_at(0.0))["motion"].max() > 1
    assert model.get_outputs_for_camera(camera_at(0.0), obb_box=away)["motion"].max() == 0
    with pytest.raises(TypeError):
        model.get_outputs_for_camera(None, obb_box=away)  # type: ignore[arg-type]
    assert model.get_outputs_for_camera(camera_at(0.0))["accumulation"].sum() > 0


def test_the_motion_image_is_speed_in_world_units_per_clip() -> None:
    """0.6 sin(2πt) moves at 2π · 0.6 at t = 0, and rests at t = 1/4; the other balls always do."""
    model = make_model()
    model.viewer_controls.motion = True
    outputs = model.get_outputs_for_camera(camera_at(0.0))
    assert outputs["motion"].shape == (SIZE, SIZE, 1)
    solid = outputs["accumulation"] > 0.5
    speeds = (outputs["motion"] / outputs["accumulation"])[solid]
    # where it is most opaque, a few percent of what is drawn are the balls behind it, which rest
    assert 0.95 * 2 * math.pi * 0.6 < speeds.max() <= 2 * math.pi * 0.6
    assert 30 < (speeds < 0.1).sum() < len(speeds) - 10
    assert model.get_outputs_for_camera(camera_at(0.25))["motion"].max() < 0.1


def test_a_scene_that_stands_still_has_no_motion_image() -> None:
    model = make_model()
    model.latent = SceneLatent(
        **{**vars(model.latent), "motion": MotionCode.still(3, model.latent.translations, 2)}
    )
    model.viewer_controls.motion = True
    assert "motion" not in model.get_outputs_for_camera(camera_at(0.0))


def test_single_rays_are_refused() -> None:
    rays = RayBundle(torch.zeros(1, 3), torch.ones(1, 3), torch.ones(1, 1))
    with pytest.raises(TypeError, match="works without --render-nearest-camera"):
        make_model().get_outputs(rays)


# ---------------------------------------------------------------- edits


def test_the_edit_setting_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "edit.json"
    SceneEdit((Move(translation=(0.0, 0.0, 0.5), tokens=FAR_BALL),)).save(path)
    plain, edited = make_model(), make_model(edit=path)
    shown = edited.shown_scene(camera_at(0.0)).gaussians_at(0.25).means
    expected = blobs(0.25).means + torch.tensor([[0.0, 0, 0], [0, 0, 0], [0, 0, 0.5]])
    torch.testing.assert_close(shown, expected, atol=1e-5, rtol=0)
    assert (rgb_at(edited, 0.25) - rgb_at(plain, 0.25)).abs().max() > 0.3


def test_an_edit_can_be_set_and_taken_back() -> None:
    model = make_model()
    before = rgb_at(model, 0.0)
    model.edit = SceneEdit((Delete(tokens=FAR_BALL),))
    assert len(model.shown_scene(camera_at(0.0)).gaussians_at(0.0)) == 2
    assert (rgb_at(model, 0.0) - before).abs().max() > 0.3
    model.edit = None
    assert torch.equal(rgb_at(model, 0.0), before)


def test_an_edit_that_the_scene_cannot_carry_says_so() -> None:
    model = make_model()
    model.edit = SceneEdit((Move(translation=(0.0, 0.0, 0.5)), Relight(gain=2.0)))
    with pytest.raises(EditError, match=r"step 2 of the edit: .*relight"):
        rgb_at(model, 0.0)


def test_an_edit_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no edit at .*none\.json"):
        make_model(edit=tmp_path / "none.json")


def test_a_checkpoint_that_is_loaded_is_what_is_shown() -> None:
    model, other = make_model(), make_model()
    before = rgb_at(model, 0.0)
    other.field.params["means"].data.add_(0.3)
    model.load_state_dict(other.state_dict())
    assert (rgb_at(model, 0.0) - before).abs().max() > 0.1
    assert torch.equal(rgb_at(model, 0.0), rgb_at(other, 0.0))


def test_the_scene_is_decoded_once_for_all_frames() -> None:
    model = make_model()
    for time in (0.0, 0.4, 1.7):
        rgb_at(model, time)
    assert model.decoded == 1


# ---------------------------------------------------------------- cameras without times


def test_a_path_without_times_plays_the_clip_forth_and_back() -> None:
    model = make_model(playback_seconds=4 / 24)  # four frames a clip
    path = path_of(10)
    for frame, time in enumerate([0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25, 0, 0.25]):
        shown = model.get_outputs_for_camera(path[frame : frame + 1])["rgb"]
        torch.testing.assert_close(shown, rgb_at(model, time), atol=1e-5, rtol=0, msg=f"frame {frame}")


def test_what_an_untimed_camera_shows_does_not_depend_on_what_was_drawn_before() -> None:
    model = make_model(playback_seconds=4 / 24)
    path = path_of(5)
    first = model.get_outputs_for_camera(path[1:2])["rgb"]
    for frame in (3, 0, 2):
        model.get_outputs_for_camera(path[frame : frame + 1])
    assert torch.equal(model.get_outputs_for_camera(path[1:2])["rgb"], first)
    assert (first - rgb_at(model, 0.0)).abs().max() > 0.3


def test_a_single_untimed_camera_shows_the_start() -> None:
    model = make_model()
    for _ in range(2):
        assert torch.equal(model.get_outputs_for_camera(camera_at(None))["rgb"], rgb_at(model, 0.0))


def test_a_fixed_time_is_shown_by_all_cameras() -> None:
    fixed, free = make_model(fixed_time=0.4), make_model()
    for camera in (camera_at(None), camera_at(0.9)):
        assert torch.equal(fixed.get_outputs_for_camera(camera)["rgb"], rgb_at(free, 0.4))


@pytest.mark.parametrize("time", [-0.6, 1.3, 4.2])
def test_times_outside_the_clip_are_extrapolated(time: float) -> None:
    torch.testing.assert_close(rgb_at(make_model(), time), rgb_at(make_model(), time % 1), atol=1e-3, rtol=0)
