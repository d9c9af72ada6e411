"""A scene that is decoded once, solved once, and further only where it is asked for."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from nest_nerfstudio.dynamics.flow import LatentFlow, LatentFlowConfig
from nest_nerfstudio.dynamics.free_motion import FreeMotion
from nest_nerfstudio.fields.bound_gaussians import COLOR_DIM, BoundGaussians
from nest_nerfstudio.geometry.se3 import se3_plus
from nest_nerfstudio.models.decoded_scene import DecodedScene
from nest_nerfstudio.types import Gaussians, MotionCode, MotionKind, SceneLatent, TimeMap

TOKENS, STATE = 6, 4


def make_latent(kind: MotionKind = "free", time_map: TimeMap | None = None) -> SceneLatent:
    return SceneLatent(
        ids=torch.arange(TOKENS),
        copies=torch.zeros(TOKENS, dtype=torch.long),
        quats=torch.tensor([1.0, 0, 0, 0]).repeat(TOKENS, 1),
        translations=torch.randn(TOKENS, 3),
        geometry=torch.zeros(TOKENS, 0),
        appearance=torch.zeros(TOKENS, COLOR_DIM),
        light=torch.zeros(3, 9),
        motion=MotionCode(
            start=torch.randn(STATE),
            modes=torch.randn(TOKENS, 6, STATE + 1),
            drift=torch.zeros(TOKENS, 6),
            scene_code=torch.zeros(0),
            period=torch.tensor(0.3),
            phase=torch.tensor(0.0),
            kind=kind,
            time_map=time_map or TimeMap(),
        ),
    )


class Counted:
    """Calls through to a module and remembers with what."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        self.calls: list[tuple] = []
        original = getattr(owner, name)

        def counted(*arguments: Any) -> Any:
            self.calls.append(arguments)
            return original(*arguments)

        monkeypatch.setattr(owner, name, counted)


@pytest.fixture
def field() -> BoundGaussians:
    field = BoundGaussians(30, TOKENS, sh_degree=0).eval()
    field.initialize(torch.randn(30, 3), torch.rand(30, 3), opacity=0.5)
    field.bind((torch.tensor([1.0, 0, 0, 0]).repeat(TOKENS, 1), torch.randn(TOKENS, 3)))
    return field


@pytest.fixture
def flow() -> LatentFlow:
    flow = LatentFlowConfig(state_dim=STATE, hidden_dim=16).setup()
    for vector_field in (flow.vector_field, flow.backward_field):
        torch.nn.init.normal_(vector_field.layers[-1].weight, std=0.3)
    return flow


