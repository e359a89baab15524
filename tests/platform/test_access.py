"""What a job opens on the machine that it runs on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]


def _listening(program: psutil.Process) -> set[tuple[str, int]]:
    """Where the processes of a program wait for connections."""
    try:
        ours = {program.pid, *(each.pid for each in program.children(recursive=True))}
    except psutil.NoSuchProcess:
        return set()
    found = psutil.net_connections("inet")
    return {
        (each.laddr.ip.removeprefix("::ffff:"), each.laddr.port)
        for each in found
        if each.pid in ours and each.status == "LISTEN"
    }


@pytest.mark.slow
def test_training_of_two_workers_can_be_reached_from_outside_at_pytorchs_rendezvous_only(
    train_file: Path, tmp_home: Path
) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    code = "import sys; from rsrnet_platform.cli import main; main(sys.argv[1:])"
    settings = (
        "cluster.workers=2",
        "cluster.address=local",
        "cluster.accelerator=cpu",
        "data.loader_processes=1",
    )
    words = ["run", str(train_file), *(word for each in settings for word in ("--set", each))]
    program = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        env={**kept, "HOME": str(tmp_home), "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'platform'}"},
        stderr=subprocess.PIPE,
        text=True,
    )
    seen: set[tuple[str, int]] = set()
    process = psutil.Process(program.pid)
    while program.poll() is None:
        seen |= _listening(process)
        time.sleep(0.3)
    assert program.returncode == 0, program.stderr and program.stderr.read()
    loopback = {each for each in seen if each[0] == "127.0.0.1"}
    assert len(loopback) > 5
    assert len(seen - loopback) <= 1, (
        "the rendezvous of the two workers, which PyTorch binds to every interface"
    )
