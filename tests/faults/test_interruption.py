"""SIGTERM and Ctrl-C: the training saves itself behind the step in hand, and the same job goes on there."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

from rsrnet_platform import spec, train, worker
from tests.faults.processes import (
    actors,
    finish,
    require_no_orphans,
    require_same_history,
    start,
    told,
    wait_for,
)
from tests.platform.conftest import the_run

EPOCHS = 24
SETTINGS = {"fit.epochs": EPOCHS, "fit.batch_size": 2}


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=[pytest.mark.ray, pytest.mark.slow])])
def test_a_job_told_to_stop_goes_on_in_the_middle_of_the_epoch(
    make_job, train_file, undisturbed, request, record_property, workers, sent
) -> None:
    address = {"RAY_ADDRESS": request.getfixturevalue("ray_cluster").address} if workers else {}
    grace = 60 if workers else 10
    settings = SETTINGS | {"cluster.workers": workers}
    given = {path.replace(".", "__"): value for path, value in settings.items()}
    settings |= {"cluster.grace": grace}
    job = make_job(**given, cluster__grace=grace)
    first = start(train_file, settings, **address)
    wait_for(lambda: any("epoch 2/" in text for text in told(job)), first)
    first.send_signal(sent)
    asked = time.monotonic()
    said = finish(first, seconds=grace + 30)
    seconds = time.monotonic() - asked
    assert first.returncode == 128 + sent
    assert f"{sent.name}: saving a checkpoint, in up to {grace} s." in said
    assert "Traceback" not in said
    (where,) = (text for text in told(job) if text.startswith("Checkpoint written"))
    assert f"Stopped {where.removeprefix('Checkpoint written ')} The same job goes on from there." in said
    assert the_run(job).info.status == "KILLED"
    require_no_orphans()

    second = start(train_file, settings, **address)
    said = finish(second)
    assert second.returncode == 0, said
    assert where.replace("Checkpoint written", "Going on") in said
    assert not list(Path(job.storage).rglob("interrupted")), "the epoch has a checkpoint of its own now"
    require_same_history(job, undisturbed(**given), EPOCHS)
    require_no_orphans()
    place = "on 2 Ray workers" if workers else "in one process"
    record_property("fault", f"{sent.name}, {grace} s of notice, {place}")
    record_property(
        "outcome",
        f"checkpoint in the middle of the epoch and exit {first.returncode} after {seconds:.1f} s; the same job goes "
        f"on at the next step: {EPOCHS} of {EPOCHS} epochs, bitwise the metrics of an undisturbed run",
    )


def test_a_job_whose_terminal_is_gone_saves_itself_too(make_job, train_file, record_property) -> None:
    """As of `rsrnet run JOB 2>&1 | tee log`, where Ctrl-C ends `tee` as well."""
    job = make_job(fit__epochs=EPOCHS, fit__batch_size=2)
    process = start(train_file, SETTINGS)
    wait_for(lambda: any("epoch 2/" in text for text in told(job)), process)
    assert process.stderr is not None
    process.stderr.close()
    process.send_signal(signal.SIGINT)
    assert process.wait(40) == 130
    assert list(Path(job.storage).rglob("interrupted"))
    assert the_run(job).info.status == "KILLED"
    record_property("fault", "Ctrl-C with the terminal gone, in one process")
    record_property("outcome", "checkpoint in the middle of the epoch and exit 130, as with a terminal")


def test_a_job_told_to_stop_behind_its_last_step_leaves_too(make_job, monkeypatch, capsys) -> None:
    job = make_job()
    to_the_end = worker.train

    def told_to_stop(*arguments: Any) -> None:
        to_the_end(*arguments)
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as stopping:
        stopping.setattr(worker, "train", told_to_stop)
        with pytest.raises(SystemExit) as left:
            train.run(job, fresh=False)
    assert left.value.code == 143
    assert "Stopped after the last epoch. The same job goes on from there." in capsys.readouterr().err
    assert the_run(job).info.status == "KILLED"
    train.run(job, fresh=False)
    assert the_run(job).info.status == "FINISHED"


def test_a_grace_that_is_too_short_costs_the_epoch_not_the_run(
    make_job, train_file, undisturbed, record_property
) -> None:
    settings = SETTINGS | {"cluster.grace": 0}
    job = make_job(fit__epochs=EPOCHS, fit__batch_size=2, cluster__grace=0)
    first = start(train_file, settings)
    wait_for(lambda: any("epoch 2/" in text for text in told(job)), first)
    first.terminate()
    said = finish(first, seconds=30)
    assert first.returncode == 143
    assert "No checkpoint within 0 s (cluster.grace)" in said
    assert the_run(job).info.status == "KILLED"
    second = start(train_file, settings)
    assert "Going on after epoch" in finish(second)
    assert second.returncode == 0
    whole = undisturbed(fit__epochs=EPOCHS, fit__batch_size=2, cluster__workers=0)
    require_same_history(job, whole, EPOCHS)
    record_property("fault", "SIGTERM, notice too short for a checkpoint")
    record_property("outcome", f"goes on after the last epoch; {EPOCHS} of {EPOCHS} epochs, same metrics")


@pytest.fixture
def two_machines() -> Iterator[Cluster]:
    """A cluster whose head computes nothing, and two nodes with room for the workers each."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=2, object_store_memory=256 * 1024**2)
        yield cluster
    finally:
        cluster.shutdown()


