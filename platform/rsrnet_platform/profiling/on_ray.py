"""A profile on Ray Train: the same workers, groups and devices as in the training."""

from __future__ import annotations

from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import ray.train.torch
from pydantic import TypeAdapter
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError

from rsrnet.data.storage import open_storage
from rsrnet.profiling import Profile
from rsrnet_platform import spec
from rsrnet_platform.cluster import Cluster
from rsrnet_platform.process_group import ProcessGroup
from rsrnet_platform.profiling import worker
from rsrnet_platform.ray_host import RayHost
from rsrnet_platform.ray_train import StopOnUserError, cause_of
from rsrnet_platform.shelf import Shelf

_FIGURES, _TRACE = "profile.json", "trace.json.gz"
"""Files in which the first worker leaves what it measured."""


def profile(job: spec.TrainJob, skipped: frozenset[str], steps: int, place: Cluster) -> tuple[Profile, bytes]:
    """See :func:`rsrnet_platform.profiling.worker.profile`; what the first worker found.

    Raises:
        UserError: (and the other errors of ``errors.USER_ERRORS``) if a worker met what only the user can mend.
        TrainingFailedError: if it failed otherwise.
    """
    with TemporaryDirectory() as folder:
        # Workers on other machines see no folder of this one.
        storage = open_storage(folder if len(place.nodes) < 2 else job.storage)
        return _profile(job, skipped, steps, place, Shelf(storage.filesystem, storage.path))


def _profile(
    job: spec.TrainJob, skipped: frozenset[str], steps: int, place: Cluster, shelf: Shelf
) -> tuple[Profile, bytes]:
    name = f"profile-{uuid4().hex}"
    trainer = ray.train.torch.TorchTrainer(
        _worker,
        train_loop_config={"job": job, "skipped": skipped, "steps": steps},
        torch_config=ProcessGroup(),
        scaling_config=ScalingConfig(num_workers=place.workers, **place.scaling),
        run_config=RunConfig(
            name=name,
            storage_path=shelf.path,
            storage_filesystem=shelf.filesystem,
            failure_config=FailureConfig(max_failures=0),
            callbacks=[StopOnUserError()],  # type: ignore[list-item]
        ),
    )
    try:
        trainer.fit()
        figures = shelf.read(f"{name}/{_FIGURES}")
        return TypeAdapter(Profile).validate_json(figures), shelf.read(f"{name}/{_TRACE}")
    except TrainingFailedError as error:
        raise cause_of(error) from error
    finally:
        shelf.remove(name)


def _worker(config: dict[str, Any]) -> None:
    """Entry point of Ray Train's workers."""
    host = RayHost()
    found, trace = worker.profile(config["job"], config["skipped"], config["steps"], host)
    if host.rank == 0:
        host.shelf.write(_FIGURES, TypeAdapter(Profile).dump_json(found))
        host.shelf.write(_TRACE, trace)
