"""The regions of a mask: connected pixels, each with its bounding box."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Region:
    """Pixels that touch each other, also at a corner."""

    left: int
    top: int
    right: int
    """Behind the last column: the width is ``right - left``."""
    bottom: int
    """Behind the last row."""
    area: int
    """In pixels."""
    confidence: float
    """Mean probability of its pixels."""


def find_regions(
    mask: NDArray[np.float32], threshold: float, min_region: float = 0.0
) -> tuple[NDArray[np.bool_], list[Region]]:
    """Cut a mask at a threshold, and find what hangs together.

    Args:
        mask: (H, W) in [0, 1].
        threshold: probability from which a pixel belongs to a region.
        min_region: regions that take a smaller share of the image, 0 to 1, are dropped.

    Returns:
        Which pixels belong to a region, (H, W), and the regions, the largest first.
    """
    inside = mask >= threshold
    rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
    if not len(rows):
        return inside, []
    top, left = int(rows[0]), int(columns[0])
    box = np.s_[top : rows[-1] + 1, left : columns[-1] + 1]
    labels, kept = _labelled(inside[box], min_region * inside.size)
    if not kept[1:].all():
        inside[box] = kept[labels]
    return inside, _regions(labels, kept, mask[box], top, left)


def _labelled(inside: NDArray[np.bool_], least: float) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Number of the region of each pixel, 0 outside; and which numbers are large enough."""
    from scipy import ndimage

    labels, _ = ndimage.label(inside, np.ones((3, 3)))
    kept = np.bincount(labels.ravel()) >= least
    kept[0] = False
    return labels, kept


def _regions(
    labels: NDArray[np.int32], kept: NDArray[np.bool_], mask: NDArray[np.float32], top: int, left: int
) -> list[Region]:
    from scipy import ndimage

    found = []
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        if kept[number]:
            (y, x), own = box, labels[box] == number
            values = mask[box][own]
            found.append(
                Region(
                    left=left + x.start,
                    top=top + y.start,
                    right=left + x.stop,
                    bottom=top + y.stop,
                    area=len(values),
                    confidence=float(values.mean(dtype=np.float64)),
                )
            )
    return sorted(found, key=lambda region: (-region.area, region.top, region.left))
