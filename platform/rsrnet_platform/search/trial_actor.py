"""A trial inside the actor that Tune starts for it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from ray import tune
from ray.actor import ActorHandle

from rsrnet.agreement import Notice
from rsrnet.nonfinite import DivergedError
from rsrnet_platform import spec
from rsrnet_platform.channel import JobNotice
from rsrnet_platform.cluster import Cluster
from rsrnet_platform.errors import is_user_error
from rsrnet_platform.interruption import Stopped
from rsrnet_platform.restart import INTERRUPTED, Start, damage
from rsrnet_platform.search.cross_validation import Done, TrialTask, cross_validate
from rsrnet_platform.search.schedulers import INDEX, OBJECTIVE

POINT = "point"
"""Key of the point in a trial's ``config``, beside ``INDEX``."""


@dataclass(frozen=True)
class Shared:
    """What every trial gets."""

    job: spec.SearchJob
    folder: str
    """Holds a folder for each trial's checkpoints; every worker reaches it."""

    skipped: frozenset[str]
    place: Cluster

    sign: Any = None
    """A :class:`~rsrnet_platform.channel.StopSign` of the job; the search puts it up when the trials begin."""

    verdicts: ActorHandle | None = None
    """Tells the workers of a trial whether to go on; None: nobody gives up on trials, or Tune ends them."""

    keep: Mapping[int, Path] = field(default_factory=dict)
    """Where the model of a trial's best epoch stays, by the number of the trial; that of the others does not."""


def alone(config: dict[str, Any], shared: Shared) -> None:
    """A trial in this actor."""
    task = task_of(config, shared)
    # Closed, as the actor goes on to other trials.
    with telling(), closing(JobNotice(shared.sign)) as notice:
        cross_validate(task, ActorHost(folder_of(config, shared), shared.place.use_gpu, notice))


def task_of(config: dict[str, Any], shared: Shared) -> TrialTask:
    """What a trial of Tune's is to do."""
    training = spec.trial(shared.job, config[INDEX], config[POINT])
    return TrialTask(training, shared.job.search, shared.skipped, shared.keep.get(config[INDEX]))


def folder_of(config: dict[str, Any], shared: Shared) -> Path:
    """Where a trial keeps its checkpoints."""
    return Path(shared.folder) / f"{config[INDEX]:04d}"


@contextmanager
def telling() -> Iterator[None]:
    """Report what trying again would not mend, instead of dying of it, and that the trial was told to stop.

    A loss that became NaN is the point's fault. The user's other errors are not: without its images, or its
    weights, no trial can be trained.
    """
    try:
        yield
    except Stopped:
        tune.report({OBJECTIVE: 0.0, INTERRUPTED: True})
    except Exception as error:
        if not is_user_error(error):
            raise
        # 0 is the lowest score there is, should a scheduler look.
        tune.report({OBJECTIVE: 0.0, "error": str(error), "diverged": isinstance(error, DivergedError)})


class ActorHost:
    """The actor of a trial: one checkpoint in the trial's folder, the newest.

    Args:
        folder: of the trial's checkpoints.
        use_gpu: whether to compute on a GPU.
        notice: tells the trial to stop.
    """

    rank = 0
    world_size = 1

    def __init__(self, folder: Path, use_gpu: bool, notice: Notice) -> None:
        self.folder = folder
        self.device = torch.device("cuda" if use_gpu else "cpu")
        self.notice = notice

    @contextmanager
    def newest(self) -> Iterator[Start]:
        """See :class:`~rsrnet_platform.search.cross_validation.TrialHost`."""
        for partial in self.folder.glob("partial-*"):
            shutil.rmtree(partial, ignore_errors=True)
        intact = [folder for folder in self.folder.glob("checkpoint-*") if damage(folder) is None]
        yield Start(max(intact, default=None))

    def repeat(self, metrics: dict[str, Any]) -> None:
        """See :class:`~rsrnet_platform.search.cross_validation.TrialHost`."""
        tune.report(metrics)

    def report(self, metrics: dict[str, Any], write: Callable[[Path], None]) -> None:
        """See :class:`~rsrnet_platform.search.cross_validation.TrialHost`."""
        for folder in self._keep(write, ""):
            shutil.rmtree(folder, ignore_errors=True)
        tune.report(metrics)

    def interrupt(self, write: Callable[[Path], None]) -> None:
        """See :class:`~rsrnet_platform.search.cross_validation.TrialHost`."""
        # By its name behind the checkpoint of the epoch before, and before the next one's.
        self._keep(write, "-interrupted")

    def _keep(self, write: Callable[[Path], None], suffix: str) -> list[Path]:
        """Keep a checkpoint under its number of epochs; the other ones there are."""
        # A name of its own: after a kill on a cluster that lives on, an orphan may still write here for a moment.
        partial = self.folder / f"partial-{uuid4().hex}"
        write(partial)
        kept = self.folder / f"checkpoint-{Done.read(partial).steps:06d}{suffix}"
        shutil.rmtree(kept, ignore_errors=True)  # damaged: the trial started over
        others = list(self.folder.glob("checkpoint-*"))
        partial.rename(kept)
        return others
