"""Compiled kernels that composite the Gaussians of each tile front to back, and their gradients.

The pixels of a tile are stored in one array, one plane of 256 per quantity, so that a row of 16 pixels is one
vector. The planes have fixed offsets in the array because LLVM then knows that they do not overlap.
"""

import numpy as np

from nest_nerfstudio.compiled import kernel, sum_kernel

from .constants import ALPHA_MAX, ALPHA_MIN, T_MIN, TILE
from .kernels import exp

AREA = TILE * TILE

# Columns of a record: one row per visible Gaussian, in depth order.
MEAN_X, MEAN_Y, WHITE_XX, WHITE_XY, WHITE_YY, OPACITY, RED, GREEN, BLUE, DEPTH, Y_FIRST, Y_LAST = range(12)
RECORD = 12

GRADS = 12
"""Columns of the gradient buffer: one row per (Gaussian, tile)."""

# Offsets of the planes. Unsigned, because numba checks signed indices for negative values.
_T = np.uint64(0)
_R = np.uint64(AREA)
_G = np.uint64(2 * AREA)
_B = np.uint64(3 * AREA)
_D = np.uint64(4 * AREA)
_T_OUT = np.uint64(5 * AREA)
_LAST = np.uint64(6 * AREA)
_X = np.uint64(7 * AREA)
_Y = np.uint64(8 * AREA)
_REST = np.uint64(9 * AREA)
PLANES = 10


@kernel
def _extent(frame, tile):
    """Camera of a tile, its first pixel, and its size within the image."""
    camera, index = divmod(tile, frame.tiles_x * frame.tiles_y)
    x0, y0 = index % frame.tiles_x * TILE, index // frame.tiles_x * TILE
    return camera, x0, y0, min(TILE, frame.width - x0), min(TILE, frame.height - y0)


@kernel
def _set_pixel_centres(planes, x0, y0):
    """Write the pixel coordinates of a tile."""
    for p in range(AREA):
        planes[_X + np.uint64(p)] = x0 + p % TILE + 0.5
        planes[_Y + np.uint64(p)] = y0 + p // TILE + 0.5


@kernel
def _rows(record, y0):
    """Range of pixels of the tile at `y0` whose rows the Gaussian can reach."""
    first = min(max(int(record[Y_FIRST]) - y0, 0), TILE)
    last = min(max(int(record[Y_LAST]) + 1 - y0, first), TILE)
    return np.uint64(first * TILE), np.uint64(last * TILE)


@kernel
def _blend(planes, start, stop, index, record):
    """Composite one Gaussian into the pixels start..stop of a tile; T is set to 0 at complete pixels."""
    f = planes.dtype.type
    one, half, zero = f(1.0), f(0.5), f(0.0)
    alpha_min, alpha_max, t_min = f(ALPHA_MIN), f(ALPHA_MAX), f(T_MIN)
    mean_x, mean_y = record[MEAN_X], record[MEAN_Y]
    white_xx, white_xy, white_yy = record[WHITE_XX], record[WHITE_XY], record[WHITE_YY]
    opacity, red, green, blue, depth = (
        record[OPACITY],
        record[RED],
        record[GREEN],
        record[BLUE],
        record[DEPTH],
    )
    k = f(index)
    for p in range(start, stop):
        dx = planes[_X + p] - mean_x
        dy = planes[_Y + p] - mean_y
        u = white_xx * dx + white_xy * dy
        w = white_yy * dy
        sigma = half * (u * u + w * w)
        alpha = opacity * exp(-sigma)
        alpha = alpha if alpha < alpha_max else alpha_max
        seen = alpha >= alpha_min
        t = planes[_T + p]
        t_next = t * (one - alpha)
        used = seen & (t_next > t_min)
        weight = alpha * t if used else zero
        planes[_R + p] += weight * red
        planes[_G + p] += weight * green
        planes[_B + p] += weight * blue
        planes[_D + p] += weight * depth
        planes[_T_OUT + p] = t_next if used else planes[_T_OUT + p]
        planes[_LAST + p] = k if used else planes[_LAST + p]
        planes[_T + p] = (t_next if used else zero) if seen else t


@sum_kernel
def _any_incomplete(planes):
    """Whether the tile has pixels that are not complete."""
    total = planes.dtype.type(0)
    for p in range(AREA):
        total += planes[_T + np.uint64(p)]
    return total > 0


@kernel
def composite_forward(first, last, frame, bins, backgrounds, images, t_end, last_ids):
    """Render the tiles first..last.

    Args:
        frame: `Frame`.
        bins: `Bins`.
        backgrounds: [C, 3].
        images: `Images`, written.
        t_end: [C, H, W], final transmittance, written; 1 - alpha would be less precise.
        last_ids: [C, H, W], index in the tile's entries of the last Gaussian used, written; -1 for none.
    """
    planes = np.empty(PLANES * AREA, bins.records.dtype)
    for tile in range(first, last):
        camera, x0, y0, cols, rows = _extent(frame, tile)
        planes[:] = 0
        _set_pixel_centres(planes, x0, y0)
        planes[_LAST : _LAST + AREA] = -1
        planes[_T_OUT : _T_OUT + AREA] = 1
        for y in range(rows):
            for x in range(cols):
                planes[y * TILE + x] = 1
        begin, end = bins.starts[tile], bins.starts[tile + 1]
        for k in range(end - begin):
            if k % 32 == 31 and not _any_incomplete(planes):
                break
            record = bins.records[bins.entries[begin + k]]
            p0, p1 = _rows(record, y0)
            _blend(planes, p0, p1, k, record)
        for y in range(rows):
            for x in range(cols):
                p = np.uint64(y * TILE + x)
                i, j = y0 + y, x0 + x
                t = planes[_T_OUT + p]
                images.rgb[camera, i, j, 0] = planes[_R + p] + t * backgrounds[camera, 0]
                images.rgb[camera, i, j, 1] = planes[_G + p] + t * backgrounds[camera, 1]
                images.rgb[camera, i, j, 2] = planes[_B + p] + t * backgrounds[camera, 2]
                images.depth[camera, i, j, 0] = planes[_D + p]
                images.alpha[camera, i, j, 0] = 1 - t
                t_end[camera, i, j] = t
                last_ids[camera, i, j] = int(planes[_LAST + p])


