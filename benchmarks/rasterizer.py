"""Time and memory of the CPU rasterizer, beside gsplat's own torch code, as a markdown table.

    python benchmarks/rasterizer.py [--threads 2] [--repeats 9] [--gsplat-up-to 10000]

Scene: N Gaussians, centres uniform in a unit box seen from distance 2 (focal length 1.2 image widths), axes
with log-normal standard deviations of median 1.2 pixels (σ of the logarithm 0.5) at the box's centre,
opacities sigmoid(2 x) of a normal x, spherical harmonics of degree 3. The table has the radii that result.

"Alone" is the blending with its sorting into tiles and its gradients; "full" adds the projection, the
spherical harmonics and their gradients. gsplat's `_torch_impl` does not run without CUDA: its list of pixels
to blend comes from a CUDA kernel and its blending from nerfacc, so both are plain torch here. It builds its
tile lists in a Python loop; that time is given apart.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import tyro
from results import record
from torch import Tensor

from nest_nerfstudio.types import Gaussians

SIZES = ((2_000, 100), (10_000, 128), (30_000, 200), (100_000, 400))
DEGREE = 3


@dataclass
class Args:
    """What to measure."""

    threads: int = 2
    """How many threads the rasterizer and torch may use."""
    repeats: int = 9
    """The median of this many is reported."""
    gsplat_up_to: int = 10_000
    """Largest scene that gsplat's torch code is tried on; it is slow."""


@dataclass
class Scene:
    """Gaussians in front of one camera."""

    gaussians: Gaussians
    viewmats: Tensor
    Ks: Tensor
    size: int

    @property
    def leaves(self) -> list[Tensor]:
        g = self.gaussians
        return [g.means, g.quats, g.scales, g.opacities, g.sh]


def make_scene(n: int, size: int) -> Scene:
    """The scene described above."""
    torch.manual_seed(0)
    pixel = 2 / (1.2 * size)
    gaussians = Gaussians(
        means=(torch.rand(n, 3) - 0.5).requires_grad_(),
        quats=torch.nn.functional.normalize(torch.randn(n, 4), dim=-1).requires_grad_(),
        scales=(1.2 * pixel * torch.exp(0.5 * torch.randn(n, 3))).requires_grad_(),
        opacities=torch.sigmoid(2 * torch.randn(n)).requires_grad_(),
        sh=(0.2 * torch.randn(n, (DEGREE + 1) ** 2, 3)).requires_grad_(),
    )
    viewmats = torch.eye(4)[None].clone()
    viewmats[0, 2, 3] = 2.0
    focal, centre = 1.2 * size, size / 2
    Ks = torch.tensor([[[focal, 0.0, centre], [0.0, focal, centre], [0.0, 0.0, 1.0]]])
    return Scene(gaussians, viewmats, Ks, size)


def milliseconds(step: Callable[[], Any], leaves: list[Tensor], repeats: int) -> float:
    """Median time of a step, after one that does not count."""
    times = []
    for _ in range(repeats + 1):
        for leaf in leaves:
            leaf.grad = None
        start = time.perf_counter()
        step()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[1:])


def peak_megabytes(step: Callable[[], Any]) -> float:
    """How far the memory of this process rises above its level before the step."""
    with open("/proc/self/clear_refs", "w") as control:
        control.write("5")  # forget the peak so far
    before = _status("VmRSS")
    step()
    return (_status("VmHWM") - before) / 1024


def _status(key: str) -> int:
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(key))


def measure_numba(n: int, size: int, args: Args) -> dict[str, float]:
    """Times of the CPU rasterizer, radii of the scene, memory of a full step."""
    from nest_nerfstudio.rasterizers import numba_cpu
    from nest_nerfstudio.thread_pool import give_cores_to_kernels

    give_cores_to_kernels()
    rasterizer = numba_cpu.NumbaRasterizer(args.threads)
    scene = make_scene(n, size)
    v_rgb = torch.randn(1, size, size, 3)

    def full() -> None:
        rasterizer(scene.gaussians, scene.viewmats, scene.Ks, size, size).rgb.backward(v_rgb)

    inputs: list[Any] = []
    apply = numba_cpu._Composite.apply
    with patch.object(numba_cpu._Composite, "apply", lambda *x: inputs.extend(x) or apply(*x)):
        info = rasterizer(scene.gaussians, scene.viewmats, scene.Ks, size, size).info
    lens, radii, *splats, background = inputs
    splats = [x.detach().requires_grad_() for x in splats]

    def alone() -> None:
        apply(lens, radii, *splats, background)[0].backward(v_rgb)

    small = make_scene(100, 32)  # loads the kernels
    rasterizer(small.gaussians, small.viewmats, small.Ks, 32, 32).rgb.sum().backward()
    peak = peak_megabytes(full)
    seen = info["radii"][info["radii"] > 0].float()
    return {
        "radius": seen.median().item(),
        "radius95": seen.quantile(0.95).item(),
        "alone": milliseconds(alone, splats, args.repeats),
        "full": milliseconds(full, scene.leaves, args.repeats),
        "peak": peak,
    }


