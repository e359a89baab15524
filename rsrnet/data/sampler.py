"""Which composites make up each batch, and which of them each worker reads."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from rsrnet.data.errors import DataError
from rsrnet.data.order import epoch_order


class ShardedBatches:
    """Training batches of one worker: its share of the global batches.

    Every epoch the composites are shuffled by the seed and the epoch, cut into global batches, and each batch
    is dealt to the workers in turn. So the images of a step are the same for any number of workers; shares
    differ by at most one image. A short last batch is left out if it has not one image for every worker.

    Yields lists of (epoch, index) pairs: the epoch travels with the index, because the processes of a loader
    do not see later changes of the dataset.

    Args:
        num_samples: number of composites in the dataset.
        batch_size: images of a step, over all workers.
        rank: which worker this is, from 0.
        world_size: number of workers.
        seed: seed of the order.
        blocks: the first index of each block of samples that are best read together, see
            :func:`rsrnet.data.order.epoch_order`.

    Raises:
        DataError: if a step has fewer images than there are workers.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        rank: int,
        world_size: int,
        seed: int,
        blocks: NDArray[np.int64] | None = None,
    ) -> None:
        if min(num_samples, batch_size) < world_size:
            raise DataError(
                f"{num_samples} training images in batches of {batch_size} are too few for {world_size}"
                " workers: each needs at least one image a step; use fewer workers or a larger batch"
            )
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.seed = seed
        self.blocks = blocks
        self.epoch = 0
        self.first = 0

    def set_epoch(self, epoch: int, first: int = 0) -> None:
        """Choose the epoch that the next iteration yields, and its first batch, both from 0.

        The batches before it were trained before an interruption: nothing of them is read.
        """
        self.epoch = epoch
        self.first = first

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        full, rest = divmod(self.num_samples, self.batch_size)
        return full + (rest >= self.world_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.epoch
        order = epoch_order(self.num_samples, self.blocks, np.random.default_rng([self.seed, epoch]))
        for batch in islice(_cut(order, self.batch_size), self.first, len(self)):
            yield [(epoch, index) for index in batch[self.rank :: self.world_size].tolist()]


def _cut(order: Iterator[NDArray[np.int64]], length: int) -> Iterator[NDArray[np.int64]]:
    """Cut what arrives in pieces into pieces of one length; the last may be shorter."""
    rest = np.empty(0, np.int64)
    for piece in order:
        rest = np.concatenate([rest, piece])
        whole = len(rest) - len(rest) % length
        yield from (rest[start : start + length] for start in range(0, whole, length))
        rest = rest[whole:]
    if len(rest):
        yield rest


def evaluation_batches(num_samples: int, batch_size: int, rank: int, world_size: int) -> list[list[int]]:
    """Return the batches of one worker in evaluation: over all workers, every composite exactly once.

    Args:
        num_samples: number of composites in the dataset.
        batch_size: images of a batch of this worker.
        rank: which worker this is, from 0.
        world_size: number of workers.
    """
    shard = list(range(rank, num_samples, world_size))
    return [shard[start : start + batch_size] for start in range(0, len(shard), batch_size)]
