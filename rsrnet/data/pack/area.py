"""Shrinking by exact area averages."""

from __future__ import annotations

from math import ceil, floor

import numpy as np
from numpy.typing import NDArray


def shrink(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Shrink a picture, keeping its shape, until its shorter side has a length.

    Every pixel becomes the mean of the rectangle it covers, parts of pixels counted in part, as with OpenCV's
    INTER_AREA. (Pillow's BOX counts whole pixels only, which moves edges by up to half a pixel.)

    Args:
        pixels: (H, W) or (H, W, C).
        side: length of the shorter side of the result, in pixels.

    Returns:
        The shrunk picture; ``pixels`` themselves if their shorter side is not longer.
    """
    height, width = pixels.shape[:2]
    shorter = min(height, width)
    if shorter <= side:
        return pixels
    height, width = (max(1, round(length * side / shorter)) for length in (height, width))
    rows = _average_lines(pixels, height).swapaxes(0, 1)
    means = _average_lines(np.ascontiguousarray(rows), width).swapaxes(0, 1)
    return np.ascontiguousarray(np.rint(means).astype(np.uint8))


def _average_lines(lines: NDArray[np.generic], count: int) -> NDArray[np.float32]:
    """Average (N, ...) over its first axis to (count, ...)."""
    flat = lines.reshape(len(lines), -1)
    scale = len(lines) / count
    means = np.empty((count, flat.shape[1]), np.float32)
    for place in range(count):
        start, end = place * scale, min((place + 1) * scale, len(lines))
        first, last = floor(start), min(ceil(end), len(lines))
        edges = np.clip(np.arange(first, last + 1), start, end)
        weights = (np.diff(edges) / (end - start)).astype(np.float32)
        # Not `@`: BLAS would start threads, of which every process of a packing would have as many as processors.
        np.einsum("k,kn->n", weights, flat[first:last].astype(np.float32), out=means[place])
    return means.reshape(count, *lines.shape[1:])
