"""Average precision over the pixels of an image, for whole batches: fast enough to score every iteration of training.

Average precision is the mean over the true pixels of the precision among all pixels that score at least as
high; tied pixels enter together. Sorting dominates it, and both implementations here sort the same keys:
32-bit integers whose order is that of the scores, with the label in the lowest bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def average_precision(scores: Tensor, truth: Tensor) -> Tensor:
    """Average precision of every row; 0 where no pixel is true.

    Args:
        scores: (B, N) float32 in [0, 2).
        truth: (B, N) boolean, on the same device.

    Returns:
        (B,) float64 on that device.
    """
    keys = sort_keys(scores, truth)
    return row_by_row(keys) if keys.device.type == "cpu" else all_rows(keys)


def sort_keys(scores: Tensor, truth: Tensor) -> Tensor:
    """Integers (B, N) ordered like the scores, true pixels first among tied ones; the lowest bit is 0 for true."""
    # The bits of non-negative floats are ordered like the floats, below 2.0 with one bit to spare. Adding 0.0
    # turns -0.0 into 0.0.
    return (scores + 0.0).view(torch.int32).mul_(2).add_(~truth)


def row_by_row(keys: Tensor) -> Tensor:
    """Average precision of each row of :func:`sort_keys` by itself, in NumPy, which sorts integers with SIMD."""
    return torch.tensor([_of_row(row) for row in keys.numpy()], dtype=torch.float64)


def _of_row(keys: npt.NDArray[Any]) -> float:
    """Average precision of the keys (N,), which are sorted in place: a large image is not copied again."""
    keys.sort()
    places = np.flatnonzero((keys & 1) == 0)  # of the true pixels, from the lowest score to the highest
    total = len(places)
    if total == 0:
        return 0.0
    values = keys[places]
    # The first true pixel of a tie stands before everything else in it, so the pixels from there on are
    # exactly those that score at least as high.
    starts = np.flatnonzero(values[1:] != values[:-1]) + 1
    starts = np.concatenate([[0], starts])
    tied = np.diff(starts, append=total)
    precision = (total - starts) / (len(keys) - places[starts])
    return float((tied * precision).sum() / total)


def all_rows(keys: Tensor) -> Tensor:
    """Average precision of all rows of :func:`sort_keys` at once, without waiting for the accelerator in between."""
    ordered = keys.sort(dim=1).values
    true, values = (ordered & 1) == 0, ordered >> 1
    position = torch.arange(keys.shape[1], device=keys.device)
    starts_tie = torch.ones_like(true)
    starts_tie[:, 1:] = values[:, 1:] != values[:, :-1]
    start = torch.where(starts_tie, position, 0).cummax(dim=1).values

    total = true.sum(dim=1, keepdim=True)
    hits = total - true.cumsum(dim=1) + true.long()  # true pixels from this position on
    precision = hits.double() / (len(position) - position)
    return (precision.gather(1, start) * true).sum(dim=1) / total[:, 0].clamp(min=1)
