"""SIGTERM and Ctrl-C: the training saves itself behind the step in hand, and the same job goes on there."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from rsrnet_platform import train
from tests.faults.processes import (
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
    make_job, train_file, request, record_property, workers, sent
) -> None:
    address = {"RAY_ADDRESS": request.getfixturevalue("ray_cluster").address} if workers else {}
    settings = SETTINGS | {"cluster.workers": workers}
    job = make_job(**{path.replace(".", "__"): value for path, value in settings.items()})
    first = start(train_file, settings, **address)
    wait_for(lambda: any("epoch 2/" in text for text in told(job)), first)
    first.send_signal(sent)
    asked = time.monotonic()
    said = finish(first, seconds=30)
    seconds = time.monotonic() - asked
    assert first.returncode == 128 + sent
    assert f"{sent.name}: saving a checkpoint, in up to 10 s." in said
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
    whole = make_job(
        name="whole",
        tracking__experiment="whole",
        tracking__model="whole",
        **{path.replace(".", "__"): value for path, value in settings.items()},
    )
    train.run(whole, fresh=False)
    require_same_history(job, whole, EPOCHS)
    require_no_orphans()
    place = "on 2 Ray workers" if workers else "in one process"
    record_property("fault", f"{sent.name}, 10 s of notice, {place}")
    record_property(
        "outcome",
        f"checkpoint in the middle of the epoch and exit {first.returncode} after {seconds:.1f} s; the same job goes "
        f"on at the next step: {EPOCHS} of {EPOCHS} epochs, bitwise the metrics of an undisturbed run",
    )


def test_a_grace_that_is_too_short_costs_the_epoch_not_the_run(make_job, train_file, record_property) -> None:
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
    whole = make_job(
        name="whole",
        tracking__experiment="whole",
        tracking__model="whole",
        fit__epochs=EPOCHS,
        fit__batch_size=2,
    )
    train.run(whole, fresh=False)
    require_same_history(job, whole, EPOCHS)
    record_property("fault", "SIGTERM, notice too short for a checkpoint")
    record_property("outcome", f"goes on after the last epoch; {EPOCHS} of {EPOCHS} epochs, same metrics")
