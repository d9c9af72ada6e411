"""Steps of edits as actions on latents: each on its own part, composable, undone by its inverse."""

import math
from dataclasses import replace

import pytest
import torch

from nest_nerfstudio.dynamics.flow import LatentFlow, LatentFlowConfig
from nest_nerfstudio.edits.selection import Box, Cluster, Copies, Ids, Nearest, Sphere
from nest_nerfstudio.edits.steps import (
    Amplify,
    Delete,
    Duplicate,
    EditError,
    Keep,
    Loop,
    Move,
    Oscillate,
    Recolor,
    Relight,
    Retime,
    ShiftPhase,
    Travel,
    sample_motion,
)
from nest_nerfstudio.geometry.quaternion import quat_exp, quat_rotate
from nest_nerfstudio.geometry.se3 import Pose, se3_compose, se3_exp
from nest_nerfstudio.states import SunSky
from nest_nerfstudio.types import MotionCode, MotionKind, SceneLatent, TimeMap
from tests.equivariance import latent_distance

TOKENS, STATE = 6, 4


class ColorField:
    """A field whose appearance is linear RGB and whose scenes have a material, or not."""

    def __init__(self, knows_light: bool = True) -> None:
        self.knows_light = knows_light

    def recolor(self, latent, tokens, hue, gain):
        changed = (latent.appearance + hue) * latent.appearance.new_tensor(gain)
        return replace(latent, appearance=torch.where(tokens[:, None], changed, latent.appearance))

    def directions(self, factor):
        return torch.zeros(0, 0)

    def traverse(self, latent, tokens, factor, change):
        raise NotImplementedError


FIELD = ColorField()


def make_latent(kind: str = "cyclic") -> SceneLatent:
    return SceneLatent(
        ids=torch.arange(TOKENS),
        copies=torch.zeros(TOKENS, dtype=torch.long),
        quats=quat_exp(torch.randn(TOKENS, 3)),
        translations=torch.tensor([[-2.0, 0, 0], [-1, 0, 0], [0, 0, 0], [1, 0, 0], [2, 0, 0], [8, 0, 0]]),
        geometry=torch.randn(TOKENS, 5),
        appearance=torch.rand(TOKENS, 3),
        light=torch.randn(3, 9),
        motion=MotionCode(
            start=torch.randn(STATE),
            modes=torch.randn(TOKENS, 6, STATE + 1),
            drift=torch.linspace(-1, 1, 6 * TOKENS).view(TOKENS, 6),
            scene_code=torch.zeros(0),
            period=torch.tensor(0.5),
            phase=torch.tensor(0.0),
            kind=kind,  # type: ignore[arg-type]
        ),
    )


@pytest.mark.parametrize(
    ("selection", "chosen"),
    [
        (Box((-1.5, -1.0, -1.0), (1.0, 1.0, 1.0)), [1, 2, 3]),
        (Sphere((2.0, 0.0, 0.0), 1.0), [3, 4]),
        (Nearest((7.0, 0.0, 0.0)), [5]),
        (Nearest((0.1, 0.0, 0.0), 3), [1, 2, 3]),
        (Ids((0, 4)), [0, 4]),
        (Copies((0,)), [0, 1, 2, 3, 4, 5]),
        (Cluster((-2.0, 0.0, 0.0), 1.5), [0, 1, 2, 3, 4]),
        (Cluster((8.0, 0.0, 0.0), 1.5), [5]),
    ],
)
def test_selections(selection, chosen: list[int]) -> None:
    assert selection.mask(make_latent()).nonzero()[:, 0].tolist() == chosen


def test_a_selection_by_id_outlives_permutations_and_tells_copies_apart() -> None:
    latent = make_latent()
    order = torch.tensor([5, 3, 1, 0, 2, 4])
    assert Ids((3,)).mask(latent.permute(order)).tolist() == [False, True, False, False, False, False]
    doubled = Duplicate((0.0, 1.0, 0.0), tokens=Ids((3, 4))).apply(latent, FIELD)
    assert Ids((3,)).mask(doubled).sum() == 2
    assert Ids((3,), copies=(1,)).mask(doubled).nonzero()[:, 0].tolist() == [6]
    assert Copies((1,)).mask(doubled).nonzero()[:, 0].tolist() == [6, 7]


def test_moving_turns_about_the_middle_of_the_tokens_and_undoes_itself() -> None:
    latent, some = make_latent(), Ids((0, 1, 2))
    moved = Move((0.0, 1.0, 0.0), (0.0, 0.0, math.pi / 2), tokens=some).apply(latent, FIELD)
    torch.testing.assert_close(moved.translations[1], torch.tensor([-1.0, 1.0, 0.0]))
    torch.testing.assert_close(moved.translations[0], torch.tensor([-1.0, 0.0, 0.0]))
    assert torch.equal(moved.translations[3:], latent.translations[3:])
    back = Move((0.0, -1.0, 0.0), (0.0, 0.0, -math.pi / 2), tokens=some).apply(moved, FIELD)
    assert latent_distance(back, latent) < 1e-6


