import torch

from nest_nerfstudio.fields.bound_gaussians import BoundGaussians
from nest_nerfstudio.fields.deformation_mlp import DeformedGaussians
from nest_nerfstudio.geometry.quaternion import quat_multiply, quat_to_rotmat
from nest_nerfstudio.geometry.se3 import se3_apply, se3_exp
from nest_nerfstudio.geometry.sh import eval_sh
from nest_nerfstudio.types import MotionCode, SceneLatent


def make_field(n: int = 40, k: int = 6, sh_degree: int = 2, cls=BoundGaussians) -> BoundGaussians:
    field = cls(n, k, sh_degree).double()
    field.initialize(torch.randn(n, 3).double(), torch.rand(n, 3).double(), opacity=0.3)
    torch.nn.init.normal_(field.params["sh_rest"])
    torch.nn.init.normal_(field.params["quats"])
    field.bind(se3_exp(torch.randn(k, 6).double()))
    return field


def rest_latent(field: BoundGaussians) -> SceneLatent:
    k = len(field.bind_quats)
    empty = torch.zeros(k, 0).double()
    still = torch.zeros(k, 6, 3).double()
    code = MotionCode(
        torch.zeros(2).double(), empty, still, torch.zeros(0).double(), torch.zeros(()).double()
    )
    return SceneLatent(
        field.bind_quats, field.bind_translations, empty, empty, torch.zeros(3, 9).double(), code
    )


def same_rotation(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(quat_to_rotmat(a), quat_to_rotmat(b))


def test_rest_pose_gives_the_canonical_gaussians() -> None:
    field = make_field()
    shown, rest = field(rest_latent(field)), field.canonical()
    torch.testing.assert_close(shown.means, rest.means)
    same_rotation(shown.quats, rest.quats)
    torch.testing.assert_close(shown.sh, rest.sh)


def test_turning_all_tokens_turns_the_gaussians_and_their_colours() -> None:
    field, (quat, shift) = make_field(), se3_exp(torch.randn(6).double())
    shown, rest = field(rest_latent(field).move((quat, shift))), field.canonical()
    torch.testing.assert_close(shown.means, se3_apply((quat, shift), rest.means))
    same_rotation(shown.quats, quat_multiply(quat.expand(len(field), 4), rest.quats))
    direction = torch.nn.functional.normalize(torch.randn(3).double(), dim=0)
    turned = quat_to_rotmat(quat) @ direction
    torch.testing.assert_close(
        eval_sh(2, turned.expand(40, 3), shown.sh), eval_sh(2, direction.expand(40, 3), rest.sh)
    )


def test_decoding_commutes_with_turning_any_pose() -> None:
    field = make_field()
    posed = rest_latent(field)
    posed = posed.move(se3_exp(0.5 * torch.randn(6).double()), torch.tensor([0, 1, 2]))
    g = se3_exp(torch.randn(6).double())
    torch.testing.assert_close(field(posed.move(g)).means, se3_apply(g, field(posed).means))
    same_rotation(field(posed.move(g)).quats, quat_multiply(g[0].expand(40, 4), field(posed).quats))


def test_skinning_weights_are_local_and_sum_to_one() -> None:
    field = make_field()
    means = field.canonical().means
    neighbors, weights = field.skinning(means)
    torch.testing.assert_close(weights.sum(1), torch.ones(len(field)).double())
    distances = torch.cdist(means, field.bind_translations)
    torch.testing.assert_close(distances.gather(1, neighbors)[:, 0], distances.min(1).values)


def test_gradients_reach_every_parameter() -> None:
    field = make_field()
    latent = rest_latent(field).move(se3_exp(torch.randn(6).double()), torch.tensor([0, 2]))
    shown = field(latent)
    sum((x.double() ** 2).sum() for x in vars(shown).values()).backward()
    for name, parameter in field.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_loads_a_checkpoint_with_another_number_of_gaussians() -> None:
    small, large = make_field(10), make_field(40)
    held = small.params["means"]
    small.load_state_dict(large.state_dict())
    torch.testing.assert_close(small.canonical().means, large.canonical().means)
    assert small.params["means"] is held  # optimizers that hold the parameter stay valid


def test_untrained_deformation_mlp_is_the_identity_and_moves_when_trained() -> None:
    field = make_field(cls=DeformedGaussians)
    latent = rest_latent(field)
    torch.testing.assert_close(field(latent).means, field.canonical().means)
    torch.nn.init.normal_(field.deformation[-1].weight)
    assert (field(latent).means - field.canonical().means).abs().max() > 0.01
