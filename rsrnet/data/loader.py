"""Batches of tensors from a dataset and a sampler."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypedDict

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from rsrnet.data.iharmony4 import IHarmony4


class Batch(TypedDict):
    """What a loader yields."""

    image: Tensor
    """(B, 3, S, S) float32 RGB in [0, 1]."""

    mask: Tensor
    """(B, 1, S, S) float32, 1 where the image is inharmonious, else 0."""

    index: Tensor
    """(B,) int64, positions of the composites in the dataset."""


def loader(
    dataset: IHarmony4,
    batches: Iterable[list[int]] | Iterable[list[tuple[int, int]]],
    processes: int,
    *,
    pin_memory: bool = False,
) -> DataLoader[Batch]:
    """Read batches, the same ones for any number of processes.

    Args:
        dataset: what to read from.
        batches: the indices of each batch, see :mod:`rsrnet.data.sampler`.
        processes: how many processes read ahead, one thread each; they live as long as the loader. 0: none.
        pin_memory: whether batches go to a GPU, which copies them faster from pinned memory.
    """
    # Any: collating turns items into batches, which the types of DataLoader cannot say.
    batched: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=processes,
        multiprocessing_context=dataset.source.start_method if processes else None,
        persistent_workers=processes > 0,
        pin_memory=pin_memory,
        # Its own generator: otherwise every epoch would take a draw from the global one.
        generator=torch.Generator(),
    )
    return batched
