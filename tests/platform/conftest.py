"""A small training job on the dataset of tinted squares, tracked in a store of the test's own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import pytest
import torch
from mlflow import MlflowClient

from rsrnet_platform import spec, train
from rsrnet_platform.store import _make_schema, open_client, resolve_uri
from tests.clusters import free_ports
from tests.hosts import Host
from tests.platform.planted import Planted

MakeJob = Callable[..., spec.TrainJob]


@pytest.fixture(scope="session", autouse=True)
def _schema_made_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """In this process, stores get copies of one schema: MLflow takes most of a second to make one."""
    schema = tmp_path_factory.mktemp("schema") / "mlflow.db"

    def copy(database: Path) -> None:
        if not schema.exists():
            _make_schema(schema)
        shutil.copyfile(schema, database)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rsrnet_platform.store._make_schema", copy)
        yield


@pytest.fixture
def train_file(squares: Path, tmp_path: Path) -> Path:
    """A job file that trains a tiny network for three epochs, in this process."""
    return write_train_file(tmp_path, squares)


def write_train_file(folder: Path, squares: Path) -> Path:
    path = folder / "job.yaml"
    path.write_text(f"""{spec.FIRST_LINE}
kind: train
name: squares
data: {{root: {squares}, val: le50_val.txt, size: 32, loader_processes: 0}}
model: {{depth: 18, width: 4, iterations: 2, scales: [0, 1]}}
fit: {{epochs: 3, batch_size: 4, lr: 2e-3, milestones: [2], encoder_weights: none}}
cluster: {{workers: 0}}
storage: {folder / "runs"}
tracking: {{uri: {folder / "mlflow.db"}}}
""")
    path.chmod(0o755)
    return path


@pytest.fixture
def make_job(train_file: Path) -> MakeJob:
    """The job of `train_file`, with overrides given as `path="value"` pairs of dotted paths."""
    return partial(load_with, train_file)


def load_with(file: Path, **overrides: Any) -> Any:
    return spec.load(file, [f"{path.replace('__', '.')}={value}" for path, value in overrides.items()])


@pytest.fixture
def planted() -> Planted:
    """Secrets that are nowhere else."""
    return Planted.make()


@pytest.fixture(scope="session")
def training() -> MakeJob:
    """Make a tiny training whose store is in a folder, with overrides as in `make_job`."""
    return tiny_training


def tiny_training(folder: Path, root: Path, name: str, **overrides: str) -> spec.TrainJob:
    path = folder / f"{name}.yaml"
    path.write_text(f"""
kind: train
name: {name}
data: {{root: {root}, val: le50_val.txt, size: 32, loader_processes: 0}}
model: {{depth: 18, width: 4, iterations: 2, scales: [0]}}
fit: {{epochs: 1, batch_size: 4, lr: 2e-3, milestones: [20], encoder_weights: none}}
cluster: {{workers: 0}}
storage: {folder / "runs"}
tracking: {{uri: {folder / "mlflow.db"}}}
""")
    job = spec.load(path, [f"{key.replace('__', '.')}={value}" for key, value in overrides.items()])
    assert isinstance(job, spec.TrainJob)
    return job


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, squares_of_six_photographs: Path) -> Path:
    """A folder with a store: a poor first champion, a good second one, and a poor third version."""
    folder = tmp_path_factory.mktemp("trained")
    torch.set_num_threads(1)
    for name, more in {
        "poor": {},
        "good": {"fit__epochs": "6"},
        "third": {"fit__lr": "1e-4", "fit__seed": "1"},
    }.items():
        train.run(tiny_training(folder, squares_of_six_photographs, name, **more), fresh=False)
    return folder


@pytest.fixture
def store(trained: Path, tmp_path: Path) -> Path:
    """A store of the test's own with the three versions, whose artifacts stay where they are."""
    return Path(shutil.copy(trained / "mlflow.db", tmp_path))


@pytest.fixture
def client(store: Path) -> MlflowClient:
    """MLflow's client for that store."""
    return open_client(f"sqlite:///{store}")


@pytest.fixture
def history() -> Callable[[spec.TrainJob, str], list[tuple[int, float]]]:
    """Points (step, value) of a metric of the only run of a job's store, in the order they were logged."""

    def read(job: spec.TrainJob, key: str) -> list[tuple[int, float]]:
        client = client_of(job)
        points = client.get_metric_history(the_run(job).info.run_id, key)
        return [(point.step, point.value) for point in points]

    return read


def client_of(job: spec.Job) -> Any:
    """MLflow's client for a job's store."""
    return open_client(resolve_uri(job.tracking))


def the_run(job: spec.TrainJob) -> Any:
    """The only run in a job's experiment."""
    client = client_of(job)
    experiment = client.get_experiment_by_name(job.tracking.experiment)
    (run,) = client.search_runs([experiment.experiment_id])
    return run


class MlflowServer:
    """A real MLflow server with a store of its own, which hands out artifacts over HTTP.

    It may be killed, and started again on the same port and store.

    Args:
        folder: for everything it keeps.
        database: URI of its store; None: an SQLite file in the folder.
        workers: how many processes answer.
        host: another host than the tests' own to run on.
        app: one of MLflow's other applications, such as ``basic-auth``.
        environment: of its processes, besides that of the tests.
    """

    def __init__(
        self,
        folder: Path,
        database: str | None = None,
        workers: int = 1,
        host: Host | None = None,
        app: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        (self.port,) = free_ports(1)
        self.host = host
        self.app = app
        self.environment = environment or {}
        self.address = host.address if host else "127.0.0.1"
        self.url = f"http://{self.address}:{self.port}"
        self.folder = folder
        self.database = database or f"sqlite:///{folder}/mlflow.db"
        self.workers = workers
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", self.address, "--port", str(self.port)]
        command += ["--workers", str(self.workers), "--backend-store-uri", self.database]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        command += ["--app-name", self.app] if self.app else []
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                self.host.command(command) if self.host else command,
                cwd=self.folder,
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **self.environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Wait until it has answered a question to its store: the first one takes long, and jobs are impatient."""
        question = f"{self.url}/api/2.0/mlflow/experiments/search?max_results=1"
        if self.host is None:
            wait_for(question)
            return
        # Only the host itself reaches it.
        ask = f"from urllib.request import urlopen; urlopen('{question}', timeout=30)"
        command = self.host.command([sys.executable, "-c", ask])
        deadline = time.monotonic() + 300
        while subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode:
            assert time.monotonic() < deadline
            time.sleep(0.2)

    def send(self, number: signal.Signals) -> None:
        os.killpg(self.process.pid, number)

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self.process.poll() is None:
            self.send(number)
            self.process.wait(30)


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real MLflow server."""
    server = MlflowServer(tmp_path_factory.mktemp("server"))
    try:
        server.wait()
        yield server.url
    finally:
        server.end()


def wait_for(url: str) -> None:
    """Wait until a server answers, if only that it wants to know who asks."""
    deadline = time.monotonic() + 300
    while True:
        try:
            urlopen(url, timeout=30).close()
        except (URLError, ConnectionError, TimeoutError) as error:
            if isinstance(error, HTTPError) and error.code == HTTPStatus.UNAUTHORIZED:
                return
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return