@pytest.mark.ray
@pytest.mark.slow
def test_a_machine_that_is_taken_away_is_left_in_the_middle_of_the_epoch(
    make_job, train_file, two_machines, record_property
) -> None:
    """As a cloud takes a spot instance: the cluster is told, and the machine goes some seconds later."""
    epochs = 60
    settings = SETTINGS | {"fit.epochs": epochs, "cluster.workers": 2}
    job = make_job(fit__epochs=epochs, fit__batch_size=2, cluster__workers=2)
    process = start(train_file, settings, RAY_ADDRESS=two_machines.address)
    wait_for(lambda: any("epoch 2/" in text for text in told(job)), process)
    node = node_of_workers(two_machines)
    drained = subprocess.run(
        [
            *(Path(sys.executable).with_name("ray"), "drain-node", "--address", two_machines.address),
            *("--node-id", node.node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION"),
            *("--reason-message", "spot instance", "--deadline-remaining-seconds", "12"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert drained.returncode == 0, drained.stderr
    gone = time.monotonic() + 12
    wait_for(lambda: any("Checkpoint written" in text for text in told(job)), process)
    time.sleep(max(0, gone - time.monotonic()))
    two_machines.remove_node(node, allow_graceful=False)
    said = finish(process)
    assert process.returncode == 0, said
    assert sum("Checkpoint written" in text for text in told(job)) == 1
    assert sum("Going on" in text for text in told(job)) == 1
    whole = make_job(
        name="whole",
        tracking__experiment="whole",
        tracking__model="whole",
        fit__epochs=epochs,
        fit__batch_size=2,
        cluster__workers=2,
    )
    finish(start_as(whole, train_file.with_name("whole.yaml"), two_machines.address))
    require_same_history(job, whole, epochs)
    require_no_orphans()
    record_property("fault", "node drained (spot instance) with 12 s of notice")
    record_property(
        "outcome",
        f"checkpoint at once, workers on the other node: {epochs} of {epochs} epochs, bitwise the metrics of an "
        "undisturbed run",
    )


def node_of_workers(cluster: Cluster) -> Any:
    """The node that a training's workers are on."""
    (raylet,) = {each.ppid() for each in actors() if "RayTrainWorker" in " ".join(each.info["cmdline"])}
    return next(
        node
        for node in cluster.worker_nodes
        if any(info.process.pid == raylet for info in node.all_processes["raylet"])
    )


def start_as(job: spec.TrainJob, path: Path, address: str) -> subprocess.Popen[str]:
    path.write_text(spec.to_yaml(job))
    return start(path, {}, RAY_ADDRESS=address)
