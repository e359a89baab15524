"""Where a worker runs: its place among the workers, and where its checkpoints go."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch

from rsrnet import checkpoint, engine
from rsrnet.agreement import NoNotice, Notice
from rsrnet_platform.files import unused, whole
from rsrnet_platform.progress import PROGRESS, append
from rsrnet_platform.restart import INTERRUPTED, Start, is_further, newest_intact

Write = Callable[[Path], None]
"""Writes a checkpoint into a folder."""


class Host(Protocol):
    """What every worker has."""

    rank: int
    world_size: int
    device: torch.device

    def newest(self) -> AbstractContextManager[Start]:
        """Context: the newest checkpoint that is intact."""

    def report(self, metrics: dict[str, Any], write: Write) -> None:
        """Keep the checkpoint of an epoch; every rank calls it, rank 0 writes."""


class TrainHost(Host, Protocol):
    """What a worker of a training has besides."""

    @property
    def notice(self) -> Notice:
        """Tells it to stop."""

    def interrupt(self, write: Write) -> None:
        """Keep a checkpoint in the middle of an epoch, until that epoch has its own; rank 0 calls it."""

    def tell(self, line: str) -> None:
        """Add a line to the training's progress."""

    def keep(self, name: str, data: bytes) -> str:
        """Keep a file beside the checkpoints; where it is."""


class LocalHost:
    """This process alone: checkpoints in a folder, of which the newest and the best stay.

    Args:
        folder: of the attempt.
        use_gpu: whether to compute on a GPU.
        notice: tells the training to stop; None: nobody does.
    """

    rank = 0
    world_size = 1

    def __init__(self, folder: Path, use_gpu: bool, notice: Notice | None = None) -> None:
        self.folder = folder
        self.device = torch.device("cuda" if use_gpu else "cpu")
        self.notice: Notice = notice or NoNotice()

    @contextmanager
    def newest(self) -> Iterator[Start]:
        """See :class:`Host`; a damaged checkpoint is put aside, as its epoch is trained again."""
        names = [folder.name for folder in self.checkpoints()]
        if self._interrupted.exists() and is_further(INTERRUPTED, names[-1] if names else None, self._fetch):
            names.append(INTERRUPTED)
        with newest_intact(names, self._fetch) as start:
            for name in names[len(names) - len(start.damaged) :]:
                (self.folder / name).rename(unused(self.folder / f"damaged-{name}"))
            yield start

    def report(self, metrics: dict[str, Any], write: Write) -> None:
        """See :class:`Host`."""
        partial = self._written(write)
        epoch = checkpoint.read_card(partial).epoch
        partial.rename(self.folder / f"checkpoint-{epoch:06d}")
        shutil.rmtree(self._interrupted, ignore_errors=True)
        kept = self.checkpoints()
        for folder in set(kept) - {self.best(), kept[-1]}:
            shutil.rmtree(folder)

    def interrupt(self, write: Write) -> None:
        """See :class:`TrainHost`."""
        partial = self._written(write)
        shutil.rmtree(self._interrupted, ignore_errors=True)
        partial.rename(self._interrupted)

    def tell(self, line: str) -> None:
        """See :class:`TrainHost`."""
        append(self.folder / PROGRESS, line)

    def keep(self, name: str, data: bytes) -> str:
        """See :class:`TrainHost`."""
        return str(whole(self.folder / name, lambda partial: partial.write_bytes(data)))

    def checkpoints(self) -> list[Path]:
        """Folders of the epochs' checkpoints there are, oldest first."""
        return sorted(self.folder.glob("checkpoint-*"))

    def best(self) -> Path:
        """The checkpoint with the highest validation IoU, the oldest of equals."""
        return max(self.checkpoints(), key=lambda folder: checkpoint.read_card(folder).metrics[engine.BEST])

    @property
    def _interrupted(self) -> Path:
        return self.folder / INTERRUPTED

    def _fetch(self, name: str) -> AbstractContextManager[Path]:
        return nullcontext(self.folder / name)

    def _written(self, write: Write) -> Path:
        partial = self.folder / "partial"
        shutil.rmtree(partial, ignore_errors=True)
        write(partial)
        return partial
