"""Compiled skinning against plain torch: values, gradients, and what must stay cut."""

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from nest_nerfstudio.fields.skinning import (
    skin,
    skin_reference,
    skinning_weights,
    skinning_weights_reference,
)
from nest_nerfstudio.geometry.quaternion import quat_exp, quat_normalize, quat_to_rotmat
from nest_nerfstudio.geometry.se3 import se3_apply, se3_compose, se3_exp, se3_inverse
from nest_nerfstudio.geometry.sh import rotate_sh
from nest_nerfstudio.types import Gaussians, RiggedGaussians

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
INPUTS = ("means", "quats", "sh", "token quats", "token translations", "log radii")


class Case:
    """Random Gaussians, tokens and gradients of what comes out."""

    def __init__(self, dtype=torch.float64, n=50, k=7, neighbors=4, degree=2, spread=1.0) -> None:
        means, self.centres = spread * torch.randn(n, 3), torch.randn(k, 3)
        self.neighbors = torch.cdist(means, self.centres).topk(neighbors, largest=False).indices
        leaves = [means, torch.randn(n, 4), torch.randn(n, (degree + 1) ** 2, 3)]
        leaves += [*se3_exp(0.5 * torch.randn(k, 6)), 0.3 * torch.randn(k)]
        self.leaves = [x.to(dtype).detach().requires_grad_() for x in leaves]
        self.centres = self.centres.to(dtype)
        self.bind_quats = quat_exp(0.5 * torch.randn(k, 3)).to(dtype)
        self.scales, self.opacities = torch.rand(n, 3).to(dtype), torch.rand(n).to(dtype)

    def run(self, function, leaves: list[Tensor] | None = None) -> Gaussians:
        means, quats, sh, *poses, log_radii = leaves or self.leaves
        weigh = skinning_weights if function is skin else skinning_weights_reference
        weights = weigh(means, self.centres, log_radii, self.neighbors)
        rest = Gaussians(means, quats, self.scales, self.opacities, sh)
        rigged = RiggedGaussians(rest, self.bind_quats, self.centres, self.neighbors, weights)
        return function(rigged, tuple(poses))


def values_and_gradients(case: Case, function) -> list[Tensor]:
    shown = case.run(function)
    outputs = [shown.means, shown.quats, shown.sh]
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=generator).to(x) for x in outputs]
    return [*outputs, *torch.autograd.grad(outputs, case.leaves, weights)]


def assert_same(case: Case) -> None:
    tolerance = TOLERANCE[case.centres.dtype]
    fused, plain = (values_and_gradients(case, f) for f in (skin, skin_reference))
    for name, a, b in zip(("means'", "quats'", "sh'", *INPUTS), fused, plain, strict=True):
        assert a.isfinite().all(), name
        assert (a - b).abs().max() <= tolerance * b.abs().max().clamp_min(1e-6), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_kernels_agree_with_plain_torch(dtype: torch.dtype, degree: int) -> None:
    assert_same(Case(dtype, degree=degree))


@pytest.mark.parametrize("neighbors", [1, 2, 3, 5, 6])
def test_kernels_agree_for_any_number_of_neighbors(neighbors: int) -> None:
    assert_same(Case(neighbors=neighbors))


