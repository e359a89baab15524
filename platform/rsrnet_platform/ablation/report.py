"""What an ablation leaves in its folder and in MLflow: the tables for people and for programs, and a picture."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsrnet.evaluation.ablations import FULL, LABELS, TABLE_2, TABLE_3, masks_of
from rsrnet.evaluation.columns import METRICS, PAPERS
from rsrnet.evaluation.published import Scores
from rsrnet_platform import drawing
from rsrnet_platform.ablation.estimates import Measured, Tested
from rsrnet_platform.files import whole
from rsrnet_platform.sheet import Sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPORT, ROWS, TRAININGS, IMAGES, PICTURE = (
    "report.md",
    "rows",
    "trainings",
    "images.parquet",
    "differences.png",
)


@dataclass(frozen=True)
class Outcome:
    """What was found."""

    name: str
    """Of the ablation."""

    tested: Tested
    measured: Measured
    trainings: Sequence[dict[str, Any]]
    """A row for each training, also for those that failed, with the reason."""

    sheets: Sequence[Sheet]
    remarks: Sequence[str]


def write(outcome: Outcome, folder: Path) -> None:
    """Write everything; every file appears whole or not at all, the report last.

    ``rows.csv`` and ``rows.parquet`` hold a line for each row, mask and metric; ``trainings.csv`` and
    ``trainings.parquet`` one for each training; ``images.parquet`` one for each training and test image.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write_table(list(_rows(outcome.measured)), folder / ROWS)
    _write_table(list(outcome.trainings), folder / TRAININGS)
    _write_images(outcome.tested, folder / IMAGES)
    parts = [f"# Ablation {outcome.name}", *(sheet.markdown() for sheet in outcome.sheets)]
    parts.append("\n".join(f"- {remark}" for remark in outcome.remarks))
    if _drawn(outcome.measured):
        drawing.save(differences(outcome.measured), folder / PICTURE)
        parts.append(f"![IoU of M_fnl less the full model's]({PICTURE})")
    links = [f"{name}.{ending}" for name in (ROWS, TRAININGS) for ending in ("csv", "parquet")]
    parts.append("All numbers: " + ", ".join(f"[{name}]({name})" for name in [*links, IMAGES]) + ".")
    whole(folder / REPORT, lambda path: path.write_text("\n\n".join(parts) + "\n", encoding="utf-8"))


def metrics(measured: Measured) -> dict[str, float]:
    """Means of every row, mask and metric, such as ``without_gru/m_fnl/iou``, and the differences to the full model."""
    values = {}
    for line in _rows(measured):
        key = f"{line['row']}/{line['mask']}/{line['metric']}"
        values[key] = line["ours"]
        if line["difference"] is not None:
            values[f"{key}_difference"] = line["difference"]
    return values


def differences(measured: Measured) -> Figure:
    """IoU of M_fnl less the full model's, by row: the paper's and ours with its standard error."""
    rows = _drawn(measured)
    figure = drawing.new(6.5, 0.34 * len(rows) + 1.4, "IoU of M_fnl less the full model's, in points")
    axes = figure.subplots()
    drawing.tidy(axes)
    axes.axvline(0, color=drawing.DARK, linewidth=0.8)
    heights = range(len(rows))
    found = [each for row in rows if (each := measured.difference(row, PAPERS.mask, "iou"))]
    (papers,) = axes.plot(
        [100 * (TABLE_2[row].iou - TABLE_2[FULL].iou) for row in rows],
        [height - 0.12 for height in heights],
        "s",
        color=drawing.ORANGE,
        markersize=5,
    )
    ours = axes.errorbar(
        [100 * each.value for each in found],
        [height + 0.12 for height in heights],
        xerr=[100 * each.total_error for each in found],
        fmt="o",
        color=drawing.BLUE,
        markersize=4.5,
        elinewidth=1.0,
    )
    axes.set_yticks(list(heights), [LABELS[row] for row in rows])
    axes.invert_yaxis()
    drawing.legend(figure, {"paper": papers, "ours ± standard error": ours}, columns=2)
    return figure


def _drawn(measured: Measured) -> list[str]:
    """The rows that have a difference to the full model."""
    return [row for row in measured.rows if measured.difference(row, PAPERS.mask, "iou") is not None]


def _rows(measured: Measured) -> Iterator[dict[str, Any]]:
    for row in measured.rows:
        for mask in masks_of(row):
            for metric in METRICS:
                ours, away = measured.score(row, mask, metric), measured.difference(row, mask, metric)
                yield {
                    "row": row,
                    "mask": mask,
                    "metric": metric,
                    "paper": _papers(row, mask, metric),
                    "ours": ours.value,
                    "standard_error": _number(ours.error),
                    "seed_deviation": _number(ours.spread),
                    "seeds": ours.seeds,
                    "images": measured.images,
                    "photographs": measured.photographs,
                    "difference": None if away is None else away.value,
                    "difference_standard_error": None if away is None else _number(away.error),
                    "difference_seed_deviation": None if away is None else _number(away.spread),
                    "difference_clear": None if away is None else away.clear,
                }


def _papers(row: str, mask: str, metric: str) -> float | None:
    """What the paper prints, in Table 2 where both tables have it; None where it prints nothing."""
    if mask == PAPERS.mask:
        printed: Scores | None = TABLE_2[row]
    else:
        printed = TABLE_3.get(row, {}).get(mask)
    return None if printed is None else float(getattr(printed, metric))


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _write_table(lines: list[dict[str, Any]], path: Path) -> None:
    """The same lines as Parquet and CSV; the first has every column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def write_csv(partial: Path) -> None:
        with partial.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(lines[0]))
            writer.writeheader()
            writer.writerows(lines)

    whole(path.with_suffix(".parquet"), lambda partial: pq.write_table(pa.Table.from_pylist(lines), partial))
    whole(path.with_suffix(".csv"), write_csv)


def _write_images(tested: Tested, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    lines = [
        {"row": row, "seed": seed, **image} for (row, seed), images in tested.items() for image in images
    ]
    whole(path, lambda partial: pq.write_table(pa.Table.from_pylist(lines), partial))
