"""What the ranks of a training exchange, wherever it runs; nothing where one process does it all."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


def share_buffers(model: nn.Module) -> None:
    """Give every rank the mean of all ranks' batch statistics, which each gathers from its own images.

    Otherwise every rank would validate another model, and none of them would be the one that is saved.
    """
    if not dist.is_initialized():
        return
    for buffer in model.buffers():
        if buffer.is_floating_point():
            dist.all_reduce(buffer)
            buffer /= dist.get_world_size()


def world_size() -> int:
    """Processes that train together; 1 where one does it all."""
    return dist.get_world_size() if dist.is_initialized() else 1


def sum_over_ranks(values: Tensor) -> Tensor:
    """Sum over all ranks, in place."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def from_rank_zero(make: Callable[[], T]) -> T:
    """What rank 0 makes; the other ranks wait until it is made, and get the same.

    Args:
        make: called on rank 0 only; its result must be picklable.
    """
    if not dist.is_initialized():
        return make()
    made = [make() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(made)
    return made[0]  # type: ignore[return-value]
