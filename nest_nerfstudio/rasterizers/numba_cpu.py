"""The rasterizer for CPUs: numba kernels over a small pool of threads, with hand-written gradients."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from nest_nerfstudio.compiled import as_array
from nest_nerfstudio.rasterizers.base import Rasterizer, RenderMode
from nest_nerfstudio.rasterizers.checks import check_inputs, drawn_degree
from nest_nerfstudio.rasterizers.kernels import TILE, Bins, Frame, Pictures, Scene, Splats
from nest_nerfstudio.rasterizers.kernels_composite import GRADS, RECORD, composite_backward, composite_forward
from nest_nerfstudio.rasterizers.kernels_projection import (
    CAMERA_GRADS,
    CHUNK,
    project_backward,
    project_forward,
)
from nest_nerfstudio.rasterizers.kernels_tiles import (
    fill_records,
    fill_tiles,
    place_tiles,
    sort_by_depth,
    sum_grads,
)
from nest_nerfstudio.thread_pool import SHARED, ThreadPool, even_ranges
from nest_nerfstudio.types import Gaussians, Rendering

_SMALL = 2048
"""Fewer Gaussians than this are not worth waking a thread for."""


@final
class NumbaRasterizer(Rasterizer):
    """Draws float32 and float64 scenes on the CPU; the result does not depend on the number of threads.

    Args:
        threads: how many threads work on one picture; None: those of the shared pool.
    """

    name = "numba (CPU)"

    def __init__(self, threads: int | None = None) -> None:
        self._pool = SHARED if threads is None else ThreadPool(threads)

    def __call__(
        self,
        gaussians: Gaussians,
        viewmats: Float[Tensor, "c 4 4"],
        Ks: Float[Tensor, "c 3 3"],
        width: int,
        height: int,
        *,
        render_mode: RenderMode = "RGB",
        sh_degree: int | None = None,
        backgrounds: Float[Tensor, "c 3"] | None = None,
        near_plane: float = 0.01,
        far_plane: float = 1e10,
        antialiased: bool = False,
        absgrad: bool = False,
    ) -> Rendering:
        """See `Rasterizer`."""
        check_inputs(gaussians, viewmats, Ks, width, height, backgrounds, device="cpu")
        lens = _Lens(
            frame=Frame(width, height, -(-width // TILE), -(-height // TILE)),
            near=float(near_plane),
            far=float(far_plane),
            antialiased=antialiased,
            degree=drawn_degree(gaussians, sh_degree),
            absgrad=absgrad,
            Ks=as_array(Ks),
            pool=self._pool,
        )
        g = gaussians
        centres = torch.inverse(viewmats)[:, :3, 3]
        radii, *splats = _Project.apply(
            lens, g.means, g.quats, g.scales, g.opacities, g.sh, viewmats, centres
        )
        if backgrounds is None:
            backgrounds = viewmats.new_zeros(len(viewmats), 3)
        rgb, alpha, depth = _Composite.apply(lens, radii, *splats, backgrounds)
        means2d, depths = splats[0], splats[-1]
        if render_mode == "RGB":
            depth = None
        elif render_mode == "RGB+ED":
            depth = depth / alpha.clamp(min=1e-10)
        info = {
            "means2d": means2d,
            "radii": radii,
            "depths": depths,
            "width": width,
            "height": height,
            "n_cameras": len(viewmats),
            "gaussian_ids": None,
        }
        return Rendering(rgb, alpha, depth, info)


class _Lens(NamedTuple):
    """What stays fixed while Gaussians turn into pictures."""

    frame: Frame
    near: float
    far: float
    antialiased: bool
    degree: int
    absgrad: bool
    Ks: np.ndarray
    pool: ThreadPool


class _Project(torch.autograd.Function):
    """Gaussians and cameras to radii and `Splats`."""

    @staticmethod
    def forward(ctx: Any, lens: _Lens, *inputs: Tensor) -> tuple[Tensor, ...]:
        scene = Scene(*(as_array(x) for x in inputs))
        shape = len(scene.viewmats), len(scene.means)
        like = inputs[0]
        splats = [like.new_zeros(*shape, *tail) for tail in ((2,), (3,), (), (3,), ())]
        radii = torch.zeros(shape, dtype=torch.int32)
        lit = np.zeros(shape, np.uint8)
        lens.pool.run(
            project_forward,
            even_ranges(shape[1], lens.pool.threads * 2 if shape[1] > _SMALL else 1),
            *(lens.frame, lens.near, lens.far, lens.antialiased, lens.degree, scene, lens.Ks),
            Splats(*(as_array(x) for x in splats)),
            as_array(radii),
            lit,
        )
        ctx.lens, ctx.lit = lens, lit
        ctx.save_for_backward(*inputs, radii)
        ctx.mark_non_differentiable(radii)
        return radii, *splats

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        lens = ctx.lens
        *inputs, radii = ctx.saved_tensors
        cameras, n = radii.shape
        outputs = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in inputs]
        v_cameras = np.zeros((-(-n // CHUNK), cameras, CAMERA_GRADS))
        lens.pool.run(
            project_backward,
            even_ranges(len(v_cameras), lens.pool.threads * 4),
            *(lens.frame, lens.antialiased, lens.degree, Scene(*(as_array(x) for x in inputs)), lens.Ks),
            as_array(radii),
            ctx.lit,
            Splats(*(as_array(x) for x in grads)),
            Scene(*(as_array(x) for x in outputs)),
            v_cameras,
        )
        v_camera = torch.from_numpy(v_cameras.sum(0)).to(inputs[0].dtype)
        *v_gaussians, v_viewmats, _v_centres = outputs
        v_viewmats.zero_()
        v_viewmats[:, :3, :3] = v_camera[:, :9].reshape(-1, 3, 3)
        v_viewmats[:, :3, 3] = v_camera[:, 9:12]
        return None, *v_gaussians, v_viewmats, v_camera[:, 12:]


class _Composite(torch.autograd.Function):
    """Radii, `Splats` and backgrounds to `Pictures`."""

    @staticmethod
    def forward(ctx: Any, lens: _Lens, radii: Tensor, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        *splats, backgrounds = inputs
        drawing = _sort_into_tiles(lens, as_array(radii), Splats(*(as_array(x) for x in splats)))
        shape = len(radii), lens.frame.height, lens.frame.width
        rgb, alpha, depth = (backgrounds.new_empty(*shape, channels) for channels in (3, 1, 1))
        t_end, last_ids = backgrounds.new_empty(shape), torch.empty(shape, dtype=torch.int32)
        lens.pool.run(
            composite_forward,
            drawing.tiles,
            *(lens.frame, drawing.bins, as_array(backgrounds)),
            Pictures(as_array(rgb), as_array(alpha), as_array(depth)),
            as_array(t_end),
            as_array(last_ids),
        )
        ctx.lens, ctx.drawing, ctx.means2d = lens, drawing, splats[0]
        ctx.save_for_backward(radii, backgrounds, t_end, last_ids)
        return rgb, alpha, depth

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        lens, drawing, bins = ctx.lens, ctx.drawing, ctx.drawing.bins
        radii, backgrounds, t_end, last_ids = ctx.saved_tensors
        rows = np.empty((len(bins.entries), GRADS), bins.records.dtype)
        lens.pool.run(
            composite_backward,
            drawing.tiles,
            *(lens.frame, bins, as_array(backgrounds), as_array(t_end), as_array(last_ids)),
            Pictures(*(as_array(x) for x in grads)),
            lens.absgrad,
            rows,
        )
        outputs = [backgrounds.new_zeros(*radii.shape, *tail) for tail in ((2,), (3,), (), (3,), (), (2,))]
        *v_splats, absgrad = outputs
        lens.pool.run(
            sum_grads,
            drawing.parts,
            *(drawing.order, drawing.first_slots, rows),
            Splats(*(as_array(x) for x in v_splats)),
            as_array(absgrad),
        )
        if lens.absgrad:
            ctx.means2d.absgrad = absgrad
        v_backgrounds = None
        if ctx.needs_input_grad[-1]:
            v_backgrounds = torch.einsum("chwk,chw->ck", grads[0], t_end)
        return None, None, *v_splats, v_backgrounds


class _Drawing(NamedTuple):
    """What `_sort_into_tiles` finds.

    Attributes:
        order: [V] visible Gaussians (camera * N + n), nearest first.
        parts: ranges of `order` that are worked on at once.
        first_slots: [V + 1], where the rows of each in the gradient buffer start.
        bins: what each tile draws.
        tiles: ranges of tiles that are worked on at once.
    """

    order: np.ndarray
    parts: list[tuple[int, int]]
    first_slots: np.ndarray
    bins: Bins
    tiles: list[tuple[int, int]]


def _sort_into_tiles(lens: _Lens, radii: np.ndarray, splats: Splats) -> _Drawing:
    """Sort the visible Gaussians by depth and list, tile by tile, those whose ellipse reaches it."""
    pool, frame, dtype = lens.pool, lens.frame, splats.depths.dtype
    order = sort_by_depth(splats.depths.ravel().view(f"u{dtype.itemsize}"), radii.ravel())
    parts = even_ranges(len(order), pool.threads * 2 if len(order) > _SMALL else 1)
    each = [(part, part + 1) for part in range(len(parts))]
    bounds = np.array([0, *(last for _, last in parts)])
    counts = np.zeros((len(parts), len(radii) * frame.tiles_x * frame.tiles_y), np.int64)
    records, first_slots = np.empty((len(order), RECORD), dtype), np.zeros(len(order) + 1, np.int64)
    where = bounds, frame, order, radii
    pool.run(fill_records, each, *where, splats, records, counts, first_slots)
    starts = place_tiles(counts, first_slots)
    entries, slots = np.empty((2, starts[-1]), np.int32)
    bins = Bins(starts, entries, slots, records)
    pool.run(fill_tiles, each, *where, first_slots, counts, bins)
    return _Drawing(order, parts, first_slots, bins, _balanced_ranges(starts, pool.threads))


def _balanced_ranges(starts: np.ndarray, threads: int) -> list[tuple[int, int]]:
    """Cut the tiles into ranges of about equal work, several for each thread."""
    work = starts + 4 * np.arange(len(starts))  # an empty tile costs about as much as four entries
    pieces = 1 if threads == 1 or work[-1] < _SMALL else 6 * threads
    cuts = np.searchsorted(work, work[-1] * np.arange(1, pieces) / pieces)
    edges = [0, *cuts.tolist(), len(starts) - 1]
    return [(first, last) for first, last in pairwise(edges) if first < last]
