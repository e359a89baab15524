"""infra/image/start-mlflow, started as compose.yaml does: with a real PostgreSQL, and moto as the bucket's server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import boto3
import psutil
import pytest
from moto.server import ThreadedMotoServer
from urllib3.util import connection

from rsrnet import checkpoint
from rsrnet_platform.registry import resolve
from rsrnet_platform.store import open_client
from tests.infra.files import compose, dotenv, interpolated
from tests.platform.postgresql import PostgreSQL, running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PROGRAM = "infra/image/start-mlflow"


@pytest.fixture(scope="module")
def secrets(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    made = tmp_path_factory.mktemp("secrets") / ".env"
    subprocess.run([repository / "infra/make-secrets", made], check=True, capture_output=True)
    return dotenv(made)


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


class Server:
    """The server of compose.yaml on free ports of this machine."""

    def __init__(
        self, repository: Path, secrets: dict[str, str], database: PostgreSQL, bucket: str, folder: Path
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / "log"
        service = compose(repository)["services"]["mlflow"]
        told = {name: interpolated(str(value), secrets) for name, value in service["environment"].items()}
        here = {"PGHOST": "127.0.0.1", "PGPORT": str(database.port), "AWS_ENDPOINT_URL": bucket}
        here |= {"MLFLOW_HOST": "127.0.0.1", "MLFLOW_PORT": str(port)}
        assert service["command"] == [Path(PROGRAM).name]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [repository / PROGRAM],
                env=self.clean() | told | here,
                cwd=folder,
                stdout=log,
                stderr=log,
            )
        (self.health,) = [word for word in service["healthcheck"]["test"] if word.startswith("http")]
        self.health = self.health.replace("http://127.0.0.1:5000", self.url)

    @staticmethod
    def clean() -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {"PATH": path, "HOME": os.environ["HOME"], "MLFLOW_DISABLE_TELEMETRY": "true"}

    def wait(self) -> None:
        deadline = time.monotonic() + 600
        while True:
            assert self.process.poll() is None, self.log.read_text()
            try:
                urlopen(self.health, timeout=5).close()
            except (URLError, ConnectionError, TimeoutError):
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.3)
            else:
                return

    def end(self) -> None:
        try:
            workers = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return
        self.process.terminate()
        self.process.wait(300)
        _, left = psutil.wait_procs(workers, timeout=120)
        assert not left


@pytest.fixture(scope="module")
def server(
    repository: Path, secrets: dict[str, str], bucket: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    with running() as database:
        # As the image of PostgreSQL makes user and database from POSTGRES_USER, POSTGRES_DB and POSTGRES_PASSWORD.
        database.query(
            "postgres", f"CREATE ROLE mlflow LOGIN SUPERUSER PASSWORD '{secrets['POSTGRES_PASSWORD']}'"
        )
        database.query("postgres", "CREATE DATABASE mlflow OWNER mlflow")
        server = Server(repository, secrets, database, bucket, tmp_path_factory.mktemp("server"))
        try:
            server.wait()
            yield server
        finally:
            server.end()


def status(url: str, user: str = "", password: str = "", host: str = "") -> int:
    request = Request(f"{url}/api/2.0/mlflow/experiments/search?max_results=1")
    if user:
        request.add_header("Authorization", f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}")
    if host:
        request.add_header("Host", host)
    try:
        with urlopen(request, timeout=120) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code


def test_lets_in_who_has_the_password_and_calls_it_by_its_name(
    server: Server, secrets: dict[str, str]
) -> None:
    admin, password = secrets["MLFLOW_ADMIN_USERNAME"], secrets["MLFLOW_ADMIN_PASSWORD"]

    assert status(server.url) == 401
    assert status(server.url, admin, "password") == 401
    assert status(server.url, admin, password) == 200
    assert status(server.url, admin, password, host="mlflow:5000") == 200
    assert status(server.url, admin, password, host="attacker.example") == 403


def test_a_training_is_tracked_and_its_artifacts_are_in_the_bucket(
    server: Server,
    secrets: dict[str, str],
    bucket: str,
    train_file: Path,
    tmp_home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", secrets["MLFLOW_ADMIN_USERNAME"])
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", secrets["MLFLOW_ADMIN_PASSWORD"])
    command = [
        sys.executable,
        "-m",
        "rsrnet_platform",
        str(train_file),
        "--set",
        f"tracking.uri={server.url}",
    ]

    done = subprocess.run(command, capture_output=True, text=True, timeout=800, check=False)

    assert done.returncode == 0, done.stderr
    client = open_client(server.url)
    (run,) = client.search_runs([client.get_experiment_by_name("rsrnet").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.artifact_uri.startswith("mlflow-artifacts:")
    with monkeypatch.context() as as_on_a_ray_node:
        as_on_a_ray_node.setattr(connection, "create_connection", refusing(bucket))
        assert (resolve("models:/rsrnet@champion", server.url) / checkpoint.WEIGHTS).is_file()
    store = boto3.client(
        "s3", endpoint_url=bucket, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    keys = [each["Key"] for each in store.list_objects_v2(Bucket="mlflow")["Contents"]]
    assert [key for key in keys if key.endswith("job.yaml")]
    assert [key for key in keys if key.endswith(checkpoint.WEIGHTS)]


def refusing(bucket: str) -> Callable[..., socket.socket]:
    """Connects to everything but the bucket, which only the server reaches."""
    connect = connection.create_connection

    def create_connection(address: tuple[str, int], *arguments: Any, **settings: Any) -> socket.socket:
        if bucket.endswith(f":{address[1]}"):
            raise ConnectionRefusedError("the bucket is on a network of its own")
        return connect(address, *arguments, **settings)

    return create_connection


def test_its_secrets_are_in_no_command_line_and_no_log(server: Server, secrets: dict[str, str]) -> None:
    processes = [
        psutil.Process(server.process.pid),
        *psutil.Process(server.process.pid).children(recursive=True),
    ]
    seen = server.log.read_text() + " ".join(" ".join(each.cmdline()) for each in processes)
    hidden = {name: value for name, value in secrets.items() if name != "MLFLOW_ADMIN_USERNAME"}

    assert len(processes) > 1
    assert not [name for name, value in hidden.items() if value in seen]


def test_says_what_is_missing(repository: Path) -> None:
    done = subprocess.run(
        [repository / PROGRAM], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False
    )

    assert done.returncode == 2
    assert done.stderr == "start-mlflow: PGPASSWORD is not set\n"
