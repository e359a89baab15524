"""Whether one model is better than another on the same images, by more than the choice of photographs explains.

The bootstrap draws photographs (or scenes) with replacement, each with all its composites: composites of one
photograph resemble each other and are no independent draws (Field and Welsh, "Bootstrapping clustered data", 2007).
It is paired: a draw takes the scores of both models on the same images, so what makes an image hard for both cancels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DRAWS = 10_000
LEVEL = 0.95
"""Share of the bootstrapped differences that the spread covers."""

_AT_ONCE = 2_000_000
"""Photographs drawn in one call to NumPy: 16 MB of indices."""


@dataclass(frozen=True)
class Difference:
    """A difference of two means over the same images."""

    difference: float
    """Mean of the first minus mean of the second; NaN if one of them has a value that is no number."""

    spread: float
    """Half the width of the central 95 % interval of the bootstrapped difference; NaN for a single photograph,
    which tells nothing about others."""

    images: int
    photographs: int

    @property
    def beats(self) -> bool:
        """Whether the first mean is above the second by more than the spread; never where either is NaN."""
        return self.difference > self.spread


def paired_difference(
    first: Sequence[float] | NDArray[np.float64],
    second: Sequence[float] | NDArray[np.float64],
    photographs: Sequence[str] | NDArray[np.generic],
    *,
    seed: int = 0,
) -> Difference:
    """Compare two models by their scores on the same images.

    Args:
        first: score of one model on each image, (N,), N at least 1.
        second: score of the other, (N,).
        photographs: what each image was made from, (N,).
        seed: of the draws.

    Raises:
        ValueError: if there is no image, or the three differ in length.
    """
    if not len(first) == len(second) == len(photographs) > 0:
        raise ValueError("two models are compared by their scores on the same images, at least one")
    values = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    names, number = np.unique(photographs, return_inverse=True)
    difference, count = float(values.mean()), len(names)
    if count < 2 or np.isnan(difference):
        return Difference(difference, float("nan"), len(values), count)
    sums = np.zeros(count)
    np.add.at(sums, number, values)
    low, high = np.quantile(
        _draws(sums, np.bincount(number), seed), ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
    ).tolist()
    return Difference(difference, (high - low) / 2, len(values), count)


def _draws(sums: NDArray[np.float64], images: NDArray[np.int_], seed: int) -> NDArray[np.float64]:
    """Bootstrapped means, (DRAWS,), of values that add up to ``sums`` over each photograph's ``images``, both (G,)."""
    random = np.random.default_rng(seed)
    count = len(sums)
    means = []
    for left in range(DRAWS, 0, -(step := max(1, _AT_ONCE // count))):
        drawn = random.integers(0, count, (min(step, left), count))
        means.append(sums[drawn].sum(axis=1) / images[drawn].sum(axis=1))
    return np.concatenate(means)
