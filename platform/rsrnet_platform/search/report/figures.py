"""Figures of a search: what each setting does, which points are good, what the search spent its time on."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from rsrnet_platform import drawing
from rsrnet_platform.drawing import save
from rsrnet_platform.search.report import marks
from rsrnet_platform.search.report.outcome import finished, searched, statuses
from rsrnet_platform.search.report.parallel import parallel_coordinates
from rsrnet_platform.search.report.scales import Scale, scale_of, side_by_side
from rsrnet_platform.search.report.timeline import over_time
from rsrnet_platform.search.trials import Trial

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["objective_by_setting", "over_time", "parallel_coordinates", "save"]

PANELS_A_ROW = 3

CHARACTERS = 42
"""So many find room along the horizontal axis of a panel."""

SLANTED = 1 / 14
"""Part of such an axis that a slanted label takes."""


def objective_by_setting(trials: Sequence[Trial], metric: str) -> Figure:
    """A panel for each searched setting: the objective of every finished trial over the setting's value.

    Error bars are the standard deviation over the folds. Trials with the same value stand side by side; where
    values are few, each has its mean. Trials that did not finish are left out: their objective is of fewer folds.

    Args:
        trials: all of a search, in any state; the paper's own point is number 0.
        metric: what the objective is the mean of, such as `val/iou`.
    """
    paths = searched(trials)
    done = finished(trials)
    columns = 2 if len(paths) == 4 else max(1, min(len(paths), PANELS_A_ROW))
    rows = max(1, math.ceil(len(paths) / columns))
    others = [trial for trial in trials if trial.status != "finished"]
    note = f"left out, being judged on fewer folds: {statuses(others)}" if others else ""
    title = f"{metric} by setting, {drawing.count(done, 'finished trial')}"
    figure = drawing.new(max(3.0 * columns + 0.4, 6.0), 2.6 * rows + 1.1, title, note)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flat
    handles: dict[str, Any] = {}
    for place, axes in enumerate(panels):
        if place >= len(paths):
            axes.set_visible(False)
            continue
        drawing.tidy(axes)
        axes.set_xlabel(paths[place], fontsize=drawing.TEXT)
        if place % columns == 0:
            axes.set_ylabel(metric, fontsize=drawing.TEXT)
        if done:
            handles |= _panel(axes, paths[place], trials)
        else:
            drawing.say(axes, "no trial finished")
    drawing.legend(figure, handles, columns=4 if columns > 2 else 2)
    return figure


def _panel(axes: Axes, path: str, trials: Sequence[Trial]) -> dict[str, Any]:
    """Draw the finished trials over a setting, on an axis for all; returns what the legend explains."""
    done = [trial for trial in trials if trial.status == "finished"]
    scale = scale_of(trial.point[path] for trial in trials)
    positions = [scale.position(trial.point[path]) for trial in done]
    low, high = scale.limits
    width = min(0.5 * scale.gap, 0.2 * (high - low))
    offsets = side_by_side(positions, width, step=0.025 * (high - low))
    x = [scale.coordinate(a + b) for a, b in zip(positions, offsets, strict=True)]
    y = [trial.objective or 0.0 for trial in done]
    points = axes.errorbar(
        x,
        y,
        [trial.spread or 0.0 for trial in done],
        fmt="o",
        markersize=3.5,
        color=drawing.BLUE,
        ecolor=(drawing.BLUE, 0.3),
        elinewidth=1.0,
    )
    handles: dict[str, Any] = {}
    handles[f"finished trial ± standard deviation over {drawing.count(done[0].scores, 'fold')}"] = points
    if scale.few and len(done) > len(set(positions)) > 1:
        handles["mean by value"] = _means(axes, scale, positions, y, width)
    for name, trial in marks.marked(done).items():
        handles[name] = marks.mark(axes, name, x[done.index(trial)], y[done.index(trial)])
    _horizontal(axes, scale, width)
    return handles


def _means(axes: Axes, scale: Scale, positions: Sequence[float], y: Sequence[float], width: float) -> Artist:
    """A bar at the mean of each value; numbers are in an order, so a line leads through theirs."""
    groups = defaultdict(list)
    for position, height in zip(positions, y, strict=True):
        groups[position].append(height)
    places = sorted(groups)
    means = [fmean(groups[place]) for place in places]
    half = 0.6 * width
    left, right = ([scale.coordinate(place + side) for place in places] for side in (-half, half))
    if scale.kind != "category":
        axes.plot([scale.coordinate(place) for place in places], means, color=drawing.DARK, linewidth=0.8)
    return axes.hlines(means, left, right, color=drawing.DARK, linewidth=2.0, zorder=5)


def _horizontal(axes: Axes, scale: Scale, width: float) -> None:
    low, high = scale.limits
    margin = max(0.06 * (high - low), width, 0.5 if scale.kind == "category" else 0.0)
    if scale.kind == "log":
        axes.set_xscale("log")
        axes.minorticks_off()
    ticks = scale.ticks(lambda text: (len(text) + 2) / CHARACTERS)
    aligned: dict[str, Any] = {}
    if scale.by_value and len(ticks) < len(scale.values):
        ticks = scale.ticks(lambda _: SLANTED)
        aligned = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks([scale.coordinate(tick) for tick in ticks], list(ticks.values()), **aligned)
    axes.set_xlim(scale.coordinate(low - margin), scale.coordinate(high + margin))
