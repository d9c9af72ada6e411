import math

import pytest
import torch

from nest_nerfstudio.dynamics.latent_ode import LatentODE, LatentODEConfig
from nest_nerfstudio.dynamics.motions import Motion, amplify, blend, freeze, loop, play, retime, sample
from nest_nerfstudio.geometry.se3 import se3_exp
from nest_nerfstudio.types import MotionCode, SceneLatent

T = torch.float64


def make_scene(cyclic: bool = True) -> tuple[SceneLatent, LatentODE]:
    torch.manual_seed(0)
    config = LatentODEConfig(state_dim=4, token_code_dim=2, hidden_dim=8)
    ode = LatentODE(config).to(T)
    start = ode.oscillator.begin(0.5)
    torch.nn.init.normal_(ode.vector_field.linear.weight, std=0.3)
    ode.committed.fill_(True)
    ode.cyclic.fill_(cyclic)
    quats, translations = se3_exp(torch.randn(6, 6, dtype=T))
    codes, modes = 0.3 * torch.randn(6, 2, dtype=T), 0.3 * torch.randn(6, 6, 5, dtype=T)
    nothing = torch.zeros(6, 0, dtype=T)
    motion = MotionCode(start, codes, modes, torch.zeros(0, dtype=T), torch.zeros((), dtype=T))
    return SceneLatent(quats, translations, nothing, nothing, torch.zeros(3, 9, dtype=T), motion), ode.eval()


def at(motion: Motion, time: float) -> torch.Tensor:
    posed = motion(torch.tensor(time, dtype=T))
    assert posed.motion.time == time
    return torch.cat([posed.translations, posed.quats * posed.quats[:, :1].sign()], 1)


def test_retime_goes_faster_backwards_and_out_of_phase() -> None:
    motion = play(*make_scene())
    torch.testing.assert_close(at(retime(motion, speed=3.0), 0.1), at(motion, 0.3))
    torch.testing.assert_close(at(retime(motion, speed=-1.0), 0.2), at(motion, -0.2))
    torch.testing.assert_close(at(retime(motion, offset=0.25), 0.2), at(motion, 0.45))
    assert (at(motion, 0.45) - at(motion, 0.2)).norm() > 0.1


def test_freeze_stands_still() -> None:
    motion = play(*make_scene())
    for t in (-1.0, 0.0, 7.0):
        torch.testing.assert_close(at(freeze(motion, 0.3), t), at(motion, 0.3))


def test_blend_starts_at_one_and_ends_at_the_other() -> None:
    motion = play(*make_scene())
    other = retime(motion, offset=0.2)
    torch.testing.assert_close(at(blend(motion, other, 0.0), 0.1), at(motion, 0.1))
    torch.testing.assert_close(at(blend(motion, other, 1.0), 0.1), at(other, 0.1))
    half = blend(motion, other, 0.5)
    back = blend(other, motion, 0.5)
    torch.testing.assert_close(at(half, 0.1), at(back, 0.1))  # the middle of a geodesic


def test_blend_commutes_with_turning_the_world() -> None:
    latent, ode = make_scene()
    g = tuple(x[0] for x in se3_exp(torch.randn(1, 6, dtype=T)))

    def blended(scene: SceneLatent) -> SceneLatent:
        motion = play(scene, ode)
        return blend(motion, retime(motion, offset=0.2), 0.3)(torch.tensor(0.1, dtype=T))

    turned, expected = blended(latent.turn_world(g)), blended(latent).turn_world(g)
    torch.testing.assert_close(turned.translations, expected.translations)


def test_blend_refuses_other_tokens() -> None:
    latent, ode = make_scene()
    motion, other = play(latent, ode), play(latent.select(torch.arange(6) < 4), ode)
    with pytest.raises(ValueError, match="cannot blend 6 tokens with 4"):
        blend(motion, other, 0.5)(torch.tensor(0.0, dtype=T))


@pytest.mark.parametrize("cyclic", [False, True])
def test_loop_has_no_seam(cyclic: bool) -> None:
    """Neither place nor speed jumps where the span begins again."""
    looped = loop(play(*make_scene(cyclic)), 0.1, 0.8, 0.3)
    torch.testing.assert_close(at(looped, 0.25 + 3 * 0.7), at(looped, 0.25))
    e = 1e-5
    before, after = (at(looped, 0.8 + s * e) - at(looped, 0.8 + (s - 1) * e) for s in (0, 2))
    torch.testing.assert_close(before, after, atol=1e-2 * float(after.norm()), rtol=0)
    assert (at(looped, 0.8) - at(looped, 0.8 - e)).norm() < 1e-3


def test_loop_refuses_an_empty_span() -> None:
    for arguments in ((0.5, 0.5, 0.0), (0.0, 1.0, 1.5)):
        with pytest.raises(ValueError, match="cannot loop"):
            loop(play(*make_scene()), *arguments)


def test_amplify_scales_the_twists() -> None:
    latent, ode = make_scene()
    z = ode.trajectory(latent)(torch.tensor(0.3, dtype=T))
    still, once, twice = (ode.twists(amplify(latent, ode, f).motion, z) for f in (0.0, 1.0, 2.0))
    torch.testing.assert_close(twice - once, once - still)
    motion = play(amplify(latent, ode, 0.0), ode)
    torch.testing.assert_close(at(motion, 0.1), at(motion, 0.9))


def test_samples_of_a_cycle_repeat_as_it_does() -> None:
    latent, ode = make_scene()
    motion = play(latent, ode)
    new = play(sample(latent, ode, 0.3, torch.Generator().manual_seed(1)), ode)
    again = play(sample(latent, ode, 0.3, torch.Generator().manual_seed(1)), ode)
    torch.testing.assert_close(at(new, 0.2), at(again, 0.2))
    torch.testing.assert_close(at(new, 0.2 + 10 * 0.5), at(new, 0.2))
    assert (at(new, 0.2) - at(motion, 0.2)).norm() > 0.05
    torch.testing.assert_close(at(play(sample(latent, ode, 0.0), ode), 0.2), at(motion, 0.2))


def test_samples_of_a_field_start_elsewhere() -> None:
    latent, ode = make_scene(cyclic=False)
    moved = sample(latent, ode, 0.3).motion.start - latent.motion.start
    assert 0.05 < float(moved.norm()) < 0.3 * 2 * math.sqrt(4) * 3


def test_new_motion_needs_an_ode() -> None:
    latent, ode = make_scene()
    ode.committed.fill_(False)
    for make in (amplify, sample):
        with pytest.raises(ValueError, match="train until the log says"):
            make(latent, ode, 0.5)
