"""The picture of `kind: iterations`: scores over K, how the mask comes to rest, what early exit spares."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rsrnet_platform.drawing import (
    BLUE,
    DARK,
    GREEN,
    ORANGE,
    SMALL,
    TEXT,
    VERMILION,
    legend,
    new,
    save,
    say,
    tidy,
)
from rsrnet_platform.evaluation.tables import SYMBOLS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from rsrnet_platform.evaluation.iterations import Outcome

COLOURS = {"m_rsr": BLUE, "m_dec": ORANGE, "m_fnl": GREEN}
"""Of the masks, in every figure."""

METRICS = {"ap": "AP", "f1": "F1", "iou": "IoU"}


def draw(outcome: Outcome, path: Path) -> Path:
    """Draw six panels: three metrics over K; the change of M, F1 and savings of early exit.

    Args:
        outcome: what was found.
        path: the PNG.
    """
    from rsrnet_platform.evaluation.iterations import sentences

    figure = new(10.5, 6.2, f"{outcome.name}: {len(outcome.rows):,} images", " ".join(sentences(outcome)))
    axes = figure.subplots(2, 3)
    handles: dict[str, Any] = {}
    for panel, metric in zip(axes[0], METRICS, strict=True):
        handles |= _scores(panel, outcome, metric)
    _changes(axes[1, 0], outcome)
    _price(axes[1, 1], outcome)
    _savings(axes[1, 2], outcome)
    legend(figure, handles, 4)
    return save(figure, path)


def _scores(axes: Axes, outcome: Outcome, metric: str) -> dict[str, Any]:
    steps = np.arange(1, outcome.iterations + 1)
    handles = {}
    for mask, symbol in SYMBOLS.items():
        values = outcome.mean(f"{mask}.{metric}")
        (handles[symbol],) = axes.plot(steps, values, color=COLOURS[mask], linewidth=1.6)
        axes.plot(outcome.trained, values[outcome.trained - 1], "o", color=COLOURS[mask], markersize=5)
    handles["K of the training"] = _trained(axes, outcome)
    _over_k(axes, f"{METRICS[metric]} over K")
    return handles


def _changes(axes: Axes, outcome: Outcome) -> None:
    steps = np.arange(1, outcome.iterations + 1)
    low, middle, high = np.maximum(outcome.change_quantiles(), 1e-6)
    axes.fill_between(steps, low, high, color=BLUE, alpha=0.2, linewidth=0)
    axes.plot(steps, middle, color=BLUE, linewidth=1.6)
    axes.set_yscale("log")
    _trained(axes, outcome)
    _over_k(axes, "Largest change of a pixel of M:\nmedian, and 80 % of the images")


def _price(axes: Axes, outcome: Outcome) -> None:
    axes.set_title("Early exit: change of F1 ± standard error", fontsize=TEXT)
    if not outcome.exits:
        say(axes, "no tolerance given")
        return
    tidy(axes)
    places = np.arange(len(outcome.exits))
    for shift, mask in zip((-0.12, 0, 0.12), SYMBOLS, strict=True):
        column = f"{mask}.f1"
        full = outcome.mean(column)[outcome.trained - 1]
        change = [made.scores[column] - full for made in outcome.exits]
        errors = np.nan_to_num([made.errors[column] for made in outcome.exits])
        axes.errorbar(places + shift, change, errors, fmt="o", color=COLOURS[mask], markersize=4, capsize=2)
    axes.axhline(0, color=DARK, linewidth=0.8)
    _over_tolerances(axes, outcome)


def _savings(axes: Axes, outcome: Outcome) -> None:
    axes.set_title(f"Early exit: saved, against {outcome.trained} iterations", fontsize=TEXT)
    if not outcome.exits:
        say(axes, "no tolerance given")
        return
    tidy(axes)
    places = np.arange(len(outcome.exits))
    spared = [100 * (1 - made.iterations / outcome.trained) for made in outcome.exits]
    saved = [100 * time["saved"] for time in outcome.times[1:]]
    axes.bar(places - 0.2, spared, 0.38, color=BLUE, label="iterations")
    axes.bar(places + 0.2, saved, 0.38, color=VERMILION, label="time of the network")
    axes.axhline(0, color=DARK, linewidth=0.8)
    axes.set_ylabel("%", fontsize=SMALL)
    axes.set_ylim(top=1.3 * max(*spared, *saved, 1))  # room for the legend
    axes.legend(fontsize=SMALL, frameon=False, loc="upper right", ncols=2)
    _over_tolerances(axes, outcome)


def _trained(axes: Axes, outcome: Outcome) -> Any:
    return axes.axvline(outcome.trained, color=DARK, linewidth=1, linestyle=":")


def _over_k(axes: Axes, title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    tidy(axes)
    axes.set_title(title, fontsize=TEXT)
    axes.set_xlabel("K, iterations", fontsize=SMALL)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _over_tolerances(axes: Axes, outcome: Outcome) -> None:
    axes.set_xticks(range(len(outcome.exits)), [f"{made.tolerance:g}" for made in outcome.exits])
    axes.set_xlabel("tolerance", fontsize=SMALL)
