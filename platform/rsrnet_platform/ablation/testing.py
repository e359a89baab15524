"""The test of many models on the same images: each worker takes one model after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from rsrnet.data.naming import Composite
from rsrnet.evaluation.measure import Row
from rsrnet_platform import pool
from rsrnet_platform.cluster import Cluster
from rsrnet_platform.evaluation.scoring import Measuring, Model, evaluator, keep_rows, read_rows


def score_models(
    models: Mapping[int, Path],
    measuring: Measuring,
    composites: Sequence[Composite],
    place: Cluster,
    max_failures: int,
    folder: Path,
    progress: Callable[[int], None],
) -> dict[int, list[Row]]:
    """Score composites by every model.

    Args:
        models: their checkpoints, by any number.
        measuring: how.
        composites: on what.
        place: where.
        max_failures: how often a worker may die.
        folder: keeps the rows of each model, for a job that is started again with the same models, the same
            composites and the same ``measuring``.
        progress: called with the number of models done whenever one is.

    Returns:
        A row for each composite, in their order, by the number of the model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {number: folder / f"{model.name}.json" for number, model in models.items()}
    found = {number: rows for number, file in files.items() if (rows := read_rows(file)) is not None}
    progress(len(found))
    left = [number for number in models if number not in found]
    make = partial(_scorer, measuring, composites, place.use_gpu, place.cpus_per_worker)
    for position, rows in pool.deal(place, make, [models[number] for number in left], max_failures):
        number = left[position]
        found[number] = rows
        keep_rows(rows, files[number])
        progress(len(found))
    return found


def _scorer(
    measuring: Measuring, composites: Sequence[Composite], use_gpu: bool, cpus: int
) -> Callable[[Path], list[Row]]:
    """What one worker does with a model."""
    return lambda model: evaluator(Model(str(model), ""), measuring, use_gpu, cpus)(composites)