def measure_gsplat(n: int, size: int, args: Args) -> dict[str, float]:
    """Times of gsplat's torch code, and how far its picture is from ours."""
    from nest_nerfstudio.rasterizers.numba_cpu import NumbaRasterizer

    torch.set_num_threads(args.threads)
    scene = make_scene(n, size)
    wanted = NumbaRasterizer()(scene.gaussians, scene.viewmats, scene.Ks, size, size).rgb.detach()
    with patched_gsplat():
        splats = project_with_gsplat(scene)
        detached = [x.detach().requires_grad_(x.is_floating_point()) for x in splats]
        lists = list_tiles_with_gsplat(detached, size)
        v_rgb = torch.randn(1, size, size, 3)
        error = (blend_with_gsplat(detached, lists, size) - wanted).square().mean().sqrt().item()
        repeats = max(1, args.repeats // 3)

        def full() -> None:
            splats = project_with_gsplat(scene)
            blend_with_gsplat(splats, list_tiles_with_gsplat(splats, size), size).backward(v_rgb)

        def blend() -> None:
            blend_with_gsplat(detached, lists, size).backward(v_rgb)

        return {
            "blend": milliseconds(blend, detached, repeats),
            "lists": milliseconds(lambda: list_tiles_with_gsplat(detached, size), [], repeats),
            "full": milliseconds(full, scene.leaves, repeats),
            "error": error,
        }


def project_with_gsplat(scene: Scene) -> list[Tensor]:
    """means2d, conics, opacities, colors, depths, radii."""
    from gsplat.cuda import _torch_impl as impl

    g = scene.gaussians
    covars, _ = impl._quat_scale_to_covar_preci(g.quats, g.scales, compute_preci=False)
    assert covars is not None
    radii, means2d, depths, conics, _ = impl._fully_fused_projection(
        g.means, covars, scene.viewmats, scene.Ks, scene.size, scene.size
    )
    centre = torch.inverse(scene.viewmats)[:, None, :3, 3]
    colors = impl._spherical_harmonics(DEGREE, g.means[None] - centre, g.sh[None])
    return [means2d, conics, g.opacities[None], torch.clamp_min(colors + 0.5, 0.0), depths, radii]


def list_tiles_with_gsplat(splats: list[Tensor], size: int) -> tuple[Tensor, Tensor]:
    from gsplat.cuda import _torch_impl as impl

    means2d, _, _, _, depths, radii = splats
    tiles = -(-size // 16)
    _, keys, ids = impl._isect_tiles(means2d, radii, depths, 16, tiles, tiles)
    return impl._isect_offset_encode(keys, 1, tiles, tiles), ids


def blend_with_gsplat(splats: list[Tensor], lists: tuple[Tensor, Tensor], size: int) -> Tensor:
    from gsplat.cuda import _torch_impl as impl

    means2d, conics, opacities, colors, _, _ = splats
    return impl._rasterize_to_pixels(means2d, conics, colors, opacities, size, size, 16, *lists)[0]


def patched_gsplat() -> Any:
    """gsplat's `_torch_impl` with its two parts that need CUDA replaced by torch."""
    nerfacc = SimpleNamespace(
        render_weight_from_alpha=_render_weight_from_alpha, accumulate_along_rays=_accumulate_along_rays
    )
    patches = patch.dict(sys.modules, {"nerfacc": nerfacc})  # type: ignore[dict-item]
    wrapper = patch("gsplat.cuda._wrapper.rasterize_to_indices_in_range", _indices_in_range)

    class Both:
        def __enter__(self) -> None:
            patches.start()
            wrapper.start()

        def __exit__(self, *_: object) -> None:
            wrapper.stop()
            patches.stop()

    return Both()


@torch.no_grad()
def _indices_in_range(
    start: int,
    stop: int,
    transmittances: Tensor,
    means2d: Tensor,
    conics: Tensor,
    opacities: Tensor,
    width: int,
    height: int,
    tile: int,
    offsets: Tensor,
    ids: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gaussian, pixel and camera of all that the batches start..stop of 256 Gaussians per tile blend."""
    tiles_x = offsets.shape[2]
    edges = [*offsets.flatten().tolist(), len(ids)]
    found_ids, found_pixels = [], []
    for k, (first, last) in enumerate(pairwise(edges)):
        chosen = ids[first:last][start * tile * tile : stop * tile * tile].long()
        x, y = torch.meshgrid(torch.arange(tile), torch.arange(tile), indexing="xy")
        x, y = x.flatten() + k % tiles_x * tile, y.flatten() + k // tiles_x * tile
        inside = (x < width) & (y < height)
        x, y = x[inside], y[inside]
        dx = x[:, None] + 0.5 - means2d[0, chosen, 0]
        dy = y[:, None] + 0.5 - means2d[0, chosen, 1]
        a, b, c = conics[0, chosen].unbind(-1)
        sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
        alpha = torch.clamp_max(opacities[0, chosen] * torch.exp(-sigma), 0.999)
        alpha = torch.where((sigma >= 0) & (alpha >= 1 / 255), alpha, 0.0)
        after = transmittances[0, y, x, None] * torch.cumprod(1 - alpha, -1)
        pixel, place = torch.nonzero((alpha > 0) & (after > 1e-4), as_tuple=True)
        found_ids.append(chosen[place])
        found_pixels.append(y[pixel] * width + x[pixel])
    all_ids = torch.cat(found_ids)
    return all_ids, torch.cat(found_pixels), torch.zeros_like(all_ids)


def _render_weight_from_alpha(alphas: Tensor, ray_indices: Tensor, n_rays: int) -> tuple[Tensor, Tensor]:
    logs = torch.log1p(-alphas.double())
    before = torch.cumsum(logs, 0) - logs
    starts = torch.ones_like(ray_indices, dtype=torch.bool)
    starts[1:] = ray_indices[1:] != ray_indices[:-1]
    ray_start = before[starts][torch.cumsum(starts, 0) - 1]
    transmittance = torch.exp(before - ray_start).to(alphas.dtype)
    return alphas * transmittance, transmittance


def _accumulate_along_rays(
    weights: Tensor, values: Tensor | None, ray_indices: Tensor, n_rays: int
) -> Tensor:
    weighted = weights[:, None] if values is None else weights[:, None] * values
    return weighted.new_zeros(n_rays, weighted.shape[1]).index_add(0, ray_indices, weighted)


def in_new_process(function: Callable[..., dict[str, float]], *args: Any) -> dict[str, float]:
    """Run where nothing else has used memory yet."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, args)


def main(args: Args) -> None:
    load = os.getloadavg()[0]
    print(f"{args.threads} threads, {os.cpu_count()} cores, load {load:.1f} before the start\n")
    print(
        "| Gaussians | image | radius median, 95 % | alone (ms) | full step (ms) | full / alone "
        "| memory (MB) | gsplat torch alone: blend + lists (ms) | gsplat torch full (ms) "
        "| faster: blend, alone, full | difference (RMS) |"
    )
    print("|" + " --- |" * 11)
    figures = {}
    for n, size in SIZES:
        ours = in_new_process(measure_numba, n, size, args)
        found = {"radius_median": ours["radius"], "radius_95": ours["radius95"], "alone_ms": ours["alone"]}
        found |= {"full_ms": ours["full"], "full_over_alone": ours["full"] / ours["alone"]}
        figures[f"{n}, {size}²"] = found | {"peak_mb": ours["peak"]}
        row = [f"{n}", f"{size}²", f"{ours['radius']:.0f}, {ours['radius95']:.0f}"]
        row += [f"{ours['alone']:.1f}", f"{ours['full']:.1f}", f"{ours['full'] / ours['alone']:.2f}"]
        row += [f"{ours['peak']:.0f}"]
        if n <= args.gsplat_up_to:
            theirs = in_new_process(measure_gsplat, n, size, args)
            both = theirs["blend"] + theirs["lists"]
            row += [f"{theirs['blend']:.0f} + {theirs['lists']:.0f}", f"{theirs['full']:.0f}"]
            ratios = theirs["blend"] / ours["alone"], both / ours["alone"], theirs["full"] / ours["full"]
            row += [", ".join(f"{ratio:.0f} x" for ratio in ratios), f"{theirs['error']:.0e}"]
            found = {"gsplat_blend_ms": theirs["blend"], "gsplat_lists_ms": theirs["lists"]}
            found |= {"gsplat_full_ms": theirs["full"], "difference_rms": theirs["error"]}
            names = ("faster_blend", "faster_alone", "faster_full")
            figures[f"{n}, {size}²"] |= found | dict(zip(names, ratios, strict=True))
        else:
            row += ["-"] * 4
        print("| " + " | ".join(row) + " |", flush=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"\nLargest process, with torch and numba loaded: {peak:.0f} MB.")
    settings = {"threads": args.threads, "repeats": args.repeats, "largest_process_mb": peak}
    record("rasterizer", figures, seed=0, settings=settings)


if __name__ == "__main__":
    main(tyro.cli(Args))
