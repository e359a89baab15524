"""A training as users start it, in a process of its own, and what it leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from rsrnet_platform import spec
from tests.platform.conftest import client_of, the_run

ACTORS = ("RayTrainWorker", "TrainController", "Channel", "StopSign", "ImplicitFunc")
"""What Ray starts for a training, by what its processes are called."""


def start(job_file: Path, settings: dict[str, object], **environment: str) -> subprocess.Popen[str]:
    """`rsrnet run` with overrides; its messages come as text."""
    command = [sys.executable, "-m", "rsrnet_platform", str(job_file)]
    for path, value in settings.items():
        command += ["--set", f"{path}={value}"]
    return subprocess.Popen(command, env=os.environ | environment, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str], seconds: float = 600) -> str:
    """Wait for the end of a program; what came by its pipes, with line breaks as spaces."""
    said = process.communicate(timeout=seconds)
    return " ".join(" ".join(each or "" for each in said).split())


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str], seconds: float = 300) -> None:
    """Wait until something is true of a job that runs."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, finish(process)
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def kill_all(process: subprocess.Popen[str]) -> None:
    """SIGKILL a driver, if it runs, and all that it started: a cluster that nobody needs any more."""
    if process.poll() is not None:
        return
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(family, timeout=30)


def command_of(process: psutil.Process) -> str:
    """A process's command line; nothing of one that has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # or a zombie, which is one of them
        return ""


def told(job: spec.TrainJob) -> list[str]:
    """What the workers of a job told, in order."""
    path = Path(job.storage, job.name, "attempt-1", "progress.jsonl")
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line)["text"] for line in lines if line.endswith("\n")]


def actors() -> list[psutil.Process]:
    """Processes that the Ray of this test session started for trainings, and not another cluster of the machine."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(name in " ".join(process.info["cmdline"] or []) for name in ACTORS)
        and _writes_below(process, os.environ["RAY_TMPDIR"])
    ]


def _writes_below(process: psutil.Process, folder: str) -> bool:
    """Whether a process has a file open there; Ray's have their logs, and no environment that could be read."""
    try:
        return any(file.path.startswith(f"{folder}/") for file in process.open_files())
    except psutil.NoSuchProcess:
        return False


def require_no_orphans(seconds: float = 30) -> None:
    """Nothing that worked for a training is left."""
    deadline = time.monotonic() + seconds
    while left := actors():
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def require_same_history(job: spec.TrainJob, other: spec.TrainJob, epochs: int) -> None:
    """Both trainings are finished, with every epoch once and the same numbers (but times)."""
    ours, theirs = the_run(job), the_run(other)
    assert (ours.info.status, theirs.info.status) == ("FINISHED", "FINISHED")
    for key in ("train/loss", "train/lr", "val/iou", "val/ap"):
        points = _points(job, ours, key)
        assert [step for step, _ in points] == list(range(1, epochs + 1)), key
        assert points == _points(other, theirs, key), key


def _points(job: spec.TrainJob, run: Any, key: str) -> list[tuple[int, float]]:
    history = client_of(job).get_metric_history(run.info.run_id, key)
    return [(point.step, point.value) for point in history]
