"""The rows of an evaluation, from the workers of a job; what an interrupted one had done is not done again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.progress import Progress

from rsrnet.data.naming import Composite
from rsrnet.evaluation.measure import Evaluator, Row
from rsrnet_platform import pool
from rsrnet_platform.cluster import Cluster
from rsrnet_platform.files import whole
from rsrnet_platform.terminal import console, duration

BATCHES_A_TASK = 4
"""A worker decodes the next batch while it computes on one, within a task."""


@dataclass(frozen=True)
class Model:
    """What a worker builds its network from."""

    uri: str
    """As in :func:`rsrnet_platform.lookup.resolve`."""

    tracking_uri: str


@dataclass(frozen=True)
class Measuring:
    """How images are scored; see :class:`rsrnet.evaluation.measure.Evaluator`."""

    root: str
    size: int
    native: bool = True
    precision: str = "float32"
    batch_size: int = 16
    threads: int = 1

    kind: type[Evaluator] = Evaluator
    """What makes the rows."""

    options: Mapping[str, Any] = field(default_factory=dict)
    """What else that kind takes."""


def score(
    model: Model,
    measuring: Measuring,
    composites: Sequence[Composite],
    place: Cluster,
    max_failures: int,
    parts: Path,
    progress: Callable[[int], None],
) -> list[Row]:
    """Score composites on all workers.

    What shares a batch does not depend on the number of workers, so neither do the numbers.

    Args:
        model: what to score.
        measuring: how.
        composites: on what.
        place: where.
        max_failures: how often a worker may die.
        parts: folder that keeps the rows of each task, for a job that is started again with the same model, the same
            composites and the same ``measuring``.
        progress: called with the number of images done whenever some are.

    Returns:
        A row for each composite, in their order.
    """
    size = measuring.batch_size * BATCHES_A_TASK
    tasks = [composites[start : start + size] for start in range(0, len(composites), size)]
    parts.mkdir(parents=True, exist_ok=True)
    rows = {number: read_rows(parts / f"{number:06d}.json") for number in range(len(tasks))}
    left = [number for number in range(len(tasks)) if rows[number] is None]
    progress(sum(len(done) for done in rows.values() if done))
    make = partial(evaluator, model, measuring, place.use_gpu, place.cpus_per_worker)
    for position, done in pool.deal(place, make, [tasks[number] for number in left], max_failures):
        rows[left[position]] = done
        keep_rows(done, parts / f"{left[position]:06d}.json")
        progress(sum(len(done) for done in rows.values() if done))
    return [row for number in range(len(tasks)) for row in rows[number] or []]


def score_watched(
    model: Model,
    measuring: Measuring,
    composites: Sequence[Composite],
    place: Cluster,
    max_failures: int,
    parts: Path,
    what: str,
) -> list[Row]:
    """:func:`score` with a progress bar, and a line at the end; ``what`` begins it, such as ``The champion``."""
    began = time.monotonic()
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(what, total=len(composites))
        rows = score(
            model,
            measuring,
            composites,
            place,
            max_failures,
            parts,
            lambda done: bar.update(task, completed=done),
        )
    console.print(f"{what}: {len(rows):,} images in {duration(time.monotonic() - began)}.")
    return rows


def evaluator(model: Model, measuring: Measuring, use_gpu: bool, cpus: int) -> Evaluator:
    """What one worker scores with."""
    import torch

    from rsrnet import checkpoint
    from rsrnet_platform.lookup import resolve

    torch.set_num_threads(cpus)
    device = "cuda" if use_gpu else "cpu"
    network = checkpoint.load_model(resolve(model.uri, model.tracking_uri), device)
    how = {
        name: getattr(measuring, name) for name in ("size", "native", "precision", "batch_size", "threads")
    }
    return measuring.kind(network, measuring.root, device=device, **how, **measuring.options)


def read_rows(path: Path) -> list[Row] | None:
    """The rows that a file keeps; None if it is not there, or damaged: those images are scored again."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def keep_rows(rows: list[Row], path: Path) -> None:
    """Keep rows for a job that is started again, unless there are errors among them: those may be mended."""
    if all(row["error"] is None for row in rows):
        whole(path, lambda partial: partial.write_text(json.dumps(rows), encoding="utf-8"))
