"""What every worker of a training does: the engine's loop, fed with its share of the data and told to report.

The loop is the same in one process and on a cluster; a :class:`~rsrnet_platform.host.TrainHost` is all that differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from rsrnet import engine, memory
from rsrnet.agreement import any_rank
from rsrnet.clock import Steady
from rsrnet.data.iharmony4 import IHarmony4
from rsrnet.data.lists import read_train_val
from rsrnet.data.loader import loader
from rsrnet.data.naming import Composite
from rsrnet.data.sampler import ShardedBatches, evaluation_batches
from rsrnet.data.selection import keep
from rsrnet.data.transforms import EvalTransform, TrainTransform
from rsrnet.model.network import RSRNet
from rsrnet.nonfinite import BadBatch
from rsrnet.randomness import seed_everything
from rsrnet.ranks import from_rank_zero
from rsrnet_platform import reading_limit, terminal
from rsrnet_platform.cluster.config import WorkerRange
from rsrnet_platform.cluster.place import count
from rsrnet_platform.host import Host, TrainHost
from rsrnet_platform.interruption import Stopped
from rsrnet_platform.pictures import Pictures, evenly
from rsrnet_platform.progress import Reporter
from rsrnet_platform.spec import TrainJob
from rsrnet_platform.tracking import HASTE, Tracker, TrackingError

PICTURES_A_RUN = 10


@dataclass(frozen=True)
class Task:
    """A training as its workers get it."""

    job: TrainJob
    tracking_uri: str
    mlflow_run_id: str
    skipped: frozenset[str] = frozenset()
    """Paths of composites that cannot be used."""

    unsent: str | None = None
    """Folder for pictures that MLflow does not have yet, which outlasts the worker; None: a temporary one."""


def train(task: Task, host: TrainHost) -> None:
    """Train one worker's part up to the last epoch, from the newest checkpoint if there is one.

    Raises:
        Stopped: on every rank, if the training was told to stop; its checkpoint is kept.
    """
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
        if job.fit.compile:
            observer.compiling()
        if isinstance(job.cluster.workers, WorkerRange):
            observer.begin_with(host.world_size)

    def on_epoch(training: engine.Training) -> None:
        host.report(training.metrics, training.save)
        if observer:
            observer.epoch_done(training)

    if observer:
        # The loader's processes are forked from this one: never while another thread imports something.
        observer.tracker.open()
    with observer or nullcontext():
        while not training.run(
            *loaders(job, train_set, val_set, host),
            on_epoch=on_epoch,
            on_step=observer.step_done if observer else lambda progress: None,
            keep=lambda batch: _keep(batch, host, observer),
            notice=host.notice,
        ):
            _keep_interrupted(training, host)
            if observer:
                observer.interrupted(training)
            # A machine that is to be taken away is used until it is: only the job's own end is obeyed.
            if any_rank(host.notice.asked(), host.device):
                from_rank_zero(lambda: _send(observer))
                raise Stopped(f"Stopped {place_of(training)}. The same job goes on from there.")


def _keep_interrupted(training: engine.Training, host: TrainHost) -> None:
    sums = training.sums_of_all_ranks()
    if host.rank == 0:
        host.interrupt(lambda folder: training.save_partial(folder, sums))


def place_of(training: engine.Training) -> str:
    """How far a training is, in words."""
    epochs = training.config.epochs
    if step := training.partial.step:
        return f"in epoch {training.epoch + 1} of {epochs}, after step {step}"
    return f"after epoch {training.epoch} of {epochs}"


def _send(observer: Observer | None) -> None:
    if observer:
        observer.send()


def _keep(batch: BadBatch, host: TrainHost, observer: Observer | None) -> str | None:
    """Save the batch that ended a training, and what was logged; the batch's file, unless it cannot be written."""
    _send(observer)
    name = f"bad_batch-epoch{batch.epoch:03d}-step{batch.step:06d}.safetensors"
    try:
        return host.keep(name, batch.to_bytes())
    except OSError as error:
        if observer:
            observer.not_kept(name, error)
        return None


def begin(job: TrainJob, host: Host, folder: Path | None) -> engine.Training:
    """A training at its start, or where a checkpoint folder left it."""
    torch.set_num_threads(job.cluster.cpus_per_worker)
    seed_everything(job.fit.seed)
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

    def __init__(self, task: Task, host: TrainHost, val_set: Sequence[Composite]) -> None:
        self.epochs = task.job.fit.epochs
        self.data = task.job.data
        self.device = host.device
        self.reporter = Reporter(host.tell)
        self.done = 0.0
        self.spoke_of_reading = False
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
            begun = training.epoch or training.partial.step
            used = (
                "The one before it is used."
                if begun
                else "There is none before it: the training begins anew."
            )
            self.reporter.milestone(f"{message} {used}", self.done)
        self.tracker.log_epochs(enumerate(training.history, start=1))
        if training.epoch or training.partial.step:
            self.done = training.epoch / self.epochs
            self.reporter.milestone(f"Going on {place_of(training)}.", self.done)

    def begin_with(self, workers: int) -> None:
        """Say how many workers of a range there are from now on."""
        self.reporter.milestone(f"Training with {count(workers, 'worker')} now.", self.done)

    def compiling(self) -> None:
        """Say what the first step waits for."""
        self.reporter.milestone("Compiling the network: the first step takes a minute or so.", self.done)

    def interrupted(self, training: engine.Training) -> None:
        """Say that a checkpoint was written in the middle of an epoch."""
        self.reporter.milestone(f"Checkpoint written {place_of(training)}.", self.done)

    def step_done(self, progress: engine.Progress) -> None:
        """Report how far the epoch is, now and then: reading the loss waits for the device."""
        self._look_at_reading(progress.steady)
        if not self.reporter.due():
            return
        self.tracker.check()
        epochs_done = progress.epoch - 1 + progress.step / progress.steps
        text = (
            f"epoch {progress.epoch}/{progress.epochs}  step {progress.step}/{progress.steps}  "
            f"loss {progress.loss:.3f}  {progress.images_per_second:.1f} images/s  "
            f"{terminal.duration(progress.seconds_left)} left  {self._memory()}"
        )
        self.done = epochs_done / progress.epochs
        self.reporter.step(text, self.done)

    def _memory(self) -> str:
        """Memory that this worker holds, in words."""
        held = terminal.memory(memory.in_use(self.device), memory.capacity(self.device))
        return f"{held} on the GPU" if self.device.type == "cuda" else f"{held} of memory"

    def _look_at_reading(self, steady: Steady) -> None:
        """Say once, when enough is known, that the loader is the limit, if it is."""
        known = steady.steps >= reading_limit.STEPS and steady.seconds >= reading_limit.SECONDS
        if known and not self.spoke_of_reading and (hint := reading_limit.hint(self.data, steady.waiting)):
            self.spoke_of_reading = True
            self.reporter.milestone(hint, self.done)

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

    def not_kept(self, name: str, error: OSError) -> None:
        """Say that a file beside the checkpoints could not be written."""
        self.reporter.milestone(f"{name} cannot be saved: {error}", self.done)

    def send(self) -> None:
        """Give what is logged a few seconds to arrive: whoever runs the workers may end them all with the first."""
        with suppress(TrackingError):
            self.tracker.flush(HASTE)

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
