"""What `kind: robustness` leaves in its folder and in MLflow: curves over the strengths, sheets of examples."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import torch

from rsrnet import visualize
from rsrnet.data.naming import Composite
from rsrnet.evaluation.columns import METRICS
from rsrnet.evaluation.corruptions import CORRUPTIONS, STRENGTHS
from rsrnet.evaluation.measure import Row
from rsrnet.evaluation.published import Scores
from rsrnet.evaluation.robustness import COLUMNS, Curve, column, corrupted, curve
from rsrnet.validation import MASKS
from rsrnet_platform.evaluation import tables
from rsrnet_platform.evaluation.report import IMAGES, REPORT, SUMMARY, image_table, pictures_in
from rsrnet_platform.files import whole
from rsrnet_platform.pictures import Pictures, pixels, planes
from rsrnet_platform.sheet import Sheet

if TYPE_CHECKING:
    from rsrnet.model.network import RSRNet

FIGURE, CURVES = "robustness.png", "robustness.csv"

PANEL = 144
"""Width of a picture in the sheets of examples, in pixels."""


@dataclass(frozen=True)
class Outcome:
    """What was found."""

    name: str
    """Of the job."""

    model: str

    size: int
    """Side of the network's input, in pixels."""

    rows: Sequence[Row]
    """Of the images that could be scored, at least one."""

    @cached_property
    def curves(self) -> dict[str, Curve]:
        """Every column's curve over the strengths."""
        return {name: curve(self.rows, name) for name in COLUMNS}

    def scores(self, corruption: str, strength: int, mask: str = MASKS[0]) -> Scores:
        """Mean AP, F1 and IoU of a mask."""
        names = (column(corruption, mask, metric) for metric in METRICS)
        return Scores(*(float(self.curves[name].means[strength]) for name in names))


def clean_f1(row: Row) -> float:
    """F1 of M_fnl on the image as it is."""
    return row[column(next(iter(CORRUPTIONS)), "m_fnl", "f1")][0]


def write(outcome: Outcome, every_row: Sequence[Row], folder: Path) -> None:
    """Write tables and the figure; every file appears whole or not at all.

    ``images.parquet`` has a row for each image, with a list over the strengths, 0 to 5, in each column of scores;
    ``robustness.csv`` the means.
    """
    from rsrnet_platform.evaluation.robustness_figure import draw

    folder.mkdir(parents=True, exist_ok=True)
    table = image_table(every_row, [(name, pa.list_(pa.float64())) for name in COLUMNS])
    whole(folder / IMAGES, lambda path: pq.write_table(table, path))
    means = pa.Table.from_pylist(_means(outcome))
    whole(folder / CURVES, lambda path: pc.write_csv(means, path))
    summary = {
        "name": outcome.name,
        "model": outcome.model,
        "images": len(outcome.rows),
        "means": _means(outcome),
        "in_words": sentences(outcome),
    }
    whole(folder / SUMMARY, lambda path: path.write_text(json.dumps(summary, indent=1)))
    draw(outcome, folder / FIGURE)
    parts = [f"# Robustness {outcome.name}", f"Model: `{outcome.model}`.", *sentences(outcome)]
    parts += [sheet.markdown() for sheet in sheets(outcome)]
    parts += [f"Every image: [{IMAGES}]({IMAGES}).", *pictures_in(folder, FIGURE)]
    whole(folder / REPORT, lambda path: path.write_text("\n\n".join(parts) + "\n", encoding="utf-8"))


def metrics(outcome: Outcome) -> list[tuple[int, dict[str, float]]]:
    """What MLflow shows: every curve, with the strength as the step."""
    return [
        (
            strength,
            {name.replace(".", "/"): float(made.means[strength]) for name, made in outcome.curves.items()},
        )
        for strength in STRENGTHS
    ]


