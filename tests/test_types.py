from dataclasses import replace

import pytest
import torch

from nest_nerfstudio.geometry.quaternion import quat_to_rotmat
from nest_nerfstudio.geometry.se3 import se3_apply, se3_exp
from nest_nerfstudio.geometry.sh import eval_sh
from nest_nerfstudio.types import Gaussians, MotionCode, SceneLatent, Views


def make_latent(k: int = 4) -> SceneLatent:
    quats, translations = se3_exp(torch.randn(k, 6, dtype=torch.float64))
    rand = lambda *shape: torch.randn(*shape, dtype=torch.float64)  # noqa: E731
    return SceneLatent(
        ids=torch.arange(k),
        copies=torch.zeros(k, dtype=torch.long),
        quats=quats,
        translations=translations,
        geometry=rand(k, 3),
        appearance=rand(k, 2),
        light=rand(3, 9),
        motion=MotionCode(rand(5), rand(k, 6, 6), rand(k, 6), rand(0), rand(()).exp(), rand(()), "cyclic"),
    )


def random_pose():
    quats, translations = se3_exp(torch.randn(6, dtype=torch.float64))
    return quats, translations


def test_shapes_are_checked_at_run_time() -> None:
    with pytest.raises(Exception, match=r"shape|type"):
        Gaussians(
            torch.zeros(3, 3), torch.zeros(2, 4), torch.zeros(3, 3), torch.zeros(3), torch.zeros(3, 1, 3)
        )
    with pytest.raises(Exception, match=r"shape|type"):
        Views(torch.zeros(1, 4, 4), torch.zeros(2, 3, 3), 8, 8)


def test_sh_degree_of_gaussians() -> None:
    gaussians = Gaussians(
        torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2, 3), torch.zeros(2), torch.zeros(2, 9, 3)
    )
    assert gaussians.sh_degree == 2
    assert len(gaussians) == 2


def test_moving_acts_on_poses_alone() -> None:
    latent, g = make_latent(), random_pose()
    moved = latent.move(g)
    torch.testing.assert_close(moved.translations, se3_apply(g, latent.translations))
    assert moved.geometry is latent.geometry
    assert moved.light is latent.light


def test_moving_some_tokens_leaves_the_others() -> None:
    latent, g = make_latent(), random_pose()
    moved = latent.move(g, torch.tensor([1, 3]))
    torch.testing.assert_close(moved.translations[[0, 2]], latent.translations[[0, 2]])
    torch.testing.assert_close(moved.translations[[1, 3]], se3_apply(g, latent.translations[[1, 3]]))


def test_turning_the_world_turns_light_with_it() -> None:
    latent, g = make_latent(), random_pose()
    turned, direction = latent.turn_world(g), torch.nn.functional.normalize(torch.randn(3).double(), dim=0)
    before = eval_sh(2, direction, latent.light.mT)
    after = eval_sh(2, quat_to_rotmat(g[0]) @ direction, turned.light.mT)
    torch.testing.assert_close(after, before)


def test_actions_compose_as_a_group() -> None:
    latent, g, h = make_latent(), random_pose(), random_pose()
    from nest_nerfstudio.geometry.se3 import se3_compose

    torch.testing.assert_close(
        latent.turn_world(h).turn_world(g).translations, latent.turn_world(se3_compose(g, h)).translations
    )
    torch.testing.assert_close(
        latent.turn_world(h).turn_world(g).light, latent.turn_world(se3_compose(g, h)).light
    )


def test_factors_commute() -> None:
    """A direct product: what acts on different parts can be done in any order."""
    latent, g, order = make_latent(), random_pose(), torch.tensor([2, 0, 3, 1])
    rotation = quat_to_rotmat(random_pose()[0])
    one = latent.move(g).relight(rotation, 0.5).permute(order)
    two = latent.permute(order).relight(rotation, 0.5).move(g)
    torch.testing.assert_close(one.translations, two.translations)
    torch.testing.assert_close(one.light, two.light)
    assert torch.equal(one.ids, two.ids)
    torch.testing.assert_close(one.motion.modes, two.motion.modes)


def test_selecting_keeps_tokens_together() -> None:
    latent = make_latent()
    kept = latent.select(torch.tensor([True, False, True, False]))
    assert len(kept) == 2
    assert kept.ids.tolist() == [0, 2]
    torch.testing.assert_close(kept.motion.modes, latent.motion.modes[[0, 2]])


def test_copies_are_numbered_and_keep_their_ids() -> None:
    latent, g = make_latent(), random_pose()
    doubled = latent.duplicate(torch.tensor([1, 3]), g)
    assert doubled.ids.tolist() == [0, 1, 2, 3, 1, 3]
    assert doubled.copies.tolist() == [0, 0, 0, 0, 1, 1]
    torch.testing.assert_close(doubled.translations[4:], se3_apply(g, latent.translations[[1, 3]]))
    again = doubled.duplicate(doubled.copies == 1, g)
    assert again.copies.tolist() == [0, 0, 0, 0, 1, 1, 2, 2]


def test_scaling_keeps_its_centre_and_composes() -> None:
    latent, some = make_latent(), torch.tensor([True, False, True, True])
    centre = latent.translations[0]
    twice = latent.scale(2.0, centre, some)
    assert torch.equal(twice.translations[0], centre)
    assert torch.equal(twice.translations[1], latent.translations[1])
    assert twice.sizes is not None
    assert twice.sizes.tolist() == [2.0 if chosen else 1.0 for chosen in some]
    back = twice.scale(0.5, centre, some)
    torch.testing.assert_close(back.translations, latent.translations)
    identity = latent.quats.new_tensor([1.0, 0, 0, 0])
    copied = twice.duplicate(some, (identity, centre))
    assert copied.sizes is not None
    assert copied.select(copied.copies == 1).sizes.tolist() == [2.0] * int(some.sum())


def test_shifts_of_the_clock_add_up() -> None:
    latent, time = make_latent(), torch.tensor(0.25)
    assert float(latent.at(0.5).at(0.1).motion.time_map(time)) == pytest.approx(0.85)
    assert latent.at(0.5).quats is latent.quats


def test_views_over_a_background() -> None:
    views = Views(torch.eye(4)[None], torch.eye(3)[None], 2, 2)
    images, alphas = torch.rand(1, 2, 2, 3), torch.rand(1, 2, 2, 1)
    background = torch.tensor([0.2, 0.4, 0.6])
    opaque, clear = replace(views, images=images), replace(views, images=images, alphas=alphas)
    assert opaque.over(background) is images
    torch.testing.assert_close(clear.over(background), images * alphas + background * (1 - alphas))