@pytest.mark.parametrize(
    "sizes",
    [dict(n=1), dict(k=1, neighbors=1), dict(n=64), dict(n=1000, k=40), dict(n=3, spread=1e3)],
    ids=["one Gaussian", "one token", "n64", "many", "far away"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kernels_agree_for_any_size(dtype: torch.dtype, sizes: dict) -> None:
    assert_same(Case(dtype, **sizes))


def test_far_from_all_tokens_the_nearest_one_moves_a_gaussian() -> None:
    case = Case(torch.float32, spread=100.0)
    with torch.no_grad():
        case.leaves[-1].zero_()
    means, _, _, quats, translations, log_radii = case.leaves
    weights = skinning_weights(means, case.centres, log_radii, case.neighbors)
    sure = weights[:, 0] > 0.999999
    assert sure.any()
    first = case.neighbors[:, 0]
    motions = se3_compose((quats, translations), se3_inverse((case.bind_quats, case.centres)))
    expected = se3_apply((motions[0][first], motions[1][first]), means)
    torch.testing.assert_close(case.run(skin).means[sure], expected[sure], rtol=1e-4, atol=1e-2)


def test_no_gaussians() -> None:
    case = Case(n=0)
    shown = case.run(skin)
    assert shown.means.shape == (0, 3)
    assert shown.sh.shape == (0, 9, 3)


def test_gradcheck_of_geometry_and_of_colours() -> None:
    """Apart, as the derivative of the colours with respect to the rotation is cut on purpose."""
    case = Case(n=4, k=5, neighbors=3, degree=3)
    for function in (skin, skin_reference):

        def geometry(means, quats, *tokens, function=function):
            shown = case.run(function, [means, quats, case.leaves[2].detach(), *tokens])
            return shown.means, shown.quats

        def colours(sh, function=function):
            fixed = [x.detach() for x in case.leaves]
            return case.run(function, [*fixed[:2], sh, *fixed[3:]]).sh

        assert gradcheck(geometry, (*case.leaves[:2], *case.leaves[3:]))
        assert gradcheck(colours, (case.leaves[2],))


@pytest.mark.parametrize("function", [skin, skin_reference])
def test_colours_turn_with_the_gaussian_but_do_not_pull_at_it(function) -> None:
    case = Case(degree=3)
    shown = case.run(function)
    turn = quat_to_rotmat(shown.quats) @ quat_to_rotmat(quat_normalize(case.leaves[1])).mT
    torch.testing.assert_close(shown.sh, rotate_sh(case.leaves[2], turn))
    pulled = torch.autograd.grad(shown.sh.square().sin().sum(), case.leaves, allow_unused=True)
    for name, gradient in zip(INPUTS, pulled, strict=True):
        assert (gradient is not None and bool(gradient.any())) == (name == "sh"), name


def test_is_deterministic_and_passes_the_rest_through() -> None:
    case = Case(torch.float32, n=1000)
    for a, b in zip(values_and_gradients(case, skin), values_and_gradients(case, skin), strict=True):
        assert torch.equal(a, b)
    shown = case.run(skin)
    assert shown.scales is case.scales
    assert shown.opacities is case.opacities


def test_reads_tensors_that_are_not_contiguous() -> None:
    case = Case()
    plain = values_and_gradients(case, skin)
    case.leaves = [x.detach().mT.contiguous().mT.requires_grad_() for x in case.leaves[:-1]] + case.leaves[
        -1:
    ]
    case.neighbors = case.neighbors.T.contiguous().T
    for a, b in zip(plain, values_and_gradients(case, skin), strict=True):
        assert torch.equal(a, b)


def test_a_zero_quaternion_stays_zero() -> None:
    case = Case(n=3)
    with torch.no_grad():
        case.leaves[1][0] = 0
    assert not case.run(skin).quats[0].any()
    assert case.run(skin).quats[1:].norm(dim=1).sub(1).abs().max() < 1e-12


def test_a_neighbor_that_is_no_token_is_an_error() -> None:
    case = Case(k=7)
    weights = torch.full(case.neighbors.shape, 0.25, dtype=torch.float64)
    case.neighbors = case.neighbors.clone()
    case.neighbors[3, 1] = 7
    with pytest.raises(IndexError, match="its 7 tokens"):
        case.run(skin)
    means, quats, sh, *poses, _ = case.leaves
    rest = Gaussians(means, quats, case.scales, case.opacities, sh)
    with pytest.raises(IndexError, match="its 7 tokens"):
        skin(RiggedGaussians(rest, case.bind_quats, case.centres, case.neighbors, weights), tuple(poses))


def test_a_missing_radius_is_an_error() -> None:
    case = Case(k=7)
    case.leaves[-1] = case.leaves[-1][:-1]
    with pytest.raises(ValueError, match="7 tokens need as many radii"):
        case.run(skin)


def test_a_missing_pose_is_an_error() -> None:
    case = Case(k=7)
    case.leaves[3], case.leaves[4] = case.leaves[3][:-1], case.leaves[4][:-1]
    with pytest.raises(ValueError, match="7 bound tokens"):
        case.run(skin)


def test_neighbors_of_other_gaussians_are_an_error() -> None:
    case = Case(n=50)
    case.neighbors = case.neighbors[:40]
    with pytest.raises(ValueError, match="40 rows of tokens for 50"):
        case.run(skin)


def test_harmonics_of_no_degree_are_an_error() -> None:
    case = Case()
    case.leaves[2] = case.leaves[2][:, :5]
    with pytest.raises(ValueError, match="1, 4, 9 or 16 coefficients"):
        case.run(skin)
