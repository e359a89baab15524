"""`kind: evaluate`: score a model on a list of composites, image by image, beside the paper's numbers."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from rich.console import Console

from rsrnet.data.config import DataConfig
from rsrnet_platform import cluster, provenance, runs, spec
from rsrnet_platform.errors import UserError
from rsrnet_platform.lookup import pin, resolve
from rsrnet_platform.models.scores import add_test_scores
from rsrnet_platform.outage import patiently
from rsrnet_platform.runs import Data
from rsrnet_platform.store import prepare, probe, resolve_uri
from rsrnet_platform.terminal import console
from rsrnet_platform.tracking import Tracker

if TYPE_CHECKING:
    from rsrnet.data.naming import Composite
    from rsrnet.evaluation.measure import Row
    from rsrnet_platform.evaluation.report import Outcome
    from rsrnet_platform.evaluation.scoring import Measuring, Model
    from rsrnet_platform.sheet import Sheet

JobT = TypeVar("JobT", bound=spec.ScoringJob)

WIDTH = 100
"""Characters of the widest table."""

RESULTS = "evaluation"
"""Folder of the results, in that of the attempt and among the artifacts of the MLflow run."""


@dataclass(frozen=True)
class Subject:
    """The model in question."""

    uri: str
    """A version, not an alias."""

    folder: Path
    """Its checkpoint."""

    digest: str
    """SHA-256 of its weights."""

    size: int
    """Side of the square input it was trained on, in pixels."""


@dataclass(frozen=True)
class Session(Generic[JobT]):
    """A job that scores a model, begun."""

    job: JobT
    """With the model's version instead of an alias."""

    subject: Subject
    place: cluster.Cluster
    composites: Sequence[Composite]
    trained: frozenset[str]
    """Photographs of the training, see :func:`images_of`."""

    tracker: Tracker
    results: Path
    """Folder of what people look at."""

    parts: Path
    """Folder of the rows so far; another model at the same place finds none."""

    @property
    def model(self) -> Model:
        """What workers load."""
        from rsrnet_platform.evaluation.scoring import Model

        return Model(self.subject.uri, resolve_uri(self.job.tracking))


def run(job: spec.EvaluateJob, *, fresh: bool) -> None:
    """Evaluate; an evaluation that was killed goes on, one that is finished is done again.

    Args:
        job: a checked job.
        fresh: do not go on with what a killed job left.

    Raises:
        UserError: (and the other errors of ``errors.USER_ERRORS``) for everything a user can mend; before the
            first image, except that images which cannot be decoded are told together after the last.
    """
    with session(job, find_model(job.model, resolve_uri(job.tracking)), "Evaluating", fresh=fresh) as begun:
        _evaluate(begun)


@contextmanager
def session(job: JobT, subject: Subject, what: str, *, fresh: bool) -> Iterator[Session[JobT]]:
    """Hold the job's folder, its workers and its MLflow run, and tidy up at the end.

    Args:
        job: a checked job.
        subject: its model.
        what: the job does, such as ``Evaluating``.
        fresh: do not go on with what a killed job left.

    Raises:
        UserError: (and the other errors of ``errors.USER_ERRORS``) for everything a user can mend.
    """
    job = replace(job, model=subject.uri)
    with runs.hold(job.storage, job.name) as folder:
        composites, trained = images_of(job.data, job.split, job.seed)
        probe(job.tracking)
        with cluster.connect(job.cluster) as place:
            uri = prepare(job.tracking)
            begin(folder, job, composites, uri, fresh=fresh)
            if subject.size != job.data.size:
                console.print(
                    f"The model was trained at {subject.size} x {subject.size}, and is scored at data.size = "
                    f"{job.data.size}."
                )
            console.print(f"{what} {subject.uri} on {len(composites):,} images: {place}.")
            attempt = folder.folder / folder.attempt
            parts = attempt / f"rows-{subject.digest[:16]}"
            with _tracker(job, subject, folder, uri) as tracker:
                counts = {"composites": len(composites)}
                tracker.log_dataset(job.data.root, folder.data.fingerprint, job.split, counts)
                yield Session(job, subject, place, composites, trained, tracker, attempt / RESULTS, parts)
            shutil.rmtree(parts)
            folder.update(status="finished")


def _tracker(job: spec.ScoringJob, subject: Subject, folder: runs.Run, uri: str) -> Tracker:
    return Tracker.of_attempt(
        uri,
        job.tracking,
        job.name,
        folder.state.attempt_id,
        params=spec.flatten(job),
        tags=provenance.tags(folder.data)
        | {"mlflow.note.content": job.description, "model": subject.uri, "model_sha256": subject.digest},
        job_yaml=spec.to_yaml(job),
    )


def find_model(model: str, tracking_uri: str) -> Subject:
    """Look a model up; an alias is pinned to the version it means now.

    Raises:
        UserError: if there is no such model.
    """
    from rsrnet import checkpoint

    uri = pin(model, tracking_uri)
    folder = resolve(uri, tracking_uri)
    digest = hashlib.sha256((folder / checkpoint.WEIGHTS).read_bytes()).hexdigest()
    checkpoint.load_model(folder)  # here, where damaged weights cost nothing
    return Subject(uri, folder, digest, checkpoint.read_card(folder).size)


