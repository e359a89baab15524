"""What the scores of single images say about the rows, and how sure one may be of it.

Two things move a mean: which photographs are in the test list, and the seed of the training. Composites of one
photograph (or scene) are no independent draws, so the standard error is taken over photographs: the residuals are
summed within each before they are squared. Differences between rows are taken image by image first, so that how
hard an image is cancels out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from rsrnet.evaluation.ablations import FULL, LABELS
from rsrnet.evaluation.columns import PAPERS
from rsrnet.evaluation.uncertainty import standard_error

LEVEL = 0.05
"""Of significance, two-sided."""

FEW = 10
"""Fewer photographs than this are no sample of anything: by chance, two may well differ by hardly anything."""

Tested: TypeAlias = Mapping[tuple[str, int], Sequence[Mapping[str, Any]]]
"""The rows of all images for each training, by its row of Table 2 and its seed."""


@dataclass(frozen=True)
class Estimate:
    """A mean over images and seeds, or a difference of two."""

    value: float

    error: float
    """Standard error over the photographs; NaN for a single one."""

    spread: float
    """Standard deviation (n - 1) over the seeds; NaN for a single one."""

    photographs: int
    seeds: int

    @property
    def total_error(self) -> float:
        """Standard error from both sources, as far as they are known."""
        return math.sqrt(sum(part for part, _ in self._variances))

    @property
    def clear(self) -> bool:
        """Whether it differs from 0 by more than chance: Welch's t test with both sources, at ``LEVEL``.

        With one seed, the other photographs that might have been tested on are the only chance it knows of. Nothing
        does with fewer photographs than ``FEW``.
        """
        from scipy.stats import t

        if self.photographs < FEW or self.total_error == 0:
            return False
        freedom = self.total_error**4 / sum(part**2 / degrees for part, degrees in self._variances)
        return bool(abs(self.value) > t.ppf(1 - LEVEL / 2, freedom) * self.total_error)

    @property
    def _variances(self) -> list[tuple[float, int]]:
        """Of the mean, by source, each with its degrees of freedom."""
        found = [(self.error**2, self.photographs - 1)] if self.photographs > 1 else []
        return found + ([(self.spread**2 / self.seeds, self.seeds - 1)] if self.seeds > 1 else [])


class Measured:
    """Every training of an ablation, tested on the same images.

    Args:
        tested: the rows of all images, in the same order for every training.
    """

    def __init__(self, tested: Tested) -> None:
        self._tested = tested
        images = next(iter(tested.values()))
        self.images = len(images)
        self._groups = np.unique(
            [f"{image['subset']}/{image['group']}" for image in images], return_inverse=True
        )[1]

    @property
    def rows(self) -> list[str]:
        """The rows that were tested, in the paper's order."""
        present = {row for row, _ in self._tested}
        return [row for row in LABELS if row in present]

    @property
    def photographs(self) -> int:
        """How many photographs, or scenes, the images were made from."""
        return int(self._groups.max()) + 1

    @property
    def most_seeds(self) -> int:
        """Trainings of the row that has most."""
        return max(len(self.seeds(row)) for row in self.rows)

    def seeds(self, row: str) -> list[int]:
        """Seeds of the trainings of a row."""
        return sorted(seed for name, seed in self._tested if name == row)

    def score(self, row: str, mask: str, metric: str) -> Estimate:
        """Mean of a metric over all images and seeds."""
        return self._estimate(np.stack([self._values(row, seed, mask, metric) for seed in self.seeds(row)]))

    def difference(self, row: str, mask: str, metric: str) -> Estimate | None:
        """How much better than the full model, paired by image and seed; None for that itself and without it."""
        both = [seed for seed in self.seeds(row) if (FULL, seed) in self._tested]
        if row == FULL or not both:
            return None
        pairs = [
            self._values(row, seed, mask, metric) - self._values(FULL, seed, mask, metric) for seed in both
        ]
        return self._estimate(np.stack(pairs))

    def _values(self, row: str, seed: int, mask: str, metric: str) -> np.ndarray:
        """A metric of every image (N,)."""
        column = PAPERS._replace(mask=mask).column(metric)
        return np.array([image[column] for image in self._tested[row, seed]], dtype=np.float64)

    def _estimate(self, values: np.ndarray) -> Estimate:
        """Of values (seeds, N)."""
        by_seed = values.mean(axis=1)
        spread = float(by_seed.std(ddof=1)) if len(by_seed) > 1 else math.nan
        error = float(standard_error(values.mean(axis=0), self._groups))
        return Estimate(float(by_seed.mean()), error, spread, self.photographs, len(by_seed))
