"""SIGKILL to a worker, and to the job itself: no epoch is lost or counted twice."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from rsrnet_platform import train
from tests.faults.processes import (
    actors,
    finish,
    require_no_orphans,
    require_same_history,
    start,
    wait_for,
)
from tests.platform.conftest import the_run

EPOCHS = 8
SETTINGS = {"cluster__workers": 2, "fit__epochs": EPOCHS}


@pytest.mark.slow
@pytest.mark.ray
def test_a_killed_worker_costs_no_epoch(ray_cluster, make_job, undisturbed, record_property) -> None:
    """It goes on from the newest checkpoint, every epoch counted once."""
    job = make_job(**SETTINGS)
    killed: list[int] = []

    def kill_one() -> None:
        while not list(Path(job.storage, job.name).glob("attempt-1/checkpoint_*")):
            time.sleep(0.05)
        worker = next(each for each in actors() if "RayTrainWorker" in " ".join(each.info["cmdline"]))
        os.kill(worker.pid, signal.SIGKILL)
        killed.append(worker.pid)

    killer = threading.Thread(target=kill_one)
    killer.start()
    train.run(job, fresh=False)
    killer.join()
    assert killed, "no worker was found: the test did not test"
    require_same_history(job, undisturbed(**SETTINGS), EPOCHS)
    require_no_orphans()
    record_property("fault", "worker SIGKILLed")
    record_property(
        "outcome",
        f"both workers start again from the newest checkpoint; {EPOCHS} of {EPOCHS} epochs, bitwise the metrics of an "
        "undisturbed run",
    )


@pytest.mark.ray
def test_a_killed_driver_goes_on_when_started_again(
    ray_cluster, train_file, make_job, undisturbed, record_property
) -> None:
    """The same command continues the same MLflow run."""
    settings = {path.replace("__", "."): value for path, value in SETTINGS.items()}
    job = make_job(**SETTINGS)
    first = start(train_file, settings, RAY_ADDRESS=ray_cluster.address)
    wait_for(lambda: list(Path(job.storage).glob("squares/attempt-1/checkpoint_*")), first)
    first.kill()
    finish(first)
    run = the_run(job)
    assert run.info.status == "RUNNING"
    require_no_orphans()
    second = start(train_file, settings, RAY_ADDRESS=ray_cluster.address)
    said = finish(second)
    assert second.returncode == 0, said
    assert the_run(job).info.run_id == run.info.run_id
    require_same_history(job, undisturbed(**SETTINGS), EPOCHS)
    require_no_orphans()
    record_property("fault", "driver SIGKILLed, the same job run again")
    record_property(
        "outcome",
        f"its workers end with it; the job goes on in the same MLflow run: {EPOCHS} of {EPOCHS} epochs, bitwise the "
        "metrics of an undisturbed run",
    )