def test_it_is_decoded_and_solved_once(
    field: BoundGaussians, flow: LatentFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded, solved = Counted(monkeypatch, field, "forward"), Counted(monkeypatch, flow, "solve")
    scene = DecodedScene(make_latent(), field, flow)
    for time in (0.2, 1.0, 0.0, 0.7):
        scene.gaussians_at(time)
        scene.poses_at(time)
    assert len(decoded.calls) == 1
    assert [call[1:] for call in solved.calls] == [(0.0, 1.0)]


def test_it_is_solved_further_where_it_is_asked_for(
    field: BoundGaussians, flow: LatentFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    solved = Counted(monkeypatch, flow, "solve")
    scene = DecodedScene(make_latent(), field, flow)
    for time in (1.2, 1.9, -0.5, -0.9, 1.5):
        scene.poses_at(time)
    spans = [call[1:] for call in solved.calls]
    assert len(spans) == 2
    assert spans[0] == pytest.approx((0.0, 1.2))
    assert spans[1] == pytest.approx((-0.5, 2.0))


@pytest.mark.parametrize("time", [-1.3, 0.0, 0.4, 1.0, 2.6])
@pytest.mark.parametrize("kind", ["free", "cyclic"])
def test_tokens_stand_where_the_flow_puts_them(
    field: BoundGaussians, flow: LatentFlow, kind: MotionKind, time: float
) -> None:
    latent = make_latent(kind)
    scene = DecodedScene(latent, field, flow)
    scene.poses_at(0.5)  # another time before makes no difference
    found = scene.poses_at(torch.tensor(time))
    path = flow.solve(latent.motion, -2.0, 3.0)
    expected = se3_plus(latent.poses, flow.twists(latent, path(torch.tensor(time))))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    assert (scene.gaussians_at(time).means - scene.gaussians_at(time + 0.1).means).abs().max() > 1e-3


def test_an_oscillator_is_solved_once_for_all_times(
    field: BoundGaussians, flow: LatentFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    solved = Counted(monkeypatch, flow, "solve")
    scene = DecodedScene(make_latent("cyclic"), field, flow)
    for time in (0.3, 7.0, -7.0, 9.0):
        scene.poses_at(time)
    assert len(solved.calls) <= 4
    torch.testing.assert_close(scene.poses_at(0.1)[1], scene.poses_at(0.1 + 10 * 0.3)[1], atol=1e-4, rtol=0)


def test_a_free_curve_stands_still_beyond_the_clip(
    field: BoundGaussians, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = FreeMotion(TOKENS, STATE, token_code_dim=8, hidden_dim=16, num_nodes=9)
    torch.nn.init.normal_(free.pose_decoder.head[-1].weight)
    free.start_codes(torch.randn(TOKENS, 3))
    solved = Counted(monkeypatch, free, "solve")
    scene = DecodedScene(make_latent("still"), field, free)
    assert scene.moves
    ends = {time: scene.poses_at(time)[1] for time in (0.0, 0.9, 1.0, 1.5, 3.0, -0.5)}
    assert torch.equal(ends[1.5], ends[1.0])
    assert torch.equal(ends[3.0], ends[1.0])
    assert torch.equal(ends[-0.5], ends[0.0])
    assert not torch.allclose(ends[0.9], ends[1.0], atol=1e-4)
    before = len(solved.calls)
    for time in (1.5, 2.0, -0.2):
        scene.poses_at(time)
    assert len(solved.calls) == before


def test_a_still_scene_does_not_move(field: BoundGaussians, flow: LatentFlow) -> None:
    scene = DecodedScene(make_latent("still"), field, flow)
    assert not scene.moves
    assert torch.equal(scene.gaussians_at(0.1).means, scene.gaussians_at(5.0).means)
    assert torch.equal(scene.poses_at(5.0)[1], scene.latent.translations)


@pytest.mark.parametrize("kind", ["free", "cyclic"])
def test_a_moving_scene_moves(field: BoundGaussians, flow: LatentFlow, kind: MotionKind) -> None:
    assert DecodedScene(make_latent(kind), field, flow).moves


def test_it_is_deformed_as_at_its_time(field: BoundGaussians, flow: LatentFlow) -> None:
    """As by the baseline of nest-dynamic, on tokens that stand still."""

    def deform(gaussians: Gaussians, time: Tensor) -> Gaussians:
        assert time.shape == ()
        return replace(gaussians, means=gaussians.means + time)

    latent = make_latent("still")
    scene, rest = DecodedScene(latent, field, flow, deform), DecodedScene(latent, field, flow)
    assert scene.moves
    for time in (0.25, torch.tensor(0.25), torch.tensor([0.25])):
        torch.testing.assert_close(scene.gaussians_at(time).means, rest.gaussians_at(0.0).means + 0.25)


@pytest.mark.parametrize(
    ("time_map", "time", "own"),
    [
        (TimeMap(speed=2.0), 0.9, 1.8),
        (TimeMap(speed=-1.0, offset=0.2), 0.9, -0.7),
        (TimeMap(speed=0.0, offset=0.6), 0.1, 0.6),
        (TimeMap(loop=(0.25, 0.75)), 2.3, 0.3),
        (TimeMap(loop=(0.25, 0.75), fade=0.2), 2.3, 0.3),
    ],
)
def test_an_edited_clock_shows_its_own_time(
    field: BoundGaussians, flow: LatentFlow, time_map: TimeMap, time: float, own: float
) -> None:
    latent = make_latent("free", time_map)
    plain = replace(latent, motion=replace(latent.motion, time_map=TimeMap()))
    found, expected = DecodedScene(latent, field, flow), DecodedScene(plain, field, flow)
    torch.testing.assert_close(
        found.gaussians_at(time).means, expected.gaussians_at(own).means, atol=1e-4, rtol=1e-4
    )


def test_a_loop_that_fades_has_the_time_before_its_start(field: BoundGaussians, flow: LatentFlow) -> None:
    """It ends as it begins, in a pose that lies before the span that was solved at first."""
    latent = make_latent("free", TimeMap(loop=(0.0, 1.0), fade=0.5))
    scene = DecodedScene(latent, field, flow)
    torch.testing.assert_close(scene.poses_at(0.9999)[1], scene.poses_at(1.0)[1], atol=1e-2, rtol=0)
    assert torch.isfinite(scene.poses_at(0.8)[1]).all()
