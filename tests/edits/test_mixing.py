"""Factors taken from another scene: each alone, from what matches in place, and only what means the same."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from nest_nerfstudio.dynamics.orbit import Orbit
from nest_nerfstudio.edits.mixing import OtherScene, correspondences
from nest_nerfstudio.edits.scene_edit import EditError, SceneEdit
from nest_nerfstudio.edits.selection import Ids
from nest_nerfstudio.edits.steps import Interpolate, Swap
from nest_nerfstudio.geometry.quaternion import quat_exp
from nest_nerfstudio.types import SceneLatent
from tests.edits.test_steps import TOKENS, ColorField, make_latent
from tests.equivariance import latent_distance

FIELD = ColorField()


def other_scene(kind: str = "cyclic", **known: bool) -> OtherScene:
    """Twice as large, elsewhere, in another order."""
    latent = make_latent(kind)
    latent = replace(latent, translations=2 * latent.translations + 5)
    return OtherScene(
        latent.permute(torch.randperm(TOKENS)),
        **{"knows_light": True, "shares_codes": True, "shares_flow": True} | known,
    )


@dataclass(frozen=True)
class Only:
    """The other scene, whatever is asked for."""

    other: OtherScene
    shared_motion: None = None

    def __call__(self, scene: str | None, run: str | None) -> OtherScene:
        return self.other


def mixed(latent: SceneLatent, step: Swap | Interpolate, other: OtherScene) -> SceneLatent:
    return SceneEdit((step,)).apply(latent, FIELD, Only(other))


def twists(latent: SceneLatent, time: float) -> torch.Tensor:
    motion = latent.motion
    z = Orbit(motion.period, motion.start, motion.phase)(torch.tensor(time))
    return motion.modes @ torch.cat([z, torch.ones(1)])


def test_tokens_match_whatever_the_place_size_and_order() -> None:
    latent, other = make_latent(), other_scene()
    theirs = other.latent.select(correspondences(latent, other.latent))
    torch.testing.assert_close(theirs.translations, 2 * latent.translations + 5)
    few = other.latent.select(torch.arange(3))
    assert correspondences(few, other.latent).unique().numel() == 3
    assert set(correspondences(latent, few).tolist()) == {0, 1, 2}  # more than there are: some are shared


@pytest.mark.parametrize(
    ("factor", "changed"),
    [
        ("geometry", {"geometry"}),
        ("appearance", {"appearance"}),
        ("poses", {"quats", "translations"}),
        ("light", {"light"}),
        ("motion", {"motion"}),
    ],
)
def test_each_factor_alone_is_taken_and_mixed(factor: str, changed: set[str]) -> None:
    latent, other = make_latent(), other_scene()
    theirs = other.latent.select(correspondences(latent, other.latent))
    swapped = mixed(latent, Swap(factor, scene="a"), other)
    half = mixed(latent, Interpolate(factor, 0.5, scene="a"), other)
    for name, value in vars(latent).items():
        for edited in (swapped, half):
            assert (getattr(edited, name) is value) == (name not in changed), name
    if factor != "motion":
        for name in changed:
            ours, theirs_, whole = (getattr(z, name) for z in (latent, theirs, swapped))
            assert torch.equal(whole, theirs_)
            if factor != "poses":  # which go along a screw
                torch.testing.assert_close(getattr(half, name), (ours + theirs_) / 2)
    for amount, expected in ((0.0, latent), (1.0, swapped)):
        assert latent_distance(mixed(latent, Interpolate(factor, amount, scene="a"), other), expected) < 1e-6


def test_selected_tokens_alone() -> None:
    latent = make_latent()
    swapped = mixed(latent, Swap("appearance", scene="a", tokens=Ids((1, 2))), other_scene())
    kept = torch.tensor([0, 3, 4, 5])
    assert torch.equal(swapped.appearance[kept], latent.appearance[kept])
    assert (swapped.appearance[1:3] != latent.appearance[1:3]).all()


def test_motion_scales_with_the_scene_and_mixes_about_one_phase() -> None:
    latent, other = make_latent(), other_scene()
    swapped = mixed(latent, Swap("motion", run="a"), other)
    theirs = twists(other.latent.select(correspondences(latent, other.latent)), 0.3)
    torch.testing.assert_close(twists(swapped, 0.3), theirs * torch.tensor([0.5] * 3 + [1.0] * 3))
    moving = replace(
        other, latent=replace(swapped, motion=replace(swapped.motion, period=latent.motion.period))
    )
    half = mixed(latent, Interpolate("motion", 0.5, run="a"), moving)
    for time in (0.0, 0.3, 0.7):
        mean = (twists(latent, time) + twists(swapped, time)) / 2
        torch.testing.assert_close(twists(half, time), mean, atol=1e-5, rtol=1e-5)
    still = make_latent("still")
    small = mixed(still, Interpolate("motion", 0.25, run="a"), moving)
    torch.testing.assert_close(twists(small, 0.3), twists(swapped, 0.3) / 4, atol=1e-5, rtol=1e-5)
    assert mixed(still, Interpolate("motion", 0.0, run="a"), moving).motion is still.motion


@pytest.mark.parametrize(
    ("step", "other", "message"),
    [
        (Swap("geometry", run="a"), other_scene(shares_codes=False), "whose geometry means something else"),
        (Swap("light", run="a"), other_scene(knows_light=False), "the light of the other scene is not known"),
        (Swap("motion", run="a"), other_scene("still"), "has no motion to give"),
        (Swap("motion", run="a"), other_scene("free", shares_flow=False), "the vector field that leads it"),
        (Interpolate("motion", 0.5, run="a"), other_scene("free"), "one motion is cyclic .* the other free"),
    ],
)
def test_what_cannot_be_taken(step: Swap, other: OtherScene, message: str) -> None:
    with pytest.raises(EditError, match=rf"step 1 of the edit: {step.name}: .*{message}"):
        mixed(make_latent(), step, other)


def test_scenes_without_codes_or_light_or_a_run() -> None:
    free = replace(make_latent(), geometry=torch.zeros(TOKENS, 0))
    with pytest.raises(EditError, match="has no codes of geometry; its Gaussians are free"):
        mixed(free, Swap("geometry", scene="a"), other_scene())
    with pytest.raises(EditError, match="swap: the colours of this scene are baked"):
        SceneEdit((Swap("light", scene="a"),)).apply(free, ColorField(knows_light=False), Only(other_scene()))
    with pytest.raises(EditError, match="only where an edit belongs to a run"):
        SceneEdit((Swap("light", scene="a"),)).apply(free, FIELD)


def test_arguments_that_do_not_go_together() -> None:
    for arguments, message in (
        ({"factor": "light"}, "name a `scene` of this run, or another `run`"),
        ({"factor": "motion", "scene": "a", "tokens": Ids((0,))}, "one for the whole scene"),
    ):
        with pytest.raises(ValueError, match=message):
            Swap(**arguments)
    with pytest.raises(ValueError, match="from 0 to 1"):
        Interpolate("light", 1.5, scene="a")


def test_a_pose_half_way() -> None:
    latent = replace(make_latent(), quats=quat_exp(torch.zeros(TOKENS, 3)))
    turned = replace(latent, quats=quat_exp(torch.tensor([[0.0, 0.0, 1.0]]).expand(TOKENS, 3)))
    other = OtherScene(turned, True, True, True)
    half = mixed(latent, Interpolate("poses", 0.5, scene="a"), other)
    torch.testing.assert_close(half.quats, quat_exp(torch.tensor([[0.0, 0.0, 0.5]]).expand(TOKENS, 3)))
