"""A trial on DDP workers of its own, under the actor that Tune starts for it."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
from pyarrow.fs import LocalFileSystem
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.train import CheckpointConfig, FailureConfig, ScalingConfig, TrainingFailedError
from ray.tune.integration.ray_train import TuneReportCallback
from ray.util.queue import Full

from rsrnet_platform.channel import JobNotice
from rsrnet_platform.process_group import ProcessGroup
from rsrnet_platform.ray_host import RayHost
from rsrnet_platform.ray_train import StopOnUserError, cause_of
from rsrnet_platform.search.cross_validation import Done, cross_validate
from rsrnet_platform.search.schedulers import INDEX
from rsrnet_platform.search.trial_actor import Shared, folder_of, task_of, telling
from rsrnet_platform.shelf import Shelf

SECONDS_TO_TAKE_REPORTS = 300.0


def with_workers(config: dict[str, Any], shared: Shared) -> None:
    """A trial on DDP workers of its own, one group for all folds: starting one takes seconds."""
    folder = folder_of(config, shared)
    Shelf(LocalFileSystem(), str(folder)).put_unusable_snapshot_aside()
    reports = TuneReportCallback()
    trainer = ray.train.torch.TorchTrainer(
        _worker,
        train_loop_config={"config": config, "shared": shared},
        torch_config=ProcessGroup(),
        scaling_config=ScalingConfig(num_workers=shared.job.cluster.workers, **shared.place.scaling),
        run_config=ray.train.RunConfig(
            # Ray Train knows a run by its folder: a trial that goes on finds its newest checkpoint.
            name=folder.name,
            storage_path=str(folder.parent),
            failure_config=FailureConfig(max_failures=shared.job.cluster.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            callbacks=[reports, StopOnUserError()],  # type: ignore[list-item]
        ),
    )
    with telling():
        try:
            trainer.fit()
        except TrainingFailedError as error:
            raise cause_of(error) from error
        finally:
            _let_be_taken(reports)


def _let_be_taken(reports: TuneReportCallback) -> None:
    """Wait until Tune has taken what the workers reported, unless it takes nothing any more.

    One thread of Tune's moves the workers' reports from their queue into the trial's, which has room for one. If the
    end of the trial is in there before the last report, that thread waits for ever, and the search with it (Ray 2.60).
    """
    queue = reports._training_actor_item_queue
    until = time.monotonic() + SECONDS_TO_TAKE_REPORTS
    with suppress(Full, RayError):
        # That thread skips an empty report, and takes it only when it is done with the one before.
        queue.put({}, timeout=SECONDS_TO_TAKE_REPORTS)
        while not queue.empty() and time.monotonic() < until:
            time.sleep(0.1)


def _worker(given: dict[str, Any]) -> None:
    """Entry point of a trial's workers."""
    config, shared = given["config"], given["shared"]
    with suppress(GivenUp):
        cross_validate(task_of(config, shared), WorkerHost(config[INDEX], shared.sign, shared.verdicts))


class GivenUp(Exception):  # noqa: N818 - not an error
    """Raised in every worker of a trial that the scheduler gave up."""


class WorkerHost(RayHost):
    """A worker of a trial. After every report it waits for the scheduler's verdict.

    Tune would end the trial by killing what started the workers. Their placement group then keeps its CPUs and
    GPUs until somebody notices (ray issue 54305), which without a dashboard is never. So the workers leave by
    themselves.

    Args:
        index: number of the trial.
        sign: says that the job is to stop.
        verdicts: None: nobody gives up on trials.
    """

    def __init__(self, index: int, sign: ActorHandle, verdicts: ActorHandle | None) -> None:
        super().__init__()
        self.notice = JobNotice(sign)
        self._index = index
        self._verdicts = verdicts

    @staticmethod
    def epochs_done(folder: Path) -> int:
        """How far a checkpoint is, over all folds."""
        return Done.read(folder).steps

    def repeat(self, metrics: dict[str, Any]) -> None:
        """See :class:`~rsrnet_platform.search.cross_validation.TrialHost`."""
        ray.train.report(metrics)
        self._obey(metrics["step"])

    def report(self, metrics: dict[str, Any], write: Callable[[Path], None]) -> None:
        """See :class:`~rsrnet_platform.search.cross_validation.TrialHost`."""
        super().report(metrics, write)
        self._obey(metrics["step"])

    def _obey(self, step: int) -> None:
        # Every rank asks, and gets the same answer.
        if self._verdicts is not None and not ray.get(self._verdicts.wait.remote(self._index, step)):
            raise GivenUp


class Verdicts:
    """An actor between the scheduler, which decides, and the workers, which wait for it."""

    def __init__(self) -> None:
        self._decided: defaultdict[tuple[int, int], asyncio.Future[bool]] = defaultdict(
            lambda: asyncio.get_running_loop().create_future()
        )

    async def say(self, index: int, step: int, go_on: bool) -> None:
        """Decide on a trial at a step; the first decision stands."""
        decision = self._decided[index, step]
        if not decision.done():
            decision.set_result(go_on)

    async def wait(self, index: int, step: int) -> bool:
        """Whether a trial may go on after a step, as soon as that is decided."""
        return await asyncio.shield(self._decided[index, step])
