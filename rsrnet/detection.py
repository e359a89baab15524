"""Whether an image holds an inharmonious region at all: a score, and the threshold that a model keeps for it.

The method always localizes: it was trained on composites only, and finds something in a photograph too, but is less
sure of it there. How well that tells the two apart depends on the model, so the threshold is chosen on its
validation data, composites against the photographs they were made from, and comes with its error rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

TOP = 0.01
"""Share of the pixels that the score looks at: enough not to hang on single ones, and the smallest regions fill it."""


@dataclass(frozen=True)
class Detection:
    """A threshold of the score, and what it is worth on the validation data that it was chosen on."""

    threshold: float
    """An image whose score is at least this holds an inharmonious region."""

    auc: float
    """Probability that a composite scores higher than a photograph; 0.5: the score tells nothing."""

    true_positive_rate: float
    """Share of the composites at or above the threshold."""

    false_positive_rate: float
    """Share of the photographs at or above the threshold."""

    composites: int
    """How many were scored."""

    photographs: int
    """How many were scored."""


def score(masks: Tensor) -> Tensor:
    """How sure a model is that images hold an inharmonious region.

    Args:
        masks: M_fnl of whole images at the network's size, (B, 1, S, S) in [0, 1].

    Returns:
        Mean of the highest hundredth of each mask, (B,) in [0, 1].
    """
    pixels = masks.flatten(1)
    return pixels.topk(max(1, round(TOP * pixels.shape[1])), dim=1).values.mean(1)


def calibrate(composites: Sequence[float], photographs: Sequence[float]) -> Detection:
    """Choose the threshold with the largest difference of true and false positive rate (Youden's J).

    Args:
        composites: scores of images with an inharmonious region, at least one.
        photographs: scores of images without, at least one.

    Raises:
        ValueError: if there are none of either, or one is not a number.
    """
    positive, negative = (np.sort(np.asarray(scores, np.float64)) for scores in (composites, photographs))
    if not (positive.size and negative.size and np.isfinite([*positive, *negative]).all()):
        raise ValueError("a threshold needs finite scores of composites and of photographs")
    values = np.unique([*positive, *negative])
    # Halfway between neighbours: the largest margin to both.
    thresholds = np.concatenate([values[:1], (values[1:] + values[:-1]) / 2])
    true_positive = 1 - np.searchsorted(positive, thresholds) / positive.size
    false_positive = 1 - np.searchsorted(negative, thresholds) / negative.size
    best = int(np.argmax(true_positive - false_positive))
    lower, equal_or_lower = (np.searchsorted(negative, positive, side) for side in ("left", "right"))
    return Detection(
        threshold=float(thresholds[best]),
        auc=float((lower + equal_or_lower).mean() / (2 * negative.size)),
        true_positive_rate=float(true_positive[best]),
        false_positive_rate=float(false_positive[best]),
        composites=positive.size,
        photographs=negative.size,
    )
