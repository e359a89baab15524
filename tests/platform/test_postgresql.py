"""A real MLflow server on a real PostgreSQL: trainings that log at once, servers that start at once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from rsrnet import checkpoint
from rsrnet_platform import spec
from rsrnet_platform.models import history
from rsrnet_platform.registry import resolve
from rsrnet_platform.store import open_client
from tests.faults.processes import finish, start
from tests.platform.conftest import MlflowServer
from tests.platform.postgresql import PostgreSQL, running

pytestmark = pytest.mark.slow

EPOCHS = 30


@pytest.fixture(scope="module")
def postgresql() -> Iterator[PostgreSQL]:
    with running() as server:
        yield server


@pytest.fixture
def server(postgresql: PostgreSQL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowServer]:
    """Two processes that answer for one empty database; only they have its password."""
    with monkeypatch.context() as environment:
        environment.setenv("PGPASSWORD", postgresql.password)
        server = MlflowServer(folder_in(tmp_path, "server"), postgresql.create("mlflow"), workers=2)
    try:
        server.wait()
        # A process opens the database when it is first asked for something, and a job waits 4 s for its answer.
        for _ in range(8):
            open_client(server.url).search_experiments(max_results=1)
        yield server
    finally:
        server.end()


def folder_in(parent: Path, name: str) -> Path:
    (parent / name).mkdir()
    return parent / name


def test_two_trainings_log_at_once(
    server: MlflowServer, postgresql: PostgreSQL, train_file: Path, tmp_path: Path, tmp_home: Path
) -> None:
    settings = {"tracking.uri": server.url, "tracking.model": "together", "fit.epochs": EPOCHS}
    processes = {
        name: start(train_file, settings | {"name": name, "fit.seed": seed})
        for seed, name in enumerate(("one", "two"))
    }
    said = {name: finish(process, 400) for name, process in processes.items()}
    assert [process.returncode for process in processes.values()] == [0, 0], said

    client = open_client(server.url)
    experiment = client.get_experiment_by_name("rsrnet")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert sorted(runs) == ["one", "two"]
    assert max(times_of_losses(client, run)[0] for run in runs.values()) < min(
        times_of_losses(client, run)[-1] for run in runs.values()
    ), "they did not log at once"
    for name, run in runs.items():
        require_whole(client, run, tmp_path / "runs" / name / "attempt-1", tmp_path)
    require_one_champion(client, runs)
    # All of it is there, and whoever has no password is not let in.
    assert postgresql.query("mlflow", "SELECT count(*) FROM metrics WHERE key = 'val/iou'") == [(2 * EPOCHS,)]
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(postgresql.uri("mlflow"), password="another")


def times_of_losses(client: Any, run: Any) -> list[int]:
    return [point.timestamp for point in client.get_metric_history(run.info.run_id, "train/loss")]


def require_whole(client: Any, run: Any, attempt: Path, folder: Path) -> None:
    """A run tells everything of its training: every number of every epoch once, the parameters and the pictures."""
    assert run.info.status == "FINISHED"
    newest = max(attempt.glob("checkpoint-*"))
    epochs = checkpoint.load_training(newest)["history"]
    assert len(epochs) == EPOCHS
    for key in epochs[0]:
        points = [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, key)]
        assert points == [(step, metrics[key]) for step, metrics in enumerate(epochs, start=1)], key
    job = Path(client.download_artifacts(run.info.run_id, "job.yaml", str(folder)))
    assert run.data.params == {key: str(value) for key, value in spec.flatten(spec.load(job)).items()}
    assert len(run.inputs.dataset_inputs) == 1
    pictures = {item.path for item in client.list_artifacts(run.info.run_id, "pictures")}
    assert pictures == {
        f"pictures/epoch_{epoch:03d}_{kind}.png"
        for epoch in range(3, EPOCHS + 1, 3)  # ten times
        for kind in ("masks", "iterations")
    }


def require_one_champion(client: Any, runs: dict[str, Any]) -> None:
    """Both models are registered and can be fetched; the history of champions says how the one came about."""
    versions = {version.version: version for version in client.search_model_versions("name = 'together'")}
    assert {version.run_id for version in versions.values()} == {run.info.run_id for run in runs.values()}
    for number in versions:
        assert checkpoint.read_card(resolve(f"models:/together/{number}", client.tracking_uri)).size == 32
    model = client.get_registered_model("together")
    events = history.read(model)
    assert {alias: str(version) for alias, version in model.aliases.items()} == {
        "champion": str(events[-1].version)
    }
    promoted = [number for number, version in versions.items() if version.tags["promoted"] == "true"]
    assert sorted(promoted) == sorted(str(event.version) for event in events)


def test_servers_that_start_at_once_share_a_database_that_was_prepared(
    postgresql: PostgreSQL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's own start on an empty one is a race that a server loses, as its message of a duplicate key says."""
    monkeypatch.setenv("PGPASSWORD", postgresql.password)
    database = postgresql.create("shared")
    prepared = subprocess.run(
        [sys.executable, "-m", "mlflow", "db", "upgrade", database], capture_output=True, text=True
    )
    assert prepared.returncode == 0, prepared.stderr
    servers = [MlflowServer(folder_in(tmp_path, name), database) for name in ("one", "two")]
    try:
        for server in servers:
            server.wait()
        first, second = (open_client(server.url) for server in servers)
        made = first.create_experiment("seen by both")
        assert second.get_experiment_by_name("seen by both").experiment_id == made
    finally:
        for server in servers:
            server.end()
