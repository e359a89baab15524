"""What makes a composite easy or hard: how far the colour of its region is from that of the surroundings."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

BAND = 0.05
"""Width of the surroundings: share of the image's shorter side, at least one pixel."""

_XYZ_FROM_LINEAR_RGB = np.array(
    [
        [0.412453, 0.357580, 0.180423],
        [0.212671, 0.715160, 0.072169],
        [0.019334, 0.119193, 0.950227],
    ]
)
_WHITE = np.array([0.95047, 1.0, 1.08883])  # D65, seen by the observer of 2 degrees


def colour_difference(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> float:
    """Distance between the mean colours of a region and of a band around it.

    The distance is CIE76: Euclidean in CIELAB, about 2.3 where a difference is just seen, 100 from black to white.
    CIEDE2000 is fitted to small differences; these are often large, and a plain metric is easier to reason about.
    Colours are averaged as sRGB stores them. The band is everything at most :data:`BAND` of the shorter side
    from the region, horizontally and vertically.

    Args:
        image: RGB, (H, W, 3).
        mask: true inside the region, (H, W).

    Returns:
        The distance; NaN where the region is empty or the whole image, for then there is nothing to compare.

    Raises:
        ValueError: if the image and the mask differ in size.
    """
    if image.shape != (*mask.shape, 3):
        raise ValueError(f"an image of shape {image.shape} with a mask of shape {mask.shape}")
    if mask.all() or not mask.any():
        return math.nan
    band = _grown(mask, max(1, round(BAND * min(mask.shape)))) & ~mask
    region, surroundings = (_lab(image[pixels].mean(axis=0)) for pixels in (mask, band))
    return float(np.linalg.norm(region - surroundings))


def _grown(mask: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """Everything at most ``radius`` pixels from the region, horizontally and vertically."""
    return _grown_along_columns(_grown_along_columns(mask, radius).T, radius).T


def _grown_along_columns(mask: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    height = len(mask)
    above = np.zeros((height + 1, mask.shape[1]), np.int32)  # number of true pixels above each line
    np.cumsum(mask, axis=0, out=above[1:])
    rows = np.arange(height)
    return above[np.minimum(rows + radius + 1, height)] > above[np.maximum(rows - radius, 0)]


def _lab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIELAB of an sRGB colour in [0, 255] (IEC 61966-2-1, CIE 15)."""
    share = rgb / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    ratio = _XYZ_FROM_LINEAR_RGB @ linear / _WHITE
    x, y, z = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])
