"""Which composites make up each batch, and which of them each worker reads."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rsrnet.data.errors import DataError


class ShardedBatches:
    """Training batches of one worker: its share of the global batches.

    Every epoch the composites are permuted by the seed and the epoch, cut into global batches, and each batch
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

    Raises:
        DataError: if a step has fewer images than there are workers.
    """

    def __init__(self, num_samples: int, batch_size: int, rank: int, world_size: int, seed: int) -> None:
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
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration yields, from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        full, rest = divmod(self.num_samples, self.batch_size)
        return full + (rest >= self.world_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.epoch
        order = np.random.default_rng([self.seed, epoch]).permutation(self.num_samples).tolist()
        for step in range(len(self)):
            batch = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield [(epoch, index) for index in batch[self.rank :: self.world_size]]


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
