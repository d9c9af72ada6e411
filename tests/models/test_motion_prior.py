from dataclasses import replace

import pytest
import torch

from nest_nerfstudio.dynamics.clip_codes import ClipCodes
from nest_nerfstudio.dynamics.motion_map import MotionMapConfig
from nest_nerfstudio.encoders.motion_encoder import MotionEncoderConfig
from nest_nerfstudio.fields.bound_gaussians import BoundGaussians
from nest_nerfstudio.models.decoded_scene import DecodedScene
from nest_nerfstudio.models.motion_prior import MotionPrior, MotionPriorConfig
from nest_nerfstudio.types import SceneLatent, Views
from tests.equivariance import pictures, random_pose, relative
from tests.small_motions import CODE, GEOMETRY, body, motion_map, with_code

TIMES = torch.tensor([0.15, 0.35, 0.6, 0.85], dtype=torch.float64)


def prior(code: str, num_steps: int = 3) -> MotionPrior:
    """A prior with the map of `motion_map`, for use with its flow."""
    made = motion_map()[0]
    config = MotionPriorConfig(
        code=code,  # type: ignore[arg-type]
        num_steps=num_steps,
        shown_steps=40,
        step_size=0.1,
        encoder=MotionEncoderConfig(image_size=48, hidden_dim=16),
        map=MotionMapConfig(hidden_dim=24),
    )
    found = MotionPrior(config, motion_map()[1], GEOMETRY, knows_gravity=False).double()
    found.map.load_state_dict(made.state_dict())
    return found


def positions_loss(target: SceneLatent):
    """Error of the tokens' positions, in place of images, from which rendering is left out."""
    flow = motion_map()[1]
    scene = DecodedScene(target, field(target), flow)

    def loss(moving: DecodedScene, views: Views) -> torch.Tensor:
        assert views.times is not None
        gaps = [moving.poses_at(time)[1] - scene.poses_at(time)[1] for time in views.times]
        return torch.stack(gaps).square().mean()

    return loss


def field(latent: SceneLatent) -> BoundGaussians:
    made = BoundGaussians(4, len(latent), 0)
    made.initialize(latent.translations[:4].float(), torch.rand(4, 3), 0.5)
    made.bind(tuple(part.float() for part in latent.poses))
    return made.double()


def frames() -> Views:
    return replace(pictures(4, torch.float64), times=TIMES)


def test_gradient_steps_on_the_code_alone_find_a_motion() -> None:
    found, flow = prior("steps"), motion_map()[1]
    target = found.map(with_code(body(), found.map), flow)
    begun = found.map(found.map.begin(body()), flow)
    loss = positions_loss(target)
    found.eval()
    fitted = found(body(), field(body()), flow, frames(), 0.0, loss)
    errors = [
        sum(float(loss(DecodedScene(z, field(z), flow), frames().select(slice(i, i + 1)))) for i in range(4))
        for z in (begun, fitted)
    ]
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("code", ["steps", "hybrid"])
def test_adaptation_commutes_with_rigid_motions_and_the_order_of_frames(code) -> None:
    found, flow = prior(code), motion_map()[1]
    target = found.map(with_code(body(), found.map), flow)
    g = random_pose(torch.float64, 3)
    here = found(body(), field(body()), flow, frames(), 0.0, positions_loss(target))
    moved = body().move(g)
    views = frames().move(g).select(torch.tensor([3, 1, 0, 2]))
    there = found(moved, field(moved), flow, views, 0.0, positions_loss(target.move(g)))
    for name in ("scene_code", "period", "phase", "modes"):
        assert relative(getattr(there.motion, name), getattr(here.motion, name)) < 1e-9


def test_meta_learning_reaches_the_start_and_the_map_through_the_steps() -> None:
    found, flow = prior("steps"), motion_map()[1]
    target = found.map(with_code(body(), found.map), flow)
    loss = positions_loss(target)
    found.train()
    adapted = found(body(), field(body()), flow, frames(), 0.0, loss)
    assert relative(adapted.motion.scene_code, found.map.start_code) > 0  # steps were taken
    loss(DecodedScene(adapted, field(adapted), flow), frames().select(slice(1))).backward()
    for parameter in (found.map.start_code, found.map.head.weight):
        assert parameter.grad is not None
        assert parameter.grad.norm() > 0


