"""Which trainings an ablation has. Light: part of the schema of job files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from rsrnet.config import Problem
from rsrnet.model.config import ABLATIONS, RSRNetConfig

ROW = "row"
"""Key of the row of Table 2 in the point of a trial; the other keys are dotted paths."""

SEED = "fit.seed"


def points(rows: Sequence[str], repeats: int, seed: int) -> dict[int, dict[str, Any]]:
    """The point of every trial by its number, all rows of a repeat before the next.

    The number stays that of its row and repeat whichever others are asked for; in the first repeat it is the row's
    in Table 2.

    Args:
        rows: names from ``ABLATIONS``.
        repeats: trainings of each row.
        seed: of the first training of each row; every further one has the next.
    """
    return {
        repeat * len(ABLATIONS) + number: {ROW: row, SEED: seed + repeat}
        for repeat in range(repeats)
        for number, row in enumerate(ABLATIONS, start=1)
        if row in rows
    }


def settings(point: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a point stands for, by dotted path: those of its row in place of the row, if it has one."""
    changed = ABLATIONS[point[ROW]] if ROW in point else {}
    others = {path: value for path, value in point.items() if path != ROW}
    return others | {f"model.{key}": value for key, value in changed.items()}


def name(point: Mapping[str, Any]) -> str:
    """What the training of a point is called among those of its ablation, such as ``without_gru-42``."""
    return f"{point[ROW]}-{point[SEED]}"


def problems(rows: Sequence[str], model: RSRNetConfig) -> list[Problem]:
    """Tell which rows there are not, and what makes a network no full model that rows could be compared with.

    Args:
        rows: of an ablation.
        model: the configuration that the rows change.
    """
    full = RSRNetConfig()
    changed = dict.fromkeys(key for row in ABLATIONS.values() for key in row if key != "scales")
    found = [
        Problem(
            f"model.{key}", getattr(model, key), f"{getattr(full, key)}, the full model's: rows change it"
        )
        for key in changed
        if getattr(model, key) != getattr(full, key)
    ]
    if not model.scales:
        found.append(Problem("model.scales", [], "at least one scale: the row without_msm has none"))
    return _row_problems(rows) + found


def _row_problems(rows: Sequence[str]) -> list[Problem]:
    given = list(rows)
    unknown = [row for row in rows if row not in ABLATIONS]
    if unknown:
        near = get_close_matches(unknown[0], ABLATIONS, n=1)
        nearest = f"; the nearest is {near[0]}" if near else ""
        return [Problem("rows", given, f"there is no {unknown[0]!r}, but {', '.join(ABLATIONS)}{nearest}")]
    if not rows or len(set(rows)) < len(rows):
        return [Problem("rows", given, "different rows of Table 2, at least one")]
    return []
