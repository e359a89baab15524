"""A machine joins the cluster of a training with a range of workers."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from ray.cluster_utils import Cluster

from rsrnet_platform import train
from tests.faults.processes import finish, require_no_orphans, start, told, wait_for
from tests.platform.conftest import the_run

EPOCHS = 80
SETTINGS = {"fit.epochs": EPOCHS, "fit.batch_size": 2, "fit.milestones": [20, 40]}


@pytest.fixture
def one_machine() -> Iterator[Cluster]:
    """A cluster whose head computes nothing, and a node with room for one worker."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1, object_store_memory=256 * 1024**2)
        yield cluster
    finally:
        cluster.shutdown()


@pytest.mark.ray
@pytest.mark.slow
def test_training_uses_a_machine_that_joins(
    make_job, train_file, one_machine, history, record_property
) -> None:
    elastic = "{min: 1, max: 2, interval: 2}"
    job = make_job(cluster__workers=elastic, fit__epochs=EPOCHS, fit__batch_size=2)
    process = start(train_file, SETTINGS | {"cluster.workers": elastic}, RAY_ADDRESS=one_machine.address)
    wait_for(lambda: any("epoch 2/" in text for text in told(job)), process)
    assert "Training with 1 worker now." in told(job)
    one_machine.add_node(num_cpus=1, object_store_memory=256 * 1024**2)
    joined = time.monotonic()
    wait_for(lambda: "Training with 2 workers now." in told(job), process)
    seconds = time.monotonic() - joined
    said = finish(process)
    assert process.returncode == 0, said
    assert the_run(job).info.status == "FINISHED"

    alone = make_job(
        name="alone",
        tracking__experiment="alone",
        tracking__model="alone",
        fit__epochs=EPOCHS,
        fit__batch_size=2,
        fit__milestones=[20, 40],
    )
    train.run(alone, fresh=False)
    # Batch statistics are each worker's own, so losses may differ; what a step is must not.
    assert history(job, "train/lr") == history(alone, "train/lr")
    losses = history(job, "train/loss")
    assert [epoch for epoch, _ in losses] == list(range(1, EPOCHS + 1))
    before = min(_first_epochs_on_one_worker(told(job)), EPOCHS)
    assert losses[:before] == history(alone, "train/loss")[:before]
    require_no_orphans()
    record_property("fault", "node joins a training of 1 to 2 workers")
    record_property(
        "outcome",
        f"2 workers train {seconds:.0f} s later; {EPOCHS} of {EPOCHS} epochs, same learning rates, and the same "
        f"losses up to the change, after epoch {before}",
    )


def _first_epochs_on_one_worker(texts: list[str]) -> int:
    """How many epochs were done when the second worker came: where it went on."""
    place = texts[texts.index("Training with 2 workers now.") - 1]
    assert place.startswith("Going on after epoch "), place
    return int(place.split()[4])
