"""The rasterizer for CPUs: numba kernels on a pool of threads, with hand-written gradients."""

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
from nest_nerfstudio.rasterizers.checks import check_inputs, resolve_sh_degree
from nest_nerfstudio.rasterizers.constants import TILE
from nest_nerfstudio.rasterizers.kernels import Bins, Frame, Images, Scene, Splats
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
    sort_by_depth,
    sum_grads,
    tile_starts,
)
from nest_nerfstudio.thread_pool import SHARED, ThreadPool, even_ranges
from nest_nerfstudio.types import Gaussians, Rendering

_SMALL = 2048
"""Smallest amount of work that is split over several threads."""


@final
class NumbaRasterizer(Rasterizer):
    """Renders float32 and float64 Gaussians on the CPU; the result does not depend on the number of threads.

    Args:
        threads: number of threads per image; None uses the shared pool.
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
        setup = _Setup(
            frame=Frame(width, height, -(-width // TILE), -(-height // TILE)),
            near=float(near_plane),
            far=float(far_plane),
            antialiased=antialiased,
            degree=resolve_sh_degree(gaussians, sh_degree),
            absgrad=absgrad,
            Ks=as_array(Ks),
            pool=self._pool,
        )
        g = gaussians
        centres = torch.inverse(viewmats)[:, :3, 3]
        radii, *splats = _Project.apply(
            setup, g.means, g.quats, g.scales, g.opacities, g.sh, viewmats, centres
        )
        if backgrounds is None:
            backgrounds = viewmats.new_zeros(len(viewmats), 3)
        rgb, alpha, depth = _Composite.apply(setup, radii, *splats, backgrounds)
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


class _Setup(NamedTuple):
    """Image size, intrinsics and settings of one rendering, which have no gradient."""

    frame: Frame
    near: float
    far: float
    antialiased: bool
    degree: int
    absgrad: bool
    Ks: np.ndarray
    pool: ThreadPool


class _Project(torch.autograd.Function):
    """Maps Gaussians and cameras to radii and `Splats`."""

    @staticmethod
    def forward(ctx: Any, setup: _Setup, *inputs: Tensor) -> tuple[Tensor, ...]:
        scene = Scene(*(as_array(x) for x in inputs))
        shape = len(scene.viewmats), len(scene.means)
        like = inputs[0]
        splats = [like.new_zeros(*shape, *tail) for tail in ((2,), (3,), (), (3,), ())]
        radii = torch.zeros(shape, dtype=torch.int32)
        unclamped = np.zeros(shape, np.uint8)
        setup.pool.run(
            project_forward,
            even_ranges(shape[1], setup.pool.threads * 2 if shape[1] > _SMALL else 1),
            *(
                setup.frame,
                setup.near,
                setup.far,
                setup.antialiased,
                setup.degree,
                scene,
                setup.Ks,
            ),
            Splats(*(as_array(x) for x in splats)),
            as_array(radii),
            unclamped,
        )
        ctx.setup, ctx.unclamped = setup, unclamped
        ctx.save_for_backward(*inputs, radii)
        ctx.mark_non_differentiable(radii)
        return radii, *splats

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        setup = ctx.setup
        *inputs, radii = ctx.saved_tensors
        cameras, n = radii.shape
        outputs = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in inputs]
        v_cameras = np.zeros((-(-n // CHUNK), cameras, CAMERA_GRADS))
        setup.pool.run(
            project_backward,
            even_ranges(len(v_cameras), setup.pool.threads * 4),
            *(
                setup.frame,
                setup.antialiased,
                setup.degree,
                Scene(*(as_array(x) for x in inputs)),
                setup.Ks,
            ),
            as_array(radii),
            ctx.unclamped,
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
    """Maps radii, `Splats` and backgrounds to `Images`."""

    @staticmethod
    def forward(ctx: Any, setup: _Setup, radii: Tensor, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        *splats, backgrounds = inputs
        lists = _sort_into_tiles(setup, as_array(radii), Splats(*(as_array(x) for x in splats)))
        shape = len(radii), setup.frame.height, setup.frame.width
        rgb, alpha, depth = (backgrounds.new_empty(*shape, channels) for channels in (3, 1, 1))
        t_end, last_ids = backgrounds.new_empty(shape), torch.empty(shape, dtype=torch.int32)
        setup.pool.run(
            composite_forward,
            lists.tiles,
            *(setup.frame, lists.bins, as_array(backgrounds)),
            Images(as_array(rgb), as_array(alpha), as_array(depth)),
            as_array(t_end),
            as_array(last_ids),
        )
        ctx.setup, ctx.lists, ctx.means2d = setup, lists, splats[0]
        ctx.save_for_backward(radii, backgrounds, t_end, last_ids)
        return rgb, alpha, depth

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        setup, lists, bins = ctx.setup, ctx.lists, ctx.lists.bins
        radii, backgrounds, t_end, last_ids = ctx.saved_tensors
        rows = np.empty((len(bins.entries), GRADS), bins.records.dtype)
        setup.pool.run(
            composite_backward,
            lists.tiles,
            *(setup.frame, bins, as_array(backgrounds), as_array(t_end), as_array(last_ids)),
            Images(*(as_array(x) for x in grads)),
            setup.absgrad,
            rows,
        )
        outputs = [backgrounds.new_zeros(*radii.shape, *tail) for tail in ((2,), (3,), (), (3,), (), (2,))]
        *v_splats, absgrad = outputs
        setup.pool.run(
            sum_grads,
            lists.parts,
            *(lists.order, lists.first_slots, rows),
            Splats(*(as_array(x) for x in v_splats)),
            as_array(absgrad),
        )
        if setup.absgrad:
            ctx.means2d.absgrad = absgrad
        v_backgrounds = None
        if ctx.needs_input_grad[-1]:
            v_backgrounds = torch.einsum("chwk,chw->ck", grads[0], t_end)
        return None, None, *v_splats, v_backgrounds


class _TileLists(NamedTuple):
    """Visible Gaussians sorted by depth and by tile, and how the work is split over threads.

    Attributes:
        order: [V], visible Gaussians (camera * N + n), nearest first.
        parts: ranges of `order`, one per thread call.
        first_slots: [V + 1], first row of each visible Gaussian in the gradient buffer.
        bins: lists of the Gaussians of each tile.
        tiles: ranges of tiles, one per thread call.
    """

    order: np.ndarray
    parts: list[tuple[int, int]]
    first_slots: np.ndarray
    bins: Bins
    tiles: list[tuple[int, int]]


def _sort_into_tiles(setup: _Setup, radii: np.ndarray, splats: Splats) -> _TileLists:
    """Sort the visible Gaussians by depth and list those whose ellipse intersects each tile."""
    pool, frame, dtype = setup.pool, setup.frame, splats.depths.dtype
    order = sort_by_depth(splats.depths.ravel().view(f"u{dtype.itemsize}"), radii.ravel())
    parts = even_ranges(len(order), pool.threads * 2 if len(order) > _SMALL else 1)
    each = [(part, part + 1) for part in range(len(parts))]
    bounds = np.array([0, *(last for _, last in parts)])
    counts = np.zeros((len(parts), len(radii) * frame.tiles_x * frame.tiles_y), np.int64)
    records, first_slots = np.empty((len(order), RECORD), dtype), np.zeros(len(order) + 1, np.int64)
    where = bounds, frame, order, radii
    pool.run(fill_records, each, *where, splats, records, counts, first_slots)
    starts = tile_starts(counts, first_slots)
    entries, slots = np.empty((2, starts[-1]), np.int32)
    bins = Bins(starts, entries, slots, records)
    pool.run(fill_tiles, each, *where, first_slots, counts, bins)
    return _TileLists(order, parts, first_slots, bins, _balanced_ranges(starts, pool.threads))


def _balanced_ranges(starts: np.ndarray, threads: int) -> list[tuple[int, int]]:
    """Split the tiles into ranges of about equal work, several for each thread."""
    work = starts + 4 * np.arange(len(starts))  # an empty tile costs about as much as four entries
    pieces = 1 if threads == 1 or work[-1] < _SMALL else 6 * threads
    cuts = np.searchsorted(work, work[-1] * np.arange(1, pieces) / pieces)
    edges = [0, *cuts.tolist(), len(starts) - 1]
    return [(first, last) for first, last in pairwise(edges) if first < last]
