"""Ray clusters of a test's own, besides the one of the session, and ports for what a test starts."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

BIN = Path(sys.executable).parent


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody uses, all different."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def environment_of(home: Path) -> dict[str, str]:
    """The environment of a user who has set nothing of Ray's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return kept | {"HOME": str(home), "PATH": f"{BIN}:{os.environ['PATH']}", "RAY_USAGE_STATS_ENABLED": "0"}


@contextmanager
def cluster_with_token(
    environment: Mapping[str, str], *options: str, cwd: Path | None = None
) -> Iterator[dict[str, str]]:
    """Context: a cluster of 2 CPUs that asks for the token of a home folder, made anew.

    Args:
        environment: of `environment_of`, with what the cluster is to have besides.
        options: of ``ray start``.
        cwd: folder in which it is started.

    Yields:
        The environment, with the addresses ``GCS`` (host:port) and ``API`` (of the job API), and ``SESSIONS``, the
        folder of Ray's sessions.
    """
    given = dict(environment)
    subprocess.run(["ray", "get-auth-token", "--generate"], env=given, capture_output=True, check=True)
    gcs, dashboard, client, agent = free_ports(4)
    # Unix sockets have short paths at most, so the folder cannot be one of pytest's.
    sessions = Path(tempfile.mkdtemp(prefix="rsrnet-", dir="/tmp"))
    command = ["ray", "start", "--head", "--block", "--num-cpus=2", f"--temp-dir={sessions}", f"--port={gcs}"]
    command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", *options]
    command += [f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}"]
    log = Path(given["HOME"], "head.log")
    with log.open("w") as out:
        head = subprocess.Popen(
            command, env=given | {"RAY_AUTH_MODE": "token"}, cwd=cwd, stdout=out, stderr=out
        )
    try:
        _wait_for(dashboard, head, log)
        api = f"http://127.0.0.1:{dashboard}"
        yield given | {"GCS": f"127.0.0.1:{gcs}", "API": api, "SESSIONS": str(sessions)}
    finally:
        head.terminate()
        head.wait(60)
        shutil.rmtree(sessions, ignore_errors=True)


def _wait_for(port: int, head: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while True:
        with socket.socket() as trial:
            if trial.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert head.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
