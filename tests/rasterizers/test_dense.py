"""The reference rasterizer against loops over pixels, finite differences, and gsplat's torch code."""

import math

import pytest
import torch
from gsplat.cuda._torch_impl import (
    _fully_fused_projection,
    _quat_scale_to_covar_preci,
    _spherical_harmonics,
)

from nest_nerfstudio.host import RADII_PER_AXIS
from nest_nerfstudio.rasterizers import dense
from nest_nerfstudio.rasterizers.dense import Camera, DenseRasterizer, composite, project
from nest_nerfstudio.types import Gaussians
from tests.rasterizers.raster_cases import INPUTS, Case, make_case, relative_error


def pixel_by_pixel(
    splats: dense.Splats, opacities: torch.Tensor, features: torch.Tensor, width: int, height: int
) -> torch.Tensor:
    """The rules of gsplat's kernel, one pixel and one Gaussian at a time: features and alpha."""
    order = sorted(range(len(opacities)), key=lambda i: (splats.depths[i].item(), i))
    out = torch.zeros(height, width, features.shape[1] + 1, dtype=features.dtype)
    for y in range(height):
        for x in range(width):
            t = 1.0
            for i in order:
                mx, my = splats.means2d[i].tolist()
                a, b, c = splats.conics[i].tolist()
                r = splats.radii[i].item()
                if not math.floor((mx - r) / 16) <= x // 16 < math.ceil((mx + r) / 16):
                    continue
                if not math.floor((my - r) / 16) <= y // 16 < math.ceil((my + r) / 16):
                    continue
                dx, dy = mx - (x + 0.5), my - (y + 0.5)
                sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
                alpha = min(0.999, opacities[i].item() * math.exp(-sigma))
                if sigma < 0 or alpha < 1 / 255:
                    continue
                if t * (1 - alpha) <= 1e-4:
                    break
                out[y, x, :-1] += alpha * t * features[i]
                t *= 1 - alpha
            out[y, x, -1] = 1 - t
    return out


def camera_of(case: Case, index: int = 0) -> Camera:
    return Camera(case.viewmats[index], case.Ks[index], case.width, case.height, 0.01, 1e10)


@pytest.mark.parametrize("kind", ["random", "overlapping", "tiny", "behind"])
def test_compositing_agrees_with_a_loop(kind: str) -> None:
    case = make_case(kind, n=25).to(torch.float64)
    with torch.no_grad():
        index = dense._visible(case.gaussians, camera_of(case), 1)
        seen = case.gaussians.select(index)
        splats = project(seen, camera_of(case))
        features = torch.cat([dense.shade(seen, camera_of(case), 1), splats.depths[:, None]], -1)
        got = torch.cat(composite(splats, seen.opacities, features, case.width, case.height), -1)
        wanted = pixel_by_pixel(splats, seen.opacities, features, case.width, case.height)
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


