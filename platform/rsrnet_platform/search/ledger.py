"""Keeps the books of a running search: the journal on disk and the runs in MLflow.

Everything is written here, by the process that runs the search: trials only report. So what a killed search
leaves behind is whole, and one process talks to the store.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rsrnet_platform import spec
from rsrnet_platform.errors import UserError
from rsrnet_platform.search.trials import Journal, Point, Report, Status, Trial
from rsrnet_platform.tracking import Tracker


class Ledger:
    """The books of one attempt at a search; as a context manager it leaves no run of a trial open.

    Args:
        job: the search.
        journal: of the attempt.
        parent: MLflow run of the search.
        attempt_id: of the attempt.
        folder: where trials keep their checkpoints, one folder each.
        on_end: called with each trial that ended.
    """

    def __init__(
        self,
        job: spec.SearchJob,
        journal: Journal,
        parent: Tracker,
        attempt_id: str,
        folder: Path,
        on_end: Callable[[Trial], None] = lambda trial: None,
    ) -> None:
        self.job = job
        self.journal = journal
        self.folder = folder
        self._parent = parent
        self._attempt_id = attempt_id
        self._on_end = on_end
        self._open: dict[int, Tracker] = {}
        self._begun_now: dict[int, Tracker] = {}
        self._begun = time.monotonic() - max((trial.ended for trial in journal.in_order()), default=0.0)

    @property
    def seconds(self) -> float:
        """Since the search began, interruptions left out."""
        return time.monotonic() - self._begun

    @property
    def running(self) -> list[Trial]:
        """Trials that compute now, by their number."""
        return [self.journal.trials[index] for index in sorted(self._open)]

    def begin(self, index: int, point: Point) -> None:
        """A trial begins, or goes on: after an interruption, or because it died."""
        if index in self._open:
            return
        training = spec.trial(self.job, index, point)
        trial = self.journal.trials.get(index) or Trial(
            index, dict(point), self.job.search.folds, training.fit.epochs, started=self.seconds
        )
        trial.status, trial.error, trial.over = "running", None, None
        # First of all the point: a run without it could become another trial's after a kill.
        self.journal.keep(trial)
        self._open[index] = self._begun_now[index] = self._parent.child(
            self.job.tracking,
            training.name,
            f"{self._attempt_id}/{index}",
            params=spec.flatten(training),
            tags={"trial": str(index)},
            job_yaml=spec.to_yaml(training),
        )

    def hear(self, index: int, result: Mapping[str, Any]) -> None:
        """A trial reports an epoch, or why it cannot go on.

        Raises:
            UserError: if that is no fault of its point's: the search cannot go on either.
        """
        trial = self.journal.trials[index]
        if "error" in result:
            if not result["diverged"]:
                raise UserError(f"Trial {index} cannot go on, and no other would:\n{result['error']}")
            trial.status, trial.error = "diverged", result["error"]
            return
        values = {key: result[key] for key in ("step", "fold", "epoch", "score", "objective")}
        if trial.add(Report(**values, time=self.seconds)):
            self.journal.keep(trial)
        fold = f"fold_{result['fold'] + 1}/" if trial.folds > 1 else ""
        metrics = {fold + key: value for key, value in result["metrics"].items()}
        # Also of a report that is repeated: a kill may have come between the journal and the store, and the
        # tracker leaves out what that holds.
        self._open[index].log_epochs(
            [(result["epoch"], metrics), (result["step"], {"objective": result["objective"]})]
        )

    def end(self, index: int, error: str | None = None) -> None:
        """A trial is over; ``error`` says why, if it died."""
        trial = self.journal.trials[index]
        if trial.status == "running":
            trial.status, trial.error = _outcome(trial, error), error
        trial.over = self.seconds
        self.journal.keep(trial)
        self._close(trial, self._open.pop(index))
        self._on_end(trial)

    def _close(self, trial: Trial, tracker: Tracker) -> None:
        """End the run of a trial that ended, and remove its checkpoints."""
        if trial.spread is not None:
            tracker.log_epoch(trial.step, {"objective_std": trial.spread})
        tracker.set_tags({"outcome": trial.status} | ({"error": trial.error} if trial.error else {}))
        tracker.finish("FAILED" if trial.status in ("failed", "diverged") else "FINISHED")
        if trial.status != "failed":  # it is tried again when the search is started again
            shutil.rmtree(self.folder / f"{trial.index:04d}", ignore_errors=True)

    def __enter__(self) -> Self:
        # What an earlier start was killed over: a trial whose end is in the journal, but not in the store.
        for tags, tracker in self._parent.running_children():
            trial = self.journal.trials.get(int(tags.get("trial", -1)))
            if trial is None or trial.status == "running":
                tracker.finish("KILLED")
            else:
                self._close(trial, tracker)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for tracker in self._open.values():
            tracker.finish("KILLED")
        if kind is None:
            self._parent.flush()
        for index, tracker in self._begun_now.items():
            trial = self.journal.trials[index]
            if tracker.known_id not in (None, trial.run_id):
                trial.run_id = tracker.known_id
                self.journal.keep(trial)


def _outcome(trial: Trial, error: str | None) -> Status:
    if error is not None:
        return "failed"
    return "finished" if trial.step == trial.steps else "stopped"
