"""Searches that tests run: a tiny job, and what it leaves in its folder (as an ablation does) and in MLflow."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from rsrnet.agreement import NoNotice
from rsrnet_platform import spec
from rsrnet_platform.restart import Start
from rsrnet_platform.store import open_client, resolve_uri


def write_tune_file(
    folder: Path, root: Path, *, space: str, search: str, epochs: int, batch_size: int
) -> Path:
    """A search without a training afterwards; ``space`` and ``search`` as YAML."""
    path = folder / "tune.yaml"
    path.write_text(f"""{spec.FIRST_LINE}
kind: tune
name: search
space: {space}
search: {search}
refit: false
data: {{root: {root}, val: le50_val.txt, size: 32, loader_processes: 0}}
model: {{depth: 18, width: 4, iterations: 2, scales: [0, 1]}}
fit: {{epochs: {epochs}, batch_size: {batch_size}, milestones: [], encoder_weights: none}}
storage: {folder / "runs"}
tracking: {{uri: {folder / "mlflow.db"}}}
""")
    return path


def write_grid_file(folder: Path, root: Path) -> Path:
    """A grid of four points and the paper's, on two folds of two epochs."""
    space = "{model.iterations: {grid: [1, 2]}, fit.lr: {grid: [1e-3, 1e-2]}}"
    return write_tune_file(
        folder, root, space=space, search="{folds: 2, concurrent: 2}", epochs=2, batch_size=4
    )


def load(path: Path, *overrides: str) -> spec.TuneJob:
    job = spec.load(path, overrides)
    assert isinstance(job, spec.TuneJob)
    return job


def attempt(job: spec.SearchJob) -> Path:
    """The folder of the first attempt at a search or an ablation."""
    return Path(job.storage) / job.name / "attempt-1"


def journal(job: spec.SearchJob) -> dict[int, dict[str, Any]]:
    """Every trial as its file says."""
    files = sorted((attempt(job) / "trials").glob("*.json"))
    return {int(path.stem): json.loads(path.read_text()) for path in files}


def rows(job: spec.TuneJob) -> list[dict[str, Any]]:
    """The report's table of trials."""
    return pq.read_table(attempt(job) / "report" / "trials.parquet").to_pylist()


def objectives(reports: list[dict[str, Any]]) -> list[float]:
    return [report["objective"] for report in reports]


def runs(job: spec.TuneJob) -> tuple[Any, dict[int, Any]]:
    """MLflow's run of a search, and those of its trials by their number."""
    client = open_client(resolve_uri(job.tracking))
    experiment = client.get_experiment_by_name(job.tracking.experiment)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], max_results=1000)
    (parent,) = (run for run in found if run.info.run_name == job.name)
    children = [run for run in found if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    numbers = [int(run.data.tags["trial"]) for run in children]
    assert len(numbers) == len(set(numbers)), "a trial has two runs"
    return parent, dict(zip(numbers, children, strict=True))


class Collector:
    """A host that only remembers: the oracle for what a trial reports."""

    rank, world_size, device = 0, 1, torch.device("cpu")
    notice = NoNotice()

    def __init__(self) -> None:
        self.reports: list[dict[str, Any]] = []

    @contextmanager
    def newest(self) -> Iterator[Start]:
        yield Start(None)

    def repeat(self, metrics: dict[str, Any]) -> None:
        raise AssertionError("there is nothing to repeat")

    def report(self, metrics: dict[str, Any], write: Callable[[Path], None]) -> None:
        self.reports.append(metrics)

    def interrupt(self, write: Callable[[Path], None]) -> None:
        raise AssertionError("nobody told it to stop")
