"""Random regions that could be an object: unions of superpixels, smooth blobs, ellipses and polygons."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import slic

from rsrnet.synthesis.transfers import Image, Mask

SMALLEST_SHARE, LARGEST_SHARE = 0.01, 0.5
"""Bounds of a region's share of the image's area (iHarmony4's localization lists keep at most half)."""

_TARGET_SHARE = (0.03, 0.45)
_ATTEMPTS = 4
_SUPERPIXEL_CHANCE = 0.4


def draw_region(image: Image, rng: np.random.Generator) -> Mask:
    """Draw a region of an image.

    Most regions follow the image: neighbouring superpixels, those of similar colour more likely. The others
    do not: a blob, an ellipse or a polygon, perhaps cut by the border.

    Args:
        image: the image, uint8, (H, W, 3); each side at least 16 pixels.
        rng: the source of randomness.

    Returns:
        The region, bool, (H, W); 1-50 % of the area.
    """
    mask_size = (image.shape[0], image.shape[1])
    for _ in range(_ATTEMPTS):
        share = _draw_share(rng)
        if rng.random() < _SUPERPIXEL_CHANCE:
            region = _superpixels(image, share, rng)
        else:
            shape = (_blob, _ellipse, _polygon)[int(rng.integers(3))]
            region = shape(mask_size, share, rng)
        region = _largest_part(region)
        if SMALLEST_SHARE <= region.mean() <= LARGEST_SHARE:
            return region
    return _ellipse(mask_size, 0.1, rng)


def _draw_share(rng: np.random.Generator) -> float:
    """A share of the area; small ones are more frequent, as among photographed objects."""
    low, high = np.sqrt(_TARGET_SHARE)
    return float(rng.uniform(low, high) ** 2)


def _superpixels(image: Image, share: float, rng: np.random.Generator) -> Mask:
    """Neighbouring superpixels, grown from a random one until they cover the share."""
    count, compactness = int(rng.integers(20, 80)), float(rng.uniform(8, 30))
    labels = slic(
        _roughened(image, rng), n_segments=count, compactness=compactness, max_num_iter=5, start_label=0
    )
    sizes = np.bincount(labels.ravel())
    channels = (np.bincount(labels.ravel(), weights=image[..., c].ravel()) for c in range(3))
    colours = np.stack(list(channels), axis=1) / sizes[:, None]
    adjacent = _adjacency(labels, len(sizes))
    tolerance = float(rng.uniform(40, 200))
    chosen = np.zeros(len(sizes), dtype=bool)
    chosen[labels[tuple(rng.integers(0, side) for side in labels.shape)]] = True
    while sizes[chosen].sum() < share * labels.size:
        candidates = np.flatnonzero(adjacent[chosen].any(0) & ~chosen)
        if not len(candidates):
            break
        distance = np.linalg.norm(colours[candidates] - colours[chosen].mean(0), axis=1)
        weight = np.exp(-(distance - distance.min()) / tolerance)
        chosen[rng.choice(candidates, p=weight / weight.sum())] = True
    # A majority vote takes off the single pixels and steps that betray a superpixel's outline.
    return ndimage.uniform_filter(ndimage.binary_fill_holes(chosen[labels]).astype(float), size=5) > 0.5


def _roughened(image: Image, rng: np.random.Generator) -> NDArray[np.float64]:
    """The image in [0, 1] with smooth noise, without which superpixels of a clear sky are squares."""
    noise = ndimage.gaussian_filter(rng.standard_normal(image.shape[:2]), min(image.shape[:2]) / 40)
    return image / 255 + 0.08 * (noise / noise.std())[..., None]


def _adjacency(labels: NDArray[np.int64], count: int) -> NDArray[np.bool_]:
    adjacent = np.zeros((count, count), dtype=bool)
    for first, second in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
        adjacent[first, second] = adjacent[second, first] = True
    return adjacent


def _blob(shape: tuple[int, int], share: float, rng: np.random.Generator) -> Mask:
    """Smooth noise around a centre."""
    rows, columns = _offsets(shape, rng)
    side = min(shape)
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), side * float(rng.uniform(0.05, 0.12)))
    return _lowest(np.hypot(rows, columns) / side - float(rng.uniform(0.1, 0.3)) * noise / noise.std(), share)


def _ellipse(shape: tuple[int, int], share: float, rng: np.random.Generator) -> Mask:
    rows, columns = _offsets(shape, rng)
    angle, ratio = rng.uniform(0, np.pi), rng.uniform(0.35, 1)
    along = np.cos(angle) * columns + np.sin(angle) * rows
    across = np.cos(angle) * rows - np.sin(angle) * columns
    return _lowest(np.hypot(along * ratio, across), share)


def _polygon(shape: tuple[int, int], share: float, rng: np.random.Generator) -> Mask:
    """A convex polygon of three to seven sides: what lies on the inner side of as many lines."""
    rows, columns = _offsets(shape, rng)
    sides = int(rng.integers(3, 8))
    angles = (
        rng.uniform(0, 2 * np.pi) + 2 * np.pi * (np.arange(sides) + rng.uniform(-0.3, 0.3, sides)) / sides
    )
    distances = rng.uniform(0.6, 1.4, sides)
    lines = zip(angles, distances, strict=True)
    return _lowest(np.max([(np.cos(a) * columns + np.sin(a) * rows) / d for a, d in lines], axis=0), share)


def _offsets(
    shape: tuple[int, int], rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rows (H, 1) and columns (1, W) relative to a random centre."""
    centre = rng.uniform(0.15, 0.85, 2) * shape
    return np.arange(shape[0])[:, None] - centre[0], np.arange(shape[1])[None, :] - centre[1]


def _lowest(field: NDArray[np.float64], share: float) -> Mask:
    """The given share of the pixels, those with the lowest values."""
    count = max(round(share * field.size), 1)
    return field <= np.partition(field, count - 1, axis=None)[count - 1]


def _largest_part(region: Mask) -> Mask:
    """The largest connected part, and a second one if it is of some size."""
    parts, count = ndimage.label(region)
    if count <= 1:
        return region
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    two_largest = np.argsort(sizes)[-2:]
    return np.isin(parts, two_largest[sizes[two_largest] >= 0.25 * sizes.max()])
