"""Visible fractions of Gaussians in simple arrangements."""

from dataclasses import replace

import pytest
import torch

from nest_nerfstudio.rasterizers import create_rasterizer
from nest_nerfstudio.rasterizers.base import Rasterizer
from nest_nerfstudio.rasterizers.dense import DenseRasterizer
from nest_nerfstudio.rasterizers.numba_cpu import NumbaRasterizer
from nest_nerfstudio.rasterizers.visibility import visible_shares
from nest_nerfstudio.types import Gaussians, Views


def at(positions: list[list[float]], opacities: list[float], scale: float = 0.2) -> Gaussians:
    """Round Gaussians of one size."""
    n = len(positions)
    return Gaussians(
        means=torch.tensor(positions),
        quats=torch.tensor([[1.0, 0, 0, 0]]).repeat(n, 1),
        scales=torch.full((n, 3), scale),
        opacities=torch.tensor(opacities),
        sh=torch.rand(n, 4, 3),
    )


def looking_along_z(count: int = 1) -> Views:
    """Cameras at the origin with a field of 90 degrees."""
    K = torch.tensor([[32.0, 0, 32], [0, 32, 32], [0, 0, 1]])
    return Views(torch.eye(4).repeat(count, 1, 1), K.repeat(count, 1, 1), width=64, height=64)


@pytest.mark.parametrize("rasterizer", [DenseRasterizer(), NumbaRasterizer()], ids=["dense", "numba"])
def test_what_lies_behind_is_hidden(rasterizer: Rasterizer) -> None:
    """The hidden one is as large in the image as the one in front of it."""
    gaussians = at([[0.0, 0, 2], [0.0, 0, 4], [1.0, 0, 2]], [0.6, 0.9, 0.9])
    gaussians.scales[1] *= 2
    (shares,) = visible_shares(rasterizer, gaussians, looking_along_z())
    # with α = o G before it, G alike: ∫ G (1 − o G) / ∫ G = 1 − o / 2
    torch.testing.assert_close(shares, torch.tensor([1.0, 0.7, 1.0]), atol=0.02, rtol=0)


def test_outside_the_image_is_not_visible() -> None:
    """One behind the camera, one to its side, one half beyond the border, one too faint to be rendered."""
    gaussians = at([[0.0, 0, -2], [5.0, 0, 2], [2.0, 0, 2], [0.0, 0, 2]], [0.5, 0.5, 0.5, 0.001])
    first, second = visible_shares(NumbaRasterizer(), gaussians, looking_along_z(2))
    torch.testing.assert_close(first, torch.tensor([0.0, 0.0, 0.5, 0.0]), atol=0.06, rtol=0)
    assert torch.equal(first, second)


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("opacity", [0.05, 0.5, 0.99])
def test_small_and_faint_gaussians_are_wholly_visible(antialiased: bool, opacity: float) -> None:
    gaussians = at([[0.1, 0.2, 2.0]], [opacity], scale=0.03)
    shares = visible_shares(NumbaRasterizer(), gaussians, looking_along_z(), antialiased)
    assert shares.item() == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("scale", [5.0, 10.0, 40.0])
def test_what_fills_the_image_is_visible(scale: float) -> None:
    """One that is larger than the image, which shows 20 units there."""
    shares = visible_shares(NumbaRasterizer(), at([[0.0, 0, 10]], [0.9], scale), looking_along_z())
    assert shares.item() > 0.7


@pytest.mark.cuda
def test_gsplat_sees_what_numba_sees() -> None:
    gaussians = at((torch.rand(300, 3) * 2 + torch.tensor([-1.0, -1, 1.5])).tolist(), [0.4] * 300, scale=0.05)
    views = looking_along_z(2)
    expected = visible_shares(NumbaRasterizer(), gaussians, views)
    on_gpu = Gaussians(*(x.cuda() for x in vars(gaussians).values()))
    views = Views(views.viewmats.cuda(), views.Ks.cuda(), width=64, height=64)
    shares = visible_shares(create_rasterizer("gsplat", "cuda"), on_gpu, views)
    torch.testing.assert_close(shares.cpu(), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("rasterizer", [DenseRasterizer(), NumbaRasterizer()], ids=["dense", "numba"])
def test_what_is_masked_out_is_not_visible(rasterizer: Rasterizer) -> None:
    """One in the half that is masked out, one on its border, one in the other half."""
    gaussians = at([[-1.0, 0, 2], [0.0, 0, 2], [1.0, 0, 2]], [0.5, 0.5, 0.5])
    masks = torch.ones(1, 64, 64, 1)
    masks[:, :, :32] = 0
    (shares,) = visible_shares(rasterizer, gaussians, replace(looking_along_z(), masks=masks))
    torch.testing.assert_close(shares, torch.tensor([0.0, 0.5, 1.0]), atol=0.02, rtol=0)
