"""What a trial does: train on every fold in turn, and say after every epoch how it stands.

Folds one after another, not side by side: a hopeless point is given up after its first epochs on its first fold,
and one network at a time is in memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

from rsrnet import engine
from rsrnet.agreement import Notice
from rsrnet.checkpoint import CheckpointError
from rsrnet.data.config import DataConfig
from rsrnet.data.folds import Split, folds
from rsrnet.data.lists import read_list, read_train_val
from rsrnet.data.naming import Composite
from rsrnet.data.selection import keep
from rsrnet.ranks import from_rank_zero
from rsrnet_platform.host import Host
from rsrnet_platform.interruption import Stopped
from rsrnet_platform.search.config import SearchConfig
from rsrnet_platform.spec import TrainJob
from rsrnet_platform.worker import begin, loaders, place_of

PROGRESS = "folds.json"
"""File in a trial's checkpoints, beside those of the training: scores of the folds done, and the last report."""


@dataclass(frozen=True)
class TrialTask:
    """A trial as its workers get it."""

    job: TrainJob
    """The training, with the values of the trial's point."""

    search: SearchConfig
    skipped: frozenset[str]
    """Paths of composites that cannot be used."""

    keep: Path | None = None
    """Folder that gets the model of the best epoch, by ``engine.BEST``; of one fold only. None: no model stays."""


class TrialHost(Host, Protocol):
    """Where a worker of a trial runs."""

    def repeat(self, metrics: dict[str, Any]) -> None:
        """Report again what the newest checkpoint was reported with: the search may not have heard it."""

    def report(self, metrics: dict[str, Any], write: Callable[[Path], None]) -> None:
        """Keep a checkpoint that ``write`` puts into a folder, then report; every rank calls it, rank 0 writes."""

    @property
    def notice(self) -> Notice:
        """Tells the trial to stop."""

    def interrupt(self, write: Callable[[Path], None]) -> None:
        """Keep a checkpoint in the middle of an epoch, until that epoch has its own; rank 0 calls it."""


@dataclass
class Done:
    """What a trial has behind it; part of its checkpoints."""

    scores: list[float] = field(default_factory=list)
    """Of the folds that are done."""

    report: dict[str, Any] = field(default_factory=dict)
    """The last one; empty before the first epoch is done."""

    @property
    def steps(self) -> int:
        """Epochs, over all folds."""
        return self.report.get("step", 0)

    def write(self, folder: Path) -> None:
        """Write it into the folder of a checkpoint."""
        (folder / PROGRESS).write_text(json.dumps({"scores": self.scores, "report": self.report}))

    @classmethod
    def read(cls, folder: Path) -> Done:
        """Read it from there.

        Raises:
            CheckpointError: if it is damaged.
        """
        try:
            return cls(**json.loads((folder / PROGRESS).read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(f"{folder / PROGRESS}: damaged ({error})") from error


def split_into_folds(data: DataConfig, search: SearchConfig, skipped: frozenset[str]) -> list[Split]:
    """The folds of a search, the same for every trial: cut from the training list, whatever validates later.

    Args:
        data: of the training; of several folds only its training list is read.
        search: how many folds, and their seed. A single one is the split of the training itself.
        skipped: paths of composites that cannot be used.

    Raises:
        DataError: if there are fewer photographs and scenes than folds.
    """
    if search.folds == 1:
        return [Split(*(_usable(side, skipped) for side in read_train_val(data, search.seed)))]
    return _folds(data.root, data.train, data.subsets, search.folds, search.seed, skipped)


@lru_cache(maxsize=1)
def _folds(
    root: str, train: str, subsets: tuple[str, ...], number: int, seed: int, skipped: frozenset[str]
) -> list[Split]:
    # Kept: an actor that runs one trial after another would read the same lists for each.
    return folds(_usable(read_list(root, train, subsets), skipped), number, seed)


def _usable(composites: Sequence[Composite], skipped: frozenset[str]) -> Sequence[Composite]:
    return keep(composites, lambda composite: composite.path not in skipped)


def cross_validate(task: TrialTask, host: TrialHost) -> None:
    """Train on every fold up to the last epoch, from the newest checkpoint if there is one.

    Raises:
        Stopped: on every rank, if the trial was told to stop; its checkpoint is kept.
    """
    splits = split_into_folds(task.job.data, task.search, task.skipped)
    with host.newest() as start:
        done, training = _resume(task, host, start.folder)
    if done.report:
        host.repeat(done.report)
    while True:
        _train_fold(task, host, training, splits[len(done.scores)], done)
        done.scores.append(_score(training, task.search.metric))
        if len(done.scores) == len(splits):
            return
        training = begin(task.job, host, None)


def _resume(task: TrialTask, host: TrialHost, folder: Path | None) -> tuple[Done, engine.Training]:
    """What was done, and the training to go on with."""
    if folder is None:
        return Done(), begin(task.job, host, None)
    try:
        return Done.read(folder), begin(task.job, host, folder)
    except CheckpointError:
        # A damaged checkpoint costs the trial what it had done, not its place in the search.
        return Done(), begin(task.job, host, None)


def _train_fold(
    task: TrialTask, host: TrialHost, training: engine.Training, split: Split, done: Done
) -> None:
    """Train on the fold behind those that are done."""

    def on_epoch(training: engine.Training) -> None:
        score = _score(training, task.search.metric)
        done.report = {
            "step": len(done.scores) * task.job.fit.epochs + training.epoch,
            "fold": len(done.scores),
            "epoch": training.epoch,
            "score": score,
            "objective": fmean([*done.scores, score]),
            "metrics": training.metrics,
        }

        def write(folder: Path) -> None:
            training.save(folder)
            done.write(folder)

        if task.keep is not None and host.rank == 0 and training.best_epoch == training.epoch:
            # Before the checkpoint: a trial that dies in between trains this epoch again, and writes the same.
            training.save_model(task.keep)
        host.report(done.report, write)

    batches = loaders(task.job, split.train, split.val, host)
    if not training.run(*batches, on_epoch=on_epoch, notice=host.notice):
        _keep_interrupted(training, host, done)
        raise Stopped(f"Stopped {place_of(training)}.")


def _keep_interrupted(training: engine.Training, host: TrialHost, done: Done) -> None:
    sums = training.sums_of_all_ranks()

    def write(folder: Path) -> None:
        training.save_partial(folder, sums)
        done.write(folder)

    # Nobody leaves before rank 0 has written: Ray Train ends all workers at the first that does.
    from_rank_zero(lambda: host.interrupt(write))


def _score(training: engine.Training, metric: str) -> float:
    """The best value so far: what a training keeps is its best epoch."""
    return max(metrics[metric] for metrics in training.history)
