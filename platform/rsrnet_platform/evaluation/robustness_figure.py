"""The picture of `kind: robustness`: a panel for each corruption, F1 of the three masks over its strengths."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rsrnet.evaluation.corruptions import CORRUPTIONS, STRENGTHS
from rsrnet.evaluation.robustness import column
from rsrnet_platform.drawing import DARK, SMALL, TEXT, legend, new, save, tidy
from rsrnet_platform.evaluation.iterations_figure import COLOURS
from rsrnet_platform.evaluation.tables import SYMBOLS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from rsrnet_platform.evaluation.robustness import Outcome


def draw(outcome: Outcome, path: Path) -> Path:
    """Draw six panels with one scale.

    Args:
        outcome: what was found.
        path: the PNG.
    """
    from rsrnet_platform.evaluation.robustness import sentences

    figure = new(10.5, 6.2, f"{outcome.name}: {len(outcome.rows):,} images", " ".join(sentences(outcome)))
    axes = figure.subplots(2, 3, sharey=True)
    handles: dict[str, Any] = {}
    for panel, name in zip(axes.flat, CORRUPTIONS, strict=True):
        handles |= _panel(panel, outcome, name)
    for panel in axes[:, 0]:
        panel.set_ylabel("F1", fontsize=SMALL)
    axes[0, 0].set_ylim(bottom=0)
    legend(figure, handles, 5)
    return save(figure, path)


def _panel(axes: Axes, outcome: Outcome, name: str) -> dict[str, Any]:
    tidy(axes)
    corruption = CORRUPTIONS[name]
    axes.set_title(corruption.heading, fontsize=TEXT)
    handles: dict[str, Any] = {}
    for mask, symbol in SYMBOLS.items():
        made = outcome.curves[column(name, mask, "f1")]
        (handles[symbol],) = axes.plot(
            STRENGTHS, made.means, marker="o", markersize=4, color=COLOURS[mask], linewidth=1.6
        )
        if mask == "m_fnl":
            errors = np.nan_to_num(made.errors)
            low, high = made.means - errors, made.means + errors
            handles["standard error of its change"] = axes.fill_between(
                STRENGTHS, low, high, color=COLOURS[mask], alpha=0.25, linewidth=0
            )
            clean = float(made.means[0])
    line = axes.axhline(clean, color=DARK, linewidth=1, linestyle=":")
    axes.set_xticks(STRENGTHS, ["clean", *(f"{level:g}" for level in corruption.levels)])
    return handles | {"M_fnl on clean images": line}
