"""The picture of where a model fails: a panel for each property of the images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rsrnet_platform import drawing
from rsrnet_platform.evaluation.failures import FEW, PROPERTIES, Property, half_width, scored, slices, verdict

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"f1": ("F1", drawing.BLUE), "iou": ("IoU", drawing.ORANGE)}

APART = 0.015
"""Half the distance between the two marks of a bin: share of the panel's width."""


def draw(table: pa.Table) -> Figure:
    """Draw F1 and IoU of M_fnl by size of the region, by its area, by sub-dataset and by colour difference.

    The title says where the model fails most. Save it with :func:`drawing.save`.

    Args:
        table: a row for each image, as :func:`rsrnet_platform.evaluation.failures.slices` takes it.

    Raises:
        ValueError: if no image has scores.
    """
    import pyarrow.compute as pc

    bins = slices(table)
    left_out = table.num_rows - scored(table).num_rows
    note = "M_fnl, published protocol; under each bin its images; bars: 95 % confidence over photographs"
    note += f"; {left_out:,} images could not be scored" if left_out else ""
    figure = drawing.new(12, 7.2, verdict(bins), note)
    handles: dict[str, Any] = {}
    for axes, each in zip(figure.subplots(2, 2, sharey=True).flat, PROPERTIES, strict=True):
        drawing.tidy(axes)
        rows = bins.filter(pc.equal(bins["property"], each.name)).to_pylist()
        handles |= _panel(axes, each, rows)
    for axes in figure.axes[::2]:
        axes.set_ylabel("mean over images", fontsize=drawing.TEXT)
    drawing.legend(figure, dict(sorted(handles.items())), columns=6)
    return figure


def _panel(axes: Axes, each: Property, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Draw the bins of a property; returns what the legend explains."""
    handles: dict[str, Any] = {}
    apart = APART * len(rows)
    for side, (metric, (name, colour)) in zip((-apart, apart), COLOURS.items(), strict=True):
        for few in (False, True):
            chosen = [
                place for place, row in enumerate(rows) if row["images"] and (row["photographs"] < FEW) == few
            ]
            if not chosen:
                continue
            marks = axes.errorbar(
                [place + side for place in chosen],
                [rows[place][metric] for place in chosen],
                np.transpose([_bar(rows[place], metric) for place in chosen]),
                fmt="o",
                markersize=5,
                color=colour,
                markerfacecolor="white" if few else colour,
                ecolor=(colour, 0.5),
                elinewidth=1.5,
                zorder=4,
            )
            handles[f"{name}, fewer than {FEW} photographs" if few else name] = marks
        handles[f"{name}, all images"] = axes.axhline(
            _overall(rows, metric), color=colour, linestyle="--", linewidth=0.9, zorder=2
        )
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlim(-0.6, len(rows) - 0.4)
    axes.grid(visible=False, axis="x")
    axes.set_xticks(range(len(rows)), [f"{row['bin']}\n{row['images']:,}" for row in rows])
    axes.set_xlabel(each.axis, fontsize=drawing.TEXT)
    return handles


def _bar(row: dict[str, Any], metric: str) -> tuple[float, float]:
    """How far the interval reaches below and above the mean, within what a score can be."""
    half = half_width(row[f"{metric}_se"] or 0.0)
    return min(half, row[metric]), min(half, max(1 - row[metric], 0.0))


def _overall(rows: list[dict[str, Any]], metric: str) -> float:
    """Mean over all images, from those of the bins."""
    total = sum(row["images"] for row in rows)
    return float(sum(row["images"] * row[metric] for row in rows if row["images"]) / total)
