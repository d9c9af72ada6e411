import torch

from nest_nerfstudio.dynamics.deformation_mlp import DeformationMLP
from nest_nerfstudio.geometry.quaternion import quat_normalize
from nest_nerfstudio.types import Gaussians


def make_gaussians(count: int = 40) -> Gaussians:
    return Gaussians(
        means=torch.randn(count, 3),
        quats=quat_normalize(torch.randn(count, 4)),
        scales=0.1 * torch.rand(count, 3) + 0.01,
        opacities=torch.rand(count),
        sh=torch.randn(count, 4, 3),
    )


def make_trained() -> DeformationMLP:
    deformation = DeformationMLP()
    torch.nn.init.normal_(deformation.layers[-1].weight)  # type: ignore[arg-type]
    return deformation


def test_untrained_deformation_mlp_is_the_identity_and_moves_when_trained() -> None:
    gaussians, time = make_gaussians(), torch.tensor(0.6)
    same = DeformationMLP()(gaussians, time)
    for name, value in vars(gaussians).items():
        torch.testing.assert_close(getattr(same, name), value, msg=name)
    moved = make_trained()(gaussians, time)
    assert (moved.means - gaussians.means).abs().max() > 0.01
    assert (moved.quats - gaussians.quats).abs().max() > 0.01
    assert (moved.scales - gaussians.scales).abs().max() > 1e-4


def test_deformation_depends_on_the_time_and_leaves_gaussians_valid() -> None:
    gaussians, deformation = make_gaussians(), make_trained()
    early, late = (deformation(gaussians, torch.tensor(t)) for t in (0.1, 0.8))
    assert (early.means - late.means).abs().max() > 0.01
    for moved in (early, late):
        torch.testing.assert_close(moved.quats.norm(dim=1), torch.ones(40))
        assert (moved.scales > 0).all()
        torch.testing.assert_close(moved.opacities, gaussians.opacities)
        torch.testing.assert_close(moved.sh, gaussians.sh)


def test_gradients_reach_every_parameter_and_the_means_as_offsets_alone() -> None:
    gaussians, deformation = make_gaussians(), make_trained()
    gaussians.means.requires_grad_()
    deformation(gaussians, torch.tensor(0.6)).means.sum().backward()
    for name, parameter in deformation.named_parameters():
        assert parameter.grad is not None, name
    torch.testing.assert_close(gaussians.means.grad, torch.ones(40, 3))