def sheets(outcome: Outcome) -> list[Sheet]:
    """M_fnl under every corruption, and the F1 of all masks at the greatest strength."""
    first = next(iter(CORRUPTIONS))
    rows = [["clean", "", *tables.texts(outcome.scores(first, 0)), ""]]
    for name, corruption in CORRUPTIONS.items():
        made = outcome.curves[column(name, "m_fnl", "f1")]
        for strength in STRENGTHS[1:]:
            level = f"{corruption.levels[strength - 1]:g}"
            scores = tables.texts(outcome.scores(name, strength))
            head = corruption.heading if strength == 1 else ""
            rows.append([head, level, *scores, _change(made, strength)])
    title = f"M_fnl, published protocol, {outcome.size} x {outcome.size}, {len(outcome.rows):,} images"
    everything = Sheet(title, ["corruption", "level", *tables.METRICS, "change of F1"], rows)
    last = STRENGTHS[-1]
    masks = [
        [name, *(f"{outcome.scores(each, strength, mask).f1:.4f}" for mask in tables.SYMBOLS)]
        for name, each, strength in [
            ("clean", first, 0),
            *((corruption.heading, name, last) for name, corruption in CORRUPTIONS.items()),
        ]
    ]
    return [everything, Sheet(f"F1 at strength {last}", ["corruption", *tables.SYMBOLS.values()], masks)]


def sentences(outcome: Outcome) -> list[str]:
    """What the numbers say: which corruption costs most and which least, at the greatest strength."""
    last = STRENGTHS[-1]
    losses = {name: outcome.curves[column(name, "m_fnl", "f1")] for name in CORRUPTIONS}
    ranked = sorted(losses, key=lambda name: losses[name].losses[last])
    most, least = (
        f"{CORRUPTIONS[name].title} costs {word} ({_change(losses[name], last)})"
        for word, name in (("most", ranked[-1]), ("least", ranked[0]))
    )
    clean = outcome.scores(ranked[0], 0).f1
    return [f"F1 of M_fnl is {clean:.3f} on clean images. At strength {last}, {most} and {least}."]


def draw_sheets(
    outcome: Outcome,
    model: RSRNet,
    root: str,
    composites: Sequence[Composite],
    rows: Sequence[Row],
    folder: Path,
) -> None:
    """Draw a sheet for each image: every corruption at every strength, with M_fnl and the true region.

    Args:
        outcome: what was found.
        model: makes the masks, on the processor.
        root: the dataset.
        composites: the images.
        rows: what was found about them.
        folder: where to.
    """
    pictures = Pictures(root, composites, outcome.size)
    for number, row in enumerate(rows):
        image, truth = pictures.images[number : number + 1], planes(pictures.truth)[number]
        panels = []
        for corruption in CORRUPTIONS.values():
            changed = torch.cat([corrupted(image, corruption, strength) for strength in STRENGTHS])
            with torch.inference_mode():
                masks = planes(model(changed).m_fnl)
            panels.append(
                [visualize.overlay(*each, truth) for each in zip(pixels(changed), masks, strict=True)]
            )
        titles = [f"clean: F1 {clean_f1(row):.2f}", *(f"strength {strength}" for strength in STRENGTHS[1:])]
        labels = [corruption.title for corruption in CORRUPTIONS.values()]
        picture = visualize.comparison(panels, titles, PANEL, labels)
        whole(folder / f"examples-{number + 1}.png", partial(picture.save, format="PNG"))


def _change(made: Curve, strength: int) -> str:
    return tables.with_error(-made.losses[strength], made.errors[strength])


def _means(outcome: Outcome) -> list[dict[str, object]]:
    """A row for each corruption and strength with the mean of every mask's metrics."""
    return [
        {
            "corruption": name,
            "strength": strength,
            "level": corruption.levels[strength - 1] if strength else None,
            **{
                f"{mask}.{metric}": float(outcome.curves[column(name, mask, metric)].means[strength])
                for mask in MASKS
                for metric in METRICS
            },
        }
        for name, corruption in CORRUPTIONS.items()
        for strength in STRENGTHS
    ]
