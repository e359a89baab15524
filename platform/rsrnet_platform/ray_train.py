"""The training of a job on Ray Train: DDP over its workers, restarts from the newest checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import ray.train
import ray.train.torch
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.v2.api.callback import UserCallback

from rsrnet import checkpoint
from rsrnet.engine import BEST
from rsrnet_platform.cluster import Cluster
from rsrnet_platform.errors import is_user_error
from rsrnet_platform.restart import Start, newest_intact
from rsrnet_platform.runs import Run
from rsrnet_platform.worker import Task, train

if TYPE_CHECKING:
    from ray.train.v2._internal.execution.context import TrainRunContext

KEPT = 2
"""Checkpoints of a run that stay, the best by validation IoU; the newest stays besides."""


def fit(task: Task, folder: Run, place: Cluster) -> Path:
    """Train up to the last epoch.

    Ray Train knows the attempt by its folder: an interrupted one goes on, a finished one returns at once.

    Args:
        task: what to train.
        folder: the run's folder; checkpoints go into that of its attempt.
        place: the cluster.

    Returns:
        The folder of the best checkpoint.

    Raises:
        UserError: (and the other errors of ``errors.USER_ERRORS``) if a worker met what only the user can mend.
        TrainingFailedError: if it failed otherwise, more often than the job allows.
    """
    trainer = ray.train.torch.TorchTrainer(
        _worker,
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
            callbacks=[StopOnUserError()],  # type: ignore[list-item]
        ),
    )
    try:
        result = trainer.fit()
    except TrainingFailedError as error:
        raise cause_of(error) from error
    # The same epoch may be there twice, once damaged and once trained again.
    intact = [kept for kept in result.best_checkpoints or [] if _is_intact(Path(kept[0].path))]
    best, _ = max(intact, key=lambda kept: kept[1][BEST])
    return Path(best.path)


def _is_intact(folder: Path) -> bool:
    try:
        checkpoint.verify(folder)
    except checkpoint.CheckpointError:
        return False
    return True


class StopOnUserError(UserCallback):
    """Ends a training at once when a worker meets what only the user can mend: trying again would not help."""

    def after_exception(self, run_context: TrainRunContext, worker_exceptions: dict[int, Exception]) -> None:
        """Raise the user's error in the controller; unlike the workers' own errors, Ray does not retry it."""
        for error in worker_exceptions.values():
            if is_user_error(error):
                raise error


def cause_of(error: Exception) -> Exception:
    """The message for the user among the errors of workers and controller, where there is one."""
    failures = [*getattr(error, "worker_failures", {}).values(), getattr(error, "controller_failure", None)]
    causes = [cause for failure in failures for cause in (failure, getattr(failure, "__cause__", None))]
    return next((cause for cause in causes if isinstance(cause, Exception) and is_user_error(cause)), error)


def _worker(config: dict[str, Task]) -> None:
    """Entry point of Ray Train's workers."""
    train(config["task"], RayHost())


def _older(newest: Path) -> list[Path]:
    """The checkpoints beside one that are older than it, oldest first."""
    return [folder for folder in sorted(newest.parent.glob("checkpoint_*")) if folder.name < newest.name]


class RayHost:
    """A worker of Ray Train."""

    def __init__(self) -> None:
        context = ray.train.get_context()
        self.rank = context.get_world_rank()
        self.world_size = context.get_world_size()
        self.device = ray.train.torch.get_device()

    @contextmanager
    def newest(self) -> Iterator[Start]:
        """See :class:`Host`."""
        newest = ray.train.get_checkpoint()
        if newest is None:
            yield Start(None)
            return
        # Ray names them by time. The others are looked at only if this one is damaged.
        yield newest_intact([*_older(Path(newest.path)), Path(newest.path)])

    def repeat(self, metrics: dict[str, Any]) -> None:
        """See :class:`rsrnet_platform.search.cross_validation.TrialHost`."""
        ray.train.report(metrics)

    def report(self, metrics: dict[str, Any], write: Callable[[Path], None]) -> None:
        """See :class:`Host`."""
        if self.rank != 0:
            ray.train.report(metrics)
            return
        with TemporaryDirectory() as folder:
            write(Path(folder))
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))
