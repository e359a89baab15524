"""The training of a job on Ray Train: DDP over its workers, restarts from the newest checkpoint."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import Future, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray.train
import ray.train.torch
from pyarrow.fs import LocalFileSystem
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.v2.api.callback import UserCallback

from rsrnet.checkpoint import read_card
from rsrnet.engine import BEST
from rsrnet_platform.channel import open_channel
from rsrnet_platform.cluster import Cluster
from rsrnet_platform.errors import is_user_error
from rsrnet_platform.files import is_full_disk
from rsrnet_platform.interruption import Interruption, Stopped
from rsrnet_platform.preload import preload
from rsrnet_platform.process_group import ProcessGroup
from rsrnet_platform.progress import PROGRESS, SECONDS_BETWEEN_LOOKS
from rsrnet_platform.ray_host import RayTrainHost
from rsrnet_platform.restart import damage
from rsrnet_platform.runs import Run
from rsrnet_platform.shelf import Shelf
from rsrnet_platform.terminal import console
from rsrnet_platform.worker import Task, train

if TYPE_CHECKING:
    from ray.actor import ActorHandle
    from ray.train.v2._internal.execution.context import TrainRunContext

KEPT = 2
"""Checkpoints of a run that stay, the best by validation IoU; the newest stays besides."""


def fit(task: Task, folder: Run, place: Cluster, interruption: Interruption) -> Path:
    """Train up to the last epoch.

    Ray Train knows the attempt by its folder: an interrupted one goes on, a finished one returns at once.

    Args:
        task: what to train.
        folder: the run's folder; checkpoints go into that of its attempt.
        place: the cluster.
        interruption: tells the training to stop.

    Returns:
        The folder of the best checkpoint.

    Raises:
        Stopped: if it was told to stop.
        UserError: (and the other errors of ``errors.USER_ERRORS``) if a worker met what only the user can mend.
        TrainingFailedError: if it failed otherwise, more often than the job allows.
    """
    filesystem, runs = _store(folder)
    shelf = Shelf(filesystem, f"{runs}/{folder.attempt}")
    if aside := shelf.put_unusable_snapshot_aside():
        console.print(f"Ray Train's list of checkpoints cannot be used, and was put aside: {aside}")
    try:
        with open_channel(folder.folder / folder.attempt / PROGRESS) as channel:
            _wait(_trainer(task, folder, place, channel), channel, interruption)
    except TrainingFailedError as error:
        cause = cause_of(error)
        if is_full_disk(cause) and shelf.here:
            _remove_cut_off(shelf)
        raise cause from error
    # Not Ray Train's list: it may have been put aside, or tell of an epoch that was damaged and trained again.
    return _best(shelf, folder.folder / folder.attempt / "best")


def _store(folder: Run) -> tuple[Any, str]:
    """The file system of a run's checkpoints, and the run's folder in it."""
    if folder.storage is None:
        return LocalFileSystem(), str(folder.folder)
    return folder.storage.filesystem, folder.storage.path


def _remove_cut_off(shelf: Shelf) -> None:
    """Remove what a worker was writing when Ray Train ended it: on a full disk nothing stays half written."""
    for name in shelf.checkpoints():
        with shelf.fetch(name) as folder:
            cut_off = damage(folder) is not None
        if cut_off:
            shelf.remove(name)


def _best(shelf: Shelf, here: Path) -> Path:
    """The best checkpoint that is intact, on this machine's disk.

    Args:
        shelf: with the checkpoints.
        here: folder for a copy of it, if they are elsewhere.
    """
    scores: dict[str, float] = {}
    for name in shelf.checkpoints():
        with shelf.fetch(name) as each:
            if damage(each) is None:
                scores[name] = read_card(each).metrics[BEST]
    best = max(scores, key=lambda name: scores[name])
    if shelf.here:
        return Path(shelf.path, best)
    shutil.rmtree(here, ignore_errors=True)
    with shelf.fetch(best) as each:
        return Path(shutil.copytree(each, here))


def _trainer(task: Task, folder: Run, place: Cluster, channel: ActorHandle) -> ray.train.torch.TorchTrainer:
    filesystem, runs = _store(folder)
    return ray.train.torch.TorchTrainer(
        _worker,
        train_loop_config={"task": task, "channel": channel},
        torch_config=ProcessGroup(),
        scaling_config=ScalingConfig(**_size(place), **place.scaling),
        run_config=RunConfig(
            name=folder.attempt,
            storage_path=runs,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=task.job.cluster.max_failures),
            checkpoint_config=CheckpointConfig(
                num_to_keep=KEPT, checkpoint_score_attribute=BEST, checkpoint_score_order="max"
            ),
            callbacks=[StopOnUserError()],  # type: ignore[list-item]
        ),
    )


def _size(place: Cluster) -> dict[str, Any]:
    """How many workers, as arguments of Ray Train's ``ScalingConfig``."""
    if place.elastic is None:
        return {"num_workers": place.workers}
    return {
        "num_workers": (place.elastic.min, place.elastic.max),
        "elastic_resize_monitor_interval_s": place.elastic.interval,
    }


def _wait(trainer: ray.train.torch.TorchTrainer, channel: ActorHandle, interruption: Interruption) -> None:
    """Run a trainer to its end, and hand on the question to stop.

    In a thread of its own: Ray Train would take SIGINT for itself, and end the workers at once.
    """
    outcome: Future[Any] = Future()

    def run() -> None:
        try:
            outcome.set_result(trainer.fit())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    while not interruption.asked():
        # What ended the training may be a TimeoutError too.
        wait([outcome], SECONDS_BETWEEN_LOOKS)
        if outcome.done():
            break
    else:
        channel.stop.remote()
    outcome.result()


class StopOnUserError(UserCallback):
    """Ends a training at once when a worker meets what only the user can mend, or was told to stop."""

    def after_exception(self, run_context: TrainRunContext, worker_exceptions: dict[int, Exception]) -> None:
        """Raise the worker's error in the controller; unlike errors in the workers, Ray does not retry it."""
        for error in worker_exceptions.values():
            if _ends_all(error):
                raise error


def cause_of(error: Exception) -> Exception:
    """What ended it all among the errors of workers and controller, where there is one: a message for the user."""
    failures = [*getattr(error, "worker_failures", {}).values(), getattr(error, "controller_failure", None)]
    causes = [cause for failure in failures for cause in (failure, getattr(failure, "__cause__", None))]
    return next((cause for cause in causes if isinstance(cause, Exception) and _ends_all(cause)), error)


def _ends_all(error: Exception) -> bool:
    return is_user_error(error) or isinstance(error, Stopped) or is_full_disk(error)


def _worker(config: dict[str, Any]) -> None:
    """Entry point of Ray Train's workers."""
    host = RayTrainHost(config["channel"])
    if host.rank == 0:
        preload("mlflow")  # beside the making of the model
    train(config["task"], host)
