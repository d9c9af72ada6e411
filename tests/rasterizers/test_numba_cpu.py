"""The CPU kernels against the dense reference, and their own guarantees: threads, strides, bad inputs."""

import os
import threading
from multiprocessing import get_context

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nest_nerfstudio.rasterizers.dense import DenseRasterizer
from nest_nerfstudio.rasterizers.numba_cpu import NumbaRasterizer
from nest_nerfstudio.types import Gaussians
from tests.rasterizers.raster_cases import (
    INPUTS,
    KINDS,
    Case,
    firm_pixels,
    make_case,
    pixel_weights,
    relative_error,
    render,
)

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}


def assert_same(case: Case, **options: object) -> None:
    """Images and gradients of numba in both float types are those of the reference in float64."""
    wanted = render(DenseRasterizer(), case, torch.float64, **options)
    got = render(NumbaRasterizer(), case, torch.float64, **options)
    for name, value in wanted.items():
        assert relative_error(got[name], value) <= TOLERANCE[torch.float64], name

    call = {k: v for k, v in options.items() if k != "absgrad"}
    firm = firm_pixels(case, 1e-3, **call)
    assert firm.float().mean() > 0.95
    wanted = render(DenseRasterizer(), case, torch.float64, firm, **options)
    got = render(NumbaRasterizer(), case, torch.float32, firm, **options)
    for name, value in wanted.items():
        pair = got[name], value
        if name in ("rgb", "alpha", "depth"):
            pair = got[name][firm], value[firm]
        assert relative_error(*pair) <= TOLERANCE[torch.float32], name


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_agrees_with_dense(kind: str) -> None:
    assert_same(make_case(kind))


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 10**6),
    n=st.integers(1, 60),
    cameras=st.integers(1, 2),
    degree=st.integers(0, 4),
    antialiased=st.booleans(),
    render_mode=st.sampled_from(["RGB", "RGB+D"]),
)
def test_agrees_with_dense(
    kind: str, seed: int, n: int, cameras: int, degree: int, antialiased: bool, render_mode: str
) -> None:
    case = make_case(kind, seed, n, cameras, degree)
    assert_same(case, antialiased=antialiased, render_mode=render_mode)


def test_expected_depth_agrees_with_dense() -> None:
    # Opaque everywhere: where alpha is nearly 0 the quotient magnifies any rounding, the reference's as well.
    case = make_case("huge", n=12)
    case.gaussians.opacities.clamp_(min=0.5)
    case.gaussians.means.mul_(0.3)
    assert_same(case, render_mode="RGB+ED")


def test_lower_sh_degree_leaves_higher_coefficients_alone() -> None:
    case = make_case(degree=3)
    assert_same(case, sh_degree=1)
    assert (render(NumbaRasterizer(), case, torch.float32, sh_degree=1)["∂sh"][:, 4:] == 0).all()


@pytest.mark.parametrize("rasterizer", [NumbaRasterizer(), DenseRasterizer()])
def test_near_and_far_planes_cull_and_include_their_boundaries(
    rasterizer: NumbaRasterizer | DenseRasterizer,
) -> None:
    depths = torch.tensor([0.499, 0.5, 1.0, 2.0, 2.001, -1.0, 0.0])
    means = torch.stack([torch.zeros(7), torch.zeros(7), depths], -1)
    quats = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(7, 1)
    gaussians = Gaussians(means, quats, torch.full((7, 3), 0.1), torch.full((7,), 0.5), torch.zeros(7, 1, 3))
    case = make_case(cameras=1)
    out = rasterizer(
        gaussians, torch.eye(4)[None], case.Ks, case.width, case.height, near_plane=0.5, far_plane=2.0
    )
    assert (out.info["radii"][0] > 0).tolist() == [False, True, True, True, False, False, False]


