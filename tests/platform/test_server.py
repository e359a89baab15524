"""Tracking and registry on a real MLflow server, whose artifacts are reached over HTTP only."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen
from uuid import uuid4

import pytest

from rsrnet import checkpoint
from rsrnet.model.config import RSRNetConfig
from rsrnet.model.network import RSRNet
from rsrnet_platform.registry import register, resolve
from rsrnet_platform.store import TrackingConfig, prepare
from rsrnet_platform.tracking import Tracker

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    options = ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, *options, "--artifacts-destination", str(folder / "artifacts")],
            cwd=folder,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/health")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def wait_for(url: str) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            urlopen(url, timeout=5).close()
        except (URLError, ConnectionError, TimeoutError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


def test_a_run_and_its_model_live_on_a_server_and_are_downloaded_once(
    server: str, tmp_path: Path, tmp_home: Path
) -> None:
    config = TrackingConfig(uri=server)
    network = RSRNetConfig(depth=18, width=4, iterations=2)
    checkpoint.save(tmp_path / "best", RSRNet(network), checkpoint.ModelCard(network, size=32, epoch=1))
    assert prepare(config) == prepare(config) == server
    with Tracker.of_attempt(
        prepare(config), config, "remote", uuid4().hex, params={"a": 1}, tags={}, job_yaml="kind: train\n"
    ) as tracker:
        tracker.log_epoch(1, {"val/iou": 0.5})
        Tracker.attach(server, tracker.run_id).log_epoch(1, {"val/iou": 0.5})
        arguments = (server, tracker.run_id, tmp_path / "best", config)
        version = register(*arguments, metrics={"val/iou": 0.5}, tags={})
        assert register(*arguments, metrics={"val/iou": 0.5}, tags={}) == version
    assert version.champion
    folder = resolve("models:/rsrnet@champion", server)
    assert folder.is_relative_to(tmp_home)
    assert checkpoint.read_card(folder).model == network
    written = (folder / checkpoint.WEIGHTS).stat().st_mtime_ns
    assert resolve(f"runs:/{tracker.run_id}", server) == folder
    assert (folder / checkpoint.WEIGHTS).stat().st_mtime_ns == written
