"""What every worker of a training does: the engine's loop, fed with its share of the data and told to report.

The loop is the same in one process and on a cluster; a :class:`Host` is all that differs.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import torch

from rsrnet import checkpoint, engine
from rsrnet.data.iharmony4 import IHarmony4
from rsrnet.data.lists import read_train_val
from rsrnet.data.loader import loader
from rsrnet.data.naming import Composite
from rsrnet.data.sampler import ShardedBatches, evaluation_batches
from rsrnet.data.selection import keep
from rsrnet.data.transforms import EvalTransform, TrainTransform
from rsrnet.model.network import RSRNet
from rsrnet.nonfinite import BadBatch
from rsrnet_platform.files import unused, whole
from rsrnet_platform.pictures import Pictures, evenly
from rsrnet_platform.progress import Reporter
from rsrnet_platform.restart import Start, newest_intact
from rsrnet_platform.spec import TrainJob
from rsrnet_platform.terminal import duration
from rsrnet_platform.tracking import HASTE, Tracker, TrackingError

PICTURES_A_RUN = 10


@dataclass(frozen=True)
class Task:
    """A training as its workers get it."""

    job: TrainJob
    tracking_uri: str
    mlflow_run_id: str
    progress: str
    """File that rank 0 reports to; see :mod:`rsrnet_platform.progress`."""

    skipped: frozenset[str] = frozenset()
    """Paths of composites that cannot be used."""

    unsent: str | None = None
    """Folder for pictures that MLflow does not have yet, which outlasts the worker; None: a temporary one."""


class Host(Protocol):
    """Where a worker runs: its place among the workers, and where its checkpoints go."""

    rank: int
    world_size: int
    device: torch.device

    def newest(self) -> AbstractContextManager[Start]:
        """Context: the newest checkpoint that is intact."""

    def report(self, metrics: dict[str, Any], write: Callable[[Path], None]) -> None:
        """Keep a checkpoint that ``write`` puts into a folder; every rank calls it, rank 0 writes."""


class LocalHost:
    """This process alone: checkpoints in a folder, of which the newest and the best stay.

    Args:
        folder: of the attempt.
        use_gpu: whether to compute on a GPU.
    """

    rank = 0
    world_size = 1

    def __init__(self, folder: Path, use_gpu: bool) -> None:
        self.folder = folder
        self.device = torch.device("cuda" if use_gpu else "cpu")

    @contextmanager
    def newest(self) -> Iterator[Start]:
        """See :class:`Host`; a damaged checkpoint is put aside, as its epoch is trained again."""
        kept = self.checkpoints()
        start = newest_intact(kept)
        for folder in kept[len(kept) - len(start.damaged) :]:
            folder.rename(unused(folder.with_name(f"damaged-{folder.name}")))
        yield start

    def report(self, metrics: dict[str, Any], write: Callable[[Path], None]) -> None:
        """See :class:`Host`."""
        partial = self.folder / "partial"
        shutil.rmtree(partial, ignore_errors=True)
        write(partial)
        epoch = checkpoint.read_card(partial).epoch
        partial.rename(self.folder / f"checkpoint-{epoch:06d}")
        kept = self.checkpoints()
        for folder in set(kept) - {self.best(), kept[-1]}:
            shutil.rmtree(folder)

    def checkpoints(self) -> list[Path]:
        """Folders of the checkpoints there are, oldest first."""
        return sorted(self.folder.glob("checkpoint-*"))

    def best(self) -> Path:
        """The checkpoint with the highest validation IoU, the oldest of equals."""
        return max(self.checkpoints(), key=lambda folder: checkpoint.read_card(folder).metrics[engine.BEST])


def train(task: Task, host: Host) -> None:
    """Train one worker's part up to the last epoch, from the newest checkpoint if there is one."""
    job = task.job
    with host.newest() as start:
        training = begin(job, host, start.folder)
    train_set, val_set = (
        keep(part, lambda composite: composite.path not in task.skipped)
        for part in read_train_val(job.data, job.fit.seed)
    )
    observer = Observer(task, host, val_set) if host.rank == 0 else None
    if observer:
        observer.catch_up(training, start.damaged)

    def on_epoch(training: engine.Training) -> None:
        host.report(training.metrics, training.save)
        if observer:
            observer.epoch_done(training)

    with observer or nullcontext():
        training.run(
            *loaders(job, train_set, val_set, host),
            on_epoch=on_epoch,
            on_step=observer.step_done if observer else lambda progress: None,
            keep=lambda batch: _keep(batch, Path(task.progress).parent, host.rank),
        )


def _keep(batch: BadBatch, folder: Path, rank: int) -> str:
    """Save the batch that ended a training; its file."""
    path = folder / f"bad_batch-epoch{batch.epoch:03d}-step{batch.step:06d}.safetensors"
    if rank == 0:
        whole(path, lambda partial: partial.write_bytes(batch.to_bytes()))
    return str(path)