@pytest.mark.parametrize("rasterizer", [NumbaRasterizer(), DenseRasterizer()])
def test_equal_depths_keep_the_order_of_the_gaussians(rasterizer: NumbaRasterizer | DenseRasterizer) -> None:
    means = torch.tensor([[0.0, 0.0, 2.0]]).repeat(3, 1)
    quats = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(3, 1)
    sh = torch.eye(3)[:, None]
    gaussians = Gaussians(means, quats, torch.full((3, 3), 0.5), torch.full((3,), 0.9), sh)
    case = make_case(cameras=1)
    rgb = rasterizer(gaussians, torch.eye(4)[None], case.Ks, case.width, case.height).rgb[0, 14, 19]
    assert rgb[0] > rgb[1] > rgb[2]


def test_many_gaussians_in_one_tile_stop_at_the_same_one() -> None:
    """More Gaussians than between two checks of the kernel whether a tile is complete."""
    case = make_case("overlapping", n=300)
    case.gaussians.opacities.clamp_(min=0.1, max=0.3)
    assert_same(case)


@pytest.mark.parametrize("n", [0, 5])
def test_nothing_to_see_is_background_with_zero_gradients(n: int) -> None:
    case = make_case(n=n)
    case.viewmats[:, 2, 3] = -30.0
    got = render(NumbaRasterizer(), case, torch.float32)
    assert torch.equal(got["rgb"], case.backgrounds[:, None, None].expand_as(got["rgb"]))
    assert all((got[f"∂{name}"] == 0).all() for name in INPUTS[:-1])


@pytest.mark.parametrize("rasterizer", [NumbaRasterizer(), DenseRasterizer()])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_gaussians_that_are_not_finite_are_culled(
    rasterizer: NumbaRasterizer | DenseRasterizer, bad: float
) -> None:
    case, broken = make_case(n=36), make_case(n=36)
    wrong = torch.arange(0, 36, 6)
    for k, name in enumerate(INPUTS[:5]):
        getattr(broken.gaussians, name)[wrong[k]] = bad
    broken.gaussians.quats[wrong[5]] = 0.0
    case.gaussians.opacities[wrong] = 0.0
    wanted, got = render(rasterizer, case, torch.float32), render(rasterizer, broken, torch.float32)
    for name, value in got.items():
        assert value.isfinite().all(), name
        assert relative_error(value, wanted[name]) < 1e-6 or name in ("means2d", "radii", "depths"), name
    assert (got["radii"][:, wrong] == 0).all()


@pytest.mark.parametrize("rasterizer", [NumbaRasterizer(), DenseRasterizer()])
@pytest.mark.parametrize("size", [1e9, 1e18, 1e37])
def test_enormous_gaussians_stay_finite(rasterizer: NumbaRasterizer | DenseRasterizer, size: float) -> None:
    case = make_case(n=30)
    for k, name in enumerate(("means", "quats", "scales")):
        getattr(case.gaussians, name)[10 * k : 10 * k + 5, : k + 1] *= size
    assert all(value.isfinite().all() for value in render(rasterizer, case, torch.float32).values())


def test_one_and_two_threads_give_the_same_bits() -> None:
    case = make_case(n=6000, degree=2)
    one, two = (render(NumbaRasterizer(threads), case, torch.float32) for threads in (1, 2))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_threads_render_at_once() -> None:
    cases = [make_case(seed=seed, n=3000) for seed in range(4)]
    rasterizer = NumbaRasterizer(2)
    wanted = [render(rasterizer, case, torch.float32) for case in cases]
    failures: list[str] = []

    def work(k: int) -> None:
        for _ in range(5):
            got = render(rasterizer, cases[k], torch.float32)
            failures.extend(name for name, value in wanted[k].items() if not torch.equal(value, got[name]))

    workers = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures


def _alpha_sum(case: Case) -> float:
    return NumbaRasterizer(2)(case.gaussians, case.viewmats, case.Ks, 40, 27).alpha.sum().item()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_renders() -> None:
    case = make_case(n=3000)
    wanted = _alpha_sum(case)
    with get_context("fork").Pool(1) as children:
        assert children.apply_async(_alpha_sum, (case,)).get(timeout=60) == wanted


