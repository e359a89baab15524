"""The gate: a candidate and the champion on the same images in the same job, compared image by image.

Both see the candidate's validation images, decoded from the same files, each at the input size that it was trained
at. The candidate wins if its mean IoU (M_fnl, published protocol: what ``val/iou`` is) is above the champion's by more
than the paired bootstrap spread over photographs, see :mod:`rsrnet.evaluation.bootstrap`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from textwrap import shorten
from typing import TYPE_CHECKING

from rsrnet.evaluation.published import ALL
from rsrnet_platform.cluster import Cluster
from rsrnet_platform.errors import is_user_error
from rsrnet_platform.evaluate import Subject, find_model
from rsrnet_platform.evaluation.scoring import Measuring, Model, score_watched
from rsrnet_platform.outage import UnreachableError
from rsrnet_platform.promotion import Verdict

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from rsrnet.data.naming import Composite
    from rsrnet.evaluation.bootstrap import Difference
    from rsrnet.evaluation.measure import Row
    from rsrnet.evaluation.summary import Slice
    from rsrnet_platform import spec


@dataclass
class Gate:
    """Compares a candidate with whoever is champion; nobody is scored twice."""

    candidate: Subject
    validation: str | None
    """Fingerprint of the images."""

    composites: Sequence[Composite]
    how: Measuring
    place: Cluster
    max_failures: int
    store: str
    """URI of the tracking store."""

    parts: Path
    """Folder that keeps rows, for a job that is killed and started again."""

    _rows: dict[tuple[str, int], list[Row]] = field(default_factory=dict, init=False)

    @property
    def rows(self) -> list[Row]:
        """The candidate's scores on each image that can be used."""
        return [row for row in self._score(self.candidate, "The candidate") if not row["error"]]

    def __call__(self, champion: ModelVersion) -> Verdict:
        """Compare the candidate with a champion."""
        number = champion.version
        forced = f"`rsrnet models promote {champion.name}/N --force` promotes a version without a comparison"
        try:
            subject = find_model(f"models:/{champion.name}/{number}", self.store)
            theirs = self._score(subject, f"The champion, version {number}")
        except Exception as error:
            if not is_user_error(error) or isinstance(error, UnreachableError):
                raise
            why = shorten(str(error), 300)
            return Verdict(
                False, f"the champion, version {number}, could not be scored ({why}) and stays; {forced}"
            )
        ours = self._score(self.candidate, "The candidate")
        pairs = [pair for pair in zip(ours, theirs, strict=True) if not any(row["error"] for row in pair)]
        if not pairs:
            return Verdict(False, f"none of the validation images could be read; {forced}")
        verdict = _judge(pairs, number, forced)
        if champion.tags.get("validation_fingerprint") == self.validation:
            return verdict
        doubt = (
            "the champion was validated on other images, and may have been trained on some of these"
            if "validation_fingerprint" in champion.tags
            else "on which images the champion was trained is not known"
        )
        return replace(verdict, reason=f"{verdict.reason}; {doubt}")

    def _score(self, subject: Subject, what: str) -> list[Row]:
        key = (subject.digest, subject.size)
        if key not in self._rows:
            self._rows[key] = score_watched(
                Model(subject.uri, self.store),
                replace(self.how, size=subject.size),
                self.composites,
                self.place,
                self.max_failures,
                self.parts / f"rows-{subject.digest[:16]}-{subject.size}",
                what,
            )
        return self._rows[key]


def gate_of(
    job: spec.TrainJob,
    candidate: str | Path,
    composites: Sequence[Composite],
    validation: str | None,
    place: Cluster,
    store: str,
    parts: Path,
) -> Gate:
    """The gate of a training's model.

    Args:
        job: the training.
        candidate: folder of its checkpoint, or URI of its registered version.
        composites: its validation images.
        validation: their fingerprint.
        place: where to compute.
        store: URI of the tracking store.
        parts: a folder for rows, where this candidate and the champions are scored on these images only.
    """
    how = Measuring(
        root=job.data.root,
        size=job.data.size,
        native=False,
        precision=job.fit.precision,
        batch_size=-(-job.fit.batch_size // job.cluster.least_workers),  # as it was validated
        threads=max(1, job.data.loader_processes),
    )
    subject = find_model(str(candidate), store)
    return Gate(subject, validation, composites, how, place, job.cluster.max_failures, store, parts)


def scores_by_subset(rows: Sequence[Row]) -> dict[str, float]:
    """Mean scores by sub-dataset, such as ``val/HCOCO/iou``."""
    from rsrnet.evaluation.columns import PAPERS

    return {
        f"val/{part.name}/{metric}": value
        for part in _slices(rows)
        for metric, value in part.scores(PAPERS)._asdict().items()
        if part.name != ALL  # the training knows its own, under shorter names
    }


def images_by_subset(rows: Sequence[Row]) -> dict[str, str]:
    """Tags with the number of images, such as ``val/HCOCO/images``, and of all, ``val/images``."""
    names = {part.name: f"val/{part.name}/images" for part in _slices(rows)} | {ALL: "val/images"}
    return {names[part.name]: str(part.images) for part in _slices(rows)}


def _slices(rows: Sequence[Row]) -> list[Slice]:
    from rsrnet.evaluation.columns import PAPERS
    from rsrnet.evaluation.summary import summarise

    return summarise(rows, [PAPERS])


def _judge(pairs: Sequence[tuple[Row, Row]], number: str, forced: str) -> Verdict:
    from rsrnet.evaluation.bootstrap import paired_difference
    from rsrnet.evaluation.columns import PAPERS

    column = PAPERS.column("iou")
    ours = [row[column] for row, _ in pairs]
    theirs = [row[column] for _, row in pairs]
    found = paired_difference(ours, theirs, [row["group"] for row, _ in pairs])
    reason = _reason(found, fmean(ours), fmean(theirs), number, forced)
    return Verdict(found.beats, reason, found.difference, found.spread)


def _reason(found: Difference, ours: float, theirs: float, number: str, forced: str) -> str:
    scores = f"IoU {ours:.4f}, that of the champion (version {number}) {theirs:.4f}"
    if math.isnan(found.difference):
        return f"{scores}: they cannot be compared; {forced}"
    if found.photographs < 2:
        return f"{scores}, on composites of a single photograph, which says nothing about others; {forced}"
    relation = "above" if found.beats else "not above"
    return (
        f"{scores}: the difference of {found.difference:+.4f} is {relation} the spread of {found.spread:.4f} "
        f"({found.images:,} images of {found.photographs:,} photographs)"
    )
