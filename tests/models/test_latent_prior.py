"""The prior over latents: Gaussians that are what they say, and invariant under the motions of the world."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nest_nerfstudio.geometry.quaternion import quat_exp
from nest_nerfstudio.models.latent_prior import Gaussian, LatentPrior
from nest_nerfstudio.types import MotionCode, SceneLatent
from tests.equivariance import random_pose

TOKENS, GEOMETRY = 24, 8


def make_latent(seed: int, size: float = 0.4) -> SceneLatent:
    torch.manual_seed(seed)
    translations = size * torch.randn(TOKENS, 3).double()
    return SceneLatent(
        ids=torch.arange(TOKENS),
        copies=torch.zeros(TOKENS, dtype=torch.long),
        quats=quat_exp(0.5 * torch.randn(TOKENS, 3).double()),
        translations=translations,
        geometry=torch.cat([torch.full((TOKENS, 1), -1.5), torch.randn(TOKENS, GEOMETRY - 1)], 1).double(),
        appearance=torch.rand(TOKENS, 24).double(),
        light=torch.randn(3, 9).double(),
        motion=MotionCode.still(TOKENS, translations),
    )


def fitted(knows_gravity: bool, count: int = 12) -> LatentPrior:
    prior = LatentPrior(GEOMETRY + 24, knows_gravity)
    prior.fit([make_latent(i) for i in range(count)])
    return prior


def test_a_gaussian_of_many_samples_whitens_them() -> None:
    mixing, shift = torch.randn(5, 5), torch.randn(5)
    samples = torch.randn(20_000, 5) @ mixing + shift
    gaussian = Gaussian(5)
    gaussian.fit(samples)
    torch.testing.assert_close(gaussian.mean, samples.mean(0), atol=1e-5, rtol=0)
    white = gaussian.whiten(samples)
    torch.testing.assert_close(white.mT @ white / len(white), torch.eye(5), atol=0.02, rtol=0)
    assert float(gaussian(samples)) == pytest.approx(0.5, abs=0.01)
    assert float(gaussian(gaussian.mean)) == 0


def test_a_gaussian_of_few_samples_is_shrunk_to_a_diagonal() -> None:
    gaussian = Gaussian(40)
    gaussian.fit(torch.randn(6, 40))
    fresh = torch.randn(500, 40)
    assert gaussian.whitening.isfinite().all()
    assert 0.2 < float(gaussian(fresh)) < 2.0  # without shrinkage it is infinite


@pytest.mark.parametrize("constant", [True, False])
def test_what_never_varies_is_no_division_by_zero(constant: bool) -> None:
    gaussian = Gaussian(3)
    gaussian.fit(torch.ones(2 if constant else 1, 3))
    assert gaussian(torch.ones(3)).isfinite()


@pytest.mark.parametrize("knows_gravity", [True, False])
def test_a_latent_and_the_same_turned_are_as_likely(knows_gravity: bool) -> None:
    prior, latent = fitted(knows_gravity), make_latent(99)
    about_z = (quat_exp(torch.tensor([0.0, 0, 1.3], dtype=torch.float64)), torch.zeros(3).double())
    turn = about_z if knows_gravity else random_pose(torch.float64, 3)
    expected = prior(latent)
    torch.testing.assert_close(prior(latent.turn_world(turn)), expected, atol=1e-8, rtol=0)
    order = torch.randperm(TOKENS)
    torch.testing.assert_close(prior(latent.permute(order)), expected, atol=1e-8, rtol=0)


def test_one_that_knows_gravity_tells_a_scene_from_the_same_upside_down() -> None:
    flat = [replace(z, translations=z.translations * torch.tensor([1, 1, 0.2]).double()) for z in LATENTS]
    prior = LatentPrior(GEOMETRY + 24, knows_gravity=True)
    prior.fit(flat)
    quarter = (quat_exp(torch.tensor([math.pi / 2, 0, 0], dtype=torch.float64)), torch.zeros(3).double())
    assert prior(flat[0].turn_world(quarter)) > prior(flat[0]) + 0.1


LATENTS = [make_latent(i) for i in range(12)]


def test_unlike_latents_are_less_likely_in_each_part() -> None:
    prior, latent = fitted(True), make_latent(99)
    base = float(prior(latent))
    others: dict[str, SceneLatent] = {
        "codes": replace(latent, geometry=latent.geometry + 4),
        "colours": replace(latent, appearance=torch.full_like(latent.appearance, 0.999)),
        "extent": replace(latent, translations=6 * latent.translations),
        "light": replace(latent, light=latent.light + 20),
        "frames": replace(latent, quats=quat_exp(3 * torch.randn(TOKENS, 3).double())),
    }
    for name, other in others.items():
        assert float(prior(other)) > base + 0.02, name


def test_it_has_finite_gradients() -> None:
    prior, latent = fitted(True), make_latent(99)
    parts: dict[str, Tensor] = {
        name: getattr(latent, name).clone().requires_grad_()
        for name in ("quats", "translations", "geometry", "appearance", "light")
    }
    prior(replace(latent, **parts)).backward()
    for name, part in parts.items():
        assert part.grad is not None, name
        assert part.grad.isfinite().all(), name
        assert part.grad.any(), name


def test_the_most_typical_latents_are_the_middle_one_and_unlike_ones() -> None:
    latents = [replace(LATENTS[0], light=LATENTS[0].light + shift) for shift in (-9.0, 0.0, 9.0, 0.1, 0.2)]
    prior = LatentPrior(GEOMETRY + 24, knows_gravity=True)
    prior.fit(latents)
    middle, *others = prior.most_typical(latents, 3)
    assert middle in (1, 3, 4)
    assert set(others) == {0, 2}
    assert len(prior.most_typical(latents, 99)) == 5


def test_one_scene_is_no_distribution() -> None:
    with pytest.raises(ValueError, match="two scenes or more, not to 1"):
        LatentPrior(GEOMETRY + 24, True).fit(LATENTS[:1])


def test_it_is_saved_and_loaded() -> None:
    prior, other = fitted(True), LatentPrior(GEOMETRY + 24, True)
    other.load_state_dict(prior.state_dict())
    assert torch.equal(other(LATENTS[0]), prior(LATENTS[0]))
