"""Two ways to mark a region without learning, which a trained model must beat."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def all_foreground(image: NDArray[np.generic]) -> NDArray[np.float32]:
    """Mark every pixel as inharmonious.

    Args:
        image: (H, W, 3).

    Returns:
        A mask of ones, (H, W) float32.
    """
    return np.ones(image.shape[:2], dtype=np.float32)


def two_means(image: NDArray[np.generic], seed: int = 0) -> NDArray[np.float32]:
    """Split the pixels in two by colour with 2-means and mark the smaller part as inharmonious.

    Args:
        image: (H, W, 3), of any range.
        seed: of the initial cluster centres.

    Returns:
        A mask of zeros and ones, (H, W) float32; all zeros for an image of a single colour.
    """
    from sklearn.cluster import KMeans  # takes a second to import, and only the `synthesis` extra brings it

    colours = image.reshape(-1, image.shape[-1]).astype(np.float32)
    if (colours == colours[0]).all():
        return np.zeros(image.shape[:2], dtype=np.float32)
    labels = KMeans(n_clusters=2, n_init=4, random_state=seed).fit_predict(colours)
    smaller = np.bincount(labels, minlength=2).argmin()
    return (labels == smaller).reshape(image.shape[:2]).astype(np.float32)
