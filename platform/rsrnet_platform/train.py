"""`kind: train`: check everything, train on Ray or in this process, register the best checkpoint."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rsrnet_platform import cluster, preflight, provenance, registry, runs, spec
from rsrnet_platform.files import telling_of_full_disk
from rsrnet_platform.interruption import Stopped, graceful
from rsrnet_platform.outage import patiently
from rsrnet_platform.preload import preload
from rsrnet_platform.progress import PROGRESS, follow
from rsrnet_platform.store import prepare, probe
from rsrnet_platform.terminal import console
from rsrnet_platform.tracking import Tracker

if TYPE_CHECKING:
    from rsrnet.data.naming import Composite
    from rsrnet_platform.worker import Task


def run(job: spec.TrainJob, *, fresh: bool) -> None:
    """Train, or go on, or say that it is done.

    Args:
        job: a checked job.
        fresh: start over, though a run of this name exists.

    Raises:
        UserError: (and the other errors of ``errors.USER_ERRORS``) for everything a user can mend; before the
            first epoch, unless the world changed meanwhile.
    """
    with telling_of_full_disk(job.storage), runs.hold(job.storage, job.name) as folder:
        if not fresh:
            folder.require_same_settings(job)
            if folder.state.status == "finished":
                where = folder.state.model_uri or folder.where
                console.print(f"{job.name} is trained already: {where}. --fresh trains it again.")
                return
        split = preflight.read_lists(job)
        probe(job.tracking)
        preload("torch", "mlflow")
        with cluster.connect(job.cluster) as place:
            preflight.require_shared(place, "storage", job.storage)
            preflight.try_weights(job, folder, fresh)
            preflight.try_compiler(job, place)
            data = preflight.inspect_images(job, split, None if fresh else folder.state.data)
            uri = prepare(job.tracking)
            if fresh:
                Tracker.give_up(uri, job.tracking, folder.state.attempt_id)
            folder.begin(job, data, fresh=fresh)
            console.print(f"Training {job.name} with {place}: {data.train} images, {data.val} to validate.")
            _train(job, folder, split.val, uri, place)


def _train(
    job: spec.TrainJob, folder: runs.Run, val: Sequence[Composite], uri: str, place: cluster.Cluster
) -> None:
    """Track, train, choose the score's threshold, register."""
    from rsrnet.checkpoint import read_card
    from rsrnet_platform.calibration import calibrate
    from rsrnet_platform.models.gate import gate_of, images_by_subset, scores_by_subset
    from rsrnet_platform.worker import Task

    data = folder.data
    tags = provenance.tags(data)
    note = {"mlflow.note.content": job.description}
    with Tracker.of_attempt(
        uri,
        job.tracking,
        job.name,
        folder.state.attempt_id,
        params=spec.flatten(job),
        tags=tags | note,
        job_yaml=spec.to_yaml(job),
    ) as tracker:
        counts = {"training": data.train, "validation": data.val, "skipped": len(data.skipped)}
        tracker.log_dataset(job.data.root, data.fingerprint, "training", counts)
        # Workers on other machines see no folder of this one.
        unsent = None if folder.storage else str(folder.folder / folder.attempt / "unsent")
        task = Task(job, uri, tracker.run_id, frozenset(data.skipped), unsent)
        best = _fit(task, folder, place)
        card = read_card(best)
        console.print(f"Best epoch: {card.epoch}, validation IoU {card.metrics['val/iou']:.3f}.")
        usable = [each for each in val if each.path not in task.skipped]
        if folder.storage and len(place.nodes) > 1:
            # This process has the checkpoint; whether its machine has a GPU as the workers' have, nobody promised.
            place = cluster.this_process(replace(job.cluster, accelerator="auto"))
        calibrate(best, job, usable, place)
        model_uri = None
        if job.tracking.model is not None:
            parts = folder.folder / folder.attempt / "gate"
            gate = gate_of(job, best, usable, data.val_fingerprint, place, uri, parts)
            tracker.flush()  # the version tells how many images the run was given
            scores = scores_by_subset(gate.rows)
            counts_by_subset = images_by_subset(gate.rows)
            version = patiently(
                lambda: registry.register(
                    uri,
                    tracker.run_id,
                    best,
                    job.tracking,
                    metrics=card.metrics | scores,
                    tags=tags | counts_by_subset,
                    job_yaml=spec.to_yaml(job),
                    judge=gate,
                ),
                job.tracking.patience,
                console.print,
            )
            shutil.rmtree(parts)
            model_uri = version.uri
            champion = "champion" if version.champion else "not champion"
            console.print(f"Registered as {version.uri}, {champion}: {version.reason}.")
    folder.update(status="finished", model_uri=model_uri)


def _fit(task: Task, folder: runs.Run, place: cluster.Cluster) -> Path:
    """Train up to the last epoch; the folder of the best checkpoint.

    Raises:
        SystemExit: if a signal ended it.
    """
    attempt = folder.folder / folder.attempt
    with graceful(task.job.cluster.grace, console) as interruption:
        try:
            with follow(attempt / PROGRESS, console):
                if place.address is not None:
                    from rsrnet_platform.ray_train import fit

                    best = fit(task, folder, place, interruption)
                else:
                    from rsrnet_platform.host import LocalHost
                    from rsrnet_platform.worker import train

                    host = LocalHost(attempt, place.use_gpu, interruption)
                    train(task, host)
                    best = host.best()
            if interruption.asked():  # behind the last look of the training itself
                raise Stopped("Stopped after the last epoch. The same job goes on from there.")
            return best
        except Stopped as stopped:
            console.print(str(stopped))
            sys.exit(interruption.exit_code)
