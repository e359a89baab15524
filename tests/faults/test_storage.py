"""A training whose storage is a URI goes on on another machine than the one that was lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.faults.processes import finish, require_no_orphans, require_same_history, start, wait_for
from tests.platform.conftest import MakeJob

EPOCHS = 24


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_killed_on_one_machine_goes_on_on_another(
    make_job: MakeJob,
    train_file: Path,
    ray_cluster: Any,
    undisturbed: MakeJob,
    tmp_path: Path,
    record_property: Any,
) -> None:
    """Of the first machine's disk the second sees nothing: its home is another."""
    uri = f"local://{tmp_path}/store"  # a name of the disk that pyarrow does not know: a store, to all that use it
    settings = {"fit.epochs": EPOCHS, "fit.batch_size": 2, "cluster.workers": 1, "storage": uri}
    job = make_job(fit__epochs=EPOCHS, fit__batch_size=2, cluster__workers=1, storage=uri)
    homes = [tmp_path / "first", tmp_path / "second"]
    first = start(train_file, settings, RAY_ADDRESS=ray_cluster.address, HOME=str(homes[0]))
    wait_for(lambda: any("epoch 3/24 done" in text for text in _told_at(homes[0])), first)
    first.kill()
    first.wait()
    require_no_orphans()
    second = start(train_file, settings, RAY_ADDRESS=ray_cluster.address, HOME=str(homes[1]))
    said = finish(second)
    assert second.returncode == 0, said
    (place,) = (text for text in _told_at(homes[1]) if text.startswith("Going on after epoch "))
    whole = undisturbed(fit__epochs=EPOCHS, fit__batch_size=2, cluster__workers=0)
    require_same_history(job, whole, EPOCHS)
    record_property("fault", "the job's machine lost, storage a URI")
    record_property(
        "outcome",
        f"the same job on another machine: {place.rstrip('.').lower()}; {EPOCHS} of {EPOCHS} epochs, same metrics",
    )


def _told_at(home: Path) -> list[str]:
    """What the workers of the job told the machine with this home."""
    files = home.glob("rsrnet/scratch/*/squares/attempt-1/progress.jsonl")
    lines = [line for file in files for line in file.read_text().splitlines(keepends=True)]
    return [json.loads(line)["text"] for line in lines if line.endswith("\n")]
