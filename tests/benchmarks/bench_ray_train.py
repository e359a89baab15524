"""Steady training throughput of a job under Ray Train, beside the same engine under torchrun.

The job is the whole product: it tells its progress, writes a checkpoint an epoch, and tracks in MLflow. The plain
side (``plain_training.py``) does nothing but train. Rounds alternate; the first epoch of each does not count.

    python tests/benchmarks/bench_ray_train.py
"""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from side_by_side import ROUNDS, Case, main, pace
from table import Row, summary

WORKERS = {1: "1 worker", 2: "2 workers"}


def measure(rounds: int = ROUNDS) -> list[Row]:
    """A row for each number of workers: Ray's own processes want a part of a processor that no worker has."""
    ratios: dict[int, list[float]] = {workers: [] for workers in WORKERS}
    with TemporaryDirectory() as folder:
        case = Case(Path(folder))
        for turn in range(rounds):
            for workers, found in ratios.items():
                plain = pace(case.plain(workers)["history"])
                found.append(pace(case.on_ray(f"round-{turn}-{workers}", workers)) / plain)
    return [
        summary(
            f"steady training throughput under Ray Train, {WORKERS[workers]}",
            "the same engine under `torchrun`",
            found,
            target=0.97,
            conditions=f"{case.conditions}, {os.cpu_count()} processors",
        )
        for workers, found in ratios.items()
    ]


if __name__ == "__main__":
    main(__doc__, measure)
