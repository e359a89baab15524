"""What the ranks of a training exchange, wherever it runs; nothing where one process does it all."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor, nn


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
