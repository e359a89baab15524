"""Tracking and registry on a real MLflow server, whose artifacts are reached over HTTP only."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from rsrnet import checkpoint
from rsrnet.model.config import RSRNetConfig
from rsrnet.model.network import RSRNet
from rsrnet_platform import promotion, spec
from rsrnet_platform.models import history, lock
from rsrnet_platform.registry import register, resolve
from rsrnet_platform.store import TrackingConfig, TrackingError, open_client, prepare
from rsrnet_platform.tracking import Tracker

pytestmark = pytest.mark.slow


def test_a_run_and_its_model_live_on_a_server_and_are_downloaded_once(
    mlflow_server: str, tmp_path: Path, tmp_home: Path
) -> None:
    config = TrackingConfig(uri=mlflow_server)
    network = RSRNetConfig(depth=18, width=4, iterations=2)
    checkpoint.save(tmp_path / "best", RSRNet(network), checkpoint.ModelCard(network, size=32, epoch=1))
    assert prepare(config) == prepare(config) == mlflow_server
    with Tracker.of_attempt(
        prepare(config), config, "remote", uuid4().hex, params={"a": 1}, tags={}, job_yaml="kind: train\n"
    ) as tracker:
        tracker.log_epoch(1, {"val/iou": 0.5})
        tracker.flush()
        again = Tracker.attach(mlflow_server, tracker.run_id)
        again.log_epoch(1, {"val/iou": 0.5})
        again.flush()
        arguments = (mlflow_server, tracker.run_id, tmp_path / "best", config)
        version = register(*arguments, metrics={"val/iou": 0.5}, tags={})
        assert register(*arguments, metrics={"val/iou": 0.5}, tags={}) == version
    assert version.champion
    folder = resolve("models:/rsrnet@champion", mlflow_server)
    assert folder.is_relative_to(tmp_home)
    assert checkpoint.read_card(folder).model == network
    written = (folder / checkpoint.WEIGHTS).stat().st_mtime_ns
    assert resolve(f"runs:/{tracker.run_id}", mlflow_server) == folder
    assert (folder / checkpoint.WEIGHTS).stat().st_mtime_ns == written


def test_trainings_that_finish_together_leave_one_champion(
    mlflow_server: str, train_file: Path, squares_of_six_photographs: Path, tmp_path: Path
) -> None:
    """Two `rsrnet run` at once; whichever decides last has compared itself with the other, or was first."""
    root = Path(__file__).parents[2]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{root}{os.pathsep}{root / 'platform'}",
        "HOME": str(tmp_path),
    }
    command = [sys.executable, "-m", "rsrnet_platform", str(train_file)]
    settings = {
        "data.root": squares_of_six_photographs,
        "tracking.uri": mlflow_server,
        "tracking.model": "together",
    }
    jobs = []
    for name, epochs in (("short", 1), ("long", 4)):
        given = {**settings, "name": name, "fit.epochs": epochs}
        sets = [text for key, value in given.items() for text in ("--set", f"{key}={value}")]
        jobs.append(subprocess.Popen([*command, *sets], env=environment, stderr=subprocess.PIPE, text=True))
    said = [job.communicate(timeout=300)[1] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], said
    client = open_client(mlflow_server)
    versions = {
        int(version.version): version for version in client.search_model_versions("name = 'together'")
    }
    assert sorted(versions) == [1, 2]
    events = history.read(client.get_registered_model("together"))
    first = events[0].version
    assert first is not None
    assert (events[0].before, events[0].how) == (None, "first")
    second = versions[3 - first]
    assert second.tags["champion_before"] == str(first)
    difference, spread = (float(second.tags[f"promotion/{key}"]) for key in ("difference", "spread"))
    measured = float(second.tags["val/iou"]) - float(versions[first].tags["val/iou"])
    assert difference == pytest.approx(measured, abs=1e-5)
    wins = difference > spread
    assert second.tags["promoted"] == str(wins).lower()
    assert [(event.before, event.version) for event in events[1:]] == ([(first, 3 - first)] if wins else [])
    assert client.get_model_version_by_alias("together", "champion").version == str(events[-1].version)
    text = Path(client.download_artifacts(second.run_id, "job.yaml", str(tmp_path))).read_text()
    assert spec.FIRST_LINE in text
    assert not [model for model in client.search_registered_models() if model.name.startswith(lock.PREFIX)]


def test_a_killed_holder_of_the_lock_keeps_nobody_out_for_ever(mlflow_server: str) -> None:
    client = open_client(mlflow_server)
    client.create_registered_model("held")
    version = client.create_model_version("held", "s3://nowhere/model", await_creation_for=0)
    code = f"""if True:
        import time
        from rsrnet_platform.models.lock import changing
        from rsrnet_platform.store import open_client
        with changing(open_client({mlflow_server!r}), {mlflow_server!r}, "held"):
            print("held", flush=True)
            time.sleep(600)
    """
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'platform'}"}
    holder = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    holder.wait()
    with (
        pytest.raises(TrackingError, match="changed by others"),
        lock.changing(client, mlflow_server, "held", wait=1),
    ):
        pass
    with lock.changing(client, mlflow_server, "held", lease=2):
        names = [model.name for model in client.search_registered_models()]
        assert len([name for name in names if name.startswith(lock.PREFIX)]) == 1
    promotion.force(client, mlflow_server, version)
    assert client.get_model_version_by_alias("held", "champion").version == "1"