def begin(job: TrainJob, host: Host, folder: Path | None) -> engine.Training:
    """A training at its start, or where a checkpoint folder left it."""
    torch.set_num_threads(job.cluster.cpus_per_worker)
    engine.seed_everything(job.fit.seed)
    model = RSRNet(job.model)
    if folder is None and host.rank == 0:
        # The other ranks get rank 0's parameters when DDP wraps the model.
        engine.load_start(model, job.fit)
    training = engine.Training(model, job.fit, job.loss, size=job.data.size, device=host.device)
    if folder is not None:
        training.resume(folder)
    return training


def loaders(
    job: TrainJob, train_set: Sequence[Composite], val_set: Sequence[Composite], host: Host
) -> tuple[torch.utils.data.DataLoader, torch.utils.data.DataLoader]:
    """One rank's training and validation batches."""
    data, fit, rank, world_size = job.data, job.fit, host.rank, host.world_size
    train = IHarmony4(data.root, train_set, TrainTransform(data.size), fit.seed)
    shard = ShardedBatches(len(train_set), fit.batch_size, rank, world_size, fit.seed, train.blocks)
    val = IHarmony4(data.root, val_set, EvalTransform(data.size))
    val_batches = evaluation_batches(len(val_set), ceil(fit.batch_size / world_size), rank, world_size)
    pin_memory = host.device.type == "cuda"
    return (
        loader(train, shard, data.loader_processes, pin_memory=pin_memory),
        loader(val, val_batches, data.loader_processes, pin_memory=pin_memory),
    )


class Observer:
    """Rank 0's eyes on the training: progress for people, metrics and pictures for MLflow.

    The training does not wait for MLflow, but for what is left to be logged when it ends.
    """

    def __init__(self, task: Task, host: Host, val_set: Sequence[Composite]) -> None:
        self.epochs = task.job.fit.epochs
        self.device = host.device
        self.reporter = Reporter(Path(task.progress))
        self.done = 0.0
        self.tracker = Tracker.attach(
            task.tracking_uri,
            task.mlflow_run_id,
            patience=task.job.tracking.patience,
            tell=lambda text: self.reporter.milestone(text, self.done),
            unsent=None if task.unsent is None else Path(task.unsent),
        )
        self.pictures = Pictures(task.job.data.root, evenly(val_set), task.job.data.size)

    def catch_up(self, training: engine.Training, damaged: Sequence[str]) -> None:
        """Log what a checkpoint knows and the run does not: the worker may have died between the two."""
        for message in damaged:
            self.reporter.milestone(f"{message} The one before it is used.", self.done)
        self.tracker.log_epochs(enumerate(training.history, start=1))
        if training.epoch:
            text = f"Going on after epoch {training.epoch} of {self.epochs}."
            self.done = training.epoch / self.epochs
            self.reporter.milestone(text, self.done)

    def step_done(self, progress: engine.Progress) -> None:
        """Report how far the epoch is, now and then: reading the loss waits for the device."""
        if not self.reporter.due():
            return
        self.tracker.check()
        epochs_done = progress.epoch - 1 + progress.step / progress.steps
        text = (
            f"epoch {progress.epoch}/{progress.epochs}  step {progress.step}/{progress.steps}  "
            f"loss {progress.loss:.3f}  {progress.images_per_second:.1f} images/s  "
            f"{duration(progress.seconds_left)} left"
        )
        self.done = epochs_done / progress.epochs
        self.reporter.step(text, self.done)

    def epoch_done(self, training: engine.Training) -> None:
        """Log the epoch's metrics, and its pictures ten times a run."""
        metrics = training.metrics
        self.tracker.log_epoch(training.epoch, metrics)
        if training.epoch % ceil(self.epochs / PICTURES_A_RUN) == 0 or training.epoch == self.epochs:
            for name, picture in self.pictures.draw(training.model, self.device).items():
                self.tracker.log_image(picture, f"pictures/epoch_{training.epoch:03d}_{name}")
        best = "  (best so far)" if training.best_epoch == training.epoch else ""
        text = (
            f"epoch {training.epoch}/{self.epochs} done  loss {metrics['train/loss']:.3f}  "
            f"validation AP {metrics['val/ap']:.3f}  F1 {metrics['val/f1']:.3f}  IoU {metrics['val/iou']:.3f}{best}"
        )
        self.done = training.epoch / self.epochs
        self.reporter.milestone(text, self.done)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            # What is left the next start logs: pictures stay in their folder, metrics in the checkpoint.
            with nullcontext() if kind is None else suppress(TrackingError):
                self.tracker.flush(None if kind is None else HASTE)
        finally:
            self.tracker.abandon()
