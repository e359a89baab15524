"""Recorded learning curves of a search, as a table: what `bench_asha.py` writes and a simulation replays."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rsrnet_platform.search.trials import Point, Trial


@dataclass(frozen=True)
class Curve:
    """How one trial went, epoch by epoch over all folds."""

    point: Point
    objectives: tuple[float, ...]
    seconds: tuple[float, ...]
    """Of each epoch with everything around it: from report to report, the first from the trial's beginning."""


def write_curves(trials: Iterable[Trial], path: Path) -> None:
    """Write the learning curves of trials as a table: a row an epoch."""
    rows = [
        {
            "trial": trial.index,
            "point": json.dumps(dict(trial.point)),
            "step": report.step,
            "fold": report.fold,
            "epoch": report.epoch,
            "score": report.score,
            "objective": report.objective,
            "seconds": round(report.time - before, 4),
        }
        for trial in trials
        for before, report in zip(
            [trial.started, *(each.time for each in trial.reports)], trial.reports, strict=False
        )
    ]
    pq.write_table(pa.Table.from_pylist(rows), path, compression="zstd")


def read_curves(path: Path) -> list[Curve]:
    """Read what :func:`write_curves` wrote; trial 0, the paper's own point, comes first."""
    rows: dict[int, list[dict[str, Any]]] = {}
    for row in pq.read_table(path).sort_by([("trial", "ascending"), ("step", "ascending")]).to_pylist():
        rows.setdefault(row["trial"], []).append(row)
    return [
        Curve(
            json.loads(curve[0]["point"]),
            tuple(row["objective"] for row in curve),
            tuple(row["seconds"] for row in curve),
        )
        for curve in rows.values()
    ]


def draw_trials(curves: Sequence[Curve], count: int, seed: int) -> list[Curve]:
    """Draw the trials of a search between recorded curves; the first is the paper's own point, as recorded."""
    source = random.Random(seed)
    pairs = (source.sample(curves[1:], 2) for _ in range(count - 1))
    return [curves[0], *(between(one, other, source.uniform(0.5, 1.0)) for one, other in pairs)]


def between(one: Curve, other: Curve, share: float) -> Curve:
    """The curve between two, with a share of the first."""

    def mix(a: Sequence[float], b: Sequence[float]) -> tuple[float, ...]:
        return tuple(share * x + (1 - share) * y for x, y in zip(a, b, strict=True))

    return Curve(one.point, mix(one.objectives, other.objectives), mix(one.seconds, other.seconds))