@sum_kernel
def _unblend(planes, start, stop, index, record, with_abs, out):
    """Gradient of one Gaussian from the pixels start..stop of a tile; restores the state before `_blend`.

    With v the gradient of the colour, s = colour · v, w = αT,
    and R = Σ_behind w s + T_end (background · v − v_α):
    ∂L/∂α = T s − R / (1 − α), ∂L/∂σ = −α ∂L/∂α. R is accumulated per pixel from back to front.
    """
    f = planes.dtype.type
    one, half, zero = f(1.0), f(0.5), f(0.0)
    alpha_min, alpha_max = f(ALPHA_MIN), f(ALPHA_MAX)
    mean_x, mean_y = record[MEAN_X], record[MEAN_Y]
    white_xx, white_xy, white_yy = record[WHITE_XX], record[WHITE_XY], record[WHITE_YY]
    opacity, red, green, blue, depth = (
        record[OPACITY],
        record[RED],
        record[GREEN],
        record[BLUE],
        record[DEPTH],
    )
    k = f(index)
    v_r = v_g = v_b = v_d = zero
    s_0 = s_u = s_w = s_ux = s_uy = s_wy = abs_x = abs_y = zero
    for p in range(start, stop):
        dx = planes[_X + p] - mean_x
        dy = planes[_Y + p] - mean_y
        u = white_xx * dx + white_xy * dy
        w = white_yy * dy
        sigma = half * (u * u + w * w)
        free = opacity * exp(-sigma)
        alpha = free if free < alpha_max else alpha_max
        used = (alpha >= alpha_min) & (planes[_LAST + p] >= k)
        widen = one / (one - alpha)
        t_old = planes[_T + p]
        t = t_old * widen
        g_r, g_g, g_b, g_d = planes[_R + p], planes[_G + p], planes[_B + p], planes[_D + p]
        shade = red * g_r + green * g_g + blue * g_b + depth * g_d
        rest = planes[_REST + p]
        v_alpha = t * shade - rest * widen
        weight = alpha * t if used else zero
        planes[_T + p] = t if used else t_old
        planes[_REST + p] = rest + weight * shade
        v_sigma = -free * v_alpha if used & (free <= alpha_max) else zero
        v_r += weight * g_r
        v_g += weight * g_g
        v_b += weight * g_b
        v_d += weight * g_d
        v_u = v_sigma * u
        v_w = v_sigma * w
        s_0 += v_sigma
        s_u += v_u
        s_w += v_w
        s_ux += v_u * dx
        s_uy += v_u * dy
        s_wy += v_w * dy
        if with_abs:
            abs_x += abs(white_xx * v_u)
            abs_y += abs(white_xy * v_u + white_yy * v_w)
    out[0] = -(white_xx * s_u)
    out[1] = -(white_xy * s_u + white_yy * s_w)
    out[2] = s_ux
    out[3] = s_uy
    out[4] = s_wy
    out[5] = -s_0 / opacity
    out[6] = v_r
    out[7] = v_g
    out[8] = v_b
    out[9] = v_d
    out[10] = abs_x
    out[11] = abs_y


@kernel
def composite_backward(first, last, frame, bins, backgrounds, t_end, last_ids, v_images, with_abs, grads):
    """Gradients of the tiles first..last.

    Args:
        frame, bins, backgrounds, t_end, last_ids: of `composite_forward`.
        v_images: `Images`, gradients.
        with_abs: also sum |∂L/∂means2d|.
        grads: [M, GRADS], a row per Gaussian and tile, written.
    """
    planes = np.empty(PLANES * AREA, bins.records.dtype)
    for tile in range(first, last):
        camera, x0, y0, cols, rows = _extent(frame, tile)
        planes[:] = 0
        _set_pixel_centres(planes, x0, y0)
        planes[_LAST : _LAST + AREA] = -1
        deepest = -1
        for y in range(rows):
            for x in range(cols):
                p = np.uint64(y * TILE + x)
                i, j = y0 + y, x0 + x
                t = t_end[camera, i, j]
                g_r = v_images.rgb[camera, i, j, 0]
                g_g = v_images.rgb[camera, i, j, 1]
                g_b = v_images.rgb[camera, i, j, 2]
                behind = g_r * backgrounds[camera, 0]
                behind += g_g * backgrounds[camera, 1]
                behind += g_b * backgrounds[camera, 2]
                planes[_T + p] = t
                planes[_R + p] = g_r
                planes[_G + p] = g_g
                planes[_B + p] = g_b
                planes[_D + p] = v_images.depth[camera, i, j, 0]
                planes[_REST + p] = t * (behind - v_images.alpha[camera, i, j, 0])
                planes[_LAST + p] = last_ids[camera, i, j]
                deepest = max(deepest, last_ids[camera, i, j])
        begin, end = bins.starts[tile], bins.starts[tile + 1]
        for k in range(deepest + 1, end - begin):
            grads[bins.slots[begin + k]] = 0
        for k in range(deepest, -1, -1):
            record = bins.records[bins.entries[begin + k]]
            p0, p1 = _rows(record, y0)
            _unblend(planes, p0, p1, k, record, with_abs, grads[bins.slots[begin + k]])
