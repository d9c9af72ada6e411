import pytest
import torch

from nest_nerfstudio.fields.bound_gaussians import COLOR_DIM, BoundGaussians
from nest_nerfstudio.fields.rig import pose
from nest_nerfstudio.geometry.color import shift_hue
from nest_nerfstudio.geometry.quaternion import quat_multiply, quat_to_rotmat
from nest_nerfstudio.geometry.se3 import se3_apply, se3_exp
from nest_nerfstudio.geometry.sh import SH_C0, eval_sh
from nest_nerfstudio.models.latent_parameters import still_latent
from nest_nerfstudio.types import Gaussians, MotionCode, SceneLatent


def make_field(n: int = 40, k: int = 6, sh_degree: int = 2) -> BoundGaussians:
    field = BoundGaussians(n, k, sh_degree).double()
    field.initialize(torch.randn(n, 3).double(), torch.rand(n, 3).double(), opacity=0.3)
    torch.nn.init.normal_(field.params["features_rest"])
    torch.nn.init.normal_(field.params["quats"])
    field.bind(se3_exp(torch.randn(k, 6).double()))
    return field


def rest_latent(field: BoundGaussians) -> SceneLatent:
    k = len(field.bind_quats)
    zeros = torch.zeros(k, COLOR_DIM).double()
    return SceneLatent(
        ids=torch.arange(k),
        copies=torch.zeros(k, dtype=torch.long),
        quats=field.bind_quats,
        translations=field.bind_translations,
        geometry=zeros[:, :0],
        appearance=zeros,
        light=torch.zeros(3, 9).double(),
        motion=MotionCode.still(k, zeros),
    )


def shown(field: BoundGaussians, latent: SceneLatent) -> Gaussians:
    """The scene of a latent at rest."""
    return pose(field(latent), latent.poses, latent.light)


