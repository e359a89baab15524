"""The figure of parallel coordinates: which combinations of settings are good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from rsrnet_platform import drawing
from rsrnet_platform.search.report import marks
from rsrnet_platform.search.report.outcome import PAPER, finished, searched
from rsrnet_platform.search.report.scales import even_values, scale_of, side_by_side
from rsrnet_platform.search.trials import Trial

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

COLOURS = "viridis_r"
"""Perceptually uniform; the better a trial, the darker, and the more it stands out on white."""

NOT_FINISHED = "not finished: no objective over all folds"

DASHED = {"color": "black", "linewidth": 1.8, "linestyle": (0, (4, 2.5)), "zorder": 6}
"""The line over the paper's own."""

NARROWEST, INCHES_A_CHARACTER = 1.4, 0.08
"""Inches between two axes, and of the titles above them."""

LABEL = 1 / 22
"""Part of an axis that a label takes."""


@dataclass(frozen=True)
class _Vertical:
    """An axis, 0 at the bottom and 1 at the top."""

    title: str
    ticks: Mapping[float, str]
    """Labels by height."""

    heights: Mapping[int, float]
    """Where each trial crosses it, by number."""


def parallel_coordinates(trials: Sequence[Trial], metric: str) -> Figure:
    """A vertical axis for each searched setting and, last, the objective; a line for each trial.

    Where values are few, trials with the same value cross the axis one above the other. The line of a trial that
    did not finish ends before the objective: its own is of fewer folds.

    Args:
        trials: all of a search, in any state; the paper's own point is number 0.
        metric: what the objective is the mean of, such as `val/iou`.
    """
    done = finished(trials)
    others = [trial for trial in trials if trial.status != "finished"]
    verticals = [_setting(path, [*others, *reversed(done)]) for path in searched(trials)]
    verticals.append(_objective(done, metric))
    title = f"Points of the search, {drawing.count(trials, 'trial')}"
    longest = max(len(line) for vertical in verticals for line in vertical.title.split("\n"))
    width = max(NARROWEST, 0.1 + INCHES_A_CHARACTER * longest)
    figure = drawing.new(max(width * len(verticals) + 1.0, 6.0), 4.4, title)
    axes = figure.add_subplot()
    colours = _colours(done)
    handles: dict[str, Artist] = {}
    for trial in [*others, *reversed(done)]:
        label, style = _style(trial, done, colours)
        handles[label] = _draw_line(axes, trial, verticals, style)
        if trial.index == PAPER:
            handles[marks.PAPERS] = _draw_line(axes, trial, verticals, DASHED)
    for place, vertical in enumerate(verticals):
        _draw_axis(axes, place, vertical, side=1 if place == len(verticals) - 1 else -1)
    axes.set(xlim=(-0.5, len(verticals) - 0.6), ylim=(-0.07, 1.07))
    axes.axis("off")
    if done:
        bar = figure.colorbar(colours, ax=axes, pad=0.01, aspect=35)
        bar.set_label(f"{metric}, mean over {drawing.count(done[0].scores, 'fold')}", fontsize=drawing.TEXT)
        bar.ax.tick_params(labelsize=drawing.SMALL)
    named = (marks.BEST, marks.PAPERS, NOT_FINISHED)
    drawing.legend(figure, {label: handles[label] for label in named if label in handles}, columns=3)
    return figure


def _setting(path: str, trials: Sequence[Trial]) -> _Vertical:
    values = [trial.point[path] for trial in trials]
    scale = scale_of(values)
    low, high = scale.limits
    positions = [scale.position(value) for value in values]
    width = min(0.5 * scale.gap / (high - low), 0.1) if scale.by_value else 0.0
    offsets = side_by_side(positions, width, step=0.02)
    return _Vertical(
        path.replace(".", ".\n"),
        {(position - low) / (high - low): text for position, text in scale.ticks(lambda _: LABEL).items()},
        {
            trial.index: (position - low) / (high - low) + offset
            for trial, position, offset in zip(trials, positions, offsets, strict=True)
        },
    )


def _objective(done: Sequence[Trial], metric: str) -> _Vertical:
    if not done:
        return _Vertical(f"{metric}\n(none finished)", {}, {})
    values = {trial.index: trial.objective or 0.0 for trial in done}
    low, high = _limits(done)
    # Three decimals, or as many as tell the ticks apart.
    labels = {value: max(f"{value:.3f}", f"{value:.10g}", key=len) for value in even_values(low, high, 8)}
    ticks = {(value - low) / (high - low): text for value, text in labels.items()}
    return _Vertical(metric, ticks, {index: (value - low) / (high - low) for index, value in values.items()})


def _limits(done: Sequence[Trial]) -> tuple[float, float]:
    """Of the objectives; around the only value, if there is but one."""
    values = [trial.objective or 0.0 for trial in done] or [0.5]
    low, high = min(values), max(values)
    return (low, high) if low < high else (low - 0.005, high + 0.005)


def _colours(done: Sequence[Trial]) -> ScalarMappable:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    return ScalarMappable(Normalize(*_limits(done)), COLOURS)


def _style(trial: Trial, done: Sequence[Trial], colours: ScalarMappable) -> tuple[str, dict[str, Any]]:
    """What the legend calls a line (empty: nothing, its colour tells), and how it looks."""
    if trial.status != "finished":
        return NOT_FINISHED, {"color": drawing.LIGHT, "linewidth": 0.9, "zorder": 2}
    style = {
        "color": tuple(colours.to_rgba(np.array([trial.objective]))[0]),
        "linewidth": 1.2,
        "alpha": 0.8,
        "zorder": 3,
    }
    if trial is done[0]:
        return marks.BEST, style | {"linewidth": 4.0, "alpha": 1.0, "zorder": 5}
    return "", style


def _draw_line(axes: Axes, trial: Trial, verticals: Sequence[_Vertical], style: dict[str, Any]) -> Artist:
    """A smooth line, level where it crosses an axis: so the eye can follow it through a common value."""
    from matplotlib.patheffects import Normal, Stroke

    heights = [vertical.heights[trial.index] for vertical in verticals if trial.index in vertical.heights]
    part = np.linspace(0, 1, 25)
    ease = part**2 * (3 - 2 * part)
    x = [place + part for place in range(len(heights) - 1)]
    y = [a + (b - a) * ease for a, b in pairwise(heights)]
    (line,) = axes.plot(np.concatenate([[0.0], *x]), np.concatenate([heights[:1], *y]), **style)
    line.set_gid(f"trial-{trial.index}")
    if style["zorder"] > 3:
        line.set_path_effects([Stroke(linewidth=style["linewidth"] + 2, foreground="white"), Normal()])
    return line


def _draw_axis(axes: Axes, place: int, vertical: _Vertical, side: int) -> None:
    """Draw an axis with its labels on the left (side -1) or on the right (1), where no line is."""
    axes.plot([place, place], [-0.05, 1.05], color=drawing.DARK, linewidth=1.0, zorder=7)
    title = axes.text(place, 1.09, vertical.title, ha="center", va="bottom", fontsize=drawing.TEXT)
    title.set_gid("axis")
    for height, label in vertical.ticks.items():
        axes.plot([place, place + 0.02 * side], [height, height], color=drawing.DARK, linewidth=1.0, zorder=7)
        axes.text(
            place + 0.04 * side,
            height,
            label,
            ha="right" if side < 0 else "left",
            va="center",
            fontsize=drawing.SMALL,
            zorder=8,
            bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.6},
        )
