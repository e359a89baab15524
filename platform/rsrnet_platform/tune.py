"""`kind: tune`: search settings by cross-validation, say what was found, train with the best."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from rsrnet_platform import runs, spec, train
from rsrnet_platform.errors import UserError
from rsrnet_platform.search import points, session, space
from rsrnet_platform.search.trials import Journal, Point, Trial, best
from rsrnet_platform.terminal import console
from rsrnet_platform.tracking import Tracker

REPORT = "report"
"""Folder of the report, in that of the attempt and among the artifacts of the search's MLflow run."""


def run(job: spec.TuneJob, *, fresh: bool) -> None:
    """Search, or go on, or say again what was found; then train with the best point.

    Args:
        job: a checked job.
        fresh: start over, though a search of this name exists.

    Raises:
        UserError: (and the other errors of ``errors.USER_ERRORS``) for everything a user can mend; before the
            first trial, unless the world changed meanwhile.
    """
    with session.opened(job, _starts(job), fresh=fresh) as opened:
        winner = _search(job, opened)
        if job.refit:
            console.print(f"Training with the point of trial {winner.index} on the whole training list.")
            train.run(_refit(job, opened.folder, winner), fresh=False)


def _search(job: spec.TuneJob, opened: session.Session) -> Trial:
    """Run what is left of the trials, write the report; the best trial."""
    from rsrnet_platform.search import report

    journal = Journal(opened.attempt)
    plan = Plan(job, journal)
    with opened.tracker() as parent:
        what = f"Searching {job.name}: {plan.total} trials of {job.search.folds} folds"
        trials = session.run_trials(opened, what, journal, plan, parent)
        report.write(trials, job.search.metric, job.name, opened.attempt / REPORT)
        parent.log_folder(opened.attempt / REPORT, REPORT)
        console.print(report.summary(trials, job.search.metric))
        console.print(f"Report: {opened.attempt / REPORT / 'report.md'}")
        winner = best(trials)
        if winner is None:
            raise UserError(
                f"No trial of {job.name} was trained to the end: {trials[0].error if trials else 'none began'}"
            )
        _log_winner(parent, winner)
    return winner


class Plan:
    """Which trials are left, in the order to run them: the unfinished ones of an earlier start first.

    Args:
        job: the search.
        journal: what was done already.
    """

    def __init__(self, job: spec.TuneJob, journal: Journal) -> None:
        self._job = job
        self._journal = journal
        self._space = space.parse(job.space)
        self._points = points.planned(self._space, job.search, spec.paper_values(self._space))
        self.total = points.count(self._space, job.search, self._points[0])
        trials = journal.in_order()
        # What was begun is finished, also where fewer trials are asked for now; what failed is tried again.
        self.total = max(self.total, *(trial.index + 1 for trial in trials), 0)
        done = [trial for trial in trials if trial.status not in ("running", "failed")]
        self._waiting = [index for index in range(self.total) if index not in {trial.index for trial in done}]
        begun = [*self._points, *(trial.point for trial in trials)]
        self._proposals = (
            points.Proposals(self._space, job.search.seed, done, begun, self.total)
            if job.search.algorithm == "optuna"
            else None
        )

    @property
    def left(self) -> int:
        """How many trials there are to run."""
        return len(self._waiting)

    @property
    def most_epochs(self) -> int:
        """Epochs of the longest trial, over all folds."""
        domain = self._space.get("fit.epochs")
        paper = spec.training(self._job, self._points[0], self._job.name)
        return self._job.search.folds * max((paper.fit.epochs, *(domain.values if domain else ())))

    def next(self) -> tuple[int, Point] | None:
        """Number and point of the next trial; None when there are no more."""
        if not self._waiting:
            return None
        index = self._waiting.pop(0)
        if (begun := self._journal.trials.get(index)) is not None:
            return index, begun.point
        if self._proposals is None or index < len(self._points):
            return index, self._points[index]
        point = self._proposals.ask(index)
        if point is None:  # every point of the space was tried
            self.total = index
            self._waiting.clear()
            return None
        return index, point

    def ended(self, trial: Trial) -> None:
        """Learn from a trial that ended."""
        if self._proposals is not None:
            self._proposals.tell(trial)


def _refit(job: spec.TuneJob, folder: runs.Run, winner: Trial) -> spec.TrainJob:
    """The training with the best point; more trials, or a fresh start, may find another and train that."""
    name = f"{job.name}-trial-{winner.index}-{folder.state.attempt_id[:6]}"
    refit = spec.training(job, winner.point, name)
    return replace(refit, description=f"Best point of the search {job.name}: trial {winner.index}")


def _starts(job: spec.TuneJob) -> list[spec.TrainJob]:
    """A training for each start of the encoder that the search may ask for, the paper's point's first."""
    domains = space.parse(job.space)
    wanted = {
        path: domain.values
        for path, domain in domains.items()
        if path in ("fit.encoder_weights", "model.depth", "model.width") and domain.listed
    }
    combinations = [dict(zip(wanted, values, strict=True)) for values in product(*wanted.values())]
    return [spec.training(job, point, job.name) for point in [spec.paper_values(domains), *combinations]]


def _log_winner(parent: Tracker, winner: Trial) -> None:
    """What was found, where the search's run shows it."""
    scores = {"objective": winner.objective, "objective_std": winner.spread}
    parent.log_epoch(0, {key: value for key, value in scores.items() if value is not None})
    parent.set_tags({"best_trial": str(winner.index), "best_point": str(dict(winner.point))})
