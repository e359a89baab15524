"""The order in which an epoch reads a dataset."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

WINDOW = 16
"""Blocks whose samples are mixed: in a pack 1,024 composites, which themselves lie in no order."""


def epoch_order(
    num_samples: int, blocks: NDArray[np.int64] | None, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Yield all indices of a dataset once, shuffled, in arrays of any length.

    With blocks, their order is drawn, and the samples of each sixteen of them are mixed: so no more than a window of
    the dataset is read at a time, and every block about once.

    Args:
        num_samples: number of samples in the dataset.
        blocks: the first index of each block, ascending from 0; None: any sample may follow on any other.
        rng: source of randomness.
    """
    if blocks is None:
        yield rng.permutation(num_samples)
        return
    ends = np.append(blocks[1:], num_samples)
    order = rng.permutation(len(blocks))
    for start in range(0, len(order), WINDOW):
        window = order[start : start + WINDOW]
        yield rng.permutation(np.concatenate([np.arange(blocks[block], ends[block]) for block in window]))
