"""A search problem small enough to be solved in minutes, and what the benchmarks of searches share.

The images are of a smooth colour with noise, with one square whose channels are scaled by random factors, up or
down: a tiny network learns part of it in a few epochs, and how large a part depends on every setting searched.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from rsrnet_platform import spec, tune
from rsrnet_platform.search.cross_validation import TrialHost, TrialTask, cross_validate
from rsrnet_platform.search.trials import Journal, Point, Trial
from rsrnet_platform.terminal import console

HEIGHT, WIDTH = 40, 48


def make_images(root: Path, train: int, seed: int = 0) -> None:
    """Make a dataset in the published layout, with five validation images besides.

    Args:
        root: where to.
        train: images of the training list, each of a photograph of its own.
        seed: chooses all of it.
    """
    source = np.random.default_rng(seed)
    lines = [_make_image(root / "Sample", index, source) for index in range(train + 5)]
    for name, part in {"train": lines[:train], "val": lines[train:], "test": lines[train:]}.items():
        (root / f"le50_{name}.txt").write_text("".join(part))


def _make_image(folder: Path, index: int, source: np.random.Generator) -> str:
    """Make one composite with its mask and photograph; its line in a list."""
    coarse = Image.fromarray(source.integers(90, 150, (4, 4, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), dtype=float)
    real = smooth + source.normal(0, 12, smooth.shape)
    side = source.integers(10, 22)
    top, left = source.integers(0, (HEIGHT - side, WIDTH - side))
    mask = np.zeros((HEIGHT, WIDTH, 1), dtype=bool)
    mask[top : top + side, left : left + side] = True
    factors = 1 + source.uniform(0.3, 0.6, 3) * source.choice([-1, 1], 3)
    stem = f"s{index:03d}-0"
    files = {
        f"real_images/{stem}.jpg": real,
        f"masks/{stem}_1.png": np.where(mask[..., 0], 255, 0),
        f"composite_images/{stem}_1_1.jpg": np.where(mask, real * factors, real),
    }
    for name, pixels in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / name, quality=95)
    return f"Sample/composite_images/{stem}_1_1.jpg\n"


def search_job(
    folder: Path, name: str, space: Mapping[str, Any], search: Mapping[str, Any], epochs: int
) -> spec.TuneJob:
    """A search with a tiny network on the images in ``folder/images``; everything it writes is in ``folder``."""
    job = spec.parse(
        {
            "kind": "tune",
            "name": name,
            "space": space,
            "search": search,
            "refit": False,
            "data": {
                "root": str(folder / "images"),
                "val": "le50_val.txt",
                "size": 32,
                "loader_processes": 0,
            },
            "model": {"depth": 18, "width": 4, "iterations": 2, "scales": [0, 1]},
            "fit": {
                "epochs": epochs,
                "batch_size": 4,
                "lr": 3e-3,
                "milestones": [max(1, epochs - 1)],
                "encoder_weights": "none",
            },
            "cluster": {"address": "local", "accelerator": "cpu"},
            "storage": str(folder / "runs"),
            "tracking": {"uri": str(folder / "mlflow.db"), "model": None},
        }
    )
    assert isinstance(job, spec.TuneJob)
    return job


def run_search(job: spec.TuneJob) -> list[Trial]:
    """Search as `rsrnet run` does, without a word; the trials."""
    console.quiet = True
    tune.run(job, fresh=False)
    return Journal(Path(job.storage) / job.name / "attempt-1").in_order()


class Collector:
    """A trial's host in this process that keeps nothing but what it is told."""

    rank = 0
    world_size = 1
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.reports: list[dict[str, Any]] = []

    @contextmanager
    def newest(self) -> Iterator[None]:
        """See :class:`~rsrnet_platform.search.cross_validation.TrialHost`."""
        yield None

    def repeat(self, metrics: dict[str, Any]) -> None:
        """See :class:`~rsrnet_platform.search.cross_validation.TrialHost`."""

    def report(self, metrics: dict[str, Any], write: Callable[[Path], None]) -> None:
        """See :class:`~rsrnet_platform.search.cross_validation.TrialHost`."""
        self.reports.append(metrics)


def train_here(job: spec.TuneJob, point: Point, host: TrialHost) -> float:
    """Train a point on every fold in this process; the seconds it took."""
    task = TrialTask(spec.training(job, point, job.name), job.search, frozenset())
    start = time.perf_counter()
    cross_validate(task, host)
    return time.perf_counter() - start


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


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in [head, *rows]:
        cells = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        print("  ".join([row[0].ljust(widths[0]), *cells]).rstrip())
