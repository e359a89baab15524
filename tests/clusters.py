"""Ray clusters of a test's own, besides the one of the session, and ports for what a test starts."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

BIN = Path(sys.executable).parent

_HEAD = "f" * 51 + "0" * 5
"""The head's name for an autoscaler whose machines are nodes on this one."""

_HEAD_OF_AN_AUTOSCALER = {
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_CLOUD_INSTANCE_ID": _HEAD,
    "RAY_FAKE_CLUSTER": "1",
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": _HEAD,
    "RAY_enable_autoscaler_v2": "1",
}


_PORTS = range(21000, 32000)
"""Neither those that Linux deals out by itself (from 32768 on) nor those of Ray's workers (10002 to 19999): what asks
for any port between the choice here and its use does not get them."""


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody uses, all different."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.SystemRandom().choice(_PORTS)  # not the generator that tests seed
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            if port not in ports:
                ports.append(port)
    return ports


def environment_of(home: Path) -> dict[str, str]:
    """The environment of a user who has set nothing of Ray's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return kept | {"HOME": str(home), "PATH": f"{BIN}:{os.environ['PATH']}", "RAY_USAGE_STATS_ENABLED": "0"}


_NOTHING_TO_INSTALL: dict[str, Any] = {
    "file_mounts": {},
    "cluster_synced_files": [],
    "initialization_commands": [],
    "setup_commands": [],
    "head_setup_commands": [],
    "worker_setup_commands": [],
    "head_start_ray_commands": [],
    "worker_start_ray_commands": [],
}
"""What an autoscaler must find in its file."""


@contextmanager
def cluster_with_token(
    environment: Mapping[str, str],
    *options: str,
    cpus: int = 2,
    groups: Mapping[str, Any] | None = None,
    cwd: Path | None = None,
) -> Iterator[dict[str, str]]:
    """Context: a cluster that asks for the token of a home folder, made anew.

    Args:
        environment: of `environment_of`, with what the cluster is to have besides.
        options: of ``ray start``.
        cpus: of its head.
        groups: of machines that its autoscaler adds as they are needed, by their names, as
            ``available_node_types`` of Ray's cluster files; None: it has no autoscaler.
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
    command = ["ray", "start", "--head", "--block", f"--num-cpus={cpus}", f"--temp-dir={sessions}"]
    command += [f"--port={gcs}"]
    command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", *options]
    command += [f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}"]
    started_with = given | {"RAY_AUTH_MODE": "token"}
    if groups is not None:
        file = Path(given["HOME"], "autoscaling.json")
        file.write_text(json.dumps(_autoscaling(groups, gcs)))
        command += ["--node-ip-address=127.0.0.1", f"--autoscaling-config={file}"]
        started_with |= _HEAD_OF_AN_AUTOSCALER
    log = Path(given["HOME"], "head.log")
    with log.open("w") as out:
        head = subprocess.Popen(command, env=started_with, cwd=cwd, stdout=out, stderr=out)
    try:
        _wait_for(dashboard, head, log)
        api = f"http://127.0.0.1:{dashboard}"
        yield given | {"GCS": f"127.0.0.1:{gcs}", "API": api, "SESSIONS": str(sessions)}
    finally:
        # The machines of an autoscaler outlive its head for a minute.
        processes = psutil.Process(head.pid).children(recursive=True) if head.poll() is None else []
        head.terminate()
        head.wait(60)
        for process in psutil.wait_procs(processes, timeout=10)[1]:
            process.kill()
        shutil.rmtree(sessions, ignore_errors=True)


def _autoscaling(groups: Mapping[str, Any], port: int) -> dict[str, Any]:
    """A file for Ray's autoscaler whose machines are further nodes on this one."""
    return {
        "cluster_name": "autoscaling",
        "max_workers": sum(group["max_workers"] for group in groups.values()),
        "idle_timeout_minutes": 10,
        "auth": {},
        **_NOTHING_TO_INSTALL,
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            **{name: {"node_config": {}, **group} for name, group in groups.items()},
        },
        "provider": {
            # By the name of its class: what the provider's own name stands for is not in Ray's wheels.
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "gcs_address": f"127.0.0.1:{port}",
            "head_node_id": _HEAD,
            "launch_multiple": True,
            "disable_node_updaters": True,
        },
    }


def _wait_for(port: int, head: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while True:
        with socket.socket() as trial:
            if trial.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert head.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