def images_of(data: DataConfig, split: str, seed: int) -> tuple[Sequence[Composite], frozenset[str]]:
    """The composites of a split, and the photographs that the model was trained on, as in ``summary.photograph``.

    Raises:
        DataError: if a list is missing or names nothing.
        BadDataError: if it names files that are not there.
    """
    from rsrnet.data.errors import DataError
    from rsrnet.data.inspection import require_files
    from rsrnet.data.lists import read_list, read_train_val

    if split == "test":
        composites = read_list(data.root, data.test, data.subsets)
        try:
            training = read_list(data.root, data.train, data.subsets)
        except DataError as error:  # a dataset that is only tested on has no such list
            console.print(f"No leak-free slices: {error}.")
            training = []
    else:
        both = read_train_val(data, seed)
        composites, training = (both.val, both.train) if split == "val" else (both.train, [])
    require_files(data.root, composites)
    return composites, frozenset(f"{each.subset}/{each.image_id}" for each in training)


def begin(
    folder: runs.Run,
    job: spec.ScoringJob,
    composites: Sequence[Composite],
    uri: str,
    *,
    fresh: bool,
) -> None:
    """Go on with a killed attempt at the same evaluation, or begin one.

    Raises:
        UserError: if the name is that of a job of another kind, whose run would be lost.
    """
    from rsrnet.data.lists import fingerprint

    other = folder.state.settings.get("kind", job.kind)
    if other != job.kind:
        raise UserError(
            f"{folder.folder} holds the run of a job of kind {other}. Give this job, of kind {job.kind}, another name."
        )
    identity = fingerprint(job.data.root, composites)
    data = Data(identity, identity, 0, len(composites), [])
    killed = folder.state.status == "running"
    if killed and not fresh and folder.state.data == data and not folder.changed_settings(job):
        return
    if killed:
        Tracker.give_up(uri, job.tracking, folder.state.attempt_id)
    folder.begin(job, data, fresh=True)


def _evaluate(begun: Session[spec.EvaluateJob]) -> None:
    from rsrnet.data.lists import fingerprint
    from rsrnet.evaluation.columns import settings
    from rsrnet.evaluation.summary import summarise
    from rsrnet_platform.evaluation import report, tables

    job = begun.job
    rows = score(begun, measuring(job, native=job.native))
    usable = usable_rows(rows, begun.composites, job.data.on_bad_image)
    scored = settings(job.native)
    slices = summarise(usable, scored, begun.trained)
    outcome = report.Outcome(
        job.name, begun.subject.uri, usable, slices, scored, tables.sheets(slices, scored, job.data.size)
    )
    if job.pictures:
        _draw_examples(begun, outcome)
    report.write(outcome, rows, begun.results)
    begun.tracker.log_epoch(0, report.metrics(outcome))
    publish(begun, outcome.sheets)
    if job.split == "test":
        identity = fingerprint(job.data.root, begun.composites)
        patiently(
            lambda: add_test_scores(
                begun.tracker.uri,
                job.model,
                slices,
                fingerprint=identity,
                size=job.data.size,
                run_id=begun.tracker.run_id,
            ),
            job.tracking.patience,
            console.print,
        )


def publish(begun: Session[Any], sheets: Sequence[Sheet]) -> None:
    """Copy the results into MLflow, and show the tables."""
    begun.tracker.log_folder(begun.results, RESULTS)
    out = Console(highlight=False, width=max(WIDTH, Console().width))
    for sheet in sheets:
        out.print(sheet.for_terminal())
    console.print(f"Scores of every image, tables and pictures: {begun.results}")


def measuring(job: spec.ScoringJob, **more: Any) -> Measuring:
    """How the images of a job are scored; ``more`` are other fields of it."""
    from rsrnet_platform.evaluation.scoring import Measuring

    return Measuring(
        root=job.data.root,
        size=job.data.size,
        precision=job.precision,
        batch_size=job.batch_size,
        threads=max(1, job.data.loader_processes),
        **more,
    )


def score(begun: Session[Any], how: Measuring) -> list[Row]:
    """Rows of all images, with a progress bar."""
    from rsrnet_platform.evaluation import scoring

    return scoring.score_watched(
        begun.model, how, begun.composites, begun.place, begun.job.cluster.max_failures, begun.parts, "Scored"
    )


def usable_rows(
    rows: Sequence[Row], composites: Sequence[Composite], on_bad_image: Literal["stop", "skip"]
) -> list[Row]:
    """The rows of the images that could be scored.

    Args:
        rows: one for each composite.
        composites: in the order of the rows.
        on_bad_image: ``stop`` refuses if any could not be used.

    Raises:
        BadDataError: naming those, or if there are only such.
    """
    from rsrnet.data.inspection import BadImage, DataReport, usable

    bad = [
        BadImage(composite, row["error"])
        for composite, row in zip(composites, rows, strict=True)
        if row["error"]
    ]
    report = DataReport(len(rows), tuple(bad))
    usable(composites, report, on_bad_image)
    if bad:
        console.print(str(report))
    return [row for row in rows if not row["error"]]


def _draw_examples(begun: Session[spec.EvaluateJob], outcome: Outcome) -> None:
    from rsrnet import checkpoint
    from rsrnet_platform.evaluation import report

    model = checkpoint.load_model(begun.subject.folder)
    data = begun.job.data
    report.draw_examples(
        outcome, model, data.root, begun.composites, data.size, begun.job.pictures, begun.results
    )
