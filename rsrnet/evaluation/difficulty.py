"""What makes a composite easy or hard: how far the region's colour is from that of its surroundings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def colour_difference(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> float:
    """Distance between the mean colours of a region and of everything else, in RGB levels."""
    if mask.all() or not mask.any():
        return float("nan")
    return float(np.linalg.norm(image[mask].mean(axis=0) - image[~mask].mean(axis=0)))
