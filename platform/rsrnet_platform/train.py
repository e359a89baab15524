"""`kind: train`: check everything, train on Ray or in this process, register the best checkpoint."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress

from rsrnet_platform import cluster, registry, runs, spec
from rsrnet_platform.errors import UserError
from rsrnet_platform.progress import follow
from rsrnet_platform.store import prepare
from rsrnet_platform.tracking import Tracker

if TYPE_CHECKING:
    from rsrnet_platform.worker import Task

console = Console(stderr=True, highlight=False)

KEPT = 2
"""Checkpoints of a run that stay, the best by validation IoU; the newest stays besides."""


@dataclass(frozen=True)
class Data:
    """What the preflight learnt about the data."""

    fingerprint: str
    train: int
    val: int
    skipped: frozenset[str]


def run(job: spec.TrainJob, *, fresh: bool) -> None:
    """Train, or go on, or say that it is done.

    Args:
        job: a checked job.
        fresh: start over, though a run of this name exists.

    Raises:
        UserError: (and the other errors of ``cli.USER_ERRORS``) for everything a user can mend; before the
            first epoch, unless the world changed meanwhile.
    """
    with runs.hold(_local_folder(job.storage), job.name) as folder:
        if folder.state.status == "finished" and not fresh:
            folder.begin(job, fresh=False)
            console.print(
                f"{job.name} is trained already: {folder.state.model_uri or folder.folder}. "
                "--fresh trains it again."
            )
            return
        data = _preflight(job)
        uri = prepare(job.tracking)
        with cluster.connect(job.cluster) as place:
            folder.begin(job, fresh=fresh)
            console.print(f"Training {job.name} with {place}: {data.train} images, {data.val} to validate.")
            _train(job, folder, data, uri, place)


def _train(job: spec.TrainJob, folder: runs.Run, data: Data, uri: str, place: cluster.Cluster) -> None:
    """Track, train, register."""
    from rsrnet.checkpoint import read_card
    from rsrnet_platform.worker import Task

    tags = _tags(data)
    with _tracker(job, folder, uri, tags) as tracker:
        _log_data(tracker, data)
        progress = folder.folder / folder.attempt / "progress.jsonl"
        task = Task(job, uri, tracker.run_id, str(progress), data.skipped)
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
        return _fit_on_ray(task, folder, place)
    from rsrnet_platform.worker import LocalHost, train

    host = LocalHost(folder.folder / folder.attempt, place.use_gpu)
    train(task, host)
    return host.best()


def _fit_on_ray(task: Task, folder: runs.Run, place: cluster.Cluster) -> Path:
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    from rsrnet.engine import BEST
    from rsrnet_platform.worker import train_on_ray

    trainer = TorchTrainer(
        train_on_ray,
        train_loop_config={"task": task},
        scaling_config=ScalingConfig(
            num_workers=place.workers,
            use_gpu=place.use_gpu,
            resources_per_worker=place.resources_per_worker,
        ),
        run_config=RunConfig(
            name=folder.attempt,
            storage_path=str(folder.folder),
            failure_config=FailureConfig(max_failures=task.job.cluster.max_failures),
            checkpoint_config=CheckpointConfig(
                num_to_keep=KEPT, checkpoint_score_attribute=BEST, checkpoint_score_order="max"
            ),
        ),
    )
    try:
        result = trainer.fit()
    except TrainingFailedError as error:
        raise _cause(error) from error
    kept = result.best_checkpoints or []
    best, _ = max(kept, key=lambda pair: pair[1][BEST])
    return Path(best.path)


def _cause(error: Exception) -> Exception:
    """The error a worker raised, if one did: Ray brings it home inside two of its own."""
    for failure in getattr(error, "worker_failures", {}).values():
        raised = getattr(failure, "_base_exc", failure)
        if isinstance(raised, Exception):
            return raised
    return error


def _local_folder(storage: str) -> str:
    if "://" in storage:
        raise UserError(
            f"storage = {storage}: checkpoints go to a folder; give the path of one that every worker reaches."
        )
    return storage


def _preflight(job: spec.TrainJob) -> Data:
    """Find out what would stop the training later: lists, images, weights."""
    from rsrnet.data.inspection import inspect, usable
    from rsrnet.data.lists import fingerprint, read_train_val

    train, val = read_train_val(job.data, job.fit.seed)
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("Checking images", total=len(train) + len(val))
        report = inspect(
            job.data.root,
            [*train, *val],
            threads=os.cpu_count() or 1,
            progress=lambda done, total: bar.update(task, completed=done),
        )
    good = usable([*train, *val], report, job.data.on_bad_image)
    if report.bad:
        console.print(str(report))
    skipped = frozenset(found.composite.path for found in report.bad)
    counts = [sum(composite.path not in skipped for composite in part) for part in (train, val)]
    if 0 in counts or counts[0] < job.cluster.workers:
        raise UserError(
            f"{job.data.root}: {counts[0]} training and {counts[1]} validation images can be used; "
            "a training needs some of both, and a training image for every worker."
        )
    if job.fit.encoder_weights != "none":
        _try_weights(job)
    return Data(fingerprint(job.data.root, good), counts[0], counts[1], skipped)


def _try_weights(job: spec.TrainJob) -> None:
    """Load the encoder's weights once, here, where a failure costs nothing; a download is then in the cache."""
    from rsrnet.engine import load_start
    from rsrnet.model.network import RSRNet

    load_start(RSRNet(job.model), job.fit)


def _tracker(job: spec.TrainJob, folder: runs.Run, uri: str, tags: dict[str, str]) -> Tracker:
    """The MLflow run of this attempt: a new one, or the same one again after an interruption."""
    if folder.state.mlflow_run_id is None:
        tracker = Tracker.create(
            job.tracking, job.name, params=spec.flatten(job), tags=tags, job_yaml=spec.to_yaml(job)
        )
        folder.update(mlflow_run_id=tracker.run_id)
        return tracker
    tracker = Tracker.attach(uri, folder.state.mlflow_run_id)
    tracker.reopen(tags)
    return tracker


def _log_data(tracker: Tracker, data: Data) -> None:
    tracker.log_epoch(
        0,
        {
            "data/train_images": data.train,
            "data/val_images": data.val,
            "data/skipped_images": len(data.skipped),
        },
    )


def _tags(data: Data) -> dict[str, str]:
    """What the run stands on: data, code, Ray job."""
    tags = {"dataset_fingerprint": data.fingerprint}
    if commit := _git("rev-parse", "HEAD"):
        tags["mlflow.source.git.commit"] = commit
        tags["git_dirty"] = str(bool(_git("status", "--porcelain"))).lower()
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
    import ray

    if not ray.is_initialized():
        return None
    return os.environ.get("RAY_JOB_SUBMISSION_ID") or ray.get_runtime_context().get_job_id()
