"""The store: URIs, creation by several processes at once, and every way it can be out of reach."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from rsrnet.config import ConfigError
from rsrnet_platform.store import (
    TrackingConfig,
    TrackingError,
    _make_schema,
    connect,
    open_client,
    prepare,
    resolve_uri,
)


@pytest.fixture
def python(repository: Path, tmp_path: Path) -> Callable[[str], subprocess.Popen[str]]:
    """Start a Python process that can import both packages."""

    def start(code: str) -> subprocess.Popen[str]:
        path = os.pathsep.join([str(repository), str(repository / "platform")])
        return subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("store", "sqlite:///{cwd}/store/mlflow.db"),
        ("store/runs.db", "sqlite:///{cwd}/store/runs.db"),
        ("~/runs.db", "sqlite:///{home}/runs.db"),
        ("sqlite:///runs.db", "sqlite:///{cwd}/runs.db"),
        ("sqlite:////there/runs.sqlite", "sqlite:////there/runs.sqlite"),
        ("http://host:5000/", "http://host:5000"),
        ("https://host/mlflow", "https://host/mlflow"),
        (None, "sqlite:///{home}/rsrnet/mlflow.db"),
    ],
)
def test_every_spelling_of_a_store_becomes_one_absolute_uri(
    given: str | None, expected: str, tmp_path: Path, tmp_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_uri(TrackingConfig(uri=given)) == expected.format(cwd=tmp_path, home=tmp_home)


def test_the_environment_names_the_store_unless_the_job_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    assert resolve_uri(TrackingConfig()) == "http://host:5000"
    assert resolve_uri(TrackingConfig(uri="http://other")) == "http://other"


@pytest.mark.parametrize("uri", ["file:///runs", "postgresql://me:secret@host/db", "sqlite://"])
def test_a_store_of_another_kind_is_refused_without_telling_its_password(uri: str) -> None:
    with pytest.raises(TrackingError, match=r"http\(s\):// address") as refusal:
        resolve_uri(TrackingConfig(uri=uri))
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize("given", ["tracking.uri", "$MLFLOW_TRACKING_URI"])
def test_password_in_the_address_of_a_server_is_refused(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be told wherever the store is named."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:sec/ret@host:5000")
    config = TrackingConfig(uri="http://me:secret@host" if given == "tracking.uri" else None)
    with pytest.raises(TrackingError, match=r"\$MLFLOW_TRACKING_PASSWORD") as refusal:
        resolve_uri(config)
    assert given in str(refusal.value)
    assert "sec" not in str(refusal.value).replace("seconds", "")


def test_wrong_fields_are_named_together() -> None:
    with pytest.raises(ConfigError, match=r"(?s)uri = .*experiment = .*model = 'a/b'"):
        TrackingConfig(uri=" ", experiment="", model="a/b")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrackingConfig:
    """A store whose creation was killed half-way once."""
    folder = tmp_path_factory.mktemp("a folder")
    (folder / "runs.db.new").write_text("half a schema")
    config = TrackingConfig(uri=str(folder / "runs.db"), experiment="photographs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rsrnet_platform.store._make_schema", _make_schema)  # MLflow's own, not a copy
        prepare(config)
    return config


def test_prepare_makes_one_experiment_with_its_artifacts_beside_the_database(config: TrackingConfig) -> None:
    uri = prepare(config)
    assert prepare(config) == uri
    experiments = [e for e in open_client(uri).search_experiments() if e.name == "photographs"]
    assert [e.artifact_location for e in experiments] == [str(Path(config.uri or "").parent / "mlartifacts")]


def test_a_deleted_experiment_is_not_revived_silently(config: TrackingConfig) -> None:
    other = replace(config, experiment="other")
    client = connect(prepare(other))
    experiment = client.get_experiment_by_name("other")
    assert experiment is not None
    client.delete_experiment(experiment.experiment_id)
    with pytest.raises(TrackingError, match=r"experiment = 'other': it was deleted .*experiments restore"):
        prepare(other)


def test_two_processes_that_start_at_once_share_a_fresh_store(
    tmp_path: Path, python: Callable[[str], subprocess.Popen[str]]
) -> None:
    code = """if True:
        import pathlib, sys, time
        import mlflow
        from rsrnet_platform.tracking import Tracker, TrackingConfig, prepare
        pathlib.Path("ready-NUMBER").touch()
        while len(list(pathlib.Path().glob("ready-*"))) < 2:
            time.sleep(0.01)
        config = TrackingConfig(uri="store")
        facts = {"params": {}, "tags": {}, "job_yaml": ""}
        with Tracker.of_attempt(prepare(config), config, "NUMBER", "NUMBER", **facts) as tracker:
            tracker.log_epochs([(step, {"loss": 1.0 / step}) for step in range(1, 20)])
    """
    processes = [python(code.replace("NUMBER", number)) for number in "12"]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    client = connect(resolve_uri(TrackingConfig(uri=str(tmp_path / "store"))))
    experiment = client.get_experiment_by_name("rsrnet")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert sorted((run.info.run_name, run.info.status) for run in runs) == [
        ("1", "FINISHED"),
        ("2", "FINISHED"),
    ]
    assert not (tmp_path / "mlruns").exists()


def test_importing_the_package_does_not_import_mlflow(python: Callable[[str], subprocess.Popen[str]]) -> None:
    process = python(
        "import sys, rsrnet_platform.tracking, rsrnet_platform.registry\n"
        "sys.exit(bool({'mlflow', 'torch'} & set(sys.modules)))"
    )
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output


def test_a_store_that_is_not_there_is_not_made_by_looking_at_it(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="no store yet"):
        connect(f"sqlite:///{tmp_path}/mlflow.db")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TrackingError, match=f"tracking.uri = .*{tmp_path}/file"):
        prepare(TrackingConfig(uri=str(tmp_path / "file" / "runs.db")))


def test_a_file_that_is_no_database_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "runs.db").write_text("these are my notes, not a database" * 100)
    with pytest.raises(TrackingError, match="file is not a database"):
        prepare(TrackingConfig(uri=str(tmp_path / "runs.db")))


class _NotMLflow(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.send_error(404)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def other_web_server() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _NotMLflow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def silent_server() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def unused_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    ("server", "reason"),
    [
        ("unused_address", r"no MLflow server answers at .*refused.*mlflow server --backend-store-uri"),
        ("silent_server", r"no MLflow server answers at .*timed out"),
        ("other_web_server", r"404"),
    ],
)
def test_a_server_that_is_not_there_is_told_within_seconds(
    server: str, reason: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    uri = request.getfixturevalue(server)
    start = time.monotonic()
    with pytest.raises(TrackingError, match=f"(?s)tracking.uri = .*{reason}") as failure:
        prepare(TrackingConfig(uri=uri))
    assert time.monotonic() - start < 15
    assert uri in str(failure.value)
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