def test_info_for_densification() -> None:
    case = make_case()
    out = NumbaRasterizer()(case.gaussians, case.viewmats, case.Ks, 40, 27)
    info = out.info
    assert info["means2d"].shape == (2, 40, 2)
    assert info["radii"].shape == info["depths"].shape == (2, 40)
    assert (info["width"], info["height"], info["n_cameras"], info["gaussian_ids"]) == (40, 27, 2, None)
    assert out.depth is None
    wanted = DenseRasterizer()(case.gaussians, case.viewmats, case.Ks, 40, 27).info
    assert torch.equal(info["radii"], wanted["radii"])


def test_strided_inputs_give_the_same_image() -> None:
    case = make_case(degree=2)
    g = case.gaussians
    strided = Gaussians(
        g.means.T.contiguous().T,
        g.quats.repeat(1, 2)[:, :4],
        g.scales.flip(-1).flip(-1),
        g.opacities[:, None].repeat(1, 2)[:, 0],
        g.sh.transpose(1, 2).contiguous().transpose(1, 2),
    )
    views = case.viewmats.mT.contiguous().mT, case.Ks, 40, 27
    assert torch.equal(NumbaRasterizer()(strided, *views).rgb, NumbaRasterizer()(g, *views).rgb)


def test_renders_in_inference_mode() -> None:
    case = make_case()
    views = case.viewmats, case.Ks, case.width, case.height
    wanted = NumbaRasterizer()(case.gaussians, *views).rgb
    with torch.inference_mode():
        assert torch.equal(NumbaRasterizer()(case.gaussians, *views).rgb, wanted)


def test_gradient_of_one_input_alone() -> None:
    case = make_case()
    wanted = render(NumbaRasterizer(), case, torch.float32)["∂sh"]
    g = case.gaussians
    sh = g.sh.clone().requires_grad_()
    some = Gaussians(g.means, g.quats, g.scales, g.opacities, sh)
    out = NumbaRasterizer()(some, case.viewmats, case.Ks, 40, 27, backgrounds=case.backgrounds)
    (out.rgb.double() * pixel_weights(case, 5)[..., :3]).sum().backward()
    assert sh.grad is not None
    assert torch.equal(sh.grad, wanted)


@pytest.mark.cuda
@pytest.mark.parametrize("antialiased", [False, True])
def test_agrees_with_gsplat(antialiased: bool) -> None:
    from nest_nerfstudio.rasterizers.gsplat_cuda import GsplatRasterizer

    case = make_case(n=200, degree=3)
    views = case.viewmats, case.Ks, case.width, case.height
    options = {"backgrounds": case.backgrounds, "antialiased": antialiased}
    wanted = NumbaRasterizer()(case.gaussians, *views, **options).rgb
    on_gpu = Gaussians(*(x.cuda() for x in vars(case.gaussians).values()))
    options["backgrounds"] = case.backgrounds.cuda()
    got = GsplatRasterizer()(on_gpu, views[0].cuda(), views[1].cuda(), *views[2:], **options).rgb.cpu()
    psnr = -10 * torch.log10((got - wanted).square().mean())
    assert psnr >= 55


@pytest.mark.parametrize("field", ["means", "sh", "viewmats", "dtype", "size", "degree", "threads"])
def test_bad_input_is_named(field: str) -> None:
    case = make_case()
    inputs = dict(vars(case.gaussians))
    viewmats, width, degree = case.viewmats, 40, None
    if field == "sh":
        inputs["sh"] = torch.zeros(40, 5, 3)
    elif field == "dtype":
        inputs["scales"] = inputs["scales"].double()
    elif field == "means":
        inputs = {name: x.half() for name, x in inputs.items()}
    elif field == "viewmats":
        viewmats = viewmats.double()
    elif field == "size":
        width = 0
    elif field == "degree":
        degree = 2
    with pytest.raises(ValueError, match=r"\w+ (must|needs)"):
        NumbaRasterizer(0 if field == "threads" else None)(
            Gaussians(**inputs), viewmats, case.Ks, width, 27, sh_degree=degree
        )
