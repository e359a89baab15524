"""What an evaluation leaves in its folder and in MLflow: tables, the scores of every image, pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.csv import write_csv

from rsrnet.data.naming import Composite
from rsrnet.evaluation.columns import METRICS, PAPERS, Setting
from rsrnet.evaluation.measure import Row
from rsrnet.evaluation.published import ALL
from rsrnet.evaluation.summary import Slice
from rsrnet_platform.drawing import save
from rsrnet_platform.evaluation import failures, failures_figure
from rsrnet_platform.files import whole
from rsrnet_platform.pictures import Pictures
from rsrnet_platform.sheet import Sheet

if TYPE_CHECKING:
    from rsrnet.model.network import RSRNet

IMAGES, SUMMARY, REPORT = "images.parquet", "summary.json", "report.md"
FAILURES, BINS = "failures.png", "failures.csv"


@dataclass(frozen=True)
class Outcome:
    """What was found."""

    name: str
    """Of the evaluation."""

    model: str
    rows: Sequence[Row]
    """Of the images that could be scored."""

    slices: Sequence[Slice]
    settings: Sequence[Setting]
    sheets: Sequence[Sheet]


def write(outcome: Outcome, every_row: Sequence[Row], folder: Path) -> None:
    """Write the tables and the figure; every file appears whole or not at all.

    ``images.parquet`` has a row for each image, also for those that could not be used, with the reason.
    """
    folder.mkdir(parents=True, exist_ok=True)
    whole(folder / IMAGES, lambda path: pq.write_table(_table(every_row, outcome.settings), path))
    whole(folder / SUMMARY, lambda path: path.write_text(json.dumps(_summary(outcome), indent=1)))
    parts = [f"# Evaluation {outcome.name}", f"Model: `{outcome.model}`."]
    parts += [sheet.markdown() for sheet in outcome.sheets]
    table = _table(outcome.rows, outcome.settings)
    save(failures_figure.draw(table), folder / FAILURES)
    whole(folder / BINS, partial(write_csv, failures.slices(table)))
    parts.append(f"Every image: [{IMAGES}]({IMAGES}). Numbers of the first picture: [{BINS}]({BINS}).")
    parts += pictures_in(folder, FAILURES)
    whole(folder / REPORT, lambda path: path.write_text("\n\n".join(parts) + "\n", encoding="utf-8"))


def pictures_in(folder: Path, first: str) -> list[str]:
    """Every picture of a report in Markdown, one of them first."""
    names = sorted((path.name for path in folder.glob("*.png")), key=lambda name: (name != first, name))
    return [f"![{Path(name).stem}]({name})" for name in names]


def metrics(outcome: Outcome) -> dict[str, float]:
    """What MLflow shows: the paper's metrics of every mask and slice, everything else over all images only."""
    values: dict[str, float] = {}
    for part in outcome.slices:
        for setting in outcome.settings:
            papers = setting == PAPERS._replace(mask=setting.mask)
            if not papers and part.name != ALL:
                continue
            how = [] if papers else [setting.protocol, setting.place]
            key = "/".join([part.name.replace(", ", "_").replace(" ", "_"), setting.mask, *how])
            values |= {f"{key}/{metric}": part.means[setting.column(metric)] for metric in METRICS}
    return values


def draw_examples(
    outcome: Outcome,
    model: RSRNet,
    root: str,
    composites: Sequence[Composite],
    size: int,
    number: int,
    folder: Path,
) -> None:
    """Draw the best, the median and the worst images by the F1 of M_fnl, each with its F1.

    Args:
        outcome: its rows are ranked.
        model: draws the masks, on the processor.
        root: the dataset.
        composites: those of the rows, and maybe others.
        size: side of the network's input, in pixels.
        number: images a picture.
        folder: where to.
    """
    import torch

    by_path = {composite.path: composite for composite in composites}
    for name, chosen in _chosen(outcome.rows, number):
        pictures = Pictures(root, [by_path[row["path"]] for row in chosen], size)
        labels = [f"F1 {row[PAPERS.column('f1')]:.2f}" for row in chosen]
        picture = pictures.draw(model, torch.device("cpu"), labels)["masks.png"]
        whole(folder / f"{name}.png", partial(picture.save, format="PNG"))


def _chosen(rows: Sequence[Row], number: int) -> Iterator[tuple[str, list[Row]]]:
    ranked = sorted(
        rows, key=lambda row: (-row[PAPERS.column("f1")], -row[PAPERS.column("iou")], row["path"])
    )
    number = min(number, len(ranked))
    middle = (len(ranked) - number) // 2
    yield "best", ranked[:number]
    yield "median", ranked[middle : middle + number]
    yield "worst", ranked[len(ranked) - number :]


def _summary(outcome: Outcome) -> dict[str, object]:
    slices = [
        {
            "name": part.name,
            "images": part.images,
            "means": dict(part.means),
            "standard_errors": dict(part.errors),
        }
        for part in outcome.slices
    ]
    return {"name": outcome.name, "model": outcome.model, "slices": slices}


def _table(rows: Sequence[Row], settings: Sequence[Setting]) -> pa.Table:
    columns = [
        *((name, pa.int32()) for name in ("width", "height")),
        *((name, pa.float64()) for name in ("area_fraction", "colour_difference")),
        *((setting.column(metric), pa.float64()) for setting in settings for metric in METRICS),
    ]
    return image_table(rows, columns)


def image_table(rows: Sequence[Row], columns: Sequence[tuple[str, pa.DataType]]) -> pa.Table:
    """A row for each image: what its name says, its error if it has one, and other columns, null where it has."""
    text = ("path", "subset", "image_id", "mask_id", "group", "error")
    schema = pa.schema([*((name, pa.string()) for name in text), ("k", pa.int32()), *columns])
    return pa.Table.from_pylist(list(rows), schema=schema)
