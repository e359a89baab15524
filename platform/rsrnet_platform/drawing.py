"""What all figures have in common: colours, titles, legends, files."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsrnet_platform.files import whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which people with any colour vision tell apart.
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
YELLOW, PURPLE = "#F0E442", "#CC79A7"
DARK, LIGHT = "#333333", "#d0d0d0"

TEXT, SMALL = 9.0, 8.0
"""Sizes in points: titles of axes; ticks and legends."""

CHARACTERS_AN_INCH = 13
"""Of a title."""

DOTS_PER_INCH = 150


def new(width: float, height: float, title: str, note: str = "") -> Figure:
    """An empty figure, in inches, that belongs to nobody but the caller: pyplot never hears of it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    # A number stays with what it counts.
    unbroken = re.sub(r"(\d) ", "\\1\N{NO-BREAK SPACE}", note)
    lines = [title, *textwrap.wrap(unbroken, int(CHARACTERS_AN_INCH * width))]
    figure.suptitle("\n".join(lines), fontsize=TEXT + 1)
    return figure


def tidy(axes: Axes) -> None:
    """Small labels, light lines at the ticks, no box."""
    axes.tick_params(labelsize=SMALL, length=3, color=DARK)
    axes.grid(color=LIGHT, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def say(axes: Axes, text: str) -> None:
    """Tell why axes are empty."""
    axes.set_yticks([])
    axes.text(0.5, 0.5, text, ha="center", fontsize=TEXT, transform=axes.transAxes)


def legend(figure: Figure, handles: Mapping[str, Any], columns: int) -> None:
    """One legend for all panels, beneath them."""
    if handles:
        figure.legend(
            list(handles.values()),
            list(handles),
            loc="outside lower center",
            ncols=min(len(handles), columns),
            fontsize=SMALL,
            frameon=False,
        )


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, whole or not at all; the same figure gives the same bytes."""
    from functools import partial

    write = partial(figure.savefig, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return whole(path, write)


def count(items: Sequence[object], name: str) -> str:
    """Such as `1 trial`, `12 trials`."""
    return f"{len(items)} {name}" + ("" if len(items) == 1 else "s")
