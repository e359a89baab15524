"""`kind: predict`: masks, overlays and a table for any number of images, with a registered model.

Written into the output, a folder or a URI::

    masks/NAME.png          the regions, or the probability of each pixel, at the image's own size
    overlays/NAME.png       if asked for: the region tinted and outlined on the image
    predictions.parquet     one row an image; an image that cannot be read has its error there
    predict.yaml            the job
    .rsrnet/                what the job needs to go on when it is started again

Every file appears whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from rsrnet_platform import cluster, preflight, spec
from rsrnet_platform.errors import UserError
from rsrnet_platform.evaluate import find_model
from rsrnet_platform.prediction import ledger, stream
from rsrnet_platform.prediction.inputs import find_images
from rsrnet_platform.prediction.listing import items_of
from rsrnet_platform.prediction.outcome import Outcome
from rsrnet_platform.prediction.output import TABLE, Output, hold, settings_of
from rsrnet_platform.prediction.stages import Batch, Model, Settings
from rsrnet_platform.store import resolve_uri
from rsrnet_platform.terminal import console

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["TABLE", "run"]


def run(job: spec.PredictJob, *, fresh: bool) -> None:
    """Predict; a job that was killed goes on, and one that is finished does what is new.

    Args:
        job: a checked job.
        fresh: remove what an earlier job left at the output first.

    Raises:
        UserError: if the model or the images cannot be found, the output cannot be written or is another job's, or
            too many images cannot be read.
    """
    model = _find_model(job)
    with hold(job.output) as output:
        output.require_own()
        settings = settings_of(job, model)
        if not fresh:
            output.require_same(settings)
        images = find_images(job.input, job.output)
        done = _done(output, images, fresh, overlays=job.overlays)
        outcome = Outcome(done.true_count, job.max_error_fraction)
        if done.true_count < images.num_rows:
            with cluster.connect(job.cluster) as place:
                _require_room_to_read(place)
                preflight.require_shared(place, "output", job.output)
                output.begin(job, settings, fresh=fresh)
                _say_what_begins(images.num_rows, done.true_count, model, place)
                _predict(job, model, _left(images, done, _at_once(job)), place, outcome, images.num_rows)
        elif output.finished:
            console.print(f"All {images.num_rows:,} images are done already: {job.output}.")
            return
        output.finish()
        _summarise(outcome, job)
        outcome.require_few_errors()


def _find_model(job: spec.PredictJob) -> Model:
    from rsrnet import checkpoint

    subject = find_model(job.model, resolve_uri(job.tracking))
    detection = checkpoint.read_card(subject.folder).detection
    return Model(
        subject.uri, subject.digest, subject.size, None if detection is None else detection.threshold
    )


def _done(output: Output, images: pa.Table, fresh: bool, *, overlays: bool) -> pa.Array:
    """Which images an earlier start did."""
    import pyarrow as pa

    if fresh:
        return pa.array([False] * images.num_rows)
    ledger.merge(output.storage)
    return ledger.keep_done(output.storage, images, overlays=overlays)


def _at_once(job: spec.PredictJob) -> int:
    """Images of a batch. With a window each is one by itself: it can become any number of the network's inputs."""
    return 1 if job.window else job.batch_size


def _left(images: pa.Table, done: pa.Array, size: int) -> Iterator[Batch]:
    """What is left to do of the batches of the whole list: of an image the same number, whatever is done."""
    import numpy as np
    import pyarrow as pa

    numbers = np.flatnonzero(~done.to_numpy(zero_copy_only=False))
    left = items_of(images.take(pa.array(numbers)))
    for number, group in groupby(zip(numbers // size, left, strict=True), key=lambda each: each[0]):
        yield Batch(int(number), tuple(item for _, item in group))


def _predict(
    job: spec.PredictJob,
    model: Model,
    batches: Iterator[Batch],
    place: cluster.Cluster,
    outcome: Outcome,
    total: int,
) -> None:
    settings = Settings(
        model, job.output, job.threshold, job.min_region, job.window, job.masks, overlays=job.overlays
    )
    options = {
        "device": "cuda" if place.use_gpu else "cpu",
        "batch_size": job.batch_size,
        "flip": job.flip,
        "window": job.window,
    }
    network = (model.uri, resolve_uri(job.tracking), options, job.cluster.cpus_per_worker)
    columns = (BarColumn(), MofNCompleteColumn(), _Speed(), TimeRemainingColumn())
    with Progress(TextColumn("Images"), *columns, console=console) as bar:
        task = bar.add_task("Images", total=total, completed=outcome.images)
        for done in stream.predict(batches, settings, network, place, job.cluster.max_failures):
            bar.advance(task, done.images)
            outcome.add(done)


class _Speed(ProgressColumn):
    """How fast it goes."""

    def render(self, task: Task) -> Text:
        """Images a second."""
        return Text(f"{task.speed:.1f} images/s" if task.speed else "")


def _require_room_to_read(place: cluster.Cluster) -> None:
    """Refuse to give every processor to the model: Ray Data would wait without a word for one to read on.

    Raises:
        UserError: naming the number of workers that fits.
    """
    if place.address is None:
        return
    room = place.pool_room
    if not 0 < place.workers <= room:
        remedy = (
            f"set cluster.workers to {room}" if room else "set cluster.workers to 0, which needs no cluster"
        )
        raise UserError(
            f"cluster.workers = {place.workers}: one CPU must stay free for reading images; {remedy}."
        )


def _say_what_begins(images: int, done: int, model: Model, place: cluster.Cluster) -> None:
    there = f", {done:,} of which are done already" if done else ""
    console.print(f"Predicting {images:,} images{there} with {model.uri}: {place}.")


def _summarise(outcome: Outcome, job: spec.PredictJob) -> None:
    console.print(f"{outcome.images - outcome.errors:,} masks; the table is {job.output}/{TABLE}.")
    for line in outcome.lines():
        console.print(line)
