"""What every job of trials does: look at everything, go on with the run of its name, run the trials that are left."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rsrnet_platform import cluster, preflight, provenance, runs, spec
from rsrnet_platform.errors import UserError
from rsrnet_platform.interruption import Interruption, Stopped, graceful
from rsrnet_platform.search.trials import Journal, Point, Trial
from rsrnet_platform.store import prepare, probe
from rsrnet_platform.terminal import console
from rsrnet_platform.tracking import Tracker

if TYPE_CHECKING:
    from rsrnet.data.naming import Composite


class Plan(Protocol):
    """Which trials there are, and which are left."""

    @property
    def total(self) -> int:
        """How many trials there will be."""

    @property
    def left(self) -> int:
        """How many trials there are to run."""

    @property
    def most_epochs(self) -> int:
        """Epochs of the longest trial, over all folds."""

    def next(self) -> tuple[int, Point] | None:
        """Number and point of the next trial; None when there are no more."""

    def ended(self, trial: Trial) -> None:
        """Learn from a trial that ended."""


@dataclass(frozen=True)
class Session:
    """A job of trials whose run is held, on a cluster with room for it."""

    job: spec.SearchJob
    folder: runs.Run
    uri: str
    """Of the MLflow store."""

    place: cluster.Cluster

    @property
    def attempt(self) -> Path:
        """Folder of everything that the attempt writes."""
        return self.folder.folder / self.folder.attempt

    def tracker(self) -> Tracker:
        """The MLflow run of the attempt."""
        return Tracker.of_attempt(
            self.uri,
            self.job.tracking,
            self.job.name,
            self.folder.state.attempt_id,
            params=spec.flatten(self.job),
            tags=provenance.tags(self.folder.data) | {"mlflow.note.content": self.job.description},
            job_yaml=spec.to_yaml(self.job),
        )


@contextmanager
def opened(
    job: spec.SearchJob, starts: Sequence[spec.TrainJob], test: Sequence[Composite] = (), *, fresh: bool
) -> Iterator[Session]:
    """Check everything that trials need, then begin a run or go on with one; for as long as the context lasts.

    Args:
        job: a checked job.
        starts: a training for each start of the encoder that trials may ask for.
        test: images that are needed when the trials are done, and looked at when the run begins.
        fresh: start over, though a run of this name exists.

    Raises:
        UserError: (and the other errors of ``errors.USER_ERRORS``) for everything a user can mend.
    """
    base = spec.training(job, {}, job.name)
    with runs.hold(job.storage, job.name) as folder:
        if not fresh:
            folder.require_same_settings(job)
        split = preflight.read_lists(base)
        probe(job.tracking)
        with cluster.connect(job.cluster, dashboard=job.cluster.workers > 1) as place:
            preflight.require_shared(place, "storage", job.storage)
            for start in starts:
                preflight.try_weights(start, folder, fresh)
            preflight.try_compiler(base, place)
            data = preflight.inspect_images(base, split, None if fresh else folder.state.data)
            _require_splits(job, data)
            if test and (fresh or not folder.state.attempt):
                preflight.look_at(job.data, test)
            uri = prepare(job.tracking)
            if fresh:
                Tracker.give_up(uri, job.tracking, folder.state.attempt_id)
            folder.begin(job, data, fresh=fresh)
            yield Session(job, folder, uri, place)


def run_trials(
    session: Session,
    what: str,
    journal: Journal,
    plan: Plan,
    parent: Tracker,
    keep: Mapping[int, Path] | None = None,
) -> list[Trial]:
    """Run the trials that are left.

    Args:
        session: of the job.
        what: the work in words, for the line that says what begins.
        journal: of the attempt.
        plan: of the trials.
        parent: MLflow run that theirs stand under.
        keep: folders for the models of trials, by their numbers; the models of others do not stay.

    Returns:
        Every trial of the attempt, in any state, by its number.

    Raises:
        SystemExit: if a signal ended it.
    """
    from rsrnet_platform.search import ray_tune
    from rsrnet_platform.search.ledger import Ledger
    from rsrnet_platform.search.screen import Screen

    job, state = session.job, session.folder.state
    with Ledger(job, journal, parent, state.attempt_id, session.attempt / "trials", plan.ended) as ledger:
        if plan.left:
            at_once = ray_tune.concurrency(job, session.place)
            console.print(f"{what}, {at_once} at once, {session.place}.")
            shared = ray_tune.Shared(
                job,
                str(ledger.folder),
                frozenset(session.folder.data.skipped),
                session.place,
                keep=keep or {},
            )
            with (
                _exiting_when_told(job.cluster.grace) as interruption,
                Screen(ledger, lambda: plan.total, at_once).shown(console),
            ):
                ray_tune.run(shared, plan.next, plan.most_epochs, ledger, interruption)
    return journal.in_order()


@contextmanager
def _exiting_when_told(grace: float) -> Iterator[Interruption]:
    """See :func:`~rsrnet_platform.interruption.graceful`; leaves the process once the trials are stopped."""
    with graceful(grace, console) as interruption:
        try:
            yield interruption
            if interruption.asked():  # behind the last look of the trials
                raise Stopped("Stopped after the last trial. The same job goes on from there.")
        except Stopped as stopped:
            console.print(str(stopped))
            sys.exit(interruption.exit_code)


def _require_splits(job: spec.SearchJob, data: runs.Data) -> None:
    """Cut the folds once, here, where it costs nothing that it cannot be done.

    Raises:
        DataError: if there are fewer photographs and scenes than folds.
    """
    from rsrnet_platform.search.cross_validation import split_into_folds

    splits = split_into_folds(job.data, job.search, frozenset(data.skipped))
    smallest = min(len(split.train) for split in splits)
    if smallest < job.cluster.workers:
        raise UserError(
            f"{job.data.root}: a fold leaves {smallest} training images, fewer than the workers of a trial."
        )
