"""Steady training throughput of a job under Ray Train, beside the same engine under torchrun.

The job is the whole product: it tells its progress, writes a checkpoint an epoch, and tracks in MLflow. The plain
side (``plain_training.py``) does nothing but train. Rounds alternate; the first epoch of each does not count.

    python tests/benchmarks/bench_ray_train.py
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from side_by_side import ROUNDS, Case, main, pace
from table import Row, summary

WORKERS = 2


def measure(rounds: int = ROUNDS) -> list[Row]:
    """One row."""
    ratios = []
    with TemporaryDirectory() as folder:
        case = Case(Path(folder))
        for turn in range(rounds):
            plain = pace(case.plain(WORKERS)["history"])
            ratios.append(pace(case.on_ray(f"round-{turn}", WORKERS)) / plain)
    return [
        summary(
            f"steady training throughput under Ray Train, {WORKERS} workers",
            "the same engine under `torchrun`",
            ratios,
            target=0.97,
            conditions=case.conditions,
        )
    ]


if __name__ == "__main__":
    main(__file__, __doc__, measure)
