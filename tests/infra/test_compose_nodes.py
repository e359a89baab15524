"""The Ray commands and health checks of compose.yaml, on two hosts of this machine instead of in containers."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import hosts
from tests.hosts import BIN, Host
from tests.infra.files import compose, interpolated

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

VALUES = {
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "MLFLOW_ADMIN_USERNAME": "admin",
    "MLFLOW_ADMIN_PASSWORD": secrets.token_hex(16),
}


class Service:
    """A service of compose.yaml on a host of its own."""

    def __init__(self, name: str, file: dict[str, Any], host: Host) -> None:
        self.host = host
        self.said = host.folder / f"{name}.log"
        self._service = file["services"][name]
        told = {key: interpolated(value, VALUES) for key, value in self._service["environment"].items()}
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("RAY_")},
            **{
                "HOME": str(host.folder),
                "RAY_TMPDIR": str(host.folder),
                "PATH": f"{BIN}:{os.environ['PATH']}",
                # gRPC's own resolver asks a name server beside /etc/hosts. Containers have one, these hosts do not.
                "GRPC_DNS_RESOLVER": "native",
            },
            **told,
        }
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self.said.open("a") as log:
            return subprocess.Popen(
                self.host.command([*self._service["command"], "--object-store-memory=200000000"]),
                env=self.environment,
                stdout=log,
                stderr=log,
            )

    def wait(self, *others: Service) -> None:
        """Until its health check says so. Ray gives a node 30 s; after that it is started again, as by its policy."""
        kind, *check = self._service["healthcheck"]["test"]
        assert kind == "CMD"
        deadline = time.monotonic() + 400
        while subprocess.run(self.host.command(check), check=False, timeout=60).returncode:
            assert time.monotonic() < deadline, self.said.read_text()
            for service in (self, *others):
                if service.process.poll() is not None:
                    for left in service.host.processes():  # they would have ended with the container
                        with suppress(psutil.NoSuchProcess):
                            left.kill()
                    service.process = service._start()
            time.sleep(1)

    def call(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.host.command(command),
            env=self.environment | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )


@pytest.fixture(scope="module")
def services(repository: Path) -> Iterator[dict[str, Service]]:
    if reason := hosts.why_not():
        pytest.skip(reason)
    file = compose(repository)
    with hosts.hosts("head", "worker") as (head, worker):
        for host in (head, worker):
            (hosts.HOSTS_FILES / host.name).mkdir(parents=True, exist_ok=True)
            (hosts.HOSTS_FILES / host.name / "hosts").write_text(
                f"127.0.0.1 localhost\n{head.address} head\n"
            )
        started = {"head": Service("head", file, head)}
        started["head"].wait()
        started["worker"] = Service("worker", file, worker)
        started["worker"].wait(started["head"])
        yield started


def test_the_worker_joins_the_head(services: dict[str, Service]) -> None:
    code = (
        "import ray; ray.init('auto', log_to_driver=False); print(sum(each['Alive'] for each in ray.nodes()))"
    )

    done = services["head"].call("python", "-c", code)

    assert done.stdout.strip() == "2", done.stderr


def test_a_job_without_the_token_is_refused_and_with_it_runs(services: dict[str, Service]) -> None:
    submit = ("ray", "job", "submit", "--address", "http://head:8265", "--", "echo", "it ran")

    refused = services["worker"].call(*submit, RAY_AUTH_MODE="disabled", RAY_AUTH_TOKEN="")
    let_in = services["worker"].call(*submit)

    assert refused.returncode != 0
    assert "it ran" not in refused.stdout
    assert "token authentication is enabled" in refused.stdout + refused.stderr
    assert let_in.returncode == 0, let_in.stdout + let_in.stderr
    assert "it ran" in let_in.stdout


def test_jobs_are_told_of_the_tracking_server_by_the_environment(services: dict[str, Service]) -> None:
    code = (
        "import os, json; print(json.dumps({k: v for k, v in os.environ.items() if 'MLFLOW_TRACKING' in k}))"
    )

    done = services["worker"].call(
        "ray", "job", "submit", "--address", "http://head:8265", "--", "python", "-c", code
    )

    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = [each for each in done.stdout.splitlines() if each.startswith("{")]
    assert json.loads(line) == {
        "MLFLOW_TRACKING_URI": "http://mlflow:5000",
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD": VALUES["MLFLOW_ADMIN_PASSWORD"],
    }


def test_a_worker_that_is_stopped_leaves_within_its_time(
    services: dict[str, Service], repository: Path
) -> None:
    worker = services["worker"]
    seconds = int(compose(repository)["services"]["worker"]["stop_grace_period"].removesuffix("s"))

    worker.process.terminate()
    worker.process.wait(seconds)

    assert "Draining for up to" in worker.said.read_text()
