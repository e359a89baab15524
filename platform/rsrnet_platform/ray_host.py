"""A worker of Ray Train: where it runs, and what it hears from the job and from the cluster."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import ray.train
import ray.train.torch

from rsrnet.checkpoint import unwritable
from rsrnet_platform.channel import JobNotice
from rsrnet_platform.host import Write
from rsrnet_platform.restart import INTERRUPTED, Start, epochs_done, is_further, newest_intact
from rsrnet_platform.shelf import Shelf

if TYPE_CHECKING:
    from ray.actor import ActorHandle

SECONDS_BETWEEN_LOOKS = 5.0
"""The workers together look that often whether a machine of theirs is to be taken away; they wait for each other."""


class RayHost:
    """A worker of Ray Train."""

    epochs_done = staticmethod(epochs_done)
    """How far a checkpoint is, by its folder."""

    def __init__(self) -> None:
        context = ray.train.get_context()
        self.rank = context.get_world_rank()
        self.world_size = context.get_world_size()
        self.device = ray.train.torch.get_device()
        storage = context.get_storage()
        self.shelf = Shelf(storage.storage_filesystem, storage.experiment_fs_path)

    @contextmanager
    def newest(self) -> Iterator[Start]:
        """See :class:`~rsrnet_platform.host.Host`."""
        names = self.shelf.checkpoints()
        if known := ray.train.get_checkpoint():
            # What is newer was not written to its end. The older ones are looked at only if this one is damaged.
            newest = Path(known.path).name
            names = [name for name in names if name < newest] + [newest]
        if self.shelf.has(INTERRUPTED) and is_further(
            INTERRUPTED, names[-1] if names else None, self.shelf.fetch, self.epochs_done
        ):
            names.append(INTERRUPTED)
        with newest_intact(names, self.shelf.fetch, finished=self.shelf.finished_one()) as start:
            yield start

    def report(self, metrics: dict[str, Any], write: Write) -> None:
        """See :class:`~rsrnet_platform.host.Host`."""
        if self.rank != 0:
            ray.train.report(metrics)
            return
        with TemporaryDirectory() as folder:
            write(Path(folder))
            before = self.shelf.checkpoints()
            try:
                ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))
            except OSError as error:
                for name in set(self.shelf.checkpoints()) - set(before):
                    self.shelf.remove(name)
                raise unwritable(self.shelf.path, error) from error
        self.shelf.remove(INTERRUPTED)

    def interrupt(self, write: Write) -> None:
        """See :class:`~rsrnet_platform.host.TrainHost`."""
        with TemporaryDirectory() as folder:
            write(Path(folder))
            try:
                self.shelf.put(INTERRUPTED, Path(folder))
            except OSError as error:
                self.shelf.remove(INTERRUPTED)
                raise unwritable(self.shelf.path, error) from error


class RayTrainHost(RayHost):
    """A worker of a training.

    Args:
        channel: a :class:`~rsrnet_platform.channel.Channel` to the job.
    """

    def __init__(self, channel: ActorHandle) -> None:
        super().__init__()
        self.notice = ClusterNotice(channel)
        self._channel = channel

    def tell(self, line: str) -> None:
        """See :class:`~rsrnet_platform.host.TrainHost`; nobody waits until the line has arrived."""
        self._channel.tell.remote(line)

    def keep(self, name: str, data: bytes) -> str:
        """See :class:`~rsrnet_platform.host.TrainHost`."""
        return self.shelf.write(name, data)


class ClusterNotice(JobNotice):
    """Tells the training to stop when the job says so, and to save when a machine of a worker is to be taken away.

    See :class:`rsrnet.agreement.Notice`.
    """

    def __init__(self, channel: ActorHandle) -> None:
        super().__init__(channel)
        self._last_look = time.monotonic()
        self._leaving: set[str] = set()

    def due(self) -> bool:
        """Whether it is time to look after the machines again."""
        return time.monotonic() - self._last_look >= SECONDS_BETWEEN_LOOKS

    def look(self) -> bool:
        """Whether another machine of a worker is to be taken away; all ranks get the same answer."""
        info = ray.train.get_preemption_info()
        self._last_look = time.monotonic()
        new = set(info.preempted_node_ids if info else ()) - self._leaving
        self._leaving |= new
        return bool(new)