def test_moving_about_a_point() -> None:
    moved = Move(rotation=(0.0, 0.0, math.pi), about=(1.0, 0.0, 0.0)).apply(make_latent(), FIELD)
    torch.testing.assert_close(moved.translations[0], torch.tensor([4.0, 0.0, 0.0]))


@pytest.mark.parametrize(
    ("step", "changed"),
    [
        (Move((0.0, 0.0, 1.0)), {"translations"}),
        (Recolor(0.1, (2.0, 1.0, 1.0)), {"appearance"}),
        (Relight((0.0, 0.3, 0.0), 2.0), {"light"}),
        (Relight(light=SunSky()), {"light"}),
        (Retime(2.0, 0.1), {"motion"}),
        (Loop(0.0, 0.4), {"motion"}),
        (ShiftPhase(0.25), {"motion"}),
        (Amplify(2.0), {"motion"}),
    ],
)
def test_each_step_acts_on_its_own_part_only(step, changed: set[str]) -> None:
    """All other tensors are the very same."""
    latent = make_latent()
    edited = step.apply(latent, FIELD)
    for name, value in vars(latent).items():
        if name in changed:
            assert getattr(edited, name) is not value, name
        elif name == "quats" and isinstance(step, Move):
            torch.testing.assert_close(edited.quats, value)
        else:
            assert getattr(edited, name) is value, name


def test_a_rotation_is_the_same_either_way_round() -> None:
    """Also in the sign of its quaternion, as neighbours that share Gaussians are blended by it."""
    latent, some = make_latent(), Ids((0, 1, 2))
    turns = [Move(rotation=(0.0, 0.0, angle), tokens=some) for angle in (1.2 * math.pi, -0.8 * math.pi)]
    one, other = (turn.apply(latent, FIELD) for turn in turns)
    torch.testing.assert_close(one.quats, other.quats)


def test_oscillating_moves_what_stood_still() -> None:
    latent = make_latent("still")
    step = Oscillate(0.5, translation=(0.0, 0.0, 0.3), tokens=Ids((1, 2)))
    motion = step.apply(latent, FIELD).motion
    assert motion.kind == "cyclic"
    assert float(motion.period) == 0.5
    moved = quat_rotate(latent.quats, motion.modes[:, :3, 0])
    expected = torch.zeros(TOKENS, 3)
    expected[1:3, 2] = 0.3
    torch.testing.assert_close(moved, expected)
    with pytest.raises(EditError, match="moves already"):
        step.apply(make_latent(), FIELD)
    with pytest.raises(ValueError, match="greater than 0"):
        Oscillate(0.0)


@pytest.mark.parametrize("kind", ["still", "cyclic"])
def test_travelling_carries_tokens_along_whatever_they_do(kind: MotionKind) -> None:
    """Straight on, and round a bend about their middle; others stay, and so do poses at time 0."""
    latent, flow, some = make_latent(kind), LatentFlow(LatentFlowConfig(state_dim=STATE)), Ids((1, 2))
    latent.motion.drift.zero_()
    going = Travel((0.0, 2.0, 0.0), (0.0, 0.0, 0.5), tokens=some).apply(latent, FIELD)

    def poses(scene: SceneLatent, time: float) -> Pose:
        return flow.poses(scene, flow.solve(scene.motion, 0.0, time), torch.tensor(time))

    middle = latent.translations[1:3].mean(0)
    speed = torch.tensor([0.0, 2.0, 0.0, 0.0, 0.0, 0.5])
    twist = torch.cat([speed[:3] - torch.linalg.cross(speed[3:], middle), speed[3:]])
    for time in (0.0, 0.6, 1.5):
        before, after = poses(latent, time), poses(going, time)
        carried = se3_compose(se3_exp(time * twist), before)
        torch.testing.assert_close(after[1][1:3], carried[1][1:3], atol=1e-5, rtol=0)
        torch.testing.assert_close(after[0][1:3].abs(), carried[0][1:3].abs(), atol=1e-5, rtol=0)
        torch.testing.assert_close(after[1][3:], before[1][3:], atol=1e-6, rtol=0)


def test_keeping_deleting_and_doubling() -> None:
    latent = make_latent()
    assert Keep(Ids((1, 2))).apply(latent, FIELD).ids.tolist() == [1, 2]
    assert Delete(Ids((1, 2))).apply(latent, FIELD).ids.tolist() == [0, 3, 4, 5]
    doubled = Duplicate((0.0, 0.0, 3.0), tokens=Ids((5,))).apply(latent, FIELD)
    assert doubled.ids.tolist() == [0, 1, 2, 3, 4, 5, 5]
    assert doubled.copies.tolist() == [0] * 6 + [1]
    torch.testing.assert_close(doubled.translations[-1], torch.tensor([8.0, 0.0, 3.0]))
    assert torch.equal(doubled.motion.modes[-1], latent.motion.modes[5])
    only_copy = Delete(Ids((5,), copies=(1,))).apply(doubled, FIELD)
    assert latent_distance(only_copy, latent) == 0


