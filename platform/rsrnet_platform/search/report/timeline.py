"""The figure of a search over time: what ran when, how it ended, and what was gained by it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from rsrnet_platform import drawing
from rsrnet_platform.search.report import marks
from rsrnet_platform.search.report.outcome import WORDS, finished, length, time_unit
from rsrnet_platform.search.trials import Trial

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TALLEST = 7.0
"""Inches; of the bars of all trials together."""


def over_time(trials: Sequence[Trial], metric: str) -> Figure:
    """A bar for each trial from its start to its last report and, above, the best finished objective so far.

    Args:
        trials: all of a search, in any state; the paper's own point is number 0.
        metric: what the objective is the mean of, such as `val/iou`.
    """
    bars = min(max(0.16 * len(trials), 1.2), TALLEST)
    title = f"The search over time, {drawing.count(trials, 'trial')}"
    figure = drawing.new(8.0, bars + 3.0, title)
    above, below = figure.subplots(2, sharex=True, height_ratios=[1.6, bars])
    second, unit = time_unit(length(trials))
    for axes in (above, below):
        drawing.tidy(axes)
    above.set_ylabel(f"{metric}\nof finished trials", fontsize=drawing.TEXT)
    below.set_ylabel("trial", fontsize=drawing.TEXT)
    below.set_xlabel(f"{unit} since the search began", fontsize=drawing.TEXT)
    handles = _best_so_far(above, trials, second) | _bars(below, trials, second)
    handles |= _marks(above, below, trials, second)
    drawing.legend(figure, handles, columns=4)
    return figure


def _best_so_far(axes: Axes, trials: Sequence[Trial], second: float) -> dict[str, Artist]:
    done = sorted(finished(trials), key=lambda trial: trial.ended)
    if not done:
        drawing.say(axes, "no trial finished")
        return {}
    times = [trial.ended * second for trial in done]
    objectives = [trial.objective or 0.0 for trial in done]
    best = [*accumulate(objectives, max), max(objectives)]
    (line,) = axes.step(
        [*times, length(trials) * second], best, where="post", color=drawing.DARK, linewidth=1.5
    )
    axes.plot(times, objectives, "o", markersize=3, color=drawing.BLUE)
    return {"best so far": line}


def _bars(axes: Axes, trials: Sequence[Trial], second: float) -> dict[str, Artist]:
    """Draw the bars, a status at a time; the ends of those that did not finish are marked."""
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    size = min(5.0, max(3.0, 450 / len(trials))) if trials else 5.0
    handles: dict[str, Artist] = {}
    for status, word in WORDS.items():
        members = [trial for trial in trials if trial.status == status]
        if not members:
            continue
        colour, marker = marks.STATUS[status]
        rows = [trial.index for trial in members]
        starts = [trial.started * second for trial in members]
        lengths = [(trial.ended - trial.started) * second for trial in members]
        axes.barh(rows, lengths, left=starts, height=0.8, color=colour, linewidth=0)
        end: dict[str, Any] = {"marker": marker, "markersize": size, "mfc": drawing.DARK, "mec": drawing.DARK}
        axes.plot([trial.ended * second for trial in members], rows, linestyle="", **end)
        handles[f"{word} ({len(members)})"] = Line2D([], [], color=colour, linewidth=6, **end)
    axes.yaxis.set_major_locator(MaxNLocator(min(len(trials) + 1, 25), integer=True, min_n_ticks=1))
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0.0, 1.03 * length(trials) * second or 1.0)
    if trials:
        axes.set_ylim(trials[-1].index + 0.8, trials[0].index - 0.8)
    return handles


def _marks(above: Axes, below: Axes, trials: Sequence[Trial], second: float) -> dict[str, Artist]:
    """Mark the best trial and the paper's in both panels."""
    handles: dict[str, Artist] = {}
    for name, trial in marks.marked(trials).items():
        handles[name] = marks.mark(above, name, trial.ended * second, trial.objective or 0.0)
        marks.mark(below, name, trial.ended * second, trial.index)
    return handles
