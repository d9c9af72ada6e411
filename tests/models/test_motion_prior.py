from dataclasses import replace

import pytest
import torch

from nest_nerfstudio.dynamics.motion_map import MotionMapConfig
from nest_nerfstudio.encoders.motion_encoder import MotionEncoderConfig
from nest_nerfstudio.fields.bound_gaussians import BoundGaussians
from nest_nerfstudio.models.decoded_scene import DecodedScene
from nest_nerfstudio.models.motion_prior import MotionPrior, MotionPriorConfig
from nest_nerfstudio.types import SceneLatent, Views
from tests.equivariance import pictures, random_pose, relative
from tests.small_motions import GEOMETRY, body, motion_map, with_code

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
        time = views.times[0]
        return (moving.poses_at(time)[1] - scene.poses_at(time)[1]).square().mean()

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
