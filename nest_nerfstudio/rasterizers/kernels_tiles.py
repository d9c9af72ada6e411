"""Compiled kernels that sort the projected Gaussians by depth and assign them to tiles of 16 × 16 pixels.

All cameras are sorted together: a tile belongs to one camera, so one stable sort by depth orders all tiles.
Both sorts are stable counting sorts, so that Gaussians of equal depth keep their order.
"""

import math

import numpy as np

from nest_nerfstudio.compiled import kernel

from .constants import ALPHA_MIN, TILE
from .kernels_composite import (
    BLUE,
    DEPTH,
    GREEN,
    MEAN_X,
    MEAN_Y,
    OPACITY,
    RED,
    WHITE_XX,
    WHITE_XY,
    WHITE_YY,
    Y_FIRST,
    Y_LAST,
)

DIGIT = 11
"""Bits per pass of the radix sort."""

LEVEL_SLACK = 1e-2
"""Enlarges the ellipses, so that rounding never drops a pixel that passes the alpha test."""


@kernel
def sort_by_depth(keys, radii):
    """Indices of the visible Gaussians (radius > 0), nearest first: a radix sort of the depths' bits.

    Args:
        keys: [C * N], bits of the positive depths as unsigned integers, which have the same order.
        radii: [C * N], 0 where not visible.
    """
    count = 0
    for i in range(radii.size):
        count += radii[i] > 0
    order, other = np.empty(count, np.int32), np.empty(count, np.int32)
    passes = (keys.itemsize * 8 + DIGIT - 1) // DIGIT
    mask = (1 << DIGIT) - 1
    offsets = np.zeros((passes, 1 << DIGIT), np.int64)
    j = 0
    for i in range(radii.size):
        if radii[i] > 0:
            order[j] = i
            j += 1
            key = np.int64(keys[i])
            for digit in range(passes):
                offsets[digit, (key >> (digit * DIGIT)) & mask] += 1
    for digit in range(passes):
        if offsets[digit].max() == count:
            continue
        total = 0
        for value in range(offsets.shape[1]):
            total, offsets[digit, value] = total + offsets[digit, value], total
        for j in range(count):
            i = order[j]
            value = (np.int64(keys[i]) >> (digit * DIGIT)) & mask
            other[offsets[digit, value]] = i
            offsets[digit, value] += 1
        order, other = other, order
    return order


@kernel
def _box(mean, radius, tiles):
    """Tiles first..last along one axis that the interval mean ± radius intersects."""
    first = np.floor(mean / TILE - radius / TILE)
    last = np.ceil(mean / TILE + radius / TILE)
    return int(min(max(first, 0), tiles)), int(min(max(last, 0), tiles))


@kernel
def _reach(record):
    """(level, half height) of the ellipse |W d|² ≤ level where alpha ≥ 1/255; level < 0 if it is empty."""
    opacity = float(record[OPACITY])
    if not opacity >= ALPHA_MIN:
        return -1.0, 0.0
    level = 2.0 * math.log(opacity / ALPHA_MIN) + LEVEL_SLACK
    return level, math.sqrt(level) / record[WHITE_YY]


@kernel
def _span(record, level, half, row, first, last):
    """Tiles first..last of a row of tiles that the ellipse intersects, within the given range."""
    xx, xy, yy = float(record[WHITE_XX]), float(record[WHITE_XY]), float(record[WHITE_YY])
    low = max(row * TILE + 0.5 - record[MEAN_Y], -half)
    high = min(row * TILE + TILE - 0.5 - record[MEAN_Y], half)
    if low > high:
        return first, first
    # At height y the ellipse spans x = (-xy y ± √(level - (yy y)²)) / xx, widest to the right at y = tip.
    tip = -math.sqrt(level) * xy / (yy * math.sqrt(xy * xy + yy * yy))
    y = min(max(tip, low), high)
    right = record[MEAN_X] + (-xy * y + math.sqrt(max(level - yy * yy * y * y, 0.0))) / xx
    y = min(max(-tip, low), high)
    left = record[MEAN_X] + (-xy * y - math.sqrt(max(level - yy * yy * y * y, 0.0))) / xx
    # Pixel centres of tile k lie in [16 k + 0.5, 16 k + 15.5].
    first = int(min(max(np.ceil((left + 0.5) / TILE) - 1, first), last))
    last = int(min(max(np.floor((right - 0.5) / TILE) + 1, first), last))
    return first, last


