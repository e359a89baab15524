"""`kind: evaluate`: score a model on a list of composites, image by image, beside the paper's numbers."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.progress import Progress

from rsrnet.data.config import DataConfig
from rsrnet_platform import cluster, provenance, runs, spec
from rsrnet_platform.lookup import pin, resolve
from rsrnet_platform.runs import Data
from rsrnet_platform.store import prepare, probe, resolve_uri
from rsrnet_platform.terminal import console, duration
from rsrnet_platform.tracking import Tracker

if TYPE_CHECKING:
    from rsrnet.data.naming import Composite
    from rsrnet.evaluation.measure import Row
    from rsrnet_platform.evaluation.report import Outcome

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


def run(job: spec.EvaluateJob, *, fresh: bool) -> None:
    """Evaluate; an evaluation that was killed goes on, one that is finished is done again.

    Args:
        job: a checked job.
        fresh: do not go on with what a killed job left.

    Raises:
        UserError: (and the other errors of ``errors.USER_ERRORS``) for everything a user can mend; before the
            first image, except that images which cannot be decoded are told together after the last.
    """
    subject = find_model(job.model, resolve_uri(job.tracking))
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
            console.print(f"Evaluating {subject.uri} on {len(composites):,} images: {place}.")
            _evaluate(job, subject, folder, uri, place, composites, trained)


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


def images_of(data: DataConfig, split: str, seed: int) -> tuple[list[Composite], frozenset[str]]:
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
        except DataError:  # of a dataset that is only tested on
            training = []
    else:
        both = read_train_val(data, seed)
        composites, training = (both.val, both.train) if split == "val" else (both.train, [])
    require_files(data.root, composites)
    return composites, frozenset(f"{each.subset}/{each.image_id}" for each in training)


def begin(
    folder: runs.Run, job: spec.EvaluateJob, composites: Sequence[Composite], uri: str, *, fresh: bool
) -> None:
    """Go on with a killed attempt at the same evaluation, or begin one."""
    from rsrnet.data.lists import fingerprint

    identity = fingerprint(job.data.root, composites)
    data = Data(identity, identity, 0, len(composites), [])
    killed = folder.state.status == "running"
    if killed and not fresh and folder.state.data == data and not folder.changed_settings(job):
        return
    if killed:
        Tracker.give_up(uri, job.tracking, folder.state.attempt_id)
    folder.begin(job, data, fresh=True)


def _evaluate(
    job: spec.EvaluateJob,
    subject: Subject,
    folder: runs.Run,
    uri: str,
    place: cluster.Cluster,
    composites: Sequence[Composite],
    trained: frozenset[str],
) -> None:
    from rsrnet.evaluation.columns import settings
    from rsrnet.evaluation.summary import summarise
    from rsrnet_platform.evaluation import report, tables

    results = folder.folder / folder.attempt / RESULTS
    with Tracker.of_attempt(
        uri,
        job.tracking,
        job.name,
        folder.state.attempt_id,
        params=spec.flatten(job),
        tags=provenance.tags(folder.data)
        | {"mlflow.note.content": job.description, "model": subject.uri, "model_sha256": subject.digest},
        job_yaml=spec.to_yaml(job),
    ) as tracker:
        rows = _score(job, subject, folder, place, composites)
        usable = usable_rows(rows, composites, job.data.on_bad_image)
        scored = settings(job.native)
        slices = summarise(usable, scored, trained)
        outcome = report.Outcome(
            job.name, subject.uri, usable, slices, scored, tables.sheets(slices, scored, job.data.size)
        )
        report.write(outcome, rows, results)
        if job.pictures:
            _draw_examples(job, subject, outcome, composites, results)
        tracker.log_epoch(0, report.metrics(outcome))
        tracker.log_folder(results, RESULTS)
        out = Console(highlight=False)
        for sheet in outcome.sheets:
            out.print(sheet.for_terminal())
        console.print(f"Scores of every image, tables and pictures: {results}")
    shutil.rmtree(_parts(folder, subject))
    folder.update(status="finished")


def _score(
    job: spec.EvaluateJob,
    subject: Subject,
    folder: runs.Run,
    place: cluster.Cluster,
    composites: Sequence[Composite],
) -> list[Row]:
    """Rows of all images, with a progress bar."""
    from rsrnet_platform.evaluation.scoring import Measuring, Model, score

    measuring = Measuring(
        root=job.data.root,
        size=job.data.size,
        native=job.native,
        precision=job.precision,
        batch_size=job.batch_size,
        threads=max(1, job.data.loader_processes),
    )
    began = time.monotonic()
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("Images", total=len(composites))
        rows = score(
            Model(subject.uri, resolve_uri(job.tracking)),
            measuring,
            composites,
            place,
            job.cluster.max_failures,
            _parts(folder, subject),
            lambda done: bar.update(task, completed=done),
        )
    console.print(f"{len(rows):,} images in {duration(time.monotonic() - began)}.")
    return rows


def _parts(folder: runs.Run, subject: Subject) -> Path:
    """Where the rows of a running evaluation are kept; another model at the same place finds none."""
    return folder.folder / folder.attempt / f"rows-{subject.digest[:16]}"


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


def _draw_examples(
    job: spec.EvaluateJob,
    subject: Subject,
    outcome: Outcome,
    composites: Sequence[Composite],
    results: Path,
) -> None:
    from rsrnet import checkpoint
    from rsrnet_platform.evaluation import report

    model = checkpoint.load_model(subject.folder)
    report.draw_examples(outcome, model, job.data.root, composites, job.data.size, job.pictures, results)
