"""A loss that is NaN or infinite: the batch it came of, and what to say of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor

MOST_IN_A_ROW = 10
"""So many steps without a finite loss are no bad batch: the training ends, whatever it was told to do."""


class DivergedError(RuntimeError):
    """Raised when the loss is no longer a number."""


_Part: TypeAlias = tuple[float, list[str], Tensor, Tensor]
"""Loss, paths, images and masks of one rank."""


@dataclass(frozen=True)
class BadBatch:
    """The part of a global batch whose loss was not finite."""

    epoch: int
    """From 1."""

    step: int
    """Of the epoch, from 1."""

    loss: float
    paths: list[str]
    """Of the composites, in the order of the tensors."""

    image: Tensor
    """(B, 3, S, S), as the network got it."""

    mask: Tensor
    """(B, 1, S, S)."""

    def __str__(self) -> str:
        return (
            f"the loss of epoch {self.epoch}, step {self.step} is {self.loss}; "
            f"its batch holds {', '.join(self.paths)}"
        )

    def to_bytes(self) -> bytes:
        """The tensors ``image`` and ``mask`` as safetensors, with ``paths`` (one a line) in the header."""
        from safetensors.torch import save

        header = {"paths": "\n".join(self.paths), "loss": str(self.loss)}
        return save({"image": self.image.contiguous(), "mask": self.mask.contiguous()}, header)


def gather(epoch: int, step: int, loss: float, batch: dict[str, Any], dataset: Any) -> BadBatch:
    """The bad batch, from the ranks whose loss was not finite; the same on all ranks, which wait for each other.

    Args:
        epoch: from 1.
        step: of the epoch, from 1.
        loss: of this rank.
        batch: of this rank.
        dataset: has the ``composites`` that the batch's indices mean.
    """
    own: _Part | None = None
    if not torch.tensor(loss).isfinite():
        paths = [dataset.composites[index].path for index in batch["index"].tolist()]
        own = loss, paths, batch["image"].cpu(), batch["mask"].cpu()
    parts = [own]
    if dist.is_initialized():
        parts = [None] * dist.get_world_size()
        dist.all_gather_object(parts, own)
    bad = [part for part in parts if part is not None]
    return BadBatch(
        epoch,
        step,
        bad[0][0],
        [path for _, paths, _, _ in bad for path in paths],
        torch.cat([image for _, _, image, _ in bad]),
        torch.cat([mask for _, _, _, mask in bad]),
    )