@kernel
def fill_records(first, last, bounds, frame, order, radii, splats, records, counts, slots):
    """Gather the Gaussians of the parts first..last into `records` and count the tiles that each intersects.

    Args:
        bounds: [parts + 1], part k contains the Gaussians order[bounds[k]..bounds[k + 1]].
        frame: `Frame`.
        order: [V], from `sort_by_depth`.
        radii: [C, N].
        splats: `Splats`.
        records: [V, RECORD], written.
        counts: [parts, tiles], added to.
        slots: [V + 1], the number of tiles of Gaussian i is written to i + 1.
    """
    for part in range(first, last):
        for i in range(bounds[part], bounds[part + 1]):
            record = records[i]
            camera, n = divmod(order[i], radii.shape[1])
            record[MEAN_X], record[MEAN_Y] = splats.means2d[camera, n, 0], splats.means2d[camera, n, 1]
            white = splats.whitenings[camera, n]
            record[WHITE_XX], record[WHITE_XY], record[WHITE_YY] = white[0], white[1], white[2]
            record[OPACITY], record[DEPTH] = splats.opacities[camera, n], splats.depths[camera, n]
            color = splats.colors[camera, n]
            record[RED], record[GREEN], record[BLUE] = color[0], color[1], color[2]
            level, half = _reach(record)
            height = float(frame.height)
            y_mean = float(record[MEAN_Y])
            record[Y_FIRST] = min(max(np.ceil(y_mean - half - 0.5), 0.0), height)
            record[Y_LAST] = max(min(np.floor(y_mean + half - 0.5), height), -1.0)
            slots[i + 1] = 0
            if level < 0:
                continue
            x0, x1 = _box(record[MEAN_X], radii[camera, n], frame.tiles_x)
            y0, y1 = _box(record[MEAN_Y], radii[camera, n], frame.tiles_y)
            base = camera * frame.tiles_x * frame.tiles_y
            total = 0
            for row in range(y0, y1):
                left, right = _span(record, level, half, row, x0, x1)
                total += right - left
                corner = base + row * frame.tiles_x
                for tile in range(corner + left, corner + right):
                    counts[part, tile] += 1
            slots[i + 1] = total


@kernel
def tile_starts(counts, slots):
    """Replace counts by running totals, in place; returns the first entry of each tile, [tiles + 1].

    Args:
        counts: [parts, tiles], becomes the index of the first entry that each part writes for each tile.
        slots: [V + 1], becomes the running total.
    """
    parts, tiles = counts.shape
    starts = np.empty(tiles + 1, np.int64)
    total = 0
    for tile in range(tiles):
        starts[tile] = total
        for part in range(parts):
            total, counts[part, tile] = total + counts[part, tile], total
    starts[tiles] = total
    for i in range(slots.size - 1):
        slots[i + 1] += slots[i]
    return starts


@kernel
def fill_tiles(first, last, bounds, frame, order, radii, first_slots, positions, bins):
    """Write the Gaussians of the parts first..last into the lists of the tiles that they intersect.

    Args:
        bounds, frame, order, radii: as for `fill_records`.
        first_slots: [V + 1], first row of each Gaussian in the gradient buffer.
        positions: [parts, tiles], index of the next entry of each part and tile, advanced.
        bins: `Bins`, whose entries and slots are written.
    """
    for part in range(first, last):
        for i in range(bounds[part], bounds[part + 1]):
            if first_slots[i + 1] == first_slots[i]:
                continue
            camera, n = divmod(order[i], radii.shape[1])
            record = bins.records[i]
            level, half = _reach(record)
            x0, x1 = _box(record[MEAN_X], radii[camera, n], frame.tiles_x)
            y0, y1 = _box(record[MEAN_Y], radii[camera, n], frame.tiles_y)
            base = camera * frame.tiles_x * frame.tiles_y
            slot = first_slots[i]
            for row in range(y0, y1):
                left, right = _span(record, level, half, row, x0, x1)
                corner = base + row * frame.tiles_x
                for tile in range(corner + left, corner + right):
                    position = positions[part, tile]
                    positions[part, tile] += 1
                    bins.entries[position] = i
                    bins.slots[position] = slot
                    slot += 1


@kernel
def sum_grads(first, last, order, first_slots, grads, v_splats, absgrad):
    """Sum the rows of `grads` of each Gaussian order[first..last], always in the same order.

    Args:
        order, first_slots: as for `fill_tiles`.
        grads: [M, GRADS], from `composite_backward`.
        v_splats: `Splats`, gradients, written for the Gaussians in `order`.
        absgrad: [C, N, 2], written alike.
    """
    total = np.empty(grads.shape[1], grads.dtype)
    for i in range(first, last):
        total[:] = 0
        for slot in range(first_slots[i], first_slots[i + 1]):
            for k in range(total.size):
                total[k] += grads[slot, k]
        camera, n = divmod(order[i], absgrad.shape[1])
        for k in range(2):
            v_splats.means2d[camera, n, k] = total[k]
            absgrad[camera, n, k] = total[10 + k]
        for k in range(3):
            v_splats.whitenings[camera, n, k] = total[2 + k]
            v_splats.colors[camera, n, k] = total[6 + k]
        v_splats.opacities[camera, n] = total[5]
        v_splats.depths[camera, n] = total[9]
