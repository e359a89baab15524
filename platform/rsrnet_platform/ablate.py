"""`kind: ablate`: train and test every row of the paper's Table 2 alike, print Tables 2 and 3 beside the paper's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.progress import Progress

from rsrnet_platform import evaluate, spec
from rsrnet_platform.ablation import rows
from rsrnet_platform.errors import UserError
from rsrnet_platform.search import session
from rsrnet_platform.search.trials import Journal, Point, Trial
from rsrnet_platform.terminal import console
from rsrnet_platform.tracking import Tracker

if TYPE_CHECKING:
    from rsrnet.data.naming import Composite
    from rsrnet.evaluation.measure import Row

MODELS, SCORES, RESULTS = "models", "scores", "ablation"
"""Folders in that of the attempt: a checkpoint for each training, the rows of its test images, the report (also
among the artifacts of the MLflow run)."""


def run(job: spec.AblateJob, *, fresh: bool) -> None:
    """Train and test what is left of the rows, or say again what was found.

    Args:
        job: a checked job.
        fresh: start over, though an ablation of this name exists.

    Raises:
        UserError: (and the other errors of ``errors.USER_ERRORS``) for everything a user can mend; before the
            first training, unless the world changed meanwhile.
    """
    test, _ = evaluate.images_of(job.data, "test", job.fit.seed)
    with session.opened(job, [spec.training(job, {}, job.name)], test, fresh=fresh) as opened:
        journal = Journal(opened.attempt)
        plan = Plan(job, journal)
        folders = {index: opened.attempt / MODELS / rows.name(point) for index, point in plan.points.items()}
        with opened.tracker() as parent:
            what = f"Ablation {job.name}: {plan.total} trainings of {job.fit.epochs} epochs"
            trials = session.run_trials(opened, what, journal, plan, parent, folders)
            done = {trial.index: folders[trial.index] for trial in trials if trial.status == "finished"}
            if not done:
                raise UserError(f"No row of {job.name} was trained to the end: {trials[0].error}")
            tested = _test(job, opened, done, test)
            _tell(job, opened, parent, trials, folders, tested)


class Plan:
    """Every training in the order of its number; no point is searched, so that each row gets the same.

    Args:
        job: the ablation.
        journal: what was done already. What was begun is finished, also where fewer rows are asked for now; what
            failed is tried again.
    """

    def __init__(self, job: spec.AblateJob, journal: Journal) -> None:
        begun = {trial.index: trial.point for trial in journal.in_order()}
        ended = {trial.index for trial in journal.in_order() if trial.status not in ("running", "failed")}
        self.points: dict[int, Point] = rows.points(job.rows, job.repeats, job.fit.seed) | begun
        self.most_epochs = job.fit.epochs
        self._waiting = [index for index in sorted(self.points) if index not in ended]

    @property
    def total(self) -> int:
        """How many trainings there will be."""
        return len(self.points)

    @property
    def left(self) -> int:
        """How many are to run."""
        return len(self._waiting)

    def next(self) -> tuple[int, Point] | None:
        """Number and point of the next one; None when there are no more."""
        if not self._waiting:
            return None
        index = self._waiting.pop(0)
        return index, self.points[index]

    def ended(self, trial: Trial) -> None:
        """Nothing: what comes does not depend on it."""


def _test(
    job: spec.AblateJob, opened: session.Session, models: Mapping[int, Path], test: Sequence[Composite]
) -> dict[int, list[Row]]:
    """Rows of the test images that can be used, for each training; those of an earlier start are kept."""
    from rsrnet.data.lists import fingerprint
    from rsrnet_platform.ablation.testing import score_models
    from rsrnet_platform.evaluation.scoring import Measuring
    from rsrnet_platform.search.ray_tune import concurrency

    measuring = Measuring(
        root=job.data.root,
        size=job.data.size,
        native=False,
        precision=job.fit.precision,
        threads=max(1, job.data.loader_processes),
    )
    place = replace(opened.place, workers=concurrency(job, opened.place) * job.cluster.workers)
    # Other images under the same names have other rows.
    scores = opened.attempt / SCORES / fingerprint(job.data.root, test)[:16]
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("Testing", total=len(models))
        every = score_models(
            models,
            measuring,
            test,
            place,
            job.cluster.max_failures,
            scores,
            lambda done: bar.update(task, completed=done),
        )
    return _usable(every, test, job.data.on_bad_image)


def _usable(
    every: Mapping[int, list[Row]], test: Sequence[Composite], on_bad_image: Literal["stop", "skip"]
) -> dict[int, list[Row]]:
    """Without the images that could not be used, be it for one model only: all rows stand on the same images.

    Raises:
        BadDataError: if there are such, and the job does not skip them, or there are only such.
    """
    bad = {row["path"]: row for found in every.values() for row in found if row["error"]}
    common = [bad.get(row["path"], row) for row in next(iter(every.values()))]
    paths = {row["path"] for row in evaluate.usable_rows(common, test, on_bad_image)}
    return {index: [row for row in found if row["path"] in paths] for index, found in every.items()}


def _tell(
    job: spec.AblateJob,
    opened: session.Session,
    parent: Tracker,
    trials: Sequence[Trial],
    models: Mapping[int, Path],
    tested: Mapping[int, Sequence[Row]],
) -> None:
    """Write the report, log what was measured, print the tables."""
    from rsrnet_platform.ablation import report, tables, trainings
    from rsrnet_platform.ablation.estimates import Measured

    by_point = {
        (trial.point[rows.ROW], trial.point[rows.SEED]): tested[trial.index]
        for trial in trials
        if trial.index in tested
    }
    measured = Measured(by_point)
    missing = [
        f"{rows.name(trial.point)} is missing: {trial.status}, {trial.error}"
        for trial in trials
        if trial.index not in tested
    ]
    outcome = report.Outcome(
        job.name,
        by_point,
        measured,
        [trainings.line(trial, models[trial.index], tested.get(trial.index)) for trial in trials],
        tables.sheets(measured),
        tables.remarks(measured, job.data.size, missing),
    )
    results = opened.attempt / RESULTS
    report.write(outcome, results)
    # A point once logged stays: more repeats are a step further.
    parent.log_epoch(measured.most_seeds, report.metrics(measured))
    parent.log_folder(results, RESULTS)
    for trial in trials:
        if trial.index in tested and trial.run_id:
            scores = trainings.means(trial.point[rows.ROW], tested[trial.index])
            child = parent.sibling(trial.run_id)
            child.log_epoch(trial.step, {f"test/{key}": value for key, value in scores.items()})
    out = Console(highlight=False, width=max(tables.WIDTH, Console().width))
    for sheet in outcome.sheets:
        out.print(sheet.for_terminal())
    for remark in outcome.remarks:
        console.print(remark)
    console.print(f"Tables, scores of every image and a picture: {results}")
