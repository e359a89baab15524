"""`kind: iterations`: what more or fewer iterations than the trained K are worth, and early exit."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from rsrnet_platform import evaluate, spec
from rsrnet_platform.errors import UserError
from rsrnet_platform.store import resolve_uri
from rsrnet_platform.terminal import console

if TYPE_CHECKING:
    from rsrnet.evaluation.measure import Row
    from rsrnet_platform.evaluation.iterations import Outcome

TIMED_IMAGES = 64
"""Images that are timed with and without early exit."""


def run(job: spec.IterationsJob, *, fresh: bool) -> None:
    """Score every K, and early exit; a job that was killed goes on, one that is finished is done again.

    Args:
        job: a checked job.
        fresh: do not go on with what a killed job left.

    Raises:
        UserError: (and the other errors of ``errors.USER_ERRORS``) for everything a user can mend; before the
            first image, except that images which cannot be decoded are told together after the last.
    """
    subject = evaluate.find_model(job.model, resolve_uri(job.tracking))
    trained = _trained(job, subject)
    with evaluate.session(job, subject, "Iterating", fresh=fresh) as begun:
        _iterate(begun, trained)


def _trained(job: spec.IterationsJob, subject: evaluate.Subject) -> int:
    """K of the training.

    Raises:
        IterationsError: if the network has no RSR module.
        UserError: if the job asks for fewer.
    """
    from rsrnet import checkpoint

    checkpoint.load_model(subject.folder).check(job.iterations)
    trained = checkpoint.read_card(subject.folder).model.iterations
    if job.iterations < trained:
        raise UserError(
            f"iterations = {job.iterations}: {subject.uri} was trained with {trained}; give at least as many"
        )
    return trained


def _iterate(begun: evaluate.Session[spec.IterationsJob], trained: int) -> None:
    from rsrnet.evaluation.iterations import IterationEvaluator, early_exit, lists_of
    from rsrnet_platform.evaluation import iterations as report

    job = begun.job
    how = evaluate.measuring(
        job, kind=IterationEvaluator, options={"iterations": job.iterations}, native=False
    )
    rows = evaluate.score(begun, how)
    usable = evaluate.usable_rows(rows, begun.composites, job.data.on_bad_image)
    lists = lists_of(usable)
    times = _time(begun, trained, usable) if job.tolerances else []
    outcome = report.Outcome(
        name=job.name,
        model=begun.subject.uri,
        size=job.data.size,
        trained=trained,
        rows=usable,
        lists=lists,
        exits=[early_exit(lists, tolerance, trained) for tolerance in job.tolerances],
        times=times,
    )
    if job.pictures:
        _draw_strips(begun, outcome)
    report.write(outcome, rows, begun.results)
    begun.tracker.log_epochs(report.metrics(outcome))
    evaluate.publish(begun, report.sheets(outcome))
    for sentence in report.sentences(outcome):
        console.print(sentence)


def _time(
    begun: evaluate.Session[spec.IterationsJob], trained: int, usable: list[Row]
) -> list[dict[str, Any]]:
    """Time the ways beside each other, on one worker that has its machine's processors to itself."""
    from rsrnet.evaluation.iterations import Stopwatch
    from rsrnet_platform import pool
    from rsrnet_platform.evaluation import scoring
    from rsrnet_platform.pictures import evenly

    job = begun.job
    by_path = {composite.path: composite for composite in begun.composites}
    images = [by_path[row["path"]] for row in evenly(usable, TIMED_IMAGES)]
    ways = {"iterations": trained, "tolerances": job.tolerances}
    how = evaluate.measuring(job, kind=Stopwatch, options=ways)
    place = begun.place
    make = partial(scoring.evaluator, begun.model, how, place.use_gpu, place.cpus_per_worker)
    with console.status(f"Timing {len(images)} images with and without early exit"):
        ((_, times),) = pool.deal(place, make, [images], job.cluster.max_failures)
    return times


def _draw_strips(begun: evaluate.Session[spec.IterationsJob], outcome: Outcome) -> None:
    from rsrnet import checkpoint
    from rsrnet_platform.evaluation import iterations as report
    from rsrnet_platform.pictures import by_rank

    chosen = by_rank(outcome.rows, outcome.f1_of, begun.job.pictures)
    by_path = {composite.path: composite for composite in begun.composites}
    composites = [by_path[row["path"]] for row in chosen]
    model = checkpoint.load_model(begun.subject.folder)
    report.draw_strips(outcome, model, begun.job.data.root, composites, chosen, begun.results)