def test_a_scene_of_any_prior_is_drawn_at_the_times_of_its_views() -> None:
    found, flow = prior("encoder"), motion_map()[1]
    latent = found.map(with_code(body(), found.map), flow)
    scene = DecodedScene(latent, field(latent), flow)
    still = scene.moving_as(body().motion)
    assert scene.moves
    assert not still.moves
    a, b = (s.gaussians_at(0.5) for s in (scene, still))
    assert relative(a.means, b.means) > 1e-3


def test_images_teach_the_own_code_of_a_clip_and_the_code_teaches_the_encoder() -> None:
    found, flow = prior("encoder"), motion_map()[1]
    found.clip_codes = ClipCodes(2, CODE).double()
    target = found.map(with_code(body(), found.map), flow)
    own = found.of_clip(body(), flow, 0.0, 1)
    positions_loss(target)(DecodedScene(own, field(own), flow), frames().select(slice(1))).backward()
    rows, last = found.clip_codes.rows, found.encoder.head[-1].weight
    assert rows.grad is not None
    assert rows.grad[1].norm() > 0
    assert not rows.grad[[0, 2, 3]].any()
    assert last.grad is None
    found.zero_grad()
    rows.data[1] = 1.0
    found.encoder_loss(body(), frames(), 0.0, 1).backward()
    assert last.grad is not None
    assert last.grad.norm() > 0
    assert all(p.grad is None for p in found.map.parameters())
    assert rows.grad is None


def test_all_codes_stay_near_their_start_and_some_samples_teach_the_encoder() -> None:
    found, flow = prior("encoder"), motion_map()[1]
    found.clip_codes = ClipCodes(2, CODE).double()
    found.clip_codes.rows.data[1] = 1.0
    own = found.of_clip(body(), flow, 0.0, 1)
    scene = DecodedScene(own, field(own), flow)
    losses = [found.regularizers(scene, frames(), frames(), 0.0, 1) for _ in range(100)]
    assert all(float(found_losses["codes"]) == pytest.approx(1e-4) for found_losses in losses)
    assert 5 < sum("encoder" in found_losses for found_losses in losses) < 40


def test_samples_move_by_own_codes_at_random_and_only_in_training() -> None:
    found = prior("encoder")
    assert not found.draws_own(0)  # it has no table
    found.clip_codes = ClipCodes(2, CODE).double()
    drawn = sum(found.draws_own(0) for _ in range(400))
    assert 130 < drawn < 270
    assert not any(found.draws_own(None) for _ in range(20))
    found.eval()
    assert not any(found.draws_own(0) for _ in range(20))


def test_steps_start_from_the_training_clip_that_explains_the_frames_best() -> None:
    found, flow = prior("steps"), motion_map()[1]
    found.clip_codes = ClipCodes(3, CODE).double()
    torch.nn.init.normal_(found.clip_codes.rows.data[:2], generator=torch.Generator().manual_seed(0))
    found.eval()
    found.config.shown_steps = 0
    for clip in (0, 1):
        target = found.of_clip(body(), flow, 0.0, clip)
        read = found(body(), field(body()), flow, frames(), 0.0, positions_loss(target))
        assert relative(read.motion.modes, target.motion.modes) < 1e-10
    target = found.map(found.map.begin(body()), flow)
    read = found(body(), field(body()), flow, frames(), 0.0, positions_loss(target))
    assert torch.equal(read.motion.scene_code, found.map.start_code)


@pytest.mark.parametrize("by", [0.5, 1.0, 2.0])
def test_a_clip_may_run_slower_or_faster_than_those_of_the_training(by: float) -> None:
    found, flow = prior("steps"), motion_map()[1]
    found.clip_codes = ClipCodes(3, CODE).double()
    torch.nn.init.normal_(found.clip_codes.rows.data[:2], generator=torch.Generator().manual_seed(0))
    found.eval()
    found.config.shown_steps = 0
    code = found.clip_codes(found.map.begin(body()).motion, 1)
    target = found.map(replace(body(), motion=replace(code, period=by * code.period)), flow)
    read = found(body(), field(body()), flow, frames(), 0.0, positions_loss(target))
    assert read.motion.period.item() == pytest.approx(target.motion.period.item())
    assert torch.equal(read.motion.scene_code, code.scene_code)
