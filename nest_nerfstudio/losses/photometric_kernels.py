"""Compiled kernels of the photometric loss and its gradient.

Rows of images have 3 w values, colours side by side, so that a window is every third value of a row. With m
the mean of a − b over a window and e that of (a − b)², N₁ = 2 μ_a μ_b + c₁ and N₂ = 2 σ_ab + c₂, it is
SSIM = N₁ N₂ / (D₁ D₂), D₁ = N₁ + m², D₂ = N₂ + e − m²: the usual formula, exactly 1 where images are equal.

Windows are numbered by their first pixel. Every row is computed by itself, so that results do not depend on
how rows are split over threads.
"""

import numpy as np

from nest_nerfstudio.compiled import kernel, sum_kernel

MOMENTS = 4
"""Means of a window: of a, b, a b and (a − b)²."""
SLOPES = 3
"""Derivatives of 1 − SSIM by the means of a, of a b and of (a − b)²."""
_BLOCK = 512
"""Values that are added in single precision."""


@sum_kernel
def _distance(a, b):
    """Σ |a − b|."""
    total = 0.0
    for start in range(0, len(a), _BLOCK):
        part = a.dtype.type(0)
        for i in range(start, min(start + _BLOCK, len(a))):
            part += abs(a[i] - b[i])
        total += part
    return total


@kernel
def compare_rows(first, last, rgb, target, mask, a, b, distances, spans):
    """Copy rows of two images, black where a pixel is masked out, and find where they differ.

    Args:
        first, last: range of rows.
        rgb, target: images [h, w, 3].
        mask: [h, w], above a half for the pixels to use; [0, 0] uses all.
        a, b: copies [h, 3 w], written.
        distances: [h], sums of |a − b|, written.
        spans: [h, 2], first pixel that differs and last one; w and −1 where none does; written.
    """
    zero, width = a.dtype.type(0), rgb.shape[1]
    for y in range(first, last):
        for x in range(width):
            used = len(mask) == 0 or mask[y, x] > 0.5
            for c in range(3):
                a[y, 3 * x + c] = rgb[y, x, c] if used else zero
                b[y, 3 * x + c] = target[y, x, c] if used else zero
        distances[y] = _distance(a[y], b[y])
        begin, end = 0, 3 * width
        while begin < end and a[y, begin] == b[y, begin]:
            begin += 1
        while end > begin and a[y, end - 1] == b[y, end - 1]:
            end -= 1
        spans[y, 0] = begin // 3 if begin < end else width
        spans[y, 1] = (end - 1) // 3 if begin < end else -1


@kernel
def _add_moments(weight, a, b, means_a, means_b, products, squares):
    """Add the share of one row of pixels to the means over a column of pixels."""
    for i in range(len(a)):
        x, y = a[i], b[i]
        means_a[i] += weight * x
        means_b[i] += weight * y
        products[i] += weight * (x * y)
        squares[i] += weight * ((x - y) * (x - y))


@kernel
def _add(weight, values, out):
    for i in range(len(out)):
        out[i] += weight * values[i]


@kernel
def _blur_row(values, weights, out):
    """Weighted sums of every third value, for each colour of each pixel."""
    for i in range(len(out)):
        total = values.dtype.type(0)
        for k in range(11):
            total += weights[k] * values[i + 3 * k]
        out[i] = total


@sum_kernel
def _error(share, moments, by_a, by_product, by_square):
    """Σ (1 − SSIM) of a row of windows, from their means; writes `share` times the derivatives."""
    f = moments.dtype.type
    c1, c2, one, two = f(0.01**2), f(0.03**2), f(1), f(2)
    total = 0.0
    for start in range(0, len(by_a), _BLOCK):
        part = f(0)
        for i in range(start, min(start + _BLOCK, len(by_a))):
            mean_a, mean_b, product, square = moments[0, i], moments[1, i], moments[2, i], moments[3, i]
            both, apart = mean_a * mean_b, mean_a - mean_b
            n1, n2 = two * both + c1, two * (product - both) + c2
            d1, d2 = n1 + apart * apart, n2 + square - apart * apart
            scale = one / (d1 * d2)
            ssim = n1 * n2 * scale
            by_d1, by_d2 = -ssim * d2 * scale, -ssim * d1 * scale
            by_n1, by_n2 = n2 * scale + by_d1, n1 * scale + by_d2
            part += one - ssim
            by_a[i] = -share * two * (mean_b * (by_n1 - by_n2) + apart * (by_d1 - by_d2))
            by_product[i] = -share * two * by_n2
            by_square[i] = -share * by_d2
        total += part
    return total


@kernel
def compare_windows(first, last, begin, end, weights, share, a, b, errors, slopes):
    """SSIM of windows, and its derivatives.

    Args:
        first, last: range of rows of windows.
        begin, end: range of their columns.
        weights: [11], of the pixels of a window along each axis.
        share: of each window in the loss.
        a, b: images [h, 3 w].
        errors: [h − 10], sums of 1 − SSIM, written.
        slopes: [SLOPES, h − 10, 3 (end − begin)], derivatives of the loss by means of windows, written.
    """
    size = 3 * (end - begin)
    columns = np.empty((MOMENTS, size + 30), a.dtype)
    moments = np.empty((MOMENTS, size), a.dtype)
    for p in range(first, last):
        columns[:] = 0
        for k in range(11):
            row_a, row_b = a[p + k, 3 * begin : 3 * end + 30], b[p + k, 3 * begin : 3 * end + 30]
            _add_moments(weights[k], row_a, row_b, columns[0], columns[1], columns[2], columns[3])
        for m in range(MOMENTS):
            _blur_row(columns[m], weights, moments[m])
        errors[p] = _error(share, moments, slopes[0, p], slopes[1, p], slopes[2, p])


@kernel
def _gather(l1_share, a, b, by_a, by_product, by_square, gradient):
    """Gradient of a row from what the windows around each of its pixels say."""
    zero = a.dtype.type(0)
    for i in range(len(a)):
        apart = a[i] - b[i]
        slope = l1_share if apart > zero else (-l1_share if apart < zero else zero)
        gradient[i] = slope + by_a[i] + b[i] * by_product[i] + (apart + apart) * by_square[i]


@kernel
def gradient_rows(first, last, windows, weights, l1_share, a, b, mask, slopes, gradient):
    """Gradient of the loss by the first image.

    Args:
        first, last: range of rows of pixels.
        windows: first and last row, first and last column (exclusive) of the windows that have slopes.
        weights: as for `compare_windows`.
        l1_share: of each value in the loss.
        a, b, mask: as for `compare_rows`.
        slopes: of `compare_windows`.
        gradient: [h, 3 w], written.
    """
    top, bottom, begin, end = windows
    size, width = 3 * (end - begin), gradient.shape[1] // 3
    columns = np.zeros((SLOPES, size + 60), a.dtype)  # with a margin of 10 pixels that no window begins at
    rows = np.zeros((SLOPES, 3 * width), a.dtype)
    for y in range(first, last):
        rows[:] = 0
        above, below = max(top, y - 10), min(bottom, y + 1)
        if above < below:
            columns[:] = 0
            for m in range(SLOPES):
                for p in range(above, below):
                    _add(weights[y - p], slopes[m, p], columns[m, 30 : 30 + size])
                _blur_row(columns[m], weights, rows[m, 3 * begin : 3 * end + 30])
        _gather(l1_share, a[y], b[y], rows[0], rows[1], rows[2], gradient[y])
        for x in range(width if len(mask) else 0):
            if not mask[y, x] > 0.5:
                gradient[y, 3 * x : 3 * x + 3] = 0
