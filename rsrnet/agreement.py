"""What all ranks of a training decide alike: whether a step counts, and whether to stop after it.

The ranks' flags are reduced while the device computes the gradients, and read before the optimizer's step. So no
rank waits for a flag longer than it would wait for the others' gradients, and a GPU goes on computing meanwhile.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor


class Notice(Protocol):
    """Tells a training to stop, from wherever the notice comes."""

    def asked(self) -> bool:
        """Whether this rank knows that the training is to stop; called at every step, so it must not wait."""

    def due(self) -> bool:
        """Whether it is time that all ranks look together; any rank may say so. Called at every step."""

    def look(self) -> bool:
        """Whether to stop, after all ranks looked; called on every rank at the same step."""


class NoNotice:
    """Nobody ever stops the training."""

    def asked(self) -> bool:
        """See :class:`Notice`."""
        return False

    due = look = asked


class Agreement:
    """Two flags of every rank, of which all learn whether any rank raised them.

    Args:
        device: where the network computes.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._work: dist.Work | None = None
        if device.type == "cuda":
            self._side = torch.cuda.Stream(device)
            self._copied = torch.cuda.Event()
            self._host = torch.empty(2, pin_memory=True)

    def ask(self, loss: Tensor, look: bool) -> None:
        """Hand in this rank's flags: its loss is not finite, and it wants to look whether to stop.

        Args:
            loss: a scalar on the device; nobody waits for it here.
            look: the second flag.
        """
        bad = 1 - torch.isfinite(loss.detach()).float().reshape(1)
        self._flags = torch.cat([bad, bad.new_full((1,), float(look))])
        if _several():
            self._work = dist.all_reduce(self._flags, dist.ReduceOp.MAX, async_op=True)
        if self._device.type == "cuda":
            # On a stream of its own: the gradients' kernels are not to wait for other ranks, nor this copy for them.
            self._side.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(self._side):
                self._wait()
                self._host.copy_(self._flags, non_blocking=True)
                self._copied.record(self._side)
            self._flags.record_stream(self._side)

    def answer(self) -> tuple[bool, bool]:
        """Whether any rank's loss is not finite, and whether any wants to look; the same on all ranks."""
        if self._device.type == "cuda":
            self._copied.synchronize()
            bad, look = self._host.tolist()
        else:
            self._wait()
            bad, look = self._flags.tolist()
        return bool(bad), bool(look)

    def _wait(self) -> None:
        if self._work is not None:
            self._work.wait()
            self._work = None


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether any rank raised a flag; every rank waits for the others."""
    if not _several():
        return flag
    shared = torch.tensor([float(flag)], device=device)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return bool(shared.item())


def _several() -> bool:
    return dist.is_initialized() and dist.get_world_size() > 1
