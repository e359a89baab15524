"""`kind: robustness`: the scores again under six corruptions of the images, at five strengths each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rsrnet_platform import evaluate, spec
from rsrnet_platform.store import resolve_uri
from rsrnet_platform.terminal import console

if TYPE_CHECKING:
    from rsrnet_platform.evaluation.robustness import Outcome


def run(job: spec.RobustnessJob, *, fresh: bool) -> None:
    """Score clean and corrupted images; a job that was killed goes on, one that is finished is done again.

    Args:
        job: a checked job.
        fresh: do not go on with what a killed job left.

    Raises:
        UserError: (and the other errors of ``errors.USER_ERRORS``) for everything a user can mend; before the
            first image, except that images which cannot be decoded are told together after the last.
    """
    subject = evaluate.find_model(job.model, resolve_uri(job.tracking))
    with evaluate.session(job, subject, "Corrupting and scoring", fresh=fresh) as begun:
        _corrupt(begun)


def _corrupt(begun: evaluate.Session[spec.RobustnessJob]) -> None:
    from rsrnet.evaluation.robustness import RobustnessEvaluator
    from rsrnet_platform.evaluation import robustness as report

    job = begun.job
    rows = evaluate.score(begun, evaluate.measuring(job, kind=RobustnessEvaluator, native=False))
    usable = evaluate.usable_rows(rows, begun.composites, job.data.on_bad_image)
    outcome = report.Outcome(job.name, begun.subject.uri, job.data.size, usable)
    if job.pictures:
        _draw_sheets(begun, outcome)
    report.write(outcome, rows, begun.results)
    begun.tracker.log_epochs(report.metrics(outcome))
    evaluate.publish(begun, report.sheets(outcome))
    for sentence in report.sentences(outcome):
        console.print(sentence)


def _draw_sheets(begun: evaluate.Session[spec.RobustnessJob], outcome: Outcome) -> None:
    from rsrnet import checkpoint
    from rsrnet_platform.evaluation import robustness as report
    from rsrnet_platform.pictures import by_rank

    chosen = by_rank(outcome.rows, report.clean_f1, begun.job.pictures)
    by_path = {composite.path: composite for composite in begun.composites}
    composites = [by_path[row["path"]] for row in chosen]
    model = checkpoint.load_model(begun.subject.folder)
    report.draw_sheets(outcome, model, begun.job.data.root, composites, chosen, begun.results)