def same_rotation(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(quat_to_rotmat(a), quat_to_rotmat(b))


def test_rest_pose_gives_the_canonical_gaussians() -> None:
    field = make_field()
    moved, rest = shown(field, rest_latent(field)), field.rest()
    torch.testing.assert_close(moved.means, rest.means)
    same_rotation(moved.quats, rest.quats)
    torch.testing.assert_close(moved.sh, rest.sh)


def test_turning_all_tokens_turns_the_gaussians_and_their_colours() -> None:
    field, (quat, shift) = make_field(), se3_exp(torch.randn(6).double())
    moved, rest = shown(field, rest_latent(field).move((quat, shift))), field.rest()
    torch.testing.assert_close(moved.means, se3_apply((quat, shift), rest.means))
    same_rotation(moved.quats, quat_multiply(quat.expand(len(field), 4), rest.quats))
    direction = torch.nn.functional.normalize(torch.randn(3).double(), dim=0)
    turned = quat_to_rotmat(quat) @ direction
    torch.testing.assert_close(
        eval_sh(2, turned.expand(40, 3), moved.sh), eval_sh(2, direction.expand(40, 3), rest.sh)
    )


def test_decoding_commutes_with_turning_any_pose() -> None:
    field = make_field()
    posed = rest_latent(field)
    posed = posed.move(se3_exp(0.5 * torch.randn(6).double()), torch.tensor([0, 1, 2]))
    g = se3_exp(torch.randn(6).double())
    torch.testing.assert_close(shown(field, posed.move(g)).means, se3_apply(g, shown(field, posed).means))
    same_rotation(
        shown(field, posed.move(g)).quats, quat_multiply(g[0].expand(40, 4), shown(field, posed).quats)
    )


def test_skinning_weights_are_local_and_sum_to_one() -> None:
    field = make_field()
    means = field.rest().means
    rigged = field(rest_latent(field))
    neighbors, weights = rigged.tokens, rigged.weights
    torch.testing.assert_close(weights.sum(1), torch.ones(len(field)).double())
    distances = torch.cdist(means, field.bind_translations)
    torch.testing.assert_close(distances.gather(1, neighbors)[:, 0], distances.min(1).values)


def test_gradients_reach_every_parameter() -> None:
    field = make_field()
    latent = rest_latent(field).move(se3_exp(torch.randn(6).double()), torch.tensor([0, 2]))
    moved = shown(field, latent)
    sum((x.double() ** 2).sum() for x in vars(moved).values()).backward()
    for name, parameter in field.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_loads_a_checkpoint_with_another_number_of_gaussians() -> None:
    small, large = make_field(10), make_field(40)
    held = small.params["means"]
    small.load_state_dict(large.state_dict())
    torch.testing.assert_close(small.rest().means, large.rest().means)
    assert small.params["means"] is held  # optimizers that hold the parameter stay valid


def test_tokens_that_are_cut_take_their_gaussians_with_them() -> None:
    field = make_field()
    latent, whole = rest_latent(field), field(rest_latent(field))
    kept = torch.tensor([True, True, False, True, False, True])
    cut = latent.select(kept)
    strongest = whole.tokens.gather(1, whole.weights.argmax(1, keepdim=True))[:, 0]
    left = shown(field, cut)
    torch.testing.assert_close(left.means, field.rest().means[kept[strongest]])
    g = se3_exp(torch.randn(6).double())  # what is left still moves as one
    torch.testing.assert_close(shown(field, cut.move(g)).means, se3_apply(g, left.means))
    weights = field(cut).weights
    torch.testing.assert_close(weights.sum(1), torch.ones(len(weights)).double())


def test_a_copy_brings_its_gaussians_again_and_leaves_the_original_alone() -> None:
    field, g = make_field(), se3_exp(torch.randn(6).double())
    latent = rest_latent(field)
    some = torch.tensor([True, False, True, True, False, False])
    doubled = latent.duplicate(some, g)
    before, after, copied = shown(field, latent), shown(field, doubled), shown(field, latent.select(some))
    assert len(after) == len(before) + len(copied)
    torch.testing.assert_close(after.means[: len(before)], before.means)
    torch.testing.assert_close(after.means[len(before) :], se3_apply(g, copied.means))
    twice = doubled.duplicate(doubled.copies == 1, g)
    assert twice.copies.unique().tolist() == [0, 1, 2]
    torch.testing.assert_close(
        shown(field, twice).means[-len(copied) :], se3_apply(g, se3_apply(g, copied.means))
    )


@pytest.mark.parametrize("edit", ["whole", "cut", "doubled", "mixed"])
def test_the_order_of_tokens_does_not_matter(edit: str) -> None:
    field = make_field()
    latent = rest_latent(field).move(se3_exp(0.5 * torch.randn(6).double()), torch.tensor([0, 1, 2]))
    some = torch.tensor([True, False, True, True, False, True])
    if edit == "cut":
        latent = latent.select(some)
    elif edit == "doubled":
        latent = latent.duplicate(some, se3_exp(torch.randn(6).double()))
    elif edit == "mixed":  # every token once, but of two copies
        doubled = latent.duplicate(torch.arange(6), se3_exp(torch.randn(6).double()))
        latent = doubled.select(torch.tensor([0, 2, 4, 7, 9, 11]))
    order = torch.randperm(len(latent)) if edit != "mixed" else latent.ids.argsort()
    one, other = shown(field, latent), shown(field, latent.permute(order))
    if edit not in ("doubled", "mixed"):
        torch.testing.assert_close(one.means, other.means, atol=1e-12, rtol=0)
    first, second = (g.means[g.means[:, 0].argsort()] for g in (one, other))
    torch.testing.assert_close(first, second, atol=1e-12, rtol=0)


def test_colours_shift_their_hue_and_gain_channels() -> None:
    field = make_field()
    latent, everything = rest_latent(field), torch.ones(6, dtype=torch.bool)
    assert field(field.recolor(latent, everything, 0.0, (1.0, 1.0, 1.0))).rest.sh is not None
    before, turned = (
        shown(field, latent),
        shown(field, field.recolor(latent, everything, 0.3, (1.0, 1.0, 1.0))),
    )
    colors = before.sh[:, 0] * SH_C0 + 0.5
    torch.testing.assert_close(turned.sh[:, 0] * SH_C0 + 0.5, shift_hue(colors, 0.3))
    torch.testing.assert_close(turned.sh[:, 1:].sum(-1), before.sh[:, 1:].sum(-1))  # along the grey axis
    assert (turned.sh[:, 1:] - before.sh[:, 1:]).abs().max() > 0.1
    scaled = shown(field, field.recolor(latent, everything, 0.0, (2.0, 0.5, 1.0)))
    gain = torch.tensor([2.0, 0.5, 1.0]).double()
    torch.testing.assert_close(scaled.sh[:, 0] * SH_C0 + 0.5, colors * gain)
    torch.testing.assert_close(scaled.sh[:, 1:], before.sh[:, 1:] * gain)
    torch.testing.assert_close(turned.means, before.means)


def test_recolouring_adds_up_and_acts_on_chosen_tokens_only() -> None:
    field = make_field()
    latent, some = rest_latent(field), torch.tensor([True, True, False, False, False, False])
    once = field.recolor(field.recolor(latent, some, 0.2, (2.0, 1.0, 1.0)), some, -0.2, (0.5, 1.0, 1.0))
    torch.testing.assert_close(once.appearance, latent.appearance)
    red = field.recolor(latent, some, 0.0, (3.0, 1.0, 1.0))
    field.token_log_radii.data -= 2.0  # so that most Gaussians follow one token
    rigged = field(latent)
    share = torch.where(rigged.tokens < 2, rigged.weights, 0.0).sum(1)
    changed = (shown(field, red).sh - shown(field, latent).sh).abs().amax((1, 2))
    assert (changed[share > 0.9] > 0.01).all()
    assert (share < 1e-6).any()
    assert changed[share < 1e-6].max() < 1e-5


def test_in_training_neighbours_are_kept_until_they_are_forgotten() -> None:
    field = make_field().train()
    latent = rest_latent(field)
    before = field(latent).tokens
    with torch.no_grad():
        field.params["means"].copy_(torch.randn(len(field), 3))
    assert torch.equal(field(latent).tokens, before)
    assert not torch.equal(field.eval()(latent).tokens, before)  # as a checkpoint would show
    field.train().forget_neighbors()
    assert not torch.equal(field(latent).tokens, before)


def test_tokens_of_gaussians_are_kept_only_while_nothing_changes() -> None:
    """In evaluation: after each change, in place or by another parameter, they are as looked up anew."""
    torch.manual_seed(0)
    field, fresh = (BoundGaussians(50, 8, sh_degree=0).eval() for _ in range(2))
    latent = still_latent(8, COLOR_DIM, 2)
    with torch.no_grad():
        field.initialize(torch.randn(50, 3), torch.rand(50, 3), 0.5)
        field.bind((latent.quats, torch.randn(8, 3)))
        first = field(latent)
        assert field(latent).tokens is first.tokens

        def assert_fresh() -> None:
            fresh.load_state_dict(field.state_dict())
            found, expected = field(latent), fresh(latent)
            assert torch.equal(found.tokens, expected.tokens)
            assert torch.equal(found.weights, expected.weights)
            assert not torch.equal(found.weights, first.weights)

        field.params["means"].add_(0.3)
        assert_fresh()
        field.token_log_radii.add_(1.0)
        assert_fresh()
        field.params["means"] = torch.nn.Parameter(field.params["means"] + 0.5)
        assert_fresh()
        field.bind((latent.quats, torch.randn(8, 3)))
        assert_fresh()
    field(latent).weights.sum().backward()
    assert field(latent).weights.requires_grad
