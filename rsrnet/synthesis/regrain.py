"""Regraining: the colours of one image with the gradients of another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_STEPS = (4, 16, 32, 64, 64, 64)
"""Jacobi steps per level of the pyramid, finest first."""

_SMALLEST_SIDE = 20
_DAMPING = 0.8


def regrain(original: NDArray[np.float64], recoloured: NDArray[np.float64]) -> NDArray[np.float64]:
    """Find the image whose colours are those of one image and whose gradients those of another.

    The colours count where the original has edges, its gradients where it is flat: a recoloured image loses
    the noise that stretched colours have, and keeps its edges sharp. Source: Pitie, Kokaram and Dahyot, 2007,
    reduction of grain, smoothness 1. Their equation is solved for the change of colour instead of the colour:
    a change is smooth where the original is flat, so that it survives the pyramid as details do not.

    Args:
        original: the image that lends its gradients, in [0, 1], (H, W, C).
        recoloured: the image that lends its colours, in [0, 1], (H, W, C).

    Returns:
        The regrained image, (H, W, C).
    """
    return original + _diffused(recoloured - original, original, level=0)


def _diffused(change: NDArray[np.float64], original: NDArray[np.float64], level: int) -> NDArray[np.float64]:
    """Solve for the change at one level of the pyramid, beginning with the solution of the coarser one."""
    height, width = original.shape[:2]
    half = (-(-height // 2), -(-width // 2))
    start = change
    if min(half) > _SMALLEST_SIDE and level + 1 < len(_STEPS):
        coarse = _diffused(_resized(change, half), _resized(original, half), level + 1)
        start = _resized(coarse, (height, width))
    return _relaxed(start, change, original, level)


def _relaxed(
    result: NDArray[np.float64], change: NDArray[np.float64], original: NDArray[np.float64], level: int
) -> NDArray[np.float64]:
    """Take damped Jacobi steps: each pixel moves to a weighted mean of its own change and its neighbours'."""
    gradient = _gradient_magnitude(original)
    own = np.minimum(256 / 5 * gradient, 1)
    smoothness = 30 / (1 + 10 * gradient) * 2.0**-level
    links = [(smoothness + neighbour) / 2 for neighbour in _neighbours(smoothness)]
    total = own + sum(links)
    own_part = (own / total)[..., None] * change
    weights = [(link / total)[..., None] for link in links]
    for _ in range(_STEPS[level]):
        mean = own_part + sum(w * n for w, n in zip(weights, _neighbours(result), strict=True))
        result = _DAMPING * mean + (1 - _DAMPING) * result
    return result


def _gradient_magnitude(image: NDArray[np.float64]) -> NDArray[np.float64]:
    above, below, left, right = _neighbours(image)
    return np.sqrt(((right - left) ** 2 + (below - above) ** 2).sum(-1))


def _neighbours(image: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """For each pixel its neighbour above, below, left and right, or itself at a border."""
    return (
        np.concatenate([image[:1], image[:-1]], axis=0),
        np.concatenate([image[1:], image[-1:]], axis=0),
        np.concatenate([image[:, :1], image[:, :-1]], axis=1),
        np.concatenate([image[:, 1:], image[:, -1:]], axis=1),
    )


def _resized(image: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    zoom = (size[0] / image.shape[0], size[1] / image.shape[1], 1)
    return ndimage.zoom(image, zoom, order=1, mode="nearest", grid_mode=True)
