"""A decoded scene that is baked: the same Gaussians under any light and motion, free from then on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from nest_nerfstudio.edits.selection import Box
from nest_nerfstudio.edits.steps import Delete, Duplicate, Move, Recolor, Relight
from nest_nerfstudio.fields.bound_gaussians import BoundGaussians, baked, without_codes
from nest_nerfstudio.fields.latent_gaussians import LatentGaussianField, LatentGaussianFieldConfig
from nest_nerfstudio.fields.rig import pose
from nest_nerfstudio.geometry.albedo_cube import NUM_CORNERS
from nest_nerfstudio.geometry.color import shift_hue
from nest_nerfstudio.geometry.quaternion import quat_exp, quat_to_rotmat
from nest_nerfstudio.types import Gaussians, SceneLatent
from tests.edits.test_inverses import LATENT, scene

TURN = quat_exp(torch.tensor([0.4, -1.0, 0.3]))
FAR = Box((7.0, -1.0, -1.0), (9.0, 1.0, 1.0))


def decoded() -> tuple[SceneLatent, LatentGaussianField]:
    torch.manual_seed(0)
    latent, field = scene(LATENT)
    assert isinstance(field, LatentGaussianField)
    torch.nn.init.normal_(field.residual.weight, std=0.1)  # colours that depend on the view
    return latent, field.requires_grad_(False)


def bake(latent: SceneLatent, field: LatentGaussianField) -> BoundGaussians:
    bound = BoundGaussians(0, 1, field.config.residual_degree, has_material=True)
    bound.bake(field(latent), latent.poses)
    return bound.requires_grad_(False).eval()


def shown(field: Callable, latent: SceneLatent) -> Gaussians:
    return pose(field(latent), latent.poses, latent.light)


def assert_same(found: Gaussians, expected: Gaussians) -> None:
    for name, value in vars(expected).items():
        torch.testing.assert_close(getattr(found, name), value, atol=2e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize(
    "act",
    [
        lambda latent: latent,
        lambda latent: latent.relight(quat_to_rotmat(TURN), 0.7),
        lambda latent: latent.move((TURN, torch.tensor([1.0, 2.0, 3.0]))),
    ],
    ids=["rest", "relit", "moved under the light"],
)
def test_it_looks_as_it_was_decoded(act: Callable[[SceneLatent], SceneLatent]) -> None:
    latent, field = decoded()
    bound = bake(latent, field)
    assert bound.knows_light
    assert_same(shown(bound, act(without_codes(latent))), shown(field, act(latent)))
    assert float(bound.deviation(baked(field(latent), latent.poses))) == 0


def test_edits_are_carried() -> None:
    latent, field = decoded()
    bound, plain = bake(latent, field), without_codes(latent)
    per_token = len(bound) // len(latent)
    for step in (Recolor(gain=(0.5, 1.0, 0.8)), Relight(gain=0.5)):
        found, expected = shown(bound, step.apply(plain, bound)), shown(field, step.apply(latent, field))
        torch.testing.assert_close(found.sh[:, 0], expected.sh[:, 0], atol=1e-4, rtol=1e-4)
    shifted = bound(Recolor(0.3).apply(plain, bound)).material
    before = bound(plain).material
    assert shifted is not None
    assert before is not None
    torch.testing.assert_close(shifted.albedo, shift_hue(before.albedo, 0.3))
    alone = Delete(FAR).apply(plain, bound)
    rigged = bound(alone)
    assert len(rigged) < len(bound)
    assert rigged.material is not None
    assert len(rigged.material.albedo) == len(rigged.material.transfer) == len(rigged)
    double = Duplicate((0.0, 0.0, 5.0)).apply(plain, bound)
    assert len(bound(double)) == 2 * len(bound)
    moved = shown(bound, Move((0.0, 0.0, 5.0), tokens=FAR).apply(plain, bound))
    far = slice(5 * per_token, None)  # of the token that stands alone
    shift = moved.means[far] - shown(bound, plain).means[far]
    torch.testing.assert_close(shift, torch.tensor([0.0, 0.0, 5.0]).expand_as(shift), atol=0.2, rtol=0)


def test_a_checkpoint_brings_its_gaussians_and_tokens() -> None:
    latent, field = decoded()
    bound = bake(latent, field)
    other = BoundGaussians(0, 1, field.config.residual_degree, has_material=True)
    held = other.params["means"]
    other.load_state_dict(bound.state_dict())
    assert other.params["means"] is held  # the optimizers' own
    assert_same(shown(other.eval(), without_codes(latent)), shown(bound, without_codes(latent)))
    with pytest.raises(RuntimeError, match="bind_quats"):  # of a scene that was fitted alone
        BoundGaussians(3, 4, 1).load_state_dict(BoundGaussians(3, 5, 1).state_dict())


def test_albedo_at_its_limits_stays_finite() -> None:
    latent, _ = decoded()
    field = LatentGaussianFieldConfig().setup(geometry_dim=5).requires_grad_(False)
    extreme = (torch.rand(len(latent), 3 * NUM_CORNERS) > 0.5).float()
    values = baked(field(SceneLatent(**{**vars(latent), "appearance": extreme})), latent.poses)
    assert all(value.isfinite().all() for value in values.values())