def test_membership_is_by_whole_tiles() -> None:
    """A Gaussian's square of 3 σ is rounded out to tiles, so it ends there and not at α = 1/255."""
    splats = dense.Splats(
        means2d=torch.tensor([[10.0, 8.0]]),
        conics=torch.tensor([[1 / 4.0, 0.0, 1 / 4.0]]),
        radii=torch.tensor([6.0]),
        depths=torch.tensor([1.0]),
        compensations=torch.ones(1),
    )
    _, alpha = composite(splats, torch.tensor([0.95]), torch.ones(1, 1), 32, 16)
    assert alpha[8, 15, 0] > 0
    assert alpha[8, 16, 0] == 0
    assert 0.95 * math.exp(-0.5 * (6.5**2 + 0.5**2) / 4) > dense.ALPHA_MIN


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("render_mode", ["RGB+D", "RGB+ED"])
def test_gradients_agree_with_finite_differences(antialiased: bool, render_mode: str) -> None:
    case = make_case("huge", seed=3, n=4, degree=2).to(torch.float64)
    case.gaussians.opacities.clamp_(0.2, 0.9)
    leaves = [
        getattr(case.gaussians if hasattr(case.gaussians, k) else case, k).requires_grad_() for k in INPUTS
    ]

    def images(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        *parts, viewmats, backgrounds = inputs
        out = DenseRasterizer()(
            Gaussians(*parts),
            viewmats,
            case.Ks,
            18,
            5,
            render_mode=render_mode,  # type: ignore[arg-type]
            backgrounds=backgrounds,
            antialiased=antialiased,
        )
        assert out.depth is not None
        return out.rgb, out.alpha, out.depth

    assert torch.autograd.gradcheck(images, leaves, eps=1e-6, atol=1e-5, rtol=1e-4, fast_mode=True)


@pytest.mark.parametrize("kind", ["random", "huge", "tiny", "edge_on"])
def test_projection_agrees_with_gsplat(kind: str) -> None:
    case = make_case(kind).to(torch.float64)
    g, camera = case.gaussians, camera_of(case)
    covars, _ = _quat_scale_to_covar_preci(g.quats, g.scales, compute_preci=False)
    radii, means2d, depths, conics, compensations = _fully_fused_projection(
        g.means,
        covars,  # type: ignore[arg-type]
        case.viewmats[:1],
        case.Ks[:1],
        case.width,
        case.height,
        calc_compensations=True,
    )
    seen = (radii[0] > 0).reshape(len(g.means), -1).all(-1)
    got = project(g.select(seen.nonzero()[:, 0]), camera)
    assert seen.any()
    if RADII_PER_AXIS:  # of a rectangle of 3.33 standard deviations, where ours is a square of 3
        assert (radii[0, seen].amax(-1) <= 1.11 * got.radii + 1).all()
    else:
        assert torch.equal(got.radii.int(), radii[0, seen])
        assert torch.equal(dense._visible(g, camera, 1), seen.nonzero()[:, 0])
    assert compensations is not None
    pairs = (got.means2d, means2d), (got.depths, depths), (got.conics, conics)
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs[0, seen], rtol=1e-8, atol=1e-10)
    # gsplat's determinant cancels for flat Gaussians, so its compensation has half the digits.
    torch.testing.assert_close(got.compensations, compensations[0, seen], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("degree", range(5))
def test_colours_agree_with_gsplat(degree: int) -> None:
    case = make_case(degree=degree).to(torch.float64)
    centre = torch.inverse(case.viewmats[0])[:3, 3]
    wanted = _spherical_harmonics(degree, case.gaussians.means - centre, case.gaussians.sh)
    got = dense.shade(case.gaussians, camera_of(case), degree)
    torch.testing.assert_close(got, torch.clamp_min(wanted + 0.5, 0.0))


def test_absgrad_is_the_sum_over_pixels() -> None:
    case = make_case("random", n=3, cameras=1).to(torch.float64)
    weights = torch.randn(7, 9, dtype=torch.float64)

    def means2d_of(absgrad: bool) -> tuple[torch.Tensor, torch.Tensor]:
        g = Gaussians(*(x.clone().requires_grad_() for x in vars(case.gaussians).values()))
        K = case.Ks - torch.tensor([[0.0, 0.0, 14.5], [0.0, 0.0, 11.0], [0.0, 0.0, 0.0]])
        out = DenseRasterizer()(g, case.viewmats, K, 9, 7, absgrad=absgrad)
        return out.info["means2d"], out.rgb[0].sum(-1) * weights

    means2d, image = means2d_of(False)
    wanted = sum(torch.autograd.grad(p, means2d, retain_graph=True)[0].abs() for p in image.flatten())
    means2d, image = means2d_of(True)
    image.sum().backward()
    assert relative_error(means2d.absgrad, wanted) < 1e-12  # type: ignore[attr-defined, arg-type]
    assert wanted.norm() > 0  # type: ignore[union-attr]