def test_time_maps_compose() -> None:
    latent, time = make_latent(), torch.tensor(0.3)
    twice = Retime(2.0, 0.1).apply(latent, FIELD).motion.time_map
    assert float(twice(time)) == pytest.approx(0.7)
    later = Retime(-1.0, 1.0).apply(Retime(2.0, 0.1).apply(latent, FIELD), FIELD).motion.time_map
    assert float(later(time)) == pytest.approx(float(twice(torch.tensor(0.7))))
    looped = Loop(0.0, 0.2, fade=0.1).apply(Retime(2.0, 0.1).apply(latent, FIELD), FIELD).motion.time_map
    assert looped.fade == pytest.approx(0.2)
    for t in (0.05, 0.25, 0.65, -0.15):  # a span of the clip, as it is shown now
        assert float(looped(torch.tensor(t))) == pytest.approx(float(twice(torch.tensor(t % 0.2))), abs=1e-6)
    assert float(latent.at(0.4).motion.time_map(time)) == pytest.approx(0.7)


def test_backwards_loops_stay_in_their_span() -> None:
    latent = Loop(0.0, 0.5).apply(Retime(-1.0).apply(make_latent(), FIELD), FIELD)
    times = [float(latent.motion.time_map(torch.tensor(t))) for t in (0.1, 0.4, 0.6)]
    assert times == pytest.approx([-0.1, -0.4, -0.1])


def test_amplifying_leaves_the_mean_pose() -> None:
    latent = make_latent()
    larger = Amplify(3.0).apply(latent, FIELD).motion.modes
    torch.testing.assert_close(larger[..., :-1], 3 * latent.motion.modes[..., :-1])
    assert torch.equal(larger[..., -1], latent.motion.modes[..., -1])
    assert latent_distance(Amplify(1 / 3).apply(Amplify(3.0).apply(latent, FIELD), FIELD), latent) < 1e-6


def test_sampling_changes_amplitudes_and_phases_of_cycles_and_the_start_of_others() -> None:
    generator = torch.Generator().manual_seed(0)
    latent = make_latent()
    assert torch.allclose(sample_motion(latent, 0.0, generator=generator).motion.start, latent.motion.start)
    other = sample_motion(latent, 0.3, generator=generator).motion.start
    sizes = other.view(-1, 2).norm(dim=1) / latent.motion.start.view(-1, 2).norm(dim=1)
    assert (sizes - 1).abs().min() > 1e-3
    free = make_latent("free")
    moved = sample_motion(free, 0.5, scale=2.0, generator=generator).motion.start - free.motion.start
    assert 0 < moved.abs().max() < 5


@pytest.mark.parametrize(
    ("step", "kind", "message"),
    [
        (
            Move((1.0, 0.0, 0.0), tokens=Sphere((0.0, 9.0, 0.0), 1.0)),
            "cyclic",
            "selects none of the 6 tokens",
        ),
        (Delete(Sphere((0.0, 0.0, 0.0), 99.0)), "cyclic", "nothing would be left"),
        (Retime(2.0), "still", "does not move"),
        (ShiftPhase(0.5), "free", "not cyclic"),
        (Amplify(2.0), "still", "does not move"),
    ],
)
def test_what_a_scene_cannot_carry_is_an_error(step, kind: str, message: str) -> None:
    with pytest.raises(EditError, match=message):
        step.apply(make_latent(kind), FIELD)


def test_a_scene_of_unknown_light_cannot_be_relit() -> None:
    with pytest.raises(EditError, match="relight: the colours of this scene are baked"):
        Relight(gain=0.5).apply(make_latent(), ColorField(knows_light=False))


def test_looping_twice_and_looping_what_is_frozen_are_errors() -> None:
    latent = Loop(0.0, 0.5).apply(make_latent(), FIELD)
    with pytest.raises(EditError, match="loops already"):
        Loop(0.0, 0.2).apply(latent, FIELD)
    with pytest.raises(EditError, match="frozen"):
        Loop(0.0, 0.2).apply(Retime(0.0).apply(make_latent(), FIELD), FIELD)
    for bad in ((0.5, 0.5, 0.0), (0.0, 1.0, 2.0), (0.0, math.inf, 0.0)):
        with pytest.raises(ValueError, match="cannot loop"):
            Loop(*bad)
    with pytest.raises(ValueError, match="finite"):
        TimeMap(speed=math.nan)
