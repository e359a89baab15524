"""What a search knows of its trials, and the files that remember it.

``trials/0007.json`` in the folder of an attempt is trial 7: its point, every report, how it ended. Each is
written whole by the process that runs the search, after every report; together they are all that a search
needs to go on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import stdev
from typing import Any, Literal, TypeAlias

from rsrnet_platform.errors import UserError

Point: TypeAlias = Mapping[str, Any]
"""Value of each searched setting by its dotted path, such as ``{"model.iterations": 12}``; lists, not tuples."""

Status: TypeAlias = Literal["running", "finished", "stopped", "diverged", "failed"]
"""``stopped``: given up by the scheduler. ``diverged``: its loss became NaN or infinite. ``failed``: it raised or
died more often than the job allows."""


@dataclass(frozen=True)
class Report:
    """What a trial says after an epoch."""

    step: int
    """Epochs done, over all folds, from 1."""

    fold: int
    """The fold in hand, from 0."""

    epoch: int
    """Epochs done in this fold, from 1."""

    score: float
    """Best value of the metric in this fold so far."""

    objective: float
    """Mean score over the folds so far, this one included."""

    time: float
    """Seconds since the search began, interruptions left out."""


@dataclass
class Trial:
    """One point and what became of it."""

    index: int
    """Number of the trial; 0 is the paper's own point."""

    point: Point
    folds: int
    """Folds it shall be trained on."""

    epochs: int
    """Epochs of each."""

    status: Status = "running"
    reports: list[Report] = field(default_factory=list)
    started: float = 0.0
    """When it began: seconds since the search began."""

    over: float | None = None
    """When it ended, however it did; None while it runs."""

    error: str | None = None
    """Why it failed."""

    run_id: str | None = None
    """Its MLflow run."""

    @property
    def steps(self) -> int:
        """Epochs at most, over all folds."""
        return self.folds * self.epochs

    @property
    def step(self) -> int:
        """Epochs done, over all folds."""
        return self.reports[-1].step if self.reports else 0

    @property
    def scores(self) -> list[float]:
        """Score of each fold that was trained to the end."""
        return [report.score for report in self.reports if report.epoch == self.epochs]

    @property
    def objective(self) -> float | None:
        """Mean score over the folds begun; of a finished trial: over all folds. None: it never scored."""
        return self.reports[-1].objective if self.reports and self.status != "diverged" else None

    @property
    def spread(self) -> float | None:
        """Standard deviation of the score over the folds trained to the end (n - 1); None for fewer than two."""
        return stdev(self.scores) if len(self.scores) > 1 else None

    @property
    def ended(self) -> float:
        """When it ended, or was last heard of, in seconds since the search began."""
        last = self.reports[-1].time if self.reports else self.started
        return last if self.over is None else self.over

    def add(self, report: Report) -> bool:
        """Take a report, unless it was taken before: a trial that goes on repeats its last."""
        if report.step <= self.step:
            return False
        self.reports.append(report)
        return True


def best(trials: list[Trial]) -> Trial | None:
    """The finished trial with the highest objective, the first of equals: only those were judged on every fold."""
    finished = [trial for trial in trials if trial.status == "finished"]
    return max(finished, key=lambda trial: trial.objective or 0.0, default=None)


class Journal:
    """The trials of an attempt, on disk.

    Args:
        folder: of the attempt; made if missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "trials"
        self._folder.mkdir(parents=True, exist_ok=True)
        self.trials = {trial.index: trial for trial in map(_read, sorted(self._folder.glob("*.json")))}

    def in_order(self) -> list[Trial]:
        """Every trial so far, by its number."""
        return [self.trials[index] for index in sorted(self.trials)]

    def keep(self, trial: Trial) -> None:
        """Remember a trial as it is now."""
        self.trials[trial.index] = trial
        path = self._folder / f"{trial.index:04d}.json"
        partial = path.with_suffix(".partial")
        with partial.open("w", encoding="utf-8") as file:
            json.dump(asdict(trial), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)


def _read(path: Path) -> Trial:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Trial(**{**values, "reports": [Report(**report) for report in values["reports"]]})
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}). Remove it, and its trial is run again.") from error
