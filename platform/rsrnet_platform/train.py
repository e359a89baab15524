"""`kind: train`: check everything, train on Ray or in this process, register the best checkpoint."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import Progress

from rsrnet_platform import cluster, registry, runs, spec
from rsrnet_platform.errors import UserError
from rsrnet_platform.progress import follow
from rsrnet_platform.runs import Data
from rsrnet_platform.store import ensure_experiment, open_client, prepare, probe
from rsrnet_platform.terminal import console
from rsrnet_platform.tracking import Tracker

if TYPE_CHECKING:
    from rsrnet.data.folds import Split
    from rsrnet_platform.worker import Task

ATTEMPT_TAG = "rsrnet.attempt"
"""Tag of an MLflow run by which a job finds it again."""


def run(job: spec.TrainJob, *, fresh: bool) -> None:
    """Train, or go on, or say that it is done.

    Args:
        job: a checked job.
        fresh: start over, though a run of this name exists.

    Raises:
        UserError: (and the other errors of ``errors.USER_ERRORS``) for everything a user can mend; before the
            first epoch, unless the world changed meanwhile.
    """
    with runs.hold(job.storage, job.name) as folder:
        if not fresh:
            folder.require_same_settings(job)
            if folder.state.status == "finished":
                where = folder.state.model_uri or folder.folder
                console.print(f"{job.name} is trained already: {where}. --fresh trains it again.")
                return
        split = _read_lists(job)
        probe(job.tracking)
        with cluster.connect(job.cluster) as place:
            _try_weights(job, folder, fresh)
            data = _inspect(job, split, None if fresh else folder.state.data)
            uri = prepare(job.tracking)
            folder.begin(job, data, fresh=fresh)
            console.print(f"Training {job.name} with {place}: {data.train} images, {data.val} to validate.")
            _train(job, folder, uri, place)


def _train(job: spec.TrainJob, folder: runs.Run, uri: str, place: cluster.Cluster) -> None:
    """Track, train, register."""
    from rsrnet.checkpoint import read_card
    from rsrnet_platform.worker import Task

    data = folder.data
    tags = _tags(data)
    with _tracker(job, folder, uri, tags) as tracker:
        _log_data(tracker, data)
        progress = folder.folder / folder.attempt / "progress.jsonl"
        task = Task(job, uri, tracker.run_id, str(progress), frozenset(data.skipped))
        with follow(progress, console):
            best = _fit(task, folder, place)
        card = read_card(best)
        console.print(f"Best epoch: {card.epoch}, validation IoU {card.metrics['val/iou']:.3f}.")
        model_uri = None
        if job.tracking.model is not None:
            version = registry.register(
                uri, tracker.run_id, best, job.tracking, metrics=card.metrics, tags=tags
            )
            model_uri = version.uri
            champion = "champion" if version.champion else "not champion"
            console.print(f"Registered as {version.uri}, {champion}: {version.reason}.")
    folder.update(status="finished", model_uri=model_uri)


def _fit(task: Task, folder: runs.Run, place: cluster.Cluster) -> Path:
    """Train up to the last epoch; the folder of the best checkpoint."""
    if place.address is not None:
        from rsrnet_platform.ray_train import fit

        return fit(task, folder, place)
    from rsrnet_platform.worker import LocalHost, train

    host = LocalHost(folder.folder / folder.attempt, place.use_gpu)
    train(task, host)
    return host.best()


def _read_lists(job: spec.TrainJob) -> Split:
    from rsrnet.data.lists import read_train_val

    return read_train_val(job.data, job.fit.seed)


def _inspect(job: spec.TrainJob, split: Split, known: Data | None) -> Data:
    """Look at every image once; what a run knows of the same files already is not asked again.

    Raises:
        BadDataError: if there are images that cannot be used, and the job does not skip them.
        UserError: if the files are not those the run was started with, or too few can be used.
    """
    from rsrnet.data.inspection import inspect, usable
    from rsrnet.data.lists import fingerprint

    composites = [*split.train, *split.val]
    identity = fingerprint(job.data.root, composites)
    if known is not None:
        if identity != known.fingerprint:
            raise UserError(
                f"{job.data.root}: these are not the images that the run {job.name!r} was started with "
                f"(fingerprint {known.fingerprint[:12]}, now {identity[:12]}). Bring them back, or use --fresh."
            )
        return known
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("Checking images", total=len(composites))
        report = inspect(
            job.data.root,
            composites,
            threads=os.cpu_count() or 1,
            progress=lambda done, total: bar.update(task, completed=done),
        )
    usable(composites, report, job.data.on_bad_image)
    if report.bad:
        console.print(str(report))
    skipped = sorted(found.composite.path for found in report.bad)
    train, val = (sum(item.path not in skipped for item in part) for part in (split.train, split.val))
    if train < max(1, job.cluster.workers) or val == 0:
        raise UserError(
            f"{job.data.root}: {train} training and {val} validation images can be used; "
            "a training needs some of both, and a training image for every worker."
        )
    return Data(identity, fingerprint(job.data.root, split.val), train, val, skipped)


def _try_weights(job: spec.TrainJob, folder: runs.Run, fresh: bool) -> None:
    """Load the encoder's weights once, here, where a failure costs nothing; a download is then in the cache."""
    if job.fit.encoder_weights == "none" or (folder.state.attempt and not fresh):
        return
    from rsrnet.engine import load_start
    from rsrnet.model.network import RSRNet

    load_start(RSRNet(job.model), job.fit)


def _tracker(job: spec.TrainJob, folder: runs.Run, uri: str, tags: dict[str, str]) -> Tracker:
    """The MLflow run of this attempt: a new one, or the same one again after an interruption."""
    attempt = folder.state.attempt_id
    client = open_client(uri)
    experiment = ensure_experiment(client, uri, job.tracking.experiment)
    found = client.search_runs([experiment], f"tags.`{ATTEMPT_TAG}` = '{attempt}'")
    if found:
        tracker = Tracker.attach(uri, found[0].info.run_id)
        tracker.reopen(tags)
        return tracker
    return Tracker.create(
        job.tracking,
        job.name,
        params=spec.flatten(job),
        tags={**tags, ATTEMPT_TAG: attempt, "mlflow.note.content": job.description},
        job_yaml=spec.to_yaml(job),
    )


def _log_data(tracker: Tracker, data: Data) -> None:
    counts = {"train": data.train, "val": data.val, "skipped": len(data.skipped)}
    tracker.log_epoch(0, {f"data/{name}_images": count for name, count in counts.items()})


def _tags(data: Data) -> dict[str, str]:
    """What the run stands on: data, code, Ray job."""
    tags = {"dataset_fingerprint": data.fingerprint, "validation_fingerprint": data.val_fingerprint}
    if commit := _git("rev-parse", "HEAD"):
        tags["git_dirty"] = str(bool(_git("status", "--porcelain"))).lower()
    # An uploaded working directory has no .git: whoever submits it can say what it is.
    tags["mlflow.source.git.commit"] = commit or os.environ.get("RSRNET_GIT_COMMIT", "unknown")
    if job_id := _ray_job():
        tags["ray_job_id"] = job_id
    return tags


def _git(*arguments: str) -> str:
    """What git says about this code; nothing where it is no checkout."""
    folder = Path(__file__).parent
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _ray_job() -> str | None:
    """The id of a submitted job (``raysubmit_...``), else Ray's number of this program."""
    import ray

    if not ray.is_initialized():
        return None
    config = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    submitted = config.get("metadata", {}).get("job_submission_id")
    return submitted or ray.get_runtime_context().get_job_id()
