"""Every trial of a search as a row, for pandas, DuckDB or a spreadsheet."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rsrnet_platform.files import whole
from rsrnet_platform.search.report.outcome import searched
from rsrnet_platform.search.trials import Trial


def write_table(trials: Sequence[Trial], folder: Path) -> None:
    """Write `trials.parquet` and `trials.csv`, which hold the same rows: one a trial.

    The columns: `trial`, `status`, one of each searched setting by its dotted path (lists as JSON text),
    `objective` and `spread` over the folds so far, `fold_1`, ... (score of each fold trained to the end),
    `epochs` done, `seconds` they took, `error`, and `run_id` in MLflow.

    Args:
        trials: all of a search, in any state.
        folder: where to; made if missing. Each file appears whole or not at all.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = _columns(trials)
    types = {
        "trial": pa.int64(),
        **{name: pa.float64() for name in columns if name.startswith("fold_")},
        **{name: pa.float64() for name in ("objective", "spread", "seconds")},
        "epochs": pa.int64(),
        **{name: pa.string() for name in ("status", "error", "run_id")},
        **{path: _arrow_type(columns[path]) for path in searched(trials)},
    }
    table = pa.table({name: pa.array(column, types[name]) for name, column in columns.items()})
    folder.mkdir(parents=True, exist_ok=True)
    whole(folder / "trials.parquet", lambda path: pq.write_table(table, path))
    whole(folder / "trials.csv", lambda path: _write_csv(columns, path))


def _columns(trials: Sequence[Trial]) -> dict[str, list[Any]]:
    folds = max((trial.folds for trial in trials), default=0)
    return {
        "trial": [trial.index for trial in trials],
        "status": [trial.status for trial in trials],
        **{path: _one_type([trial.point[path] for trial in trials]) for path in searched(trials)},
        "objective": [trial.objective for trial in trials],
        "spread": [trial.spread for trial in trials],
        **{
            f"fold_{fold + 1}": [trial.scores[fold] if fold < len(trial.scores) else None for trial in trials]
            for fold in range(folds)
        },
        "epochs": [trial.step for trial in trials],
        "seconds": [trial.ended - trial.started for trial in trials],
        "error": [trial.error for trial in trials],
        "run_id": [trial.run_id for trial in trials],
    }


def _one_type(values: list[Any]) -> list[Any]:
    """The values of a setting as they are if they are of one type, numbers as floats if any is; else as JSON."""
    types = {type(value) for value in values if value is not None}
    if types == {int, float}:
        return [None if value is None else float(value) for value in values]
    if len(types) == 1 and types <= {bool, int, float, str}:
        return values
    return [None if value is None else json.dumps(value) for value in values]


def _arrow_type(values: list[Any]) -> Any:
    import pyarrow as pa

    of = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}
    return next((of[type(value)] for value in values if value is not None), pa.string())


def _write_csv(columns: dict[str, list[Any]], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
